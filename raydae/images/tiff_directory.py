"""Give a TIFF pixels of another form, in a copy that keeps all tags about the picture.

Pillow has read these pixels: palettes, bilevel ones, those of 2 or 4 bits. The first directory is
written anew at the end of the file: the tags that describe the pixels change, the others are copied
byte by byte, and what they point to (EXIF, GPS, further directories) stays in its place.
"""

import shutil
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raydae.images.tiff import open_tiff
from raydae.images.tiff_rewrite import encode_segment, is_lossless

_DEFLATE = 8
_ORIENTATION = 274
_STRIP_BYTES = 2**16
_SHORT, _LONG, _LONG8 = 3, 4, 16  # types of values
_GREY, _RGB, _CMYK, _YCBCR = 1, 2, 5, 6  # photometric interpretations
_PHOTOMETRIC = {"RGB": _RGB, "RGBA": _RGB, "CMYK": _CMYK, "YCbCr": _YCBCR}

# What describes the stored pixels, and is written anew or removed: size, bits, compression, strips,
# tiles, palettes, alpha, JPEG and fax options, subsampling, curves of the old bits.
_STORAGE = {
    *(*range(256, 260), 262, 266, 273, 277, 278, 279, 280, 281, 284, 290, 291, 292, 293, 301),
    *(317, 320, 322, 323, 324, 325, 326, 327, 328, 338, 339, 340, 341, 347),
    *(*range(512, 522), 530, 532, 559),
}


class _Form(NamedTuple):
    """The lengths and formats of numbers in a directory: of a TIFF or of a BigTIFF."""

    entries: str  # their number
    value: str  # of a value's count, and of offsets

    @property
    def entry_size(self) -> int:
        return 4 + 2 * struct.calcsize(self.value)


def write_pixels(source: Path, target: Path, pixels: NDArray[Any], mode: str) -> None:
    """Write a copy of a TIFF whose first page has other pixels.

    The compression stays if it is lossless; else it becomes deflate. The old pixels stay in the
    file, where nothing points to them: what lies between them cannot be known.

    Args:
        source: The TIFF.
        target: The file to write, not atomically.
        pixels: uint8 or uint16 H×W, or H×W×C, upright.
        mode: Pillow's name of their mode: L, LA, RGB, RGBA, CMYK, YCbCr, or I;16 in any form.

    Raises:
        OSError: The disk is full, or the file would grow beyond 4 GiB.
    """
    shutil.copyfile(source, target)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    height, width, channels = pixels.shape
    with target.open("r+b") as file:
        with open_tiff(file) as tiff:
            order, is_big = str(tiff.byteorder), tiff.is_bigtiff
            compression = int(getattr(tiff.pages.first, "compression", _DEFLATE))
        if not is_lossless(compression):
            compression = _DEFLATE
        form = _Form(order + "Q", order + "Q") if is_big else _Form(order + "H", order + "I")
        rows = max(1, _STRIP_BYTES // (width * channels * pixels.itemsize))
        strips = []
        for top in range(0, height, rows):
            segment = np.array(pixels[top : top + rows])
            data = encode_segment(segment, compression, 1, order)
            strips.append((_append(file, data), len(data)))
        if not is_big and file.seek(0, 2) > 2**32 - 2**20:
            raise OSError("it would grow beyond 4 GiB: save it as BigTIFF first")
        offset = _LONG8 if is_big else _LONG
        numbers = {
            256: (_LONG, [width]),
            257: (_LONG, [height]),
            258: (_SHORT, [8 * pixels.itemsize] * channels),
            259: (_SHORT, [compression]),
            262: (_SHORT, [_PHOTOMETRIC.get(mode, _GREY)]),
            273: (offset, [start for start, _ in strips]),
            277: (_SHORT, [channels]),
            278: (_LONG, [rows]),
            279: (offset, [size for _, size in strips]),
            284: (_SHORT, [1]),
        }
        if mode in ("LA", "RGBA"):
            numbers[338] = (_SHORT, [2])
        if mode == "YCbCr":
            numbers[530] = (_SHORT, [1, 1])
        _write_directory(file, form, numbers)


def _write_directory(
    file: BinaryIO, form: _Form, numbers: dict[int, tuple[int, list[int]]]
) -> None:
    """Write the first directory anew, with some values in place of all that describe pixels."""
    order = form.value[0]
    pointer = 8 if form.value[1] == "Q" else 4
    (start,) = _read(file, pointer, form.value)
    (count,) = _read(file, start, form.entries)
    first = start + struct.calcsize(form.entries)
    entries = {}
    for at in range(first, first + count * form.entry_size, form.entry_size):
        file.seek(at)
        entry = file.read(form.entry_size)
        (code,) = struct.unpack(order + "H", entry[:2])
        if code == _ORIENTATION:
            numbers = {**numbers, code: (_SHORT, [1])}  # Pillow has turned the pixels upright
        elif code not in _STORAGE:
            entries[code] = entry
    file.seek(first + count * form.entry_size)
    following = file.read(struct.calcsize(form.value))
    for code, (kind, values) in numbers.items():
        letter = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}[kind]
        data = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(data) > len(following):
            data = struct.pack(form.value, _append(file, data))
        head = struct.pack(f"{order}HH{form.value[1]}", code, kind, len(values))
        entries[code] = head + data.ljust(len(following), b"\0")
    directory = struct.pack(form.entries, len(entries))
    directory += b"".join(entries[code] for code in sorted(entries)) + following
    where = _append(file, directory)
    file.seek(pointer)
    file.write(struct.pack(form.value, where))


def _read(file: BinaryIO, start: int, form: str) -> tuple[int, ...]:
    file.seek(start)
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _append(file: BinaryIO, data: bytes) -> int:
    """Write data at the end of a file, at an even offset, which is returned."""
    start = file.seek(0, 2)
    if start % 2:
        start += file.write(b"\0")
    file.write(data)
    return start
