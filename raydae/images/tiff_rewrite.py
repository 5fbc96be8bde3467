"""Replace the pixels in a copy of a TIFF, and leave everything else of the file as it is.

Tags, descriptions, profiles, EXIF data, the order of the pages and the vendors' own tags stay byte
by byte. Encoded pixels are written over the old ones and, where they need more space, at the end.
"""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raydae.images.tiff import Plane

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_RAW, _DEFLATE = 1, 8
# Encoders of the lossless compressions, by the name of imagecodecs. Others are replaced by deflate.
_ENCODERS = {
    **{5: "lzw", 8: "deflate", 32946: "deflate", 32773: "packbits", 34925: "lzma"},
    **{34926: "zstd", 50000: "zstd"},
}
_NO_PREDICTOR, _HORIZONTAL, _FLOATING = 1, 2, 3
_COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _PREDICTOR, _SUBSAMPLING = 259, 262, 266, 317, 530


class Space:
    """The bytes of a file that hold pixels, and which of them are free."""

    def __init__(self, tiff: "TiffFile", planes: Iterable[Plane]) -> None:
        """Note which parts of the file are used by more than one page: those stay as they are."""
        self._tiff = tiff
        self._users = Counter(
            offset for plane in planes for offset in set(plane.page.dataoffsets) if not plane.index
        )
        self._free: list[tuple[int, int]] = []  # (start, end)

    def release(self, offsets: Iterable[int], sizes: Iterable[int]) -> None:
        """Free the parts of a page that no other page uses."""
        parts = set(zip(offsets, sizes, strict=True))
        parts = {(start, start + size) for start, size in parts if self._users[start] == 1}
        merged: list[tuple[int, int]] = []
        for start, end in sorted(parts | set(self._free)):
            if merged and start <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((start, end))
        self._free = merged

    def take(self, size: int) -> int:
        """Return where to write so many bytes: in the first free part, or at the end of the file.

        Raises:
            ValueError: The end is beyond 4 GiB, in a TIFF that is not a BigTIFF.
        """
        for number, (start, end) in enumerate(self._free):
            if end - start >= size:
                self._free[number] = start + size, end
                return start
        handle = self._tiff.filehandle
        start = handle.seek(0, 2)
        if start % 2:  # the specification wants even offsets
            start += handle.write(b"\0")
        if not self._tiff.is_bigtiff and start + size > 2**32 - 2**20:
            raise ValueError("it would grow beyond 4 GiB: save it as BigTIFF first")
        return start


def write_plane(tiff: "TiffFile", plane: Plane, array: NDArray[Any], space: Space) -> None:
    """Write the pixels of a plane.

    Args:
        tiff: The copy, opened for reading and writing.
        plane: One of its planes.
        array: As `read_plane` returned it.
        space: Of the copy.

    Raises:
        OSError: The disk is full.
        ValueError: As `Space.take`.
    """
    page, handle = plane.page, tiff.filehandle
    if plane.index:
        handle.seek(plane.offset)
        handle.write(array.astype(array.dtype.newbyteorder(tiff.byteorder)).tobytes())
        return
    compression = int(page.compression)
    predictor = int(page.predictor)
    if not is_lossless(compression):
        compression, predictor = _DEFLATE, _NO_PREDICTOR
    if predictor not in (_HORIZONTAL, _FLOATING):
        predictor = _NO_PREDICTOR
    space.release(page.dataoffsets, page.databytecounts)
    offsets, sizes = [], []
    for index in range(len(page.dataoffsets)):
        data = encode_segment(_segment(array, page, index), compression, predictor, tiff.byteorder)
        offsets.append(space.take(len(data)))
        sizes.append(len(data))
        handle.seek(offsets[-1])
        handle.write(data)
    _set_tags(page, offsets, sizes, compression, predictor)


def _set_tags(
    page: "TiffPage", offsets: list[int], sizes: list[int], compression: int, predictor: int
) -> None:
    """Say in a page's tags where its pixels are and how they are encoded."""
    where = (324, 325) if page.is_tiled else (273, 279)
    for code, before, now in zip(
        where, (page.dataoffsets, page.databytecounts), (offsets, sizes), strict=True
    ):
        if list(before) != now:
            big = page.parent.is_bigtiff
            page.tags[code].overwrite(now if len(now) > 1 else now[0], dtype=16 if big else 4)
    if compression != page.compression:
        page.tags[_COMPRESSION].overwrite(compression)
        if page.photometric == 6:  # was decoded to RGB
            page.tags[_PHOTOMETRIC].overwrite(2)
            if _SUBSAMPLING in page.tags:
                page.tags[_SUBSAMPLING].overwrite((1, 1))
    for code, value in ((_PREDICTOR, predictor), (_FILL_ORDER, 1)):
        if code in page.tags and int(page.tags[code].value) != value:
            page.tags[code].overwrite(value)


def _segment(array: NDArray[Any], page: "TiffPage", index: int) -> NDArray[Any]:
    """Return a strip or tile of P×H×W×S as a new array h×w×S; tiles are filled at the edges."""
    _, height, width, _ = array.shape
    if not page.is_tiled:
        rows = min(page.rowsperstrip, height)
        plane, strip = divmod(index, -(-height // rows))
        return np.array(array[plane, strip * rows : (strip + 1) * rows])
    rows, columns = page.tilelength, page.tilewidth
    across = -(-width // columns)
    plane, tile = divmod(index, -(-height // rows) * across)
    y, x = (part * side for part, side in zip(divmod(tile, across), (rows, columns), strict=True))
    part = array[plane, y : y + rows, x : x + columns]
    missing = (rows - part.shape[0], columns - part.shape[1])
    padded: NDArray[Any] = np.pad(part, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="edge")
    return padded


def is_lossless(compression: int) -> bool:
    """Return whether pixels can be stored again with a compression, by its number in TIFF."""
    return compression == _RAW or compression in _ENCODERS


def encode_segment(
    segment: NDArray[Any], compression: int, predictor: int, byteorder: Any
) -> bytes:
    """Return a strip or tile as it is stored."""
    if compression == _RAW:
        return bytes(segment.astype(segment.dtype.newbyteorder(byteorder), copy=False).tobytes())
    import imagecodecs

    if predictor == _FLOATING:
        stored = imagecodecs.floatpred_encode(segment, axis=-2)  # bytes of any order, by design
    else:
        if predictor == _HORIZONTAL:  # of the bits as integers, also where they are floats
            bits = segment.view(f"u{segment.dtype.itemsize}")
            bits[:, 1:] -= bits[:, :-1].copy()
        stored = segment.astype(segment.dtype.newbyteorder(byteorder), copy=False)
    if _ENCODERS[compression] == "packbits":
        rows = stored.view(np.uint8).reshape(len(stored), -1)
        return b"".join(imagecodecs.packbits_encode(row.tobytes()) for row in rows)
    encode = getattr(imagecodecs, f"{_ENCODERS[compression]}_encode")
    return bytes(encode(stored.tobytes()))
