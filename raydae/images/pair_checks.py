"""Find noisy pictures that do not show exactly what their clean one shows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_SHIFT = 0.5  # pixels
_SIDE = 512  # of the square in the middle that is compared, pixels
_BLOCK = 16  # pixels; the side of the blocks that show whether a shift explains the difference
_MIN_BLOCKS = 8
_CERTAIN = 6.0  # standard errors; noise of cameras is alike in neighbouring blocks


def find_mismatch(noisy: NDArray[np.uint8], clean: NDArray[np.uint8]) -> str:
    """Return why two images are no pair, in words that the clean one's name completes.

    Args:
        noisy: uint8 H×W×3.
        clean: The same; it may be noisy too.

    Returns:
        The reason; empty if they are a pair.
    """
    if noisy.shape != clean.shape:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (noisy, clean)]
        return f"its size is {sizes[0]}, not {sizes[1]} as that of"
    right, down = (round(pixels, 1) + 0.0 for pixels in find_shift(noisy, clean))  # no -0.0
    if max(abs(right), abs(down)) <= MAX_SHIFT:
        return ""
    return f"shifted by {right:.1f} pixels to the right and {down:.1f} down against"


def find_shift(noisy: NDArray[np.uint8], clean: NDArray[np.uint8]) -> tuple[float, float]:
    """Estimate by how much one image is shifted against another that shows the same.

    The estimate is the peak of the cross-correlation of the middle of both, as Guizar-Sicairos et
    al. (2008) refine it. (Normalised to phases, it finds half as many shifts in JPEGs, whose blocks
    do not move.) In noise or flat areas, that peak is anywhere. Therefore an estimate of more than
    `MAX_SHIFT` counts only if undoing it, in whole pixels, certainly makes the images more alike:
    by six standard errors of the mean over blocks of 16x16 pixels.

    Args:
        noisy: uint8 H×W×3.
        clean: The same; it may be noisy too.

    Returns:
        Pixels to the right and down; (0, 0) if no shift is certain.
    """
    from scipy import ndimage
    from skimage.registration import phase_cross_correlation

    a, b = (_middle(image) for image in (noisy, clean))
    window = np.outer(*(np.hanning(n) for n in a.shape)).astype(np.float32)
    # A band of frequencies: no brightness and shading, and less noise.
    bands = [ndimage.gaussian_filter(x, 1) - ndimage.gaussian_filter(x, 4) for x in (a, b)]
    moving, reference = (band * window for band in bands)
    if not (moving.any() and reference.any()):
        return 0.0, 0.0
    found: Any = phase_cross_correlation(reference, moving, upsample_factor=10, normalization=None)
    down, right = (-float(value) for value in found[0])
    if max(abs(right), abs(down)) <= MAX_SHIFT or not _explains(a, b, down, right):
        return 0.0, 0.0
    return right, down


def _middle(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the brightness of the square in the middle of an image."""
    height, width = image.shape[:2]
    top, left = max(0, height - _SIDE) // 2, max(0, width - _SIDE) // 2
    part = image[top : top + _SIDE, left : left + _SIDE]
    brightness: NDArray[np.float32] = part.mean(axis=2, dtype=np.float32)
    return brightness


def _explains(a: NDArray[np.float32], b: NDArray[np.float32], down: float, right: float) -> bool:
    """Return whether `a` is certainly more like `b` once a shift is undone, in whole pixels."""
    inside_a, inside_b = zip(*map(_overlap, (down, right), a.shape), strict=True)
    moved = a[inside_a]
    gain = (moved - b[inside_a]) ** 2 - (moved - b[inside_b]) ** 2
    rows, columns = (n // _BLOCK for n in gain.shape)
    if rows * columns < _MIN_BLOCKS:
        return False
    blocks = gain[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
    means = blocks.mean(axis=(1, 3))
    return bool(means.mean() > _CERTAIN * means.std() / np.sqrt(means.size))


def _overlap(shift: float, length: int) -> tuple[slice, slice]:
    """Return where the shifted one and the other overlap; more than half a pixel is one."""
    whole = int(np.sign(shift) * max(1, round(abs(shift)))) if abs(shift) > MAX_SHIFT else 0
    size = max(0, length - abs(whole))
    return slice(max(0, whole), max(0, whole) + size), slice(max(0, -whole), max(0, -whole) + size)
