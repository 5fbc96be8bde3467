"""Denoisers without training that a user has at hand, to compare with. They are told sigma.

Settings are the best that their own documentation gives for a known sigma; where it gives none,
that found on training images, as its docstring says.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray
from skimage import restoration

Image = NDArray[Any]
Method = Callable[[Image, float], Image]
"""A denoiser: (HxWx3 on [0, 1], sigma on the 0-255 scale) to the same shape and scale."""
TV_WEIGHT = 0.8  # by sigma; see `total_variation`


def non_local_means(noisy: Image, sigma: float) -> Image:
    """Non-local means (Buades, Coll and Morel 2005), as in scikit-image's example with sigma.

    Args:
        noisy: HxWx3, floating point on the [0, 1] scale.
        sigma: of the noise, 0-255 scale.

    Returns:
        The same shape and scale.
    """
    level = sigma / 255
    result: Image = restoration.denoise_nl_means(
        noisy,
        patch_size=5,
        patch_distance=6,
        h=0.8 * level,
        sigma=level,
        fast_mode=False,
        channel_axis=-1,
    )
    return result


def wavelet(noisy: Image, sigma: float) -> Image:
    """BayesShrink (Chang, Yu and Vetterli 2000) in YCbCr, averaged over shifts (Coifman, Donoho).

    Wavelet, mode and colour space are those of scikit-image's example of wavelet denoising, and the
    shifts, up to 3 pixels each way, those of its example of cycle spinning.

    Args:
        noisy: HxWx3, floating point on the [0, 1] scale.
        sigma: of the noise, 0-255 scale.

    Returns:
        The same shape and scale.
    """
    result: Image = restoration.cycle_spin(
        noisy,
        restoration.denoise_wavelet,
        max_shifts=3,
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

    Its documentation gives no weight for a known sigma. Of 0.6, 0.8 … 1.4 times sigma, 0.8 was the
    best at 25 on training images of BSDS500, and within 0.2 dB of the best at 15 and 50.

    Args:
        noisy: HxWx3, floating point on the [0, 1] scale.
        sigma: of the noise, 0-255 scale.

    Returns:
        The same shape and scale.
    """
    result: Image = restoration.denoise_tv_chambolle(
        noisy, weight=TV_WEIGHT * sigma / 255, channel_axis=-1
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
    """The denoisers by name; bm3d where its package is installed."""
    methods: dict[str, Method] = {
        "nl-means": non_local_means,
        "wavelet": wavelet,
        "tv": total_variation,
    }
    if importlib.util.find_spec("bm3d") is not None:
        methods["bm3d"] = bm3d
    return methods
