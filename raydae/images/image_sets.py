"""Images that have been decoded once: what each held, and what each is used for."""

import dataclasses
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydae.core.storage import split_path
from raydae.images.pictures import read_rgb

SPLITS = ("train", "val", "test")
MAX_PIXELS = 2 * 10**8  # of one image; several small ones are decoded at a time


@dataclass(frozen=True)
class ImageFile:
    """An image that has been decoded once: where it is, and what it held."""

    uri: str
    name: str
    height: int
    width: int
    sha256: str
    """Of the decoded RGB pixels and their shape, 128 bits: a PNG copy of a JPEG is known too."""


@dataclass(frozen=True)
class ImageSets:
    """The images of a run by what they are for, and what had to be left out."""

    source: str
    train: tuple[ImageFile, ...]
    val: tuple[ImageFile, ...]
    test: tuple[ImageFile, ...]
    left_out: tuple[str, ...] = ()
    """One line each on images that cannot be used."""

    def to_dict(self) -> dict[str, Any]:
        """A nested dictionary of plain values that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ImageSets":
        """The sets of a dictionary as `to_dict` makes it."""
        sets = {split: tuple(ImageFile(**file) for file in values[split]) for split in SPLITS}
        return cls(source=values["source"], left_out=tuple(values["left_out"]), **sets)


def pixel_hash(image: NDArray[np.uint8]) -> str:
    """SHA-256 of an image's shape and RGB pixels, the first 128 bits as hexadecimal digits.

    Args:
        image: uint8 HxWx3.
    """
    digest = hashlib.sha256(f"{image.shape[0]}x{image.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:32]


def read_image(uri: str) -> NDArray[np.uint8]:
    """The RGB pixels of an image at a local path or a URI, uint8 HxWx3.

    Raises:
        OSError: it cannot be read, or is not an image.
    """
    if "://" not in uri:
        return read_rgb(Path(uri), MAX_PIXELS)
    folder, name = split_path(uri)
    file = io.BytesIO(folder.read(name))
    file.name = uri  # for messages
    return read_rgb(file, MAX_PIXELS)


def subsample(images: tuple[ImageFile, ...], number: int) -> tuple[ImageFile, ...]:
    """That many of the images, evenly spread over them; 0: all."""
    if number == 0 or number >= len(images):
        return images
    return tuple(images[i * len(images) // number] for i in range(number))
