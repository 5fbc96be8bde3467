"""Small images of a pixel store, many to a file: to open and map a file for each takes 17 us more.

    FOLDER/packs/1234-ab12.pack   images, one after the other, as in files of their own
    FOLDER/packs/1234-ab12.index  a row for each: its name, first byte and number of bytes

A process appends to files of its own, first the image and then its row, and nothing else is ever
changed but the name of a damaged image, which is struck out. What a row names is therefore whole,
whichever process is killed, and any number of processes can read.
"""

import math
import mmap
import os
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raydae.images.stored_image import Read

PACK_BYTES = 2**28  # of a file, from which on another one is begun
LOOK_S = 10  # between two looks for what other processes have written
TOUCH_S = 3600  # between two notes that a file is used
PACK, INDEX = ".pack", ".index"
_ROW = np.dtype([("name", "S32"), ("first", "<u8"), ("size", "<u8")])
_STRUCK_OUT = b""


class Packs:
    """Images in files of many. Picklable; thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._packs: dict[str, _Pack] = {}
        self._places: dict[str, _Place] = {}
        self._looked = -math.inf
        self._own: _Pack | None = None  # the one that this process appends to

    def __reduce__(self) -> tuple[type["Packs"], tuple[Path]]:
        return Packs, (self.folder,)

    def get(self, name: str) -> tuple[int, Read] | None:
        """Return the bytes of an image and what reads them; none if it is not here."""
        if name not in self._places:
            self.look(LOOK_S)
        place = self._places.get(name)
        if place is None:
            return None
        try:
            return place.size, place.pack.reader(place.first, place.size)
        except (OSError, ValueError):  # it is gone
            with self._lock:
                self._places.pop(name, None)
            return None

    def put(self, name: str, data: bytes) -> None:
        """Append an image.

        Raises:
            OSError: the folder cannot be written, or the disk is full; the image is not here then.
        """
        with self._lock:
            own = self._own
            size = 0 if own is None or own.pid != os.getpid() else own.size()
            if own is None or not 0 < size <= PACK_BYTES - len(data):  # or others have removed it
                self.folder.mkdir(parents=True, exist_ok=True)
                stem = f"{os.getpid()}-{secrets.token_hex(4)}"
                own = self._own = self._packs[stem] = _Pack(self.folder / stem)
            first = _append(own.path, data)
            row = np.array([(name.encode(), first, len(data))], _ROW)
            at = _append(own.index, row.tobytes())
            own.rows = at // _ROW.itemsize + 1
            self._places[name] = _Place(own, own.rows - 1, first, len(data))

    def remove(self, name: str) -> None:
        """Strike out an image, because it is damaged. Its bytes stay."""
        with self._lock:
            place = self._places.pop(name, None)
        if place is not None:
            with suppress(OSError), place.pack.index.open("r+b") as file:
                file.seek(place.row * _ROW.itemsize)
                file.write(np.zeros(1, _ROW).tobytes())

    def names(self) -> set[str]:
        """Return the names of all images, damaged or not."""
        self.look()
        return set(self._places)

    def look(self, seconds: float = 0) -> None:
        """Read the rows that other processes have written since the last look.

        Args:
            seconds: do nothing if the last look is less than this ago.
        """
        with self._lock:
            if time.monotonic() - self._looked < seconds:
                return
            self._looked = time.monotonic()
            stems = {path.stem for path in self.folder.glob(f"*{INDEX}")}
            for stem in self._packs.keys() - stems:
                gone = self._packs.pop(stem)
                self._places = {
                    name: place for name, place in self._places.items() if place.pack is not gone
                }
            for stem in stems:
                pack = self._packs.setdefault(stem, _Pack(self.folder / stem))
                first = pack.rows
                for row, (name, at, size) in enumerate(pack.new_rows(), first):
                    if name != _STRUCK_OUT:
                        self._places[name.decode("ascii", "replace")] = _Place(pack, row, at, size)


class _Pack:
    """One file of images.

    Attributes:
        path, index: the two files.
        pid: of the process that made this object.
        rows: how many of the index have been read or written.
    """

    def __init__(self, stem: Path) -> None:
        self.path, self.index = stem.with_name(stem.name + PACK), stem.with_name(stem.name + INDEX)
        self.pid = os.getpid()
        self.rows = 0
        self._data: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._touched = -math.inf

    def size(self) -> int:
        """Return the bytes of the file; 0 if there is none."""
        with suppress(FileNotFoundError):
            return self.path.stat().st_size
        return 0

    def reader(self, begin: int, size: int) -> Read:
        """Return what reads an image that begins at a place; if the file is shorter, it reads less.

        Raises:
            OSError: there is no such file.
            ValueError: it is empty.
        """
        if begin + size > len(self._data):
            with self.path.open("rb") as file:
                mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            self._data = np.frombuffer(mapping, np.uint8)
        if time.monotonic() - self._touched > TOUCH_S:
            with suppress(OSError):  # it may be another user's
                os.utime(self.path)
            self._touched = time.monotonic()
        data = self._data
        return lambda first, size: data[begin + first : begin + first + size]

    def new_rows(self) -> list[tuple[bytes, int, int]]:
        """Return the rows that have not been read, as far as they are whole and can be read."""
        try:
            data = np.fromfile(self.index, np.uint8, offset=self.rows * _ROW.itemsize)
        except OSError:
            return []
        rows: list[tuple[bytes, int, int]] = (
            data[: len(data) // _ROW.itemsize * _ROW.itemsize].view(_ROW).tolist()
        )
        self.rows += len(rows)
        return rows


class _Place(NamedTuple):
    """Where an image is."""

    pack: _Pack
    row: int
    first: int
    size: int


def _append(path: Path, data: bytes) -> int:
    """Append to a file that no other process writes to; return where the data begins.

    Raises:
        OSError: the disk is full, for example; the file is as it was then.
    """
    with path.open("ab", buffering=0) as file:
        first = file.seek(0, os.SEEK_END)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except BaseException:
            file.truncate(first)
            raise
    return first
