"""Additive white Gaussian noise. Sigma is always on the 0-255 scale, images on [0, 1]."""

import numpy as np
from numpy.typing import NDArray


def add_noise(
    rng: np.random.Generator, clean: NDArray[np.uint8], sigma: float
) -> NDArray[np.float32]:
    """White Gaussian noise on an image, neither clipped nor rounded.

    Args:
        rng: what the noise is drawn from.
        clean: uint8, any shape.
        sigma: standard deviation, 0-255 scale.

    Returns:
        float32 of the same shape, on the [0, 1] scale but free to leave it.
    """
    noisy = rng.standard_normal(clean.shape, dtype=np.float32)
    noisy *= np.float32(sigma / 255)
    noisy += clean * np.float32(1 / 255)
    return noisy


def evaluation_noise(clean: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    """An image with the noise that the literature evaluates with.

    As KAIR and the papers before it do (FFDNet, Zhang et al. 2018): a `RandomState(0)` anew for
    every image, so that each image always carries the same noise; neither clipped nor rounded,
    since clipping makes an easier task.

    Args:
        clean: uint8 HxWx3 (RGB) or HxW.
        sigma: standard deviation, 0-255 scale.

    Returns:
        float32 of the same shape, on the [0, 1] scale but free to leave it.
    """
    noise = np.random.RandomState(0).normal(0, sigma / 255, clean.shape)
    noisy: NDArray[np.float32] = (clean / 255 + noise).astype(np.float32)
    return noisy
