"""Decode pairs, and leave out noisy files that do not show exactly what their clean one shows."""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydae.core.errors import first_line
from raydae.images.image_file import ImageFile, NoisyFile, pixel_hash, read_image, stamp_of
from raydae.images.image_table import Images
from raydae.images.pairs import Pair
from raydae.images.reader import Keep

MAX_SHIFT = 0.5  # pixels
_SIDE = 512  # of the square in the middle that is compared, pixels
_BLOCK = 16  # pixels; the side of the blocks that show whether a shift explains the difference
_MIN_BLOCKS = 8
_CERTAIN = 6.0  # standard errors; noise of cameras is alike in neighbouring blocks


def scan_pairs(
    pairs: Sequence[Pair],
    progress: Callable[[int, int], None] | None = None,
    keep: Keep | None = None,
) -> tuple[Images, list[str]]:
    """Decode pairs, and check each noisy file against its clean one.

    Args:
        pairs: The pairs.
        progress: Called with (pairs decoded, pairs to decode).
        keep: Called with each usable image, in several threads.

    Returns:
        The clean images that have at least one usable noisy file, in the order given, with these
        files; and one line for each file that cannot be used.
    """
    files: list[ImageFile] = []
    left_out: list[str] = []
    inspect = functools.partial(_inspect, keep=keep)
    with ThreadPoolExecutor() as pool:  # decoding, hashing and FFTs release the GIL
        for done, (file, lines) in enumerate(pool.map(inspect, pairs), start=1):
            files += [] if file is None else [file]
            left_out += lines
            if progress is not None:
                progress(done, len(pairs))
    return Images.of(files), left_out


def _inspect(pair: Pair, keep: Keep | None) -> tuple[ImageFile | None, list[str]]:
    """Return the record of a pair, if it can be used, and one line for each file that cannot."""
    uri, name = pair.clean
    try:
        stamp = stamp_of(uri)  # first: if the file is replaced meanwhile, the next start sees it
        clean = read_image(uri)
    except OSError as error:
        return None, [first_line(error)]
    usable, lines = [], []
    for noisy_uri, noisy_name in pair.noisy:
        try:
            noisy_stamp = stamp_of(noisy_uri)
            noisy = read_image(noisy_uri)
        except OSError as error:
            lines.append(first_line(error))
            continue
        if problem := _mismatch(noisy, clean):
            lines.append(f"{noisy_name}: {problem} {name}")
            continue
        usable.append(NoisyFile(noisy_uri, noisy_name, pixel_hash(noisy), *noisy_stamp))
        if keep is not None:
            keep(usable[-1], noisy)
    if not usable:
        return None, lines
    height, width = clean.shape[:2]
    file = ImageFile(uri, name, height, width, pixel_hash(clean), *stamp, noisy=tuple(usable))
    if keep is not None:
        keep(file, clean)
    return file, lines


def _mismatch(noisy: NDArray[np.uint8], clean: NDArray[np.uint8]) -> str:
    """Return why two images are no pair, in words that the clean one's name completes."""
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
