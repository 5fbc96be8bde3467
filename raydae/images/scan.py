"""Make a record of each image: from the index, or by decoding it once."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raydae.images.decoding import RESULT, decode, images_of
from raydae.images.image_file import count_pixels, is_remote, stamps_of
from raydae.images.image_table import Images
from raydae.images.index import Index
from raydae.images.listed import Listed
from raydae.images.reader import Keep

Decoder = Callable[[Listed, Keep | None], Iterator[pa.Table]]
"""Decodes listed images; yields tables as `decode` returns them, in any order."""
KeepFor = Callable[[int, bool], Keep | None]
"""Given the bytes of all training images, decoded, and whether they lie in a bucket: what keeps
them, or none."""

PART_BYTES, PART_IMAGES = 2**20, 4  # of files that a thread decodes before it reports
SAMPLE = 32  # images by which the pixels of all are estimated


def scan(
    listed: Listed,
    progress: Callable[[int, int], None] | None = None,
    keep_for: KeepFor | None = None,
    index: Index | None = None,
    decoder: Decoder | None = None,
) -> tuple[Images, list[str]]:
    """Make a record of each image. What is decoded is put into the index, also if this is stopped.

    Args:
        listed: The images, with their noisy files if they are pairs.
        progress: Called with (images decoded, images to decode).
        keep_for: Returns what is called with each usable training image that is decoded.
        index: Records of images that were decoded before. None: decode all.
        decoder: Decodes the others. None: threads of this process.

    Returns:
        The images that can be used, in the order given, and one line for each file that cannot.
    """
    size, modified = np.zeros(listed.file_count, np.int64), np.zeros(listed.file_count)
    known, rows = Images.of([]), np.full(len(listed), -1)
    with suppress(OSError):  # decoding says what is wrong with which image
        size, modified = listed.stamps or stamps_of(listed.all_uris)
        if index is not None:
            rows = index.find(listed, size, modified)
            known = index.images.take(rows[rows >= 0])
    todo: NDArray[np.int64] = np.flatnonzero(rows < 0)
    new = listed.take(todo).with_sizes(listed.per_image(size)[todo])
    keep = None
    if keep_for is not None and len(new):
        training = listed.splits == "train"
        held = 3 * int((known.areas * known.files)[training[rows >= 0]].sum())
        keep = keep_for(held + _estimated_bytes(new.where(training[todo])), is_remote(new.uris[0]))
    results: list[pa.Table] = []
    done = 0
    try:
        for result in (decoder or decode_here)(new, keep) if len(new) else ():
            results.append(result)
            done += len(result)
            if progress is not None:
                progress(done, len(new))
    finally:
        table = pa.concat_tables([RESULT.empty_table(), *results]).sort_by("number")
        usable, numbers = images_of(table)
        files = Images.concat([known, usable])
        if index is not None and len(new):
            index.save(files, set(listed.uris))
    order = np.argsort(np.concatenate([np.flatnonzero(rows >= 0), todo[numbers]]))
    lines: list[str] = pc.list_flatten(table["left_out"]).to_pylist()
    return files.take(order), lines


def decode_here(listed: Listed, keep: Keep | None) -> Iterator[pa.Table]:
    """Decode images in threads of this process: decoding, hashing and FFTs release the GIL."""
    with ThreadPoolExecutor() as pool:
        yield from pool.map(lambda part: decode(part, keep), listed.parts(PART_BYTES, PART_IMAGES))


def _estimated_bytes(listed: Listed) -> int:
    """Return about how many bytes images have, decoded: by the sizes of some of them."""
    uris: Sequence[str] = listed.uris
    pixels = []
    for number in range(min(SAMPLE, len(uris))):
        with suppress(OSError):
            pixels.append(count_pixels(uris[number * len(uris) // min(SAMPLE, len(uris))]))
    return int(3 * np.mean(pixels) * listed.file_count) if pixels else 0
