"""The file of an image in a pixel store: blocks of pixels, of which a patch reads two or three.

A file is a header, a checksum of each block, and the blocks, RGB, from left to right and from top
to bottom: of BLOCK x BLOCK pixels, or, if the image is at most NARROW pixels wide, of its whole
width and BAND rows. (Blocks at the right and the lower edge have fewer.) A narrow image therefore
lies in the file as it does in memory, and its patches are views. To open a file of 256x256 pixels
and cut two patches takes 67 us, and 80 with square blocks.

The checksum is XXH3 with 64 bits.
"""

import struct
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

BLOCK = 128  # pixels; a patch of 64x64 then reads 2.2 blocks on average
NARROW, BAND = 512, 32
SUFFIX = ".pixels"
_MAGIC = b"raydae\x00\x03"
_HEADER = struct.Struct("<8sIIQ")  # magic, height, width, checksum of the blocks' checksums
_CHECKSUM = struct.Struct("<Q")

Read = Callable[[int, int], NDArray[np.uint8]]
"""Reads a part of a file, given its first byte and the number of bytes."""


class DamagedError(Exception):
    """A file does not hold the pixels that were written, or cannot be read any more."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the stored image {name} is damaged")
        self.name = name


class StoredImage:
    """An image of a store.

    Attributes:
        shape: (height, width, 3).
        nbytes: of the pixels.
    """

    # A process keeps tens of thousands of them.
    __slots__ = (
        "_begin",
        "_checked",
        "_checksums",
        "_columns",
        "_name",
        "_read",
        "_rows",
        "nbytes",
        "shape",
    )

    def __init__(self, name: str, height: int, width: int, size: int, read: Read) -> None:
        """Open a file.

        Args:
            name: the hash of its pixels.
            height: pixels.
            width: pixels.
            size: of the file, bytes.
            read: reads parts of it; thread-safe.

        Raises:
            OSError: it cannot be read.
            DamagedError: it is not a whole image of this size.
        """
        self.shape = (height, width, 3)
        self.nbytes = height * width * 3
        self._name, self._read = name, read
        self._rows, self._columns = _block(width)
        self._begin = file_size(height, width) - self.nbytes
        if size != file_size(height, width):
            raise DamagedError(name)
        head = read(0, self._begin).tobytes()
        table = head[_HEADER.size :]
        if head[: _HEADER.size] != _header(height, width, table):
            raise DamagedError(name)
        self._checksums = table
        self._checked = 0  # a bit for each block

    def region(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return a part of the image, uint8 (height, width, 3), not to be written to.

        Raises:
            DamagedError: a block that it lies in is damaged or cannot be read. A block is checked
                when it is read for the first time.
        """
        first, last = top // self._rows, (top + height - 1) // self._rows + 1
        if self._columns == self.shape[1]:
            bands = self._bands(first, last)
            return bands[top - first * self._rows :][:height, left : left + width]
        part = np.empty((height, width, 3), np.uint8)
        columns = range(left // BLOCK, (left + width - 1) // BLOCK + 1)
        for row in range(first, last):
            down = row * BLOCK
            rows = slice(max(top, down), min(top + height, down + BLOCK))
            for column, block in zip(columns, self._blocks(row, columns), strict=True):
                right = column * BLOCK
                across = slice(max(left, right), min(left + width, right + BLOCK))
                part[rows.start - top : rows.stop - top, across.start - left :][
                    :, : across.stop - across.start
                ] = block[
                    rows.start - down : rows.stop - down,
                    across.start - right : across.stop - right,
                ]
        return part

    def _bands(self, first: int, last: int) -> NDArray[np.uint8]:
        """Read the blocks `first` to `last` - 1 of a narrow image, uint8 (rows, its width, 3)."""
        width = self.shape[1]
        step = 3 * width * self._rows
        data = self._pixels(step * first, min(step * last, self.nbytes))
        for number in range(first, last):
            self._check(number, data[step * (number - first) :][:step])
        return data.reshape(-1, width, 3)

    def _blocks(self, row: int, columns: range) -> Iterator[NDArray[np.uint8]]:
        """Read some neighbouring square blocks at once; yield each, uint8 (rows, columns, 3)."""
        height, width, _ = self.shape
        rows = min(BLOCK, height - row * BLOCK)
        ends = [min(column * BLOCK, width) for column in (*columns, columns.stop)]
        first = 3 * row * BLOCK * width
        data = self._pixels(first + 3 * rows * ends[0], first + 3 * rows * ends[-1])
        for column, left, right in zip(columns, ends, ends[1:], strict=False):
            block = data[3 * rows * (left - ends[0]) : 3 * rows * (right - ends[0])]
            self._check(row * -(-width // BLOCK) + column, block)
            yield block.reshape(rows, right - left, 3)

    def _pixels(self, first: int, last: int) -> NDArray[np.uint8]:
        """Read bytes of the pixels."""
        try:
            return self._read(self._begin + first, last - first)
        except OSError:
            raise DamagedError(self._name) from None

    def _check(self, number: int, block: NDArray[np.uint8]) -> None:
        """Check a block that was read, unless it has been checked before."""
        if self._checked >> number & 1:
            return
        (checksum,) = _CHECKSUM.unpack_from(self._checksums, number * _CHECKSUM.size)
        if xxh3_64_intdigest(block.data) != checksum:
            raise DamagedError(self._name)
        self._checked |= 1 << number


def file_size(height: int, width: int) -> int:
    """Return the bytes of an image's file."""
    rows, columns = _block(width)
    blocks = -(-height // rows) * -(-width // columns)
    return _HEADER.size + 8 * blocks + height * width * 3


def file_parts(pixels: NDArray[np.uint8]) -> Iterator[bytes]:
    """Yield the content of an image's file: the blocks, and last what comes before them.

    Args:
        pixels: uint8 HxWx3.
    """
    height, width, _ = pixels.shape
    rows, columns = _block(width)
    checksums = []
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            block = pixels[top : top + rows, left : left + columns].tobytes()
            checksums.append(xxh3_64_intdigest(block))
            yield block
    table = struct.pack(f"<{len(checksums)}Q", *checksums)
    yield _header(height, width, table) + table


def file_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """Return the content of an image's file, whole; see `file_parts`."""
    *blocks, head = file_parts(pixels)
    return b"".join([head, *blocks])


def _block(width: int) -> tuple[int, int]:
    """Return rows and columns of the blocks of an image."""
    return (BAND, width) if width <= NARROW else (BLOCK, BLOCK)


def _header(height: int, width: int, checksums: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, height, width, xxh3_64_intdigest(checksums))
