"""Decoded pixels on the local disk, of which a patch reads two or three blocks.

To cut a patch from a photograph of 24 megapixels, the whole file has to be decoded, which takes
0.4 s. From here, a patch of 64x64 takes 30 us. The store is a cache: what it lacks is decoded.

    FOLDER/ab/ab12....pixels   an image, under the hash of its pixels
    FOLDER/usage               the bytes of all images; locked by whoever adds or removes one

A file is a header, a checksum of each block, and the blocks: BLOCK x BLOCK pixels (fewer at the
right and the lower edge), RGB, from left to right and from top to bottom. It is written under
another name and renamed, and never changed. Since files are named by their content, runs and
processes can share a store, and an image that changed has another file.
"""

import fcntl
import os
import secrets
import shutil
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

BLOCK = 128  # pixels; a patch of 64x64 then reads 2.2 blocks on average
SUFFIX = ".pixels"
DRAFT = ".draft"
UNUSED_S = 24 * 3600  # an image that was opened later than this ago makes no room for others
DRAFT_SECONDS = 3600  # a draft this old was left by a process that was killed
_MAGIC = b"raydae\x00\x01"
_HEADER = struct.Struct("<8sIII")  # magic, height, width, checksum of the blocks' checksums


class DamagedError(Exception):
    """A file does not hold the pixels that were written."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the stored image {name} is damaged")
        self.name = name


class StoredImage:
    """An image of a store.

    Attributes:
        shape: (height, width, 3).
        nbytes: of the pixels.
    """

    def __init__(self, path: Path, height: int, width: int) -> None:
        """Open a file.

        Raises:
            OSError: there is none, or it cannot be read.
            DamagedError: it is not a whole image of this size.
        """
        self.shape = (height, width, 3)
        self.nbytes = height * width * 3
        self._name = path.stem
        self._blocks = -(-height // BLOCK), -(-width // BLOCK)
        count = self._blocks[0] * self._blocks[1]
        self._begin = _HEADER.size + 4 * count
        size = self._begin + height * width * 3
        with path.open("rb") as file:
            head = file.read(self._begin)
            if os.fstat(file.fileno()).st_size != size or head[: _HEADER.size] != _header(
                height, width, head[_HEADER.size :]
            ):
                raise DamagedError(self._name)
            self._bytes = np.memmap(file, np.uint8, "r", shape=(size,))
        self._checksums: list[int | None] = list(np.frombuffer(head[_HEADER.size :], "<u4"))

    def region(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return a part of the image, uint8 (height, width, 3), contiguous.

        Raises:
            DamagedError: a block that it lies in is damaged. A block is checked when it is read for
                the first time.
        """
        part = np.empty((height, width, 3), np.uint8)
        for row in range(top // BLOCK, (top + height - 1) // BLOCK + 1):
            down = row * BLOCK
            rows = slice(max(top, down), min(top + height, down + BLOCK))
            for column in range(left // BLOCK, (left + width - 1) // BLOCK + 1):
                right = column * BLOCK
                columns = slice(max(left, right), min(left + width, right + BLOCK))
                part[rows.start - top : rows.stop - top, columns.start - left :][
                    :, : columns.stop - columns.start
                ] = self._block(row, column)[
                    rows.start - down : rows.stop - down,
                    columns.start - right : columns.stop - right,
                ]
        return part

    def _block(self, row: int, column: int) -> NDArray[np.uint8]:
        """Return a block, uint8 (rows, columns, 3)."""
        height, width, _ = self.shape
        rows, columns = min(BLOCK, height - row * BLOCK), min(BLOCK, width - column * BLOCK)
        first = self._begin + 3 * (row * BLOCK * width + column * BLOCK * rows)
        block = self._bytes[first : first + 3 * rows * columns]
        number = row * self._blocks[1] + column
        if self._checksums[number] is not None:
            if zlib.crc32(block.data) != self._checksums[number]:
                raise DamagedError(self._name)
            self._checksums[number] = None
        return block.reshape(rows, columns, 3)


@dataclass
class PixelStore:
    """A folder of decoded images with a size limit. Picklable; thread-safe.

    If an image does not fit, images that no process has opened for a day make room for it, the
    least recently used first; if that is not enough, it is not kept.

    Attributes:
        folder: where the files are.
        max_bytes: of all files together.
        problem: why no more images are kept, once writing has failed.
        full: whether an image had no room; none is kept from then on.
    """

    folder: Path
    max_bytes: int
    problem: str | None = None
    full: bool = False

    def get(self, name: str, height: int, width: int) -> StoredImage | None:
        """Return an image, or none if it is not here. A damaged one is removed.

        Args:
            name: the hash of its pixels.
            height: pixels.
            width: pixels.
        """
        path = self._path(name)
        try:
            image = StoredImage(path, height, width)
            os.utime(path)
        except DamagedError:
            self.remove(name)
            return None
        except OSError:
            return None
        return image

    def put(self, name: str, pixels: NDArray[np.uint8]) -> bool:
        """Keep an image; return whether it is here now.

        A disk that is full or cannot be written only sets `problem`.

        Args:
            name: the hash of its pixels.
            pixels: uint8 HxWx3.
        """
        if not self.usable:
            return False
        path = self._path(name)
        if path.exists():
            return True
        draft = path.with_name(f"{name}.{os.getpid()}-{secrets.token_hex(4)}{DRAFT}")
        size = pixels.nbytes + _HEADER.size + 4 * _count(*pixels.shape[:2])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._usage() as usage:
                if not self._make_room(usage, size):
                    self.full = True
                    return False
                with draft.open("wb") as file:
                    file.truncate(size)  # so that others count it while it is written
                usage.total += size
            try:
                with draft.open("r+b") as file:
                    _write(file, pixels)
                with self._usage() as usage:
                    usage.total -= size * path.exists()  # another process was faster
                    draft.rename(path)
            except BaseException:
                draft.unlink(missing_ok=True)
                with self._usage() as usage:
                    usage.total -= size
                raise
        except OSError as error:
            self.problem = f"{self.folder} cannot be written ({error.strerror or error})"
            return False
        return True

    def holds(self, name: str) -> bool:
        """Return whether an image is here, damaged or not."""
        return self._path(name).exists()

    def remove(self, name: str) -> None:
        """Remove an image, if it is here."""
        path = self._path(name)
        with suppress(OSError), self._usage() as usage:
            size = path.stat().st_size
            path.unlink()
            usage.total -= size

    @property
    def usable(self) -> bool:
        """Whether images are still kept."""
        return self.problem is None and not self.full

    @property
    def bytes(self) -> int:
        """The size of all images together; 0 if the folder cannot be used."""
        with suppress(OSError), self._usage() as usage:
            return usage.total
        return 0

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}{SUFFIX}"

    def _make_room(self, usage: "_Usage", size: int) -> bool:
        """Remove images until one of `size` bytes fits; return whether it does."""
        if usage.total + size <= self.max_bytes:
            return True
        if size > self.max_bytes:
            return False
        usage.total = 0
        unused: list[tuple[float, int, Path]] = []
        for path, status in _files(self.folder):
            if path.suffix == DRAFT and status.st_mtime < time.time() - DRAFT_SECONDS:
                path.unlink(missing_ok=True)
                continue
            usage.total += status.st_size
            if path.suffix == SUFFIX and status.st_mtime < time.time() - UNUSED_S:
                unused.append((status.st_mtime, status.st_size, path))
        for _, bytes_, path in sorted(unused):
            if usage.total + size <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            usage.total -= bytes_
        return usage.total + size <= self.max_bytes

    @contextmanager
    def _usage(self) -> Iterator["_Usage"]:
        """Lock the store, and let the bytes of all files be read and changed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "usage").open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            usage = _Usage(int(text) if text.isdigit() else _measured(self.folder))
            before = usage.total
            try:
                yield usage
            finally:
                if usage.total != before or not text:
                    file.truncate(0)
                    file.write(str(max(usage.total, 0)).encode())


@dataclass
class _Usage:
    total: int


def default_bytes(folder: Path) -> int:
    """Return the size limit of a store that the user did not limit: half of the disk's free space.

    What the store itself takes counts as free.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    own = PixelStore(folder, 0).bytes if folder.exists() else 0
    return (shutil.disk_usage(place).free + own) // 2


def _count(height: int, width: int) -> int:
    """Return the number of blocks."""
    return -(-height // BLOCK) * -(-width // BLOCK)


def _header(height: int, width: int, checksums: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, height, width, zlib.crc32(checksums))


def _write(file: BinaryIO, pixels: NDArray[np.uint8]) -> None:
    """Write an image as a file of the store."""
    height, width, _ = pixels.shape
    checksums = []
    file.seek(_HEADER.size + 4 * _count(height, width))
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            block = pixels[top : top + BLOCK, left : left + BLOCK].tobytes()
            checksums.append(zlib.crc32(block))
            file.write(block)
    table = np.array(checksums, "<u4").tobytes()
    file.seek(0)
    file.write(_header(height, width, table) + table)


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the files of a store, with what the system says of them."""
    for part in folder.glob("??"):
        for path in part.iterdir():
            with suppress(FileNotFoundError):
                yield path, path.stat()


def _measured(folder: Path) -> int:
    return sum(status.st_size for _, status in _files(folder))
