"""Decode listed images, and record what they are and which of them cannot be used."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raydae.core.errors import first_line
from raydae.images.image_file import ImageFile, NoisyFile, pixel_hash, read_image, stamp_of
from raydae.images.image_table import SCHEMA, Images
from raydae.images.listed import Listed, Pair
from raydae.images.pair_checks import find_mismatch
from raydae.images.reader import Keep

RESULT = pa.schema(
    [
        pa.field("number", pa.int64(), nullable=False),
        pa.field("left_out", pa.list_(pa.string()), nullable=False),  # a line for each file
        *(field.with_nullable(True) for field in SCHEMA),  # null if it cannot be used
    ]
)


def decode(listed: Listed, keep: Keep | None) -> pa.Table:
    """Decode images one after the other.

    Args:
        listed: The images.
        keep: Called with each usable one of split `train`, and its pixels.

    Returns:
        A row with the columns of `RESULT` for each.
    """
    files: list[ImageFile | None] = []
    lines: list[list[str]] = []
    for pair in listed:
        file, left_out = _inspect(pair, keep if pair.split == "train" else None)
        files.append(file)
        lines.append(left_out)
    usable = [file is not None for file in files]
    records = Images.of(file for file in files if file is not None).table
    places = pa.array(np.cumsum(usable) - 1, mask=~np.array(usable, bool))
    columns = [listed.table["number"], pa.array(lines, pa.list_(pa.string()))]
    return pa.table([*columns, *records.take(places)], schema=RESULT)


def images_of(result: pa.Table) -> tuple[Images, NDArray[np.int64]]:
    """Return the usable images of a table of results, and their numbers."""
    usable = result.filter(pc.is_valid(result["uri"]))
    return Images(usable.select(SCHEMA.names)), usable["number"].to_numpy()


def _inspect(pair: Pair, keep: Keep | None) -> tuple[ImageFile | None, list[str]]:
    """Return the record of an image, if it can be used, and one line for each file that cannot.

    An image with noisy files needs at least one that can be used.
    """
    uri, name = pair.clean
    try:
        stamp = stamp_of(uri)  # first: if the file is replaced meanwhile, the next start sees it
        clean = read_image(uri)
    except OSError as error:
        return None, [first_line(error)]
    noisy, lines = _inspect_noisy(pair.noisy, name, clean, keep)
    if pair.noisy and not noisy:
        return None, lines
    height, width = clean.shape[:2]
    file = ImageFile(uri, name, height, width, pixel_hash(clean), *stamp, noisy=noisy)
    if keep is not None:
        keep(file, clean)
    return file, lines


def _inspect_noisy(
    parts: Iterable[tuple[str, str]], name: str, clean: NDArray[np.uint8], keep: Keep | None
) -> tuple[tuple[NoisyFile, ...], list[str]]:
    """Return the records of an image's usable noisy files, and one line for each other."""
    usable, lines = [], []
    for uri, own_name in parts:
        try:
            stamp = stamp_of(uri)
            noisy = read_image(uri)
        except OSError as error:
            lines.append(first_line(error))
            continue
        if problem := find_mismatch(noisy, clean):
            lines.append(f"{own_name}: {problem} {name}")
            continue
        usable.append(NoisyFile(uri, own_name, pixel_hash(noisy), *stamp))
        if keep is not None:
            keep(usable[-1], noisy)
    return tuple(usable), lines
