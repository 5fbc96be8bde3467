"""The file of an image in a pixel store: blocks of pixels, of which a patch reads two or three.

A file is a header, a checksum of each block, and the blocks: BLOCK x BLOCK pixels (fewer at the
right and the lower edge), RGB, from left to right and from top to bottom. The checksum is XXH3 with
64 bits: to open a file and check what two patches read takes 48 us, and 82 with the CRC-32 of zlib.
"""

import struct
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

BLOCK = 128  # pixels; a patch of 64x64 then reads 2.2 blocks on average
SUFFIX = ".pixels"
_MAGIC = b"raydae\x00\x02"
_HEADER = struct.Struct("<8sIIQ")  # magic, height, width, checksum of the blocks' checksums

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
        self._columns = -(-width // BLOCK)
        self._begin = file_size(height, width) - self.nbytes
        if size != file_size(height, width):
            raise DamagedError(name)
        head = read(0, self._begin).tobytes()
        table = head[_HEADER.size :]
        if head[: _HEADER.size] != _header(height, width, table):
            raise DamagedError(name)
        self._checksums = struct.unpack(f"<{len(table) // 8}Q", table)
        self._checked: set[int] = set()  # numbers of blocks

    def region(self, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return a part of the image, uint8 (height, width, 3), contiguous.

        Raises:
            DamagedError: a block that it lies in is damaged or cannot be read. A block is checked
                when it is read for the first time.
        """
        part = np.empty((height, width, 3), np.uint8)
        columns = range(left // BLOCK, (left + width - 1) // BLOCK + 1)
        for row in range(top // BLOCK, (top + height - 1) // BLOCK + 1):
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

    def _blocks(self, row: int, columns: range) -> Iterator[NDArray[np.uint8]]:
        """Read some neighbouring blocks at once; yield each, uint8 (rows, columns, 3)."""
        height, width, _ = self.shape
        rows = min(BLOCK, height - row * BLOCK)
        ends = [min(column * BLOCK, width) for column in (*columns, columns.stop)]
        first = row * BLOCK * width + ends[0] * rows
        try:
            data = self._read(self._begin + 3 * first, 3 * rows * (ends[-1] - ends[0]))
        except OSError:
            raise DamagedError(self._name) from None
        for column, left, right in zip(columns, ends, ends[1:], strict=False):
            block = data[3 * rows * (left - ends[0]) : 3 * rows * (right - ends[0])]
            number = row * self._columns + column
            if number not in self._checked:
                if xxh3_64_intdigest(block.data) != self._checksums[number]:
                    raise DamagedError(self._name)
                self._checked.add(number)
            yield block.reshape(rows, right - left, 3)


def file_size(height: int, width: int) -> int:
    """Return the bytes of an image's file."""
    blocks = -(-height // BLOCK) * -(-width // BLOCK)
    return _HEADER.size + 8 * blocks + height * width * 3


def file_parts(pixels: NDArray[np.uint8]) -> Iterator[bytes]:
    """Yield the content of an image's file: the blocks, and last what comes before them.

    Args:
        pixels: uint8 HxWx3.
    """
    height, width, _ = pixels.shape
    checksums = []
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            block = pixels[top : top + BLOCK, left : left + BLOCK].tobytes()
            checksums.append(xxh3_64_intdigest(block))
            yield block
    table = struct.pack(f"<{len(checksums)}Q", *checksums)
    yield _header(height, width, table) + table


def _header(height: int, width: int, checksums: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, height, width, xxh3_64_intdigest(checksums))
