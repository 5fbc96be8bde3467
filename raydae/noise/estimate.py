"""Estimate the noise level of a picture from the picture alone."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIDE = 8  # of a block, in pixels
_BLOCKS = 10_000  # a channel, at most; spread evenly over the picture
_FLATTEST = 0.02  # the part of the blocks that is measured
_MIN_FLAT = 20  # blocks


def estimate_sigma(image: NDArray[Any]) -> float | None:
    """Estimate the standard deviation of white noise.

    Ponomarenko et al., "An automatic approach to lossy compression of AVIRIS hyperspectral images",
    IGARSS 2007; Colom and Buades, IPOL 2013: the blocks with the least energy in the low
    frequencies of the cosine transform are flat, and their high frequencies are noise. In white
    noise both are independent, so this choice of blocks does not make the noise look weaker.

    Noise that neighbouring pixels share, as cameras leave it in JPEGs, is underestimated.

    Args:
        image: HxWx3 or HxW; uint8, or floating point on the [0, 1] scale.

    Returns:
        Sigma on the 0-255 scale, the mean of the channels; none if the picture is too small, or
        nearly all of it is black or burnt out.
    """
    height, width = (n - _SIDE + 1 for n in image.shape[:2])
    if min(height, width) < 1:
        return None
    step = max(1, math.isqrt(height * width // _BLOCKS))
    frequency, place = np.mgrid[:_SIDE, :_SIDE]
    transform = np.cos(np.pi / _SIDE * (place + 0.5) * frequency) * math.sqrt(2 / _SIDE)
    low = (frequency + place < _SIDE + 1) & (frequency + place > 0)
    high = frequency + place >= _SIDE + 1
    transform[0] /= math.sqrt(2)
    variances = []
    for channel in np.moveaxis(image.reshape(*image.shape[:2], -1), 2, 0):
        windows = np.lib.stride_tricks.sliding_window_view(channel, (_SIDE, _SIDE))
        blocks = windows[::step, ::step].reshape(-1, _SIDE, _SIDE).astype(np.float32)
        blocks = blocks[blocks.min((1, 2)) < blocks.max((1, 2))]  # others are cut off
        if len(blocks) < 2 * _MIN_FLAT:
            return None
        squares = (transform @ blocks @ transform.T) ** 2
        flat = np.argsort(squares[:, low].sum(1))[: max(_MIN_FLAT, int(_FLATTEST * len(blocks)))]
        variances.append(np.median(squares[flat][:, high].mean(0)))
    sigma = float(np.mean(np.sqrt(variances)))
    return sigma if image.dtype == np.uint8 else 255 * sigma
