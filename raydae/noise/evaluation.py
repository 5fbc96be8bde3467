"""The noise that the literature evaluates denoisers with."""

import numpy as np
from numpy.typing import NDArray


def evaluation_noise(clean: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    """Return an image with the literature's white Gaussian noise.

    As KAIR and the papers before it (FFDNet, Zhang et al. 2018): `RandomState(0)` is created anew
    for every image, so that an image always has the same noise. The result is neither clipped nor
    rounded; clipping would make the task easier.

    Args:
        clean: uint8 HxWx3 (RGB) or HxW.
        sigma: standard deviation, 0-255 scale.

    Returns:
        float32 of the same shape, on the [0, 1] scale but free to leave it.
    """
    noise = np.random.RandomState(0).normal(0, sigma / 255, clean.shape)
    noisy: NDArray[np.float32] = (clean / 255 + noise).astype(np.float32)
    return noisy
