"""Mean squared error."""

from torch import Tensor
from torch.nn import functional


def mse(denoised: Tensor, clean: Tensor, noisy: Tensor) -> Tensor:
    """Return the mean squared error; see `losses`."""
    return functional.mse_loss(denoised, clean)
