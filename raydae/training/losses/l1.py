"""Mean absolute error."""

from torch import Tensor
from torch.nn import functional


def l1(denoised: Tensor, clean: Tensor, noisy: Tensor) -> Tensor:
    """Return the mean absolute error; see `losses`."""
    return functional.l1_loss(denoised, clean)
