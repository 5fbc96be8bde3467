"""Array functions for noise kinds, written once for numpy and torch.

All arguments are arrays of one library, numpy on the CPU or torch on a GPU, float32 unless stated.
Nothing here waits for the device, so that a training step can be captured in a CUDA graph.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device, is_numpy_array

GREY_LEVEL = float(np.float32(1 / 255))
Array = Any  # numpy.ndarray or torch.Tensor: the array API has no common type


def column(parameters: Array, number: int, dimensions: int) -> Array:
    """Return a parameter of each patch, (n, 1, ...), to be combined with arrays of `dimensions`."""
    return parameters[:, number].reshape(-1, *[1] * (dimensions - 1))


def planes_of(images: Array) -> Array:
    """Return images (n, h, w, c) as planes (n, c, h, w), contiguous: matmul is fast on these."""
    xp = array_namespace(images)
    return xp.stack([images[..., channel] for channel in range(images.shape[3])], axis=1)


def images_of(planes: Array) -> Array:
    """Return planes (n, c, h, w) as images (n, h, w, c), contiguous."""
    xp = array_namespace(planes)
    return xp.stack([planes[:, channel] for channel in range(planes.shape[1])], axis=3)


def where_rows(mask: Array, work: Callable[..., Array], planes: Array, *others: Array) -> Array:
    """Return `work(planes, *others)` for the items that a mask chooses, and the planes of the rest.

    numpy computes the chosen items only. torch computes all, because a GPU would have to be waited
    for to know how many are chosen.

    Args:
        mask: bool (n,).
        work: treats each item by itself, and returns the shape of `planes`.
        planes: (n, c, h, w).
        others: (n, ...), for `work`.

    Returns:
        A new array (n, c, h, w).
    """
    if not is_numpy_array(planes):
        xp = array_namespace(planes)
        return xp.where(mask.reshape(-1, 1, 1, 1), work(planes, *others), planes)
    rows = np.flatnonzero(mask)
    result = planes.copy()
    if len(rows):
        result[rows] = work(planes[rows], *(other[rows] for other in others))
    return result


def mixed(matrix: Array, planes: Array) -> Array:
    """Multiply each pixel's channels by a matrix.

    Args:
        matrix: (m, c) or (n, m, c).
        planes: (n, c, h, w).

    Returns:
        (n, m, h, w).
    """
    xp = array_namespace(planes)
    n, c, height, width = planes.shape
    return xp.matmul(matrix, planes.reshape(n, c, -1)).reshape(n, -1, height, width)


def arange(size: int, like: Array) -> Array:
    """Return 0, 1 ... size - 1 as float32 on the device of another array."""
    xp = array_namespace(like)
    return xp.arange(size, dtype=xp.float32, device=device(like))


def constant(values: Any, like: Array) -> Array:
    """Return values as a float32 array on the device of another array."""
    xp = array_namespace(like)
    return xp.asarray(values, dtype=xp.float32, device=device(like))


def blur_matrix(size: int, sigma: Array) -> Array:
    """Return matrices that blur vectors with a Gaussian.

    Args:
        size: length of the vectors.
        sigma: float32 (n,), pixels; 0: no blur.

    Returns:
        float32 (n, size, size), whose rows sum to 1: at the ends the kernel is cut off.
    """
    xp = array_namespace(sigma)
    position = arange(size, sigma)
    distance = position / xp.clip(sigma, 1e-3, None)[:, None]
    weights = xp.exp(-0.5 * distance * distance)
    weights = xp.where(weights < 1e-6, 0 * weights, weights)  # denormal numbers are slow
    apart = xp.astype(xp.abs(position[:, None] - position), xp.int64).reshape(-1)
    matrices = xp.take(weights, apart, axis=1).reshape(-1, size, size)
    return matrices / matrices.sum(2)[:, :, None]


def inverse(matrices: Array) -> Array:
    """Return the inverses of matrices (n, 3, 3), by their adjugates: no GPU has to wait."""
    xp = array_namespace(matrices)
    a, b, c = matrices[:, 0], matrices[:, 1], matrices[:, 2]
    columns = [_cross(b, c), _cross(c, a), _cross(a, b)]
    determinant = (a * columns[0]).sum(1)
    return xp.stack(columns, axis=2) / determinant[:, None, None]


def _cross(a: Array, b: Array) -> Array:
    """Return the cross products of vectors (n, 3)."""
    xp = array_namespace(a)
    (a0, a1, a2), (b0, b1, b2) = ((v[:, 0], v[:, 1], v[:, 2]) for v in (a, b))
    return xp.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0], axis=1)


def separable(planes: Array, rows: Array, columns: Array) -> Array:
    """Multiply the rows and columns of planes by matrices.

    Args:
        planes: (n, c, h, w).
        rows: (n, h, h).
        columns: (n, w, w).
    """
    xp = array_namespace(planes)
    return xp.matmul(xp.matmul(rows[:, None], planes), xp.permute_dims(columns, (0, 2, 1))[:, None])


def blur(planes: Array, sigma: Array) -> Array:
    """Blur planes with a Gaussian.

    Args:
        planes: (n, c, h, w).
        sigma: (n,), pixels; 0: no blur.
    """
    rows = blur_matrix(planes.shape[2], sigma)
    square = planes.shape[2] == planes.shape[3]
    return separable(planes, rows, rows if square else blur_matrix(planes.shape[3], sigma))


def reflect(planes: Array, width: int) -> Array:
    """Extend the last two axes by reflection, without repeating the edge, as numpy's `reflect`.

    The positions of a Bayer mosaic's colours continue.
    """
    xp = array_namespace(planes)
    for axis in (-2, -1):
        size = planes.shape[axis]
        before = [_at(planes, axis, place) for place in range(width, 0, -1)]
        after = [_at(planes, axis, place) for place in range(size - 2, size - 2 - width, -1)]
        planes = xp.concat([*before, planes, *after], axis=axis)
    return planes


def _at(planes: Array, axis: int, place: int) -> Array:
    part = slice(place, place + 1)
    return planes[..., part, :] if axis == -2 else planes[..., part]
