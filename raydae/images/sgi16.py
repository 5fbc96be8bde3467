"""SGI pictures with 16 bits a channel, which Pillow opens as 8 bits.

After "The SGI Image File Format", Paul Haeberli, version 1.00. A header of 512 bytes, then the
channels one after the other, each from the bottom row to the top, big-endian. Run-length encoding
is read; pixels are written without it.
"""

import struct
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raydae.images.depth import PixelsError

_HEADER = 512
_MAGIC = 474
_MIN_MAX = slice(12, 20)  # in the header: the least and the largest value


class Header(NamedTuple):
    """The size of a picture, how many channels it has, and whether it is run-length encoded."""

    width: int
    height: int
    channels: int
    is_encoded: bool


def read_header(stream: BinaryIO) -> Header | None:
    """Return the header of an SGI picture with 16 bits; none for other files.

    The stream is left at its beginning.
    """
    start = stream.read(12)
    stream.seek(0)
    if len(start) < 12:
        return None
    magic, encoded, size, dimensions, width, height, channels = struct.unpack(">HBBHHHH", start)
    height = height if dimensions > 1 else 1
    channels = channels if dimensions > 2 else 1
    if magic != _MAGIC or size != 2 or dimensions not in (1, 2, 3) or encoded not in (0, 1):
        return None
    if not (width and height and channels in (1, 2, 3, 4)):
        return None
    return Header(width, height, channels, bool(encoded))


def decode(data: bytes, header: Header, max_pixels: int) -> NDArray[np.uint16]:
    """Return the pixels of a file, uint16 H×W×C, the top row first.

    Raises:
        PixelsError: The file is damaged, or has more than `max_pixels`.
    """
    width, height, channels, is_encoded = header
    if width * height > max_pixels:
        raise PixelsError(f"{width}x{height} is more than {max_pixels} pixels")
    count = width * height * channels
    if is_encoded:
        planes = _decode_runs(data, header)
    elif len(data) < _HEADER + 2 * count:
        raise PixelsError("the file is truncated")
    else:
        planes = np.frombuffer(data, ">u2", count, _HEADER).reshape(channels, height, width)
    return np.ascontiguousarray(planes[:, ::-1].transpose(1, 2, 0), np.uint16)


def encode(pixels: NDArray[np.uint16], source: bytes) -> bytes:
    """Return a file of pixels, uint16 H×W×C, with the name and the comment of its source."""
    header = bytearray(source[:_HEADER])
    header[2] = 0  # not encoded
    header[_MIN_MAX] = struct.pack(">II", int(pixels.min()), int(pixels.max()))
    planes = pixels[::-1].transpose(2, 0, 1).astype(">u2")
    return b"".join((header, planes.tobytes()))


def _decode_runs(data: bytes, header: Header) -> NDArray[np.uint16]:
    """Return run-length encoded channels, C×H×W, the bottom row first."""
    rows = header.channels * header.height
    if len(data) < _HEADER + 8 * rows:
        raise PixelsError("the file is truncated")
    starts, sizes = np.frombuffer(data, ">u4", 2 * rows, _HEADER).reshape(2, rows).tolist()
    planes = np.empty((rows, header.width), np.uint16)
    for row, start, size in zip(planes, starts, sizes, strict=True):
        if start + size > len(data):
            raise PixelsError("the file is truncated")
        _decode_row(np.frombuffer(data, ">u2", size // 2, start), row)
    return planes.reshape(header.channels, header.height, header.width)


def _decode_row(values: NDArray[np.uint16], row: NDArray[np.uint16]) -> None:
    """Decode a row. The low 7 bits of a value are a count; the eighth tells copies from a run."""
    at = done = 0
    while at < len(values) and (count := int(values[at]) & 127):
        is_copy = int(values[at]) & 128
        part = values[at + 1 : at + 1 + (count if is_copy else 1)]
        if done + count > len(row) or len(part) < (count if is_copy else 1):
            raise PixelsError("a run of pixels is damaged")
        row[done : done + count] = part
        done += count
        at += 1 + len(part)
    if done != len(row):
        raise PixelsError("a run of pixels is damaged")
