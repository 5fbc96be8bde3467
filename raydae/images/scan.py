"""Make a record of each image: from the index, or by decoding it once."""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from raydae.core.errors import first_line
from raydae.images.image_file import ImageFile, pixel_hash, read_image, stamp_of, stamps_of
from raydae.images.image_table import Images
from raydae.images.index import Index
from raydae.images.reader import Keep

PART = 1024  # images whose records are Python objects at a time


def scan(
    images: Sequence[tuple[str, str]],
    progress: Callable[[int, int], None] | None = None,
    keep: Keep | None = None,
    index: Index | None = None,
) -> tuple[Images, list[str]]:
    """Make a record of each image. What is decoded is put into the index, also if this is stopped.

    Args:
        images: (URI, name) of each.
        progress: Called with (images decoded, images to decode).
        keep: Called with each image that is decoded, in several threads.
        index: Records of images that were decoded before. None: decode all.

    Returns:
        The images that can be decoded, in the order given, and one line for each of the others.
    """
    known, rows = Images.of([]), np.full(len(images), -1)
    if index is not None:
        uris = [uri for uri, _ in images]
        with suppress(OSError):  # decoding says what is wrong with which image
            rows = index.find(uris, *stamps_of(uris))
        known = index.images.take(rows[rows >= 0])
    new: list[int] = np.flatnonzero(rows < 0).tolist()
    decoded: list[Images] = []
    files: list[ImageFile] = []
    readable: list[int] = []  # their numbers
    unreadable: list[str] = []
    inspect = functools.partial(_inspect, keep=keep)
    try:
        with ThreadPoolExecutor() as pool:  # decoding and hashing release the GIL
            results = pool.map(inspect, (images[number] for number in new))
            for done, (number, result) in enumerate(zip(new, results, strict=True), start=1):
                if isinstance(result, ImageFile):
                    files.append(result)
                    readable.append(number)
                else:
                    unreadable.append(result)
                if len(files) == PART:
                    decoded.append(Images.of(files))
                    files = []
                if progress is not None:
                    progress(done, len(new))
    finally:
        table = Images.concat([known, *decoded, Images.of(files)])
        if index is not None and new:
            index.save(table, {uri for uri, _ in images})
    order = np.argsort(np.concatenate([np.flatnonzero(rows >= 0), readable]))
    return table.take(order), unreadable


def _inspect(image: tuple[str, str], keep: Keep | None) -> ImageFile | str:
    """Decode an image; return its record, or the reason in one line if it cannot be read."""
    uri, name = image
    try:
        stamp = stamp_of(uri)  # first: if the file is replaced meanwhile, the next start sees it
        pixels = read_image(uri)
    except OSError as error:
        return first_line(error)
    height, width, _ = pixels.shape
    file = ImageFile(uri, name, height, width, pixel_hash(pixels), *stamp)
    if keep is not None:
        keep(file, pixels)
    return file
