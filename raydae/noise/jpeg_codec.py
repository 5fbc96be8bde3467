"""JPEG's losses, computed on arrays: what a file loses when it is written and read again."""

import functools
import math

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from raydae.noise.array_math import Array, arange, constant, mixed, where_rows

MCU = 16  # pixels: with subsampled colour, JPEG's units are of 16x16 pixels

# ITU-T T.81 (JPEG), annex K.1: the tables that libjpeg scales by the quality.
_LUMA = """
16 11 10 16  24  40  51  61   12 12 14 19  26  58  60  55
14 13 16 24  40  57  69  56   14 17 22 29  51  87  80  62
18 22 37 56  68 109 103  77   24 35 55 64  81 104 113  92
49 64 78 87 103 121 120 101   72 92 95 98 112 100 103  99"""
_CHROMA = (
    """
17 18 24 47 99 99 99 99   18 21 26 66 99 99 99 99
24 26 56 99 99 99 99 99   47 66 99 99 99 99 99 99"""
    + " 99" * 32
)

# Rec. 601, full range, as JFIF has it.
TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)
TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]], np.float32)


def compress(planes: Array, quality: Array, subsampled: Array, top: Array, left: Array) -> Array:
    """Return images as they are after JPEG's compression.

    Equal to libjpeg's up to rounding. The grid of blocks begins `top` and `left` pixels outside of
    the image, because a patch is cut from anywhere in a photograph.

    Args:
        planes: float32 (n, 3, h, w), RGB, whole numbers from 0 to 255.
        quality: float32 (n,), 1 to 100, as libjpeg counts it.
        subsampled: float32 (n,), 1: colour at half the resolution (4:2:0); 0: at the full one.
        top: float32 (n,), whole numbers from 0 to 15.
        left: likewise.

    Returns:
        The same shape and scale, rounded.
    """
    xp = array_namespace(planes)
    _, _, height, width = planes.shape
    rows, columns = _placed(height, top), _placed(width, left)
    ycc = _gather(xp.round(mixed(constant(TO_YCC, planes), planes)), rows, columns)
    luma_table, chroma_table = _tables(quality, _LUMA), _tables(quality, _CHROMA)
    luma = _quantize(ycc[:, :1] - 128, luma_table) + 128
    chroma = where_rows(subsampled == 0, _quantize, ycc[:, 1:], chroma_table)
    chroma = where_rows(subsampled > 0, _quantize_half, chroma, chroma_table)
    decoded = xp.concat([xp.clip(luma, 0, 255), xp.clip(chroma, -128, 127)], axis=1)
    rows = xp.astype(arange(height, top) + top[:, None], xp.int64)
    columns = xp.astype(arange(width, left) + left[:, None], xp.int64)
    decoded = _gather(decoded, rows, columns)
    return xp.clip(xp.floor(mixed(constant(TO_RGB, planes), decoded) + 0.5), 0, 255)


def _gather(planes: Array, rows: Array, columns: Array) -> Array:
    """Return some rows and columns of planes (n, c, h, w): (n, c, rows, columns).

    Args:
        planes: to choose from.
        rows: int64 (n, r), another choice for each item.
        columns: int64 (n, k), likewise.
    """
    xp = array_namespace(planes)
    n, c, height, width = planes.shape
    first = xp.arange(n * c, device=device(rows)).reshape(n, c, 1, 1) * (height * width)
    place = first + (rows[:, :, None] * width + columns[:, None, :])[:, None]
    return xp.take(planes.reshape(-1), place.reshape(-1), axis=0).reshape(place.shape)


def _placed(size: int, shift: Array) -> Array:
    """Return which pixel lies where on a grid of whole units: int64 (n, size of the grid).

    The image is reflected at its edges.
    """
    xp = array_namespace(shift)
    length = MCU * math.ceil((size + MCU - 1) / MCU)
    position = arange(length, shift)[None, :] - shift[:, None]
    period = 2 * (size - 1)
    folded = xp.abs(position) % period
    return xp.astype(xp.where(folded < size, folded, period - folded), xp.int64)


def _tables(quality: Array, base: str) -> Array:
    """Return the quantization tables of some qualities: float32 (n, 64)."""
    xp = array_namespace(quality)
    scale = xp.where(quality < 50, xp.floor(5000 / quality), 200 - 2 * quality)
    table = constant([int(word) for word in base.split()], quality)
    return xp.clip(xp.floor((table * scale[:, None] + 50) / 100), 1, 255)


def _quantize(planes: Array, table: Array) -> Array:
    """Round the cosine transform of each block of 8x8 pixels to multiples of a table.

    As libjpeg, this rounds coefficients to eighths first, and halves away from zero.

    Args:
        planes: float32 (n, c, h, w), whole numbers.
        table: float32 (n, 64).
    """
    xp = array_namespace(planes)
    n, c, height, width = planes.shape
    blocks = planes.reshape(n, c, height // 8, 8, width // 8, 8)
    blocks = xp.permute_dims(blocks, (0, 1, 2, 4, 3, 5)).reshape(n, -1, 64)
    transform = constant(_cosines(), planes)
    steps = table[:, None, :]
    eighths = xp.floor(8 * xp.matmul(blocks, transform.T) + 0.5)
    levels = xp.sign(eighths) * xp.floor((xp.abs(eighths) + 4 * steps) / (8 * steps))
    blocks = xp.floor(xp.matmul(levels * steps, transform) + 0.5)
    blocks = blocks.reshape(n, c, height // 8, width // 8, 8, 8)
    return xp.permute_dims(blocks, (0, 1, 2, 4, 3, 5)).reshape(planes.shape)


def _quantize_half(planes: Array, table: Array) -> Array:
    """Quantize planes at half their resolution; see `_quantize`."""
    return _enlarge(_quantize(_halve(planes), table))


def _halve(planes: Array) -> Array:
    """Return the means of 2x2 pixels, rounded as libjpeg does: up and down in turn."""
    xp = array_namespace(planes)
    rows = planes[:, :, ::2] + planes[:, :, 1::2]
    total = rows[..., ::2] + rows[..., 1::2]
    return xp.floor((total + 1 + arange(total.shape[3], planes) % 2) / 4)


def _enlarge(planes: Array) -> Array:
    """Double height and width, weighing the two nearest pixels 3 to 1, as libjpeg does."""
    xp = array_namespace(planes)
    n, c, height, width = planes.shape
    above = xp.concat([planes[:, :, :1], planes[:, :, :-1]], axis=2)
    below = xp.concat([planes[:, :, 1:], planes[:, :, -1:]], axis=2)
    tall = xp.stack([3 * planes + above, 3 * planes + below], axis=3)
    tall = tall.reshape(n, c, 2 * height, width)
    left = xp.concat([tall[..., :1], tall[..., :-1]], axis=3)
    right = xp.concat([tall[..., 1:], tall[..., -1:]], axis=3)
    both = xp.stack([3 * tall + left + 8, 3 * tall + right + 7], axis=4)
    return xp.floor(both.reshape(n, c, 2 * height, 2 * width) / 16)


@functools.cache
def _cosines() -> NDArray[np.float32]:
    """Return the cosine transform of a block's 64 pixels, row by row: (64, 64), orthonormal."""
    frequency, place = np.mgrid[:8, :8]
    one = np.cos((2 * place + 1) * frequency * np.pi / 16) / 2
    one[0] /= np.sqrt(2)
    return np.kron(one, one).astype(np.float32)
