"""Read TIFFs that Pillow cannot hold, with tifffile.

These have more than 8 bits a channel, floating point, several pages, or channels other than grey,
RGB, CMYK and one alpha. ImageJ and OME-TIFF stacks are among them, in which each plane is a page,
or a part of the first page's data.
"""

import contextlib
import logging
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from raydae.images.depth import PixelsError

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

# tifffile logs what it repairs; whatever matters here is checked here.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_GREY, _RGB, _CMYK, _YCBCR, _LAB = (0, 1), 2, 5, 6, 8  # photometric interpretations
_SEPARATE = 2  # planar configuration: one plane for each channel
_ALPHA = (1, 2)  # extra samples that are alpha, premultiplied or not
_MAX_SAMPLES = 4  # times the pixels allowed


@dataclass(frozen=True)
class Plane:
    """The pixels of one page, or of one plane of a page that holds several in a row."""

    page: "TiffPage"
    index: int = 0
    """The number of the plane in its page's data."""
    copy: bool = False
    """Whether it is a smaller copy of another page."""

    @property
    def size(self) -> tuple[int, int]:
        """Return (height, width)."""
        return int(self.page.imagelength), int(self.page.imagewidth)

    @property
    def offset(self) -> int:
        """Return where the pixels begin, for a page that holds several planes."""
        return int(self.page.dataoffsets[0]) + self.index * int(self.page.nbytes)


def is_tiff(stream: BinaryIO) -> bool:
    """Return whether a stream is a TIFF, by its first bytes; leave it at its beginning."""
    magic = stream.read(4)
    stream.seek(0)
    return magic in _MAGIC


@contextlib.contextmanager
def open_tiff(stream: BinaryIO) -> Iterator["TiffFile"]:
    """Open a TIFF, and leave the stream at its beginning.

    Raises:
        tifffile.TiffFileError: The header is damaged.
    """
    import tifffile

    try:
        with tifffile.TiffFile(stream) as tiff:
            yield tiff
    finally:
        stream.seek(0)


def is_beyond_pillow(stream: BinaryIO, first_page_only: bool = False) -> bool:
    """Return whether a stream is a TIFF that Pillow does not read whole, or not with all its bits.

    The stream is left at its beginning.

    Args:
        stream: A file of any format.
        first_page_only: Whether only the colours of the first page are wanted, if it has 8 bits.
    """
    if not is_tiff(stream):
        return False
    try:
        with open_tiff(stream) as tiff:
            page = tiff.pages.first
            if first_page_only and page.bitspersample <= 8:
                if page.photometric == _RGB and page.sampleformat != 2:  # Pillow drops the others
                    return page.planarconfig == _SEPARATE and page.samplesperpixel > 3
                return page.sampleformat == 2 or not _is_plain(page)
            if len(tiff.pages) > 1 or _count(tiff) > 1 or not _is_plain(page):
                return True
            return not first_page_only and _can_be_copied(tiff, stream)
    except Exception:  # whatever tifffile finds wrong, Pillow has a message for it
        return False


def _is_plain(page: "TiffPage") -> bool:
    """Return whether Pillow reads all the pixels of a page: up to 8 bits, or grey of 16."""
    bits, kind = page.bitspersample, page.sampleformat
    if kind not in (1, 4) or page.imagedepth > 1:
        return False
    colours = {_RGB: 3, _CMYK: 4, _YCBCR: 3, _LAB: 3}.get(page.photometric, 1)
    extra = page.samplesperpixel - colours
    if bits == 16:
        return page.photometric == 1 and extra == 0
    alphas = (*_ALPHA, 999) if colours in (1, 3) and page.photometric != 0 else ()
    alpha = extra == 1 and (page.extrasamples or (999,))[0] in alphas
    return bits <= 8 and (extra == 0 or alpha)


def _can_be_copied(tiff: "TiffFile", stream: BinaryIO) -> bool:
    """Return whether a file's pixels can be replaced in a copy, which keeps all its tags."""
    size = stream.seek(0, 2)
    try:
        for plane in planes_of(tiff):
            check(plane, size, tiff.pages.first.imagelength * tiff.pages.first.imagewidth)
    except PixelsError:
        return False
    return True


def planes_of(tiff: "TiffFile") -> list[Plane]:
    """Return the planes of a file in their order, each smaller copy behind its page."""
    planes = []
    count = _count(tiff)
    for page in cast("list[TiffPage]", list(tiff.pages)):  # frames are only made on request
        if page.is_mask:
            continue
        planes += [Plane(page, index, page.is_reduced) for index in range(count)]
        smaller = list(page.pages or ()) if page.subifds else []
        planes += [Plane(copy, 0, True) for copy in cast("list[TiffPage]", smaller)]
    return planes


def _count(tiff: "TiffFile") -> int:
    """Return how many planes follow each other in the data of the first page.

    ImageJ writes stacks of more than 4 GiB in this way, tifffile and MetaMorph all of some kinds.
    """
    if len(tiff.pages) != 1 or not (tiff.is_imagej or tiff.is_shaped or tiff.is_stk):
        return 1
    series = tiff.series[0]
    return int(series.size // series.keyframe.size) if series.is_truncated else 1


def check_chain(tiff: "TiffFile") -> None:
    """Raise PixelsError if the chain of pages is broken: tifffile stops there without an error."""
    page, form = tiff.pages[-1], tiff.tiff
    tiff.filehandle.seek(page.offset)
    count = struct.unpack(form.tagnoformat, tiff.filehandle.read(form.tagnosize))[0]
    tiff.filehandle.seek(page.offset + form.tagnosize + count * form.tagsize)
    following = tiff.filehandle.read(form.offsetsize)
    if following != bytes(form.offsetsize):
        raise PixelsError(f"the file is truncated: a page after page {len(tiff.pages)} is missing")


def check(plane: Plane, file_size: int, max_pixels: int) -> None:
    """Raise PixelsError if a plane cannot be denoised, with the reason."""
    page = plane.page
    height, width = plane.size
    if not (height and width):
        raise PixelsError("has no pixels")
    if height * width > max_pixels:
        raise PixelsError(f"{width}x{height} is more than {max_pixels} pixels")
    if height * width * page.samplesperpixel > _MAX_SAMPLES * max_pixels:
        raise PixelsError(f"{page.samplesperpixel} channels of {width}x{height} are too many")
    if page.imagedepth > 1:
        raise PixelsError("volumes in one page are not supported: save one page for each plane")
    dtype = page.dtype
    if dtype is None or dtype.kind not in "iuf" or dtype.itemsize * 8 != page.bitspersample:
        kind = "" if page.sampleformat == 1 else f" ({_name(page.sampleformat)})"
        raise PixelsError(
            f"{page.bitspersample} bits a channel{kind} are not supported: "
            "save 8, 16 or 32 bits, or floating point"
        )
    is_jpeg = page.photometric == _YCBCR and page.compression == 7  # is decoded as RGB
    if page.photometric not in (*_GREY, _RGB, _CMYK) and not is_jpeg:
        raise PixelsError(
            f"pixels of kind {_name(page.photometric)} are not supported: save as RGB"
        )
    if page.planarconfig not in (1, _SEPARATE):  # its number has a wrong type
        raise PixelsError("is damaged: it does not say whether channels lie in planes")
    least = {_RGB: 3, _CMYK: 4, _YCBCR: 3}.get(page.photometric, 1)
    if page.samplesperpixel < least:
        raise PixelsError(f"{_name(page.photometric)} with {page.samplesperpixel} channels")
    alpha = sum(kind in _ALPHA for kind in page.extrasamples)
    if page.photometric in _GREY and page.samplesperpixel - alpha > 2:  # which one is the picture?
        raise PixelsError(
            f"has {page.samplesperpixel} channels: save it as RGB or grey, or each one as a page"
        )
    ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if plane.index:
        ends = [plane.offset + int(page.nbytes)]
    is_short = page.compression == 1 and sum(page.databytecounts) < page.nbytes
    is_short |= page.compression != 1 and len(page.dataoffsets) < math.prod(page.chunked)
    if not ends or is_short or min(page.databytecounts) <= 0 or max(ends) > file_size:
        raise PixelsError("the file is truncated, or parts of its pixels are missing")


def read_plane(tiff: "TiffFile", plane: Plane) -> NDArray[Any]:
    """Return the pixels of a plane in the machine's byte order.

    Returns:
        A writable array P×H×W×S: P is 1 and S the channels, or P the channels and S 1.
    """
    page = plane.page
    if plane.index:
        tiff.filehandle.seek(plane.offset)
        assert page.dtype is not None
        dtype = page.dtype.newbyteorder(tiff.byteorder)
        array = tiff.filehandle.read_array(dtype, int(page.nbytes) // dtype.itemsize)
    else:
        array = page.asarray()
    separate, _, height, width, contiguous = page.shaped
    array = array.reshape(separate, height, width, contiguous)
    return np.require(array.astype(array.dtype.newbyteorder("="), copy=False), requirements="W")


def channels_last(array: NDArray[Any]) -> NDArray[Any]:
    """Return H×W×C, a view of the P×H×W×S that `read_plane` returns."""
    return array[0] if len(array) == 1 else np.moveaxis(array[..., 0], 0, -1)


def channel_groups(page: "TiffPage") -> list[list[int]]:
    """Return the channels to denoise: three together for colour, single ones else.

    Alpha and other extra channels are in none.
    """
    if page.photometric in (_RGB, _YCBCR):
        return [[0, 1, 2]]
    return [[0, 1, 2], [3]] if page.photometric == _CMYK else [[0]]


def is_inverted(page: "TiffPage") -> bool:
    """Return whether more is darker in a page."""
    return page.photometric in (0, _CMYK)


def pixels_of(stream: BinaryIO) -> int:
    """Return how many pixels the first page of a TIFF has."""
    with open_tiff(stream) as tiff:
        return int(tiff.pages.first.imagelength * tiff.pages.first.imagewidth)


def read_single(stream: BinaryIO, max_pixels: int) -> NDArray[Any]:
    """Return the pixels of a TIFF with one page, H×W×C of grey or RGB, in the dtype of the file.

    Raises:
        PixelsError: It has several pages or other channels, or is damaged, as in `check`.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    with open_tiff(stream) as tiff:
        planes = [plane for plane in planes_of(tiff) if not plane.copy]
        if len(planes) != 1:
            raise PixelsError(f"has {len(planes)} pages: save them as single pictures")
        check(planes[0], size, max_pixels)
        page = planes[0].page
        groups = channel_groups(page)
        if len(groups) != 1:
            raise PixelsError(f"has {page.samplesperpixel} channels: save it as RGB or grey")
        pixels = channels_last(read_plane(tiff, planes[0]))[..., groups[0]]
    if is_inverted(page):
        if pixels.dtype.kind != "u":
            raise PixelsError("white as 0 is not supported here: save it with black as 0")
        np.invert(pixels, out=pixels)
    return pixels


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))
