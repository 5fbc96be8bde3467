"""Structural similarity, as the literature reports it: 0-255 scale, no border cut."""

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from raydae.metrics import SSIM_WINDOW


def ssim(clean: NDArray[np.generic], image: NDArray[np.generic]) -> float:
    """Return the structural similarity (Wang et al. 2004), the mean over the channels.

    The window is an 11x11 Gaussian of standard deviation 1.5, placed where it lies inside.

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
