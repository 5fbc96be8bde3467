"""A smooth absolute error."""

import torch
from torch import Tensor


def charbonnier(denoised: Tensor, clean: Tensor, noisy: Tensor, *, epsilon: float) -> Tensor:
    """Return the mean of sqrt(d^2 + epsilon^2) (Charbonnier et al. 1994); see `losses`.

    Args:
        denoised: float32 (n, 3, h, w).
        clean: the same.
        noisy: not used.
        epsilon: [0, 1] scale; differences well below it weigh quadratically.
    """
    difference = denoised - clean
    return torch.sqrt(difference * difference + epsilon**2).mean()
