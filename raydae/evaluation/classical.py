"""Baseline denoisers that need no training. They are told the noise level.

Each uses the settings that its package recommends for a known sigma. Where the package recommends
none, the setting was tuned on training images, as the function's docstring says.
"""

import functools
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray
from skimage import restoration

Image = NDArray[Any]
Method = Callable[[Image, float], Image]
"""A denoiser: (HxWx3 on [0, 1], sigma on the 0-255 scale) to the same shape and scale."""
TV_WEIGHT = 0.9  # of sigma; see `total_variation`
MIN_SIDE = 16  # pixels; some of the packages fail on smaller images
FAST_MODE_SIGMA = 35  # see `non_local_means`
# scikit-image 0.26, which needs Python 3.11, renamed this parameter.
_CYCLE_SPIN = inspect.signature(restoration.cycle_spin).parameters
_WORKERS = "workers" if "workers" in _CYCLE_SPIN else "num_workers"


def non_local_means(noisy: Image, sigma: float) -> Image:
    """Denoise by non-local means (Buades, Coll and Morel 2005).

    The settings are those of scikit-image's example for a known sigma. Of the example's two modes,
    the better one is used: below a sigma of 35 the slow mode, which weights patches by a Gaussian,
    from there on the fast mode.

    Args:
        noisy: HxWx3, floating point on the [0, 1] scale.
        sigma: noise level, 0-255 scale.

    Returns:
        The same shape and scale.
    """
    level, fast = sigma / 255, sigma >= FAST_MODE_SIGMA
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
    """Denoise by BayesShrink (Chang, Yu and Vetterli 2000) in YCbCr with cycle spinning.

    The wavelet, mode and colour space are those of scikit-image's example of wavelet denoising. The
    result is averaged over shifts (Coifman and Donoho 1995) of 0 to 5 pixels down and right, the
    largest range in its example of cycle spinning.

    Args:
        noisy: HxWx3, floating point on the [0, 1] scale.
        sigma: noise level, 0-255 scale.

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
        channel_axis=-1,
        **{_WORKERS: 1},
    )
    return result


def total_variation(noisy: Image, sigma: float) -> Image:
    """Denoise by total variation (Rudin, Osher and Fatemi 1992), by Chambolle's algorithm (2004).

    scikit-image recommends no weight for a known sigma. On training images of BSDS500, 0.8, 0.9 and
    1.1 times sigma were the best at 15, 25 and 50. `eps` is smaller than the default, at which the
    iteration stops up to 2 dB early.

    Args:
        noisy: HxWx3, floating point on the [0, 1] scale.
        sigma: noise level, 0-255 scale.

    Returns:
        The same shape and scale.
    """
    result: Image = restoration.denoise_tv_chambolle(
        noisy, weight=TV_WEIGHT * sigma / 255, eps=1e-5, max_num_iter=400, channel_axis=-1
    )
    return result


def bm3d(noisy: Image, sigma: float) -> Image:
    """Denoise by CBM3D (Dabov et al. 2007), with its authors' package (non-commercial licence).

    Args:
        noisy: HxWx3, floating point on the [0, 1] scale.
        sigma: noise level, 0-255 scale.

    Returns:
        The same shape and scale.
    """
    import bm3d as package

    result: Image = package.bm3d_rgb(noisy, sigma / 255)
    return result


def available(told: Sequence[float] = ()) -> dict[str, Method]:
    """Return the baselines by name; bm3d only if its package is installed.

    Args:
        told: levels, 0-255 scale: each baseline is returned once for each of them, and takes noise
            for noise of that level, whatever level it is called with; none: it believes its caller.

    Each returns its input unchanged if sigma is 0 or the image is smaller than 16 pixels a side.
    """
    methods: dict[str, Method] = {
        "nl-means": non_local_means,
        "wavelet": wavelet,
        "tv": total_variation,
    }
    if importlib.util.find_spec("bm3d") is not None:
        methods["bm3d"] = bm3d
    if not told:
        return {name: functools.partial(_denoise, method) for name, method in methods.items()}
    return {
        f"{name} told {sigma:g}": functools.partial(_denoise_told, method, sigma)
        for name, method in methods.items()
        for sigma in told
    }


def _denoise_told(method: Method, told: float, noisy: Image, sigma: float) -> Image:
    return _denoise(method, noisy, told)


def _denoise(method: Method, noisy: Image, sigma: float) -> Image:
    return method(noisy, sigma) if sigma > 0 and min(noisy.shape[:2]) >= MIN_SIDE else noisy
