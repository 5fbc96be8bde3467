"""PSNR and SSIM as the literature reports them: on the 0-255 scale, no border cut."""

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

SSIM_WINDOW = 11  # pixels: the 11x11 Gaussian of Wang et al. 2004


def to_uint8(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """An image on [0, 1] clamped and rounded to uint8; the same shape."""
    rounded: NDArray[np.uint8] = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return rounded


def psnr(clean: NDArray[np.generic], image: NDArray[np.generic]) -> float:
    """Peak signal-to-noise ratio in dB, in float64 over all pixels and channels.

    Args:
        clean: the reference on the 0-255 scale, any shape.
        image: the same shape and scale; floating point is neither clipped nor rounded.

    Returns:
        dB; `inf` where the two are equal.
    """
    clean, image = clean.astype(np.float64), image.astype(np.float64)
    if np.array_equal(clean, image):
        return float("inf")  # scikit-image gives the same, with a warning
    return float(peak_signal_noise_ratio(clean, image, data_range=255))


def ssim(clean: NDArray[np.generic], image: NDArray[np.generic]) -> float:
    """Structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004), mean over the channels.

    An 11x11 Gaussian window of standard deviation 1.5, over the region where it lies inside.

    Args:
        clean: the reference on the 0-255 scale, HxWx3 or HxW.
        image: the same shape and scale.

    Returns:
        Between -1 and 1; `nan` for an image smaller than the window, where SSIM is not defined.
    """
    if min(clean.shape[:2]) < SSIM_WINDOW:
        return float("nan")
    return float(
        structural_similarity(
            clean.astype(np.float64),
            image.astype(np.float64),
            data_range=255,
            channel_axis=2 if clean.ndim == 3 else None,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )
