"""Read pictures: image files as users have them, of many formats and modes.

A network takes RGB or grey arrays, but users' files also hold palettes, alpha, inks and 16 bits.
This module opens such files with Pillow, checks them, and copies their pixels into arrays. `png16`
and `tiff` read what Pillow would cut to 8 bits, or cannot read. `denoise_file` writes them back.
"""

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from types import EllipsisType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from raydae.core.budget import Budget
from raydae.core.errors import one_line
from raydae.images import libtiff, plugins, png16
from raydae.images import tiff as tiffs
from raydae.images.depth import PixelsError, to_8_bits
from raydae.images.png_chunks import depth_of, scaled_key
from raydae.images.raw_photographs import SUFFIXES as RAW_SUFFIXES
from raydae.images.raw_photographs import refuse_raw

MAX_PIXELS = 10**9
"""The largest number of pixels that a picture may have."""

_budget = Budget(2**25 * (os.cpu_count() or 1))  # pixels that threads decode at a time

# Pillow warns above 89 megapixels, and some photographs have more. Its limit is one number for the
# whole process. Raising it once keeps a limit for code that opens images without this module.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

# The formats that are read and written, the most common first. Pillow opens and saves others, but
# they run programs (EPS), hold several sizes (ICO, ICNS), hold only bilevel pixels, or hold none.
_FORMATS = (
    *("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "JPEG2000", "BMP", "GIF"),
    *("PPM", "TGA", "QOI", "SGI", "PCX"),
    *plugins.FORMATS,
)

# The mode to work in for each supported mode of a file.
_WORKING_MODE = {
    **{mode: mode for mode in ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "I;16B")},
    **{"1": "L", "La": "LA", "PA": "RGBA", "P": "RGB"},
}

# Of formats with kinds that Pillow does not read: it says of these that they are no pictures.
_SIGNATURES = (
    *((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG")),
    *((b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"II+\0", "TIFF"), (b"MM\0+", "TIFF")),
)

_STRIP_PIXELS = 2**20

# Of pictures that are never read, beside raw photographs.
_OTHER_SUFFIXES = {".psd", ".psb", ".xcf", ".exr"}

Index = EllipsisType | tuple[EllipsisType, int | slice]
"""An index that selects channels, such as ``np.s_[..., :3]``."""


class PictureError(OSError):
    """A picture cannot be read, denoised or written.

    The message is one line that names the file and the reason.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@contextlib.contextmanager
def reading(source: Path | BinaryIO) -> Iterator[None]:
    """Turn what decoders raise into a PictureError: for a damaged file, that is almost any type.

    The text of PixelsError is the reason. With other errors, the picture cannot be read.
    """
    try:
        yield
    except PictureError:
        raise
    except MemoryError as error:
        raise PictureError(f"{name_of(source)}: does not fit into memory") from error
    except Exception as error:
        prefix = "" if isinstance(error, PixelsError) else "cannot be read: "
        raise PictureError(f"{name_of(source)}: {prefix}{reason_of(error)}") from error


def read_rgb(source: Path | BinaryIO, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read the first frame of a picture as RGB.

    Every mode is supported except LAB and HSV. Alpha is dropped without blending. Values of more
    than 8 bits are scaled to 8 bits and rounded. The orientation tag is ignored, except in a TIFF
    of 8 bits, or of grey with 16, which Pillow turns upright.

    Args:
        source: A path, or a binary stream.
        max_pixels: Refuse a larger picture before it is decoded; at most `MAX_PIXELS`.

    Returns:
        A writable array, uint8 H×W×3.

    Raises:
        PictureError: The file is not a picture, is a raw photograph, is truncated, or has more than
            `max_pixels`. Or it is a TIFF of more than 8 bits with several pages, with channels that
            are not grey, RGB or alpha, or with values outside 0 … 65535, or outside 0 … 1 in
            floating point.
    """
    with reading(source), _stream_of(source) as stream:
        refuse_raw(stream, name_of(source))
        if (header := png16.read_header(stream)) is not None:
            with _budget.taking(header.width * header.height):
                return to_8_bits(png16.decode(stream.read(), header, max_pixels)[0], 3)
        if tiffs.is_beyond_pillow(stream, first_page_only=True):
            with _budget.taking(tiffs.pixels_of(stream)):
                return to_8_bits(tiffs.read_single(stream, max_pixels), 3)
    with open_picture(source, max_pixels) as image:
        converted = convert(image, working_mode(image, source))
        if converted.mode.startswith("I"):
            return to_8_bits(read_channels(converted, ..., np.int32), 3)
        if converted.mode != "RGBA":
            converted = convert(converted, "RGB")
        return read_channels(converted, np.s_[..., :3], np.uint8)


def read_size(path: Path) -> tuple[int, int]:
    """Return the width and height of a picture, from its header.

    Raises:
        PictureError: The file is not a picture that Pillow can open.
    """
    with reading(path), path.open("rb") as stream, _opened(stream) as image:
        return image.width, image.height


@functools.cache
def formats() -> list[str]:
    """Return the names of the supported formats that this Pillow can read and write."""
    Image.init()
    plugins.register()
    return [name for name in _FORMATS if name in Image.OPEN and name in Image.SAVE]


@functools.cache
def suffixes() -> set[str]:
    """Return the suffixes of the supported formats, in lower case and with the dot."""
    known = {*formats(), "MPO"}
    return {suffix for suffix, name in Image.registered_extensions().items() if name in known}


@functools.cache
def unreadable_suffixes() -> set[str]:
    """Return the suffixes of pictures that are not read here, in lower case and with the dot."""
    return {*RAW_SUFFIXES, *plugins.SUFFIXES, *_OTHER_SUFFIXES} - suffixes()


@contextlib.contextmanager
def open_picture(source: Path | BinaryIO, max_pixels: int) -> Iterator[Image.Image]:
    """Open a picture without decoding it.

    Args:
        source: A path, or a binary stream.
        max_pixels: Refuse a larger picture; at most `MAX_PIXELS`.

    Yields:
        The open image.

    Raises:
        PictureError: The picture cannot be opened, or an exception was raised in the body: for a
            damaged file, Pillow's decoders raise almost any type.
    """
    try:
        # Pillow 13 maps uncompressed grey and RGBA TIFFs into memory if it is given a path, and
        # then garbles those with an orientation tag. Given a stream, it reads them correctly.
        with _stream_of(source) as stream, _opened(stream) as image:
            if image.width * image.height > max_pixels:
                raise PictureError(
                    f"{name_of(source)}: {image.width}x{image.height} is more than "
                    f"{max_pixels} pixels"
                )
            with (
                _budget.taking(image.width * image.height),
                libtiff.watching(image, lambda: _decode_tiff(stream)),
            ):
                yield image
    except PictureError:
        raise
    except PixelsError as error:
        raise PictureError(f"{name_of(source)}: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"{name_of(source)}: more than {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        advice = plugins.advice_for(Path(name_of(source)).suffix)
        raise PictureError(
            f"{name_of(source)}: not a picture, or not one of {', '.join(formats())}"
            f"{advice and '; '}{advice}"
        ) from error
    except Exception as error:
        raise PictureError(f"{name_of(source)}: cannot be read: {reason_of(error)}") from error


def _opened(stream: BinaryIO) -> Image.Image:
    """Open a picture with Pillow, and correct the transparent colour of a PNG.

    Pillow scales grey of 1, 2 and 4 bits to 8, but not the transparent colour.
    """
    head = stream.read(26)
    if not head:
        raise PixelsError("the file is empty")
    depth = depth_of(head)
    stream.seek(0)
    try:
        image = Image.open(stream, formats=formats())
    except UnidentifiedImageError:
        if (kind := next((name for b, name in _SIGNATURES if head.startswith(b)), None)) is None:
            raise
        raise PixelsError(f"is a {kind} that is damaged, or of a kind that is not read") from None
    key = image.info.get("transparency")
    if depth is not None and depth.bits < 8 and isinstance(key, int) and image.mode in ("1", "L"):
        image.info["transparency"] = scaled_key(key, depth.bits)
    return image


def _decode_tiff(stream: BinaryIO) -> None:
    stream.seek(0)
    with Image.open(stream, formats=["TIFF"]) as image:
        image.load()


def _stream_of(source: Path | BinaryIO) -> contextlib.AbstractContextManager[BinaryIO]:
    """Return an open stream of a picture; it is closed only if it was opened here."""
    return source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source)


def working_mode(image: Image.Image, source: Path | BinaryIO) -> str:
    """Return the mode to convert an image to before its pixels are read.

    Args:
        image: The open image. If it has transparency, the mode returned has an alpha channel.
        source: Where it comes from, for the message.

    Raises:
        PictureError: The image's mode is not supported.
    """
    mode = _WORKING_MODE.get(image.mode)
    if mode is None:
        raise PictureError(
            f"{name_of(source)}: mode {image.mode} is not supported: "
            "save it as RGB or grey, in a TIFF if it has floating point"
        )
    if image.has_transparency_data:
        return {"L": "LA", "RGB": "RGBA"}.get(mode, mode)
    return mode


def convert(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image to a mode. Unlike Pillow's `convert`, copy nothing if it has that mode."""
    return image if image.mode == mode else image.convert(mode)


def read_channels(
    image: Image.Image, index: Index, dtype: type[np.uint8 | np.uint16 | np.int32]
) -> NDArray[Any]:
    """Copy some channels of an image into an array.

    The image is copied in strips. As a whole, Pillow would copy it twice and double the memory.

    Args:
        image: The image.
        index: The channels.
        dtype: The array's type; values are not scaled.

    Returns:
        A writable array, H×W or H×W×C.
    """
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    channels = np.asarray(image.crop((0, 0, 1, 1)))[index].shape[2:]
    array = np.empty((height, width, *channels), dtype)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        array[top : top + rows] = np.asarray(strip)[index]
    return array


def name_of(source: Path | BinaryIO) -> str:
    """Return the name of a picture for messages."""
    return str(source if isinstance(source, Path) else getattr(source, "name", "picture"))


def reason_of(error: Exception) -> str:
    """Return the reason of an error in one line, without error number and file name."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
