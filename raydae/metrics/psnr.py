"""Peak signal-to-noise ratio, as the literature reports it: 0-255 scale, no border cut."""

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio


def psnr(clean: NDArray[np.generic], image: NDArray[np.generic]) -> float:
    """Return the peak signal-to-noise ratio in dB, in float64 over all pixels and channels.

    Args:
        clean: the reference on the 0-255 scale, any shape.
        image: the same shape and scale; floating point is neither clipped nor rounded.

    Returns:
        dB; `inf` if the two are equal.
    """
    clean, image = clean.astype(np.float64), image.astype(np.float64)
    if np.array_equal(clean, image):
        return float("inf")  # scikit-image returns the same, with a warning
    return float(peak_signal_noise_ratio(clean, image, data_range=255))
