"""Decoded pixels on the local disk, of which a patch reads two or three blocks.

To cut a patch from a photograph of 24 megapixels, the whole file has to be decoded, which takes
0.4 s. From here, a patch of 64x64 takes 30 us. The store is a cache: what it lacks is decoded.

    FOLDER/ab/ab12....pixels   an image, under the hash of its pixels
    FOLDER/packs/              small images, many to a file (see `packs`)
    FOLDER/usage               the bytes of all images; locked by whoever adds or removes one

A file (see `stored_image`) is written under another name and renamed, and never changed. Since
images are named by their content, runs and processes can share a store, and an image that changed
has another name.
"""

import fcntl
import mmap
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raydae.images.packs import INDEX, PACK, Packs
from raydae.images.stored_image import (
    SUFFIX,
    DamagedError,
    Read,
    StoredImage,
    file_bytes,
    file_parts,
    file_size,
)

SMALL = 2**20  # bytes, up to which an image is packed with others
DRAFT = ".draft"
UNUSED_S = 24 * 3600  # an image that was opened later than this ago makes no room for others
DRAFT_SECONDS = 3600  # a draft this old was left by a process that was killed


@dataclass
class PixelStore:
    """A folder of decoded images with a size limit. Picklable; thread-safe.

    If an image does not fit, files that no process has opened for a day make room for it, the
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

    def __post_init__(self) -> None:
        self._packs = Packs(self.folder / "packs")

    def get(self, name: str, height: int, width: int) -> StoredImage | None:
        """Return an image, or none if it is not here. A damaged one is removed.

        Args:
            name: the hash of its pixels.
            height: pixels.
            width: pixels.
        """
        small = file_size(height, width) <= SMALL
        found = self._packs.get(name) if small else _mapped(self._path(name))
        if found is None:
            return None
        try:
            return StoredImage(name, height, width, *found)
        except DamagedError:
            self.remove(name)
            return None

    def put(self, name: str, pixels: NDArray[np.uint8]) -> bool:
        """Keep an image; return whether it is here now.

        A disk that is full or cannot be written only sets `problem`.

        Args:
            name: the hash of its pixels.
            pixels: uint8 HxWx3.
        """
        if not self.usable:
            return False
        size = file_size(*pixels.shape[:2])
        write = self._pack if size <= SMALL else self._write
        try:
            kept = write(name, pixels, size)
        except OSError as error:
            self.problem = f"{self.folder} cannot be written ({error.strerror or error})"
            return False
        self.full = self.full or not kept
        return kept

    def _pack(self, name: str, pixels: NDArray[np.uint8], size: int) -> bool:
        """Add a small image to a file of many; return whether there was room.

        Raises:
            OSError: the store cannot be written.
        """
        if self._packs.get(name) is not None:
            return True
        data = file_bytes(pixels)
        with self._usage() as usage:
            if not self._make_room(usage, size):
                return False
            self._packs.put(name, data)
            usage.total += size
        return True

    def _write(self, name: str, pixels: NDArray[np.uint8], size: int) -> bool:
        """Write an image to a file of its own; return whether there was room.

        Raises:
            OSError: the store cannot be written.
        """
        path = self._path(name)
        if path.exists():
            return True
        draft = path.with_name(f"{name}.{os.getpid()}-{secrets.token_hex(4)}{DRAFT}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._usage() as usage:
            if not self._make_room(usage, size):
                return False
            with draft.open("wb") as file:
                file.truncate(size)  # so that others count it while it is written
            usage.total += size
        try:
            with draft.open("r+b") as file:
                file.seek(size - pixels.nbytes)
                for part in file_parts(pixels):
                    if file.tell() == size:  # the last part is the beginning
                        file.seek(0)
                    file.write(part)
            with self._usage() as usage:
                usage.total -= size * path.exists()  # another process was faster
                draft.rename(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            with self._usage() as usage:
                usage.total -= size
            raise
        return True

    def names(self) -> set[str]:
        """Return the names of all images that are here, damaged or not."""
        names = map(os.path.basename, _paths(self.folder))
        own = {name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)}
        return own | self._packs.names()

    def remove(self, name: str) -> None:
        """Remove an image, if it is here."""
        self._packs.remove(name)
        path = self._path(name)
        with suppress(OSError), self._usage() as usage:
            size = path.stat().st_size
            path.unlink()
            usage.total -= size

    @property
    def usable(self) -> bool:
        """Whether images are still kept."""
        return self.problem is None and not self.full

    def room(self) -> int:
        """Return the bytes that more images can take.

        Raises:
            OSError: the folder cannot be written.
        """
        with self._usage() as usage:
            unused = sum(size for _, size, _ in _unused(self.folder))
            room = self.max_bytes - usage.total + unused
        return max(min(room, shutil.disk_usage(self.folder).free), 0)

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
        for path, status in _files(self.folder):
            if path.endswith(DRAFT) and status.st_mtime < time.time() - DRAFT_SECONDS:
                Path(path).unlink(missing_ok=True)
        usage.total = _measured(self.folder)
        for _, bytes_, path in sorted(_unused(self.folder)):
            if usage.total + size <= self.max_bytes:
                break
            Path(path).unlink(missing_ok=True)
            Path(path).with_suffix(INDEX).unlink(missing_ok=True)
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


def _mapped(path: Path) -> tuple[int, Read] | None:
    """Return the bytes of a file and what reads them; none if there is none."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_mtime < time.time() - UNUSED_S / 24:
                with suppress(OSError):  # it may be another user's
                    os.utime(file.fileno())
            mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if status.st_size else b""
    except OSError:
        return None
    data = np.frombuffer(mapping, np.uint8)
    return len(data), lambda first, number: data[first : first + number]


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files of a store, with what the system says of them."""
    for path in _paths(folder):
        with suppress(FileNotFoundError):
            yield path, os.stat(path)  # noqa: PTH116  # pathlib takes ten times as long


def _paths(folder: Path) -> Iterator[str]:
    """Yield the paths of the files of a store: a hundred thousand take a tenth of a second."""
    for part in [*folder.glob("??"), *folder.glob("packs")]:
        yield from (entry.path for entry in os.scandir(part) if not entry.name.endswith(INDEX))


def _unused(folder: Path) -> Iterator[tuple[float, int, str]]:
    """Yield time, size and path of each file of images that no process has opened for a day."""
    for path, status in _files(folder):
        if path.endswith((SUFFIX, PACK)) and status.st_mtime < time.time() - UNUSED_S:
            yield status.st_mtime, status.st_size, path


def _measured(folder: Path) -> int:
    return sum(status.st_size for _, status in _files(folder))
