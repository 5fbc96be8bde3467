"""Decode images once, to make a record of each."""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from raydae.images.image_file import ImageFile, pixel_hash, read_image, stamp_of
from raydae.images.image_table import Images
from raydae.images.reader import Keep

PART = 1024  # images whose records are Python objects at a time


def scan(
    images: Sequence[tuple[str, str]],
    progress: Callable[[int, int], None] | None = None,
    keep: Keep | None = None,
) -> tuple[Images, list[str]]:
    """Decode each image once.

    Args:
        images: (URI, name) of each.
        progress: Called with (images decoded, images to decode).
        keep: Called with each image, in several threads.

    Returns:
        The images that can be decoded, in the order given, and one line for each of the others.
    """
    parts: list[Images] = []
    files: list[ImageFile] = []
    unreadable: list[str] = []
    inspect = functools.partial(_inspect, keep=keep)
    with ThreadPoolExecutor() as pool:  # decoding and hashing release the GIL
        for done, result in enumerate(pool.map(inspect, images), start=1):
            if isinstance(result, ImageFile):
                files.append(result)
            else:
                unreadable.append(result)
            if len(files) == PART or done == len(images):
                parts.append(Images.of(files))
                files = []
            if progress is not None:
                progress(done, len(images))
    return Images.concat(parts), unreadable


def _inspect(image: tuple[str, str], keep: Keep | None) -> ImageFile | str:
    """Decode an image; return its record, or the reason in one line if it cannot be read."""
    uri, name = image
    try:
        stamp = stamp_of(uri)  # first: if the file is replaced meanwhile, the next start sees it
        pixels = read_image(uri)
    except OSError as error:
        return str(error)
    height, width, _ = pixels.shape
    file = ImageFile(uri, name, height, width, pixel_hash(pixels), *stamp)
    if keep is not None:
        keep(file, pixels)
    return file
