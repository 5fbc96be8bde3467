"""Squared error relative to the noise level."""

from torch import Tensor


def relative(denoised: Tensor, clean: Tensor, noisy: Tensor, *, floor: float) -> Tensor:
    """Return the mean of each patch's squared error over (sigma + floor)^2; see `losses`.

    In `mse`, strong noise outweighs weak noise; with this loss all levels gain about the same in
    dB.

    Args:
        denoised: float32 (n, 3, h, w).
        clean: the same.
        noisy: the same; its difference from `clean` tells sigma.
        floor: [0, 1] scale; a sigma well below it weighs little more than the floor.
    """
    sigma = (noisy - clean).square().mean((1, 2, 3), keepdim=True).sqrt()
    return ((denoised - clean) / (sigma + floor)).square().mean()
