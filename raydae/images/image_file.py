"""The record of an image, and reading its pixels."""

import errno
import hashlib
import io
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raydae.core.storage import local_path, split_path
from raydae.images.pictures import read_rgb, read_size
from raydae.images.source import is_source_uri, read_source_image

MAX_PIXELS = 2 * 10**8
"""The largest number of pixels of an image: several are decoded at a time."""
MISSING = -1
"""The size that is recorded for a file that is not there."""
LISTED = 8  # files of a folder in a bucket from which on the folder is listed
REQUESTS = 16  # to the storage at a time


@dataclass(frozen=True)
class NoisyFile:
    """A record of a noisy picture of what an image shows; the fields are those of `ImageFile`."""

    uri: str
    name: str
    sha256: str
    size: int = 0
    modified: float = 0.0


@dataclass(frozen=True)
class ImageFile:
    """A record of an image that has been decoded once."""

    uri: str
    """A local path, a URI, or the URI of a data source's image; `read_image` reads it."""
    name: str
    height: int
    width: int
    sha256: str
    """Hash of the decoded pixels, see `pixel_hash`. A lossless copy in any format has the same."""
    size: int = 0
    """Bytes of the file; 0 for an image of a data source."""
    modified: float = 0.0
    """When the file was last written, in seconds since 1970; 0 for an image of a data source."""
    noisy: tuple[NoisyFile, ...] = ()
    """Noisy pictures of the same size, if the user gave pairs."""

    @property
    def uris(self) -> tuple[str, ...]:
        """The URIs of the image and of its noisy pictures."""
        return self.uri, *(noisy.uri for noisy in self.noisy)

    @property
    def hashes(self) -> tuple[str, ...]:
        """The hashes of the image and of its noisy pictures."""
        return self.sha256, *(noisy.sha256 for noisy in self.noisy)

    @property
    def stamps(self) -> tuple[tuple[int, float], ...]:
        """Size and time of the file, and of the files of its noisy pictures."""
        own = (self.size, self.modified)
        return own, *((noisy.size, noisy.modified) for noisy in self.noisy)


def pixel_hash(image: NDArray[np.uint8]) -> str:
    """Return the first 128 bits of SHA-256 of an image's shape and RGB pixels, in hexadecimal.

    Args:
        image: uint8 H×W×3.
    """
    digest = hashlib.sha256(f"{image.shape[0]}x{image.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:32]


def read_image(uri: str) -> NDArray[np.uint8]:
    """Read an image as RGB, uint8 H×W×3.

    Args:
        uri: A local path, a URI such as ``s3://bucket/a.png``, or the URI of a data source's image.

    Raises:
        OSError: The image cannot be read, or the file is not an image.
        UserError: A data source cannot be imported, or returns something else than RGB.
    """
    if is_source_uri(uri):
        return read_source_image(uri)
    if "://" not in uri:
        return read_rgb(Path(uri), MAX_PIXELS)
    folder, name = split_path(uri)
    file = io.BytesIO(folder.read(name))
    file.name = uri  # for messages
    return read_rgb(file, MAX_PIXELS)


def is_remote(uri: str) -> bool:
    """Return whether an image lies in a bucket: not in a local file, nor in a data source."""
    return "://" in str(local_path(uri)) and not is_source_uri(uri)


def count_pixels(uri: str) -> int:
    """Return how many pixels an image has. Only the header of a local file is read.

    Raises:
        OSError: The image cannot be read, or the file is not an image.
        UserError: As `read_image`.
    """
    if "://" not in uri and not is_source_uri(uri):
        with suppress(OSError):
            width, height = read_size(Path(uri))
            return width * height
    return read_image(uri).size // 3


def stamps_of(uris: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the size of each image's file in bytes, and when it was written (see `stamp_of`).

    In a bucket, a folder with several of the files is listed: one request for a thousand of them.

    Args:
        uris: n images.

    Returns:
        (n,) each. The size of a file that is not there is `MISSING`.

    Raises:
        OSError: The storage cannot be read.
    """
    folders: dict[str, list[int]] = {}
    for number, uri in enumerate(uris):
        folders.setdefault(uri.rpartition("/")[0], []).append(number)
    stamps: list[tuple[int, float]] = [(MISSING, 0.0)] * len(uris)

    def look(numbers: list[int]) -> None:
        first = uris[numbers[0]]
        if "://" in first and not is_source_uri(first) and len(numbers) >= LISTED:
            files = split_path(first)[0].stamps()
            for number in numbers:
                stamps[number] = files.get(split_path(uris[number])[1], (MISSING, 0.0))
            return
        for number in numbers:
            with suppress(FileNotFoundError):
                stamps[number] = stamp_of(uris[number])

    with ThreadPoolExecutor(REQUESTS) as pool:  # most of the time is waiting for the storage
        list(pool.map(look, folders.values()))
    size, modified = zip(*stamps, strict=True) if stamps else ((), ())
    return np.array(size, np.int64), np.array(modified, np.float64)


def stamp_of(uri: str) -> tuple[int, float]:
    """Return the size of an image's file in bytes, and when it was written, in seconds since 1970.

    Both are 0 for an image of a data source, which has no file.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The storage cannot be read.
    """
    if is_source_uri(uri):
        return 0, 0.0
    if "://" not in uri:
        status = os.stat(uri)  # noqa: PTH116  # pathlib takes ten times as long
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), uri)
        return status.st_size, status.st_mtime_ns / 1e9
    folder, name = split_path(uri)
    return folder.stamp(name)
