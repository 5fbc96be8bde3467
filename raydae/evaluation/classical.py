"""Denoisers without training that a user has at hand, to compare with. They are told sigma.

Settings are the best that their own documentation gives for a known sigma; where it gives none,
that found on training images, as its docstring says.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray
from skimage import restoration

Image = NDArray[Any]
Method = Callable[[Image, float], Image]
"""A denoiser: (HxWx3 on [0, 1], sigma on the 0-255 scale) to the same shape and scale."""
TV_WEIGHT = 0.9  # by sigma; see `total_variation`
SMALLEST = 16  # pixels a side, below which some of the packages fail
FAST_FROM = 35  # sigma; see `non_local_means`


def non_local_means(noisy: Image, sigma: float) -> Image:
    """Non-local means (Buades, Coll and Morel 2005), as in scikit-image's example with sigma.

    Of the example's two modes, that which is better: at low noise the slow one, whose patches are
    weighted by a Gaussian, at high noise the fast one.

    Args:
        noisy: HxWx3, floating point on the [0, 1] scale.
        sigma: of the noise, 0-255 scale.

    Returns:
        The same shape and scale.
    """
    level, fast = sigma / 255, sigma >= FAST_FROM
    result: Image = restoration.denoise_nl_means(
        noisy,
        patch_size=5,
        patch_distance=6,
        h=(0.6 if fast else 0.8) * level,
        sigma=level,
        fast_mode=fast,
        channel_axis=-1,
    )
    return result


def wavelet(noisy: Image, sigma: float) -> Image:
    """BayesShrink (Chang, Yu and Vetterli 2000) in YCbCr, averaged over shifts (Coifman, Donoho).

    Wavelet, mode and colour space are those of scikit-image's example of wavelet denoising, and the
    shifts, 0 to 5 pixels down and right, the most of its example of cycle spinning.

    Args:
        noisy: HxWx3, floating point on the [0, 1] scale.
        sigma: of the noise, 0-255 scale.

    Returns:
        The same shape and scale.
    """
    result: Image = restoration.cycle_spin(
        noisy,
        restoration.denoise_wavelet,
        max_shifts=5,
        func_kw={
            "sigma": sigma / 255,
            "method": "BayesShrink",
            "mode": "soft",
            "convert2ycbcr": True,
            "rescale_sigma": True,
            "channel_axis": -1,
        },
        workers=1,
        channel_axis=-1,
    )
    return result


def total_variation(noisy: Image, sigma: float) -> Image:
    """Total variation (Rudin, Osher and Fatemi 1992) by Chambolle's algorithm (2004).

    Its documentation gives no weight for a known sigma: on training images of BSDS500, 0.8, 0.9 and
    1.1 times sigma were the best at 15, 25 and 50. It iterates until little changes; at the default
    `eps` it stops up to 2 dB early.

    Args:
        noisy: HxWx3, floating point on the [0, 1] scale.
        sigma: of the noise, 0-255 scale.

    Returns:
        The same shape and scale.
    """
    result: Image = restoration.denoise_tv_chambolle(
        noisy, weight=TV_WEIGHT * sigma / 255, eps=1e-5, max_num_iter=400, channel_axis=-1
    )
    return result


def bm3d(noisy: Image, sigma: float) -> Image:
    """CBM3D (Dabov et al. 2007) by its authors' package, whose licence is non-commercial.

    Args:
        noisy: HxWx3, floating point on the [0, 1] scale.
        sigma: of the noise, 0-255 scale.

    Returns:
        The same shape and scale.
    """
    import bm3d as package

    result: Image = package.bm3d_rgb(noisy, sigma / 255)
    return result


def available() -> dict[str, Method]:
    """The denoisers by name; bm3d where its package is installed.

    Where there is no noise, or less than 16 pixels a side, they give back what they are given.
    """
    methods: dict[str, Method] = {
        "nl-means": non_local_means,
        "wavelet": wavelet,
        "tv": total_variation,
    }
    if importlib.util.find_spec("bm3d") is not None:
        methods["bm3d"] = bm3d
    return {name: functools.partial(_sensibly, method) for name, method in methods.items()}


def _sensibly(method: Method, noisy: Image, sigma: float) -> Image:
    return method(noisy, sigma) if sigma > 0 and min(noisy.shape[:2]) >= SMALLEST else noisy
