"""Pictures of more than 8 bits, with floating point or with several pages."""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from tests.images.sample_pictures import chunk

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
"""Every value of 16 bits."""


def random_values(shape: tuple[int, ...], dtype: Any = np.uint16) -> NDArray[Any]:
    """Return values of a whole range; of [0, 1] for floating point."""
    rng = np.random.default_rng(3)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.random(shape).astype(kind)
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, shape, endpoint=True, dtype=kind)


def png(path: Path, pixels: NDArray[np.uint16], *chunks: tuple[bytes, bytes]) -> Path:
    """Write a PNG of 16 bits, with further chunks behind the header."""
    data = bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))
    path.write_bytes(data[:33] + b"".join(chunk(*each) for each in chunks) + data[33:])
    return path


def tiff(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    """Write a TIFF; without tifffile's own description, unless it has metadata."""
    tifffile.imwrite(path, pixels, **{"metadata": None, **options})
    return path


def pages_of(path: Path) -> list[NDArray[Any]]:
    """Return the pixels of each page of a TIFF."""
    with tifffile.TiffFile(path) as file:
        return [page.asarray() for page in file.pages]


def tags_of(path: Path) -> list[dict[int, Any]]:
    """Return the tags of each page of a TIFF, except where its pixels are."""
    with tifffile.TiffFile(path) as file:
        return [
            {tag.code: tag.value for tag in page.tags if tag.code not in (273, 279, 324, 325)}
            for page in file.pages
            if isinstance(page, tifffile.TiffPage)
        ]
