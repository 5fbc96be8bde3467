"""Reads pictures with Pillow, and writes them back denoised in their own mode and format.

A network takes RGB or grey arrays; users' files hold palettes, alpha, inks and 16 bits. What each
mode becomes, and what is kept as it was:

| mode of the file      | handed to the denoiser                      | mode written             |
|-----------------------|---------------------------------------------|--------------------------|
| L, 1                  | uint8 H×W                                   | L                        |
| RGB                   | uint8 H×W×3                                 | RGB                      |
| LA, La; RGBA, PA      | the same, without alpha                     | LA; RGBA; alpha as it was|
| P                     | uint8 H×W×3                                 | RGB, RGBA if transparent |
| CMYK                  | C, M, Y inverted as RGB; K inverted as grey | CMYK                     |
| YCbCr                 | uint8 H×W×3, converted                      | YCbCr                    |
| I;16, I;16B           | float32 H×W, value / 65535                  | the same                 |
| I, within 0 … 65535   | float32 H×W, value / 65535                  | I                        |
| F, LAB, HSV, others   | refused                                     |                          |

Pillow itself opens colour (and grey with alpha) of 16 bits a channel as 8 bits: such a file is
denoised and written with 8. A colour that stands for "transparent" (PNG) becomes an alpha channel.
"""

import contextlib
import functools
import glob
import io
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from raydae.core.errors import UserError

MAX_PIXELS = 10**9
"""The most pixels a picture may claim to have."""

LARGE = 2**24
"""Pixels of a picture that threads decode one at a time: small files can hold such."""

_alone = threading.Lock()

# Pillow's own bound is one number for the process, and warns of a 90-megapixel photograph. It is
# raised here once, on import, and not lifted: code that does not come through here keeps a bound.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS

# An allow-list: the other formats that Pillow opens and saves run programs (EPS), hold several
# sizes (ICO, ICNS), only bilevel pixels, or no pixels at all. The commonest are tried first.
_FORMATS = (
    *("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "JPEG2000", "BMP", "GIF"),
    *("PPM", "TGA", "QOI", "SGI", "PCX"),
)

# The mode worked in and written, for every mode that is not refused.
_WORKING_MODE = {
    **{mode: mode for mode in ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "I;16B")},
    **{"1": "L", "La": "LA", "PA": "RGBA", "P": "RGB"},
}

# What to read from each mode's array, where it is not all of it.
_COLOUR: dict[str, EllipsisType | tuple[EllipsisType, int | slice]] = {
    "LA": np.s_[..., 0],
    "RGBA": np.s_[..., :3],
}

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    # Finer than nearly all cameras write: this second loss must not undo what denoising gained.
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    # Pillow does not tell whether the source was lossless, and lossy WebP always halves colour.
    # exact: keep the colours under alpha 0.
    "WEBP": {"lossless": True, "exact": True},
}

# A TIFF that was compressed in another way (JPEG, or fax codes for bilevel) is written deflated.
_LOSSLESS_TIFF = {"raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "zstd"}

# The TIFF tags that say something about the picture; the others say how its pixels are stored:
# description, make, model, software, date, artist, computer, XMP, copyright, and the branches.
_TIFF_TAGS = {270, 271, 272, 305, 306, 315, 316, 700, 33432, 34665, 34853}

# EXIF and GPS: libtiff, which does the compressing, fails on them; Pillow writes them without it.
_TIFF_BRANCHES = {34665, 34853}

_STRIP_PIXELS = 2**20


class PictureError(OSError):
    """A file is not a picture that can be read, denoised or written.

    The message is one line: the file, and what is wrong with it.
    """


def expand(inputs: Sequence[str], out: Path | None = None) -> list[tuple[Path, Path]]:
    """Finds the pictures that the user's inputs name.

    Args:
        inputs: Each a file (taken whatever its name), a folder (every picture below it, known by
            its suffix, except hidden ones) or a pattern such as ``shots/*.png`` (every picture it
            matches; folders that it matches are left alone).
        out: Folder for the results: those of an earlier run are not taken where a folder or
            pattern finds them.

    Returns:
        (source, output name) pairs in the inputs' order, sorted within each. The output name is
        relative: the file's name, and for a folder the path below that folder.

    Raises:
        UserError: An input names no picture, or two different files would get one output name.
    """
    sources: dict[Path, Path] = {}
    for text in inputs:
        for source, name in _matches(text, out):
            other = sources.setdefault(name, source)
            if not other.samefile(source):
                raise UserError(
                    f"{other} and {source} would both be written as {name}: "
                    "denoise them in two runs, into two folders"
                )
    return [(source, name) for name, source in sources.items()]


def denoise_file(
    source: Path,
    target: Path,
    denoise: Callable[[NDArray[Any]], NDArray[Any]],
    max_pixels: int = MAX_PIXELS,
) -> tuple[int, int]:
    """Denoises one picture into another file of the same format, size and metadata.

    The module's table says what each mode becomes. Kept are EXIF, XMP (not in PNG), ICC profile
    and resolution. Pixels stay as stored, with the orientation tag beside them; only a TIFF is
    turned upright, by Pillow, and loses the tag. JPEG and AVIF are written with quality 95 and
    4:4:4, other formats lossless: a TIFF with the compression it had, or deflated if that was
    lossy, or uncompressed if it has EXIF or GPS. Of a phone's many-picture JPEG (MPO) the main
    picture is kept, as a JPEG.

    The target appears whole or not at all; missing folders are made.

    Args:
        source: The picture. Its content, not its suffix, says which format is read and written.
        target: Where to write; replaced if it exists.
        denoise: Maps an array, uint8 H×W×3 or H×W, or float32 H×W in [0, 1], to one of the same
            shape and dtype. It may overwrite its argument and return that; what it returns
            may be overwritten here. Called twice for CMYK.
        max_pixels: Refuse a larger picture before decoding it; at most `MAX_PIXELS`.

    Returns:
        The picture's (height, width).

    Raises:
        UserError: The target is the source.
        PictureError: The source cannot be read whole, has several frames, has a mode or format
            that is refused (all found before `denoise` is called), or the target cannot be
            written.
    """
    with contextlib.suppress(OSError):  # one of them does not exist
        if target.samefile(source):
            raise UserError(f"{source} would be overwritten: choose another output folder")
    picture = _read(source, max_pixels)
    for index, plane in enumerate(picture.planes):
        result = denoise(plane)
        if (result.shape, result.dtype) != (plane.shape, plane.dtype):
            raise ValueError(
                f"the denoiser was given {plane.dtype} {plane.shape} "
                f"and returned {result.dtype} {result.shape}"
            )
        picture.planes[index] = result
        del plane, result  # else the last ones live through the encoding
    image = _assemble(picture)
    temporary = target.with_name(f".raydae-{secrets.token_hex(8)}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(temporary, picture.format, **picture.options)
        temporary.replace(target)
    except Exception as error:  # no room left, or metadata that Pillow reads and cannot write
        raise PictureError(f"{target}: cannot be written: {_reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # replaced, or never made
            temporary.unlink()
    return image.height, image.width


def read_rgb(source: Path | BinaryIO, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Reads a picture of any mode but F and LAB as RGB: its first frame, as stored.

    Alpha is dropped, not blended. Grey of 16 bits is scaled to 8, where Pillow would clip it. An
    orientation tag is not applied, except by Pillow to a TIFF.

    Returns:
        A writable uint8 array H×W×3.

    Raises:
        PictureError: The file is no picture, is cut off, or has more than `max_pixels`.
    """
    with _opened(source, max_pixels) as image:
        worked = _converted(image, _working_mode(image, source))
        if worked.mode.startswith("I"):
            grey = np.rint(_sixteen_bit(worked, source) * 255).astype(np.uint8)
            return np.repeat(grey[..., np.newaxis], 3, axis=2)
        if worked.mode != "RGBA":
            worked = _converted(worked, "RGB")
        return _plane(worked, np.s_[..., :3], np.uint8)


@dataclass
class _Picture:
    """A decoded picture, from which Pillow's buffer of 4 bytes a pixel is gone."""

    format: str
    mode: str
    planes: list[NDArray[Any]]
    """The arrays to denoise, each alone: two for CMYK, else one."""
    alpha: Image.Image | None
    options: dict[str, Any]
    """For `Image.save`: metadata and quality."""


def _matches(text: str, out: Path | None) -> list[tuple[Path, Path]]:
    if not text:
        raise UserError("an input is empty: give a file, a folder or a pattern")
    path = Path(text)
    if path.is_dir():
        found = [
            (file, file.relative_to(path))
            for file in sorted(path.rglob("*"))
            if not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
    elif path.exists():
        return [(path, Path(path.name))]
    elif glob.has_magic(text):
        found = [
            (file, Path(file.name))
            # Path.glob takes no absolute pattern, and lets "*" match hidden files.
            for file in map(Path, sorted(glob.glob(text, recursive=True)))  # noqa: PTH207
        ]
    else:
        raise UserError(f"{text} does not exist: give a file, a folder or a pattern")
    found = [pair for pair in found if pair[0].suffix.lower() in suffixes() and pair[0].is_file()]
    if not found:
        raise UserError(f"{text} holds no picture: give a file, a folder or a pattern that does")
    folder = path if path.is_dir() else None
    found = [pair for pair in found if out is None or not _is_result(pair[0], folder, out)]
    if not found:
        raise UserError(f"{text} would be overwritten: choose another output folder")
    return found


def _is_result(source: Path, folder: Path | None, out: Path) -> bool:
    """Tells whether what a folder, or a pattern (None), finds is the result of an earlier run."""
    source, out = source.resolve(), out.resolve()
    if folder is None:
        return source.parent == out  # where all results of a pattern are
    return out.is_relative_to(folder.resolve()) and source.is_relative_to(out)


@functools.cache
def _formats() -> list[str]:
    Image.init()
    # A Pillow may lack some: 11.0 has no AVIF.
    return [name for name in _FORMATS if name in Image.OPEN and name in Image.SAVE]


@functools.cache
def suffixes() -> set[str]:
    """Of the files that are taken for pictures in a folder, with the dot, in small letters."""
    known = {*_formats(), "MPO"}
    return {suffix for suffix, name in Image.registered_extensions().items() if name in known}


@functools.cache
def _holds(format_name: str, mode: str) -> bool:
    """Tells, by trying it on one pixel, whether a format gives back a mode that is saved in it."""
    buffer = io.BytesIO()
    try:
        Image.new(mode, (1, 1)).save(buffer, format_name)
    except (OSError, ValueError):
        return False
    with Image.open(buffer, formats=[format_name]) as image:
        return str(image.mode) == mode


def _name(source: Path | BinaryIO) -> str:
    return str(source if isinstance(source, Path) else getattr(source, "name", "picture"))


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


@contextlib.contextmanager
def _opened(source: Path | BinaryIO, max_pixels: int) -> Iterator[Image.Image]:
    """Opens a picture; what goes wrong here or in the body becomes a PictureError."""
    try:
        # Opened here because Pillow 13, given a path, maps an uncompressed grey or RGBA TIFF into
        # memory, and garbles one that is stored turned.
        file = source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(source)
        with file as stream, Image.open(stream, formats=_formats()) as image:
            if image.width * image.height > max_pixels:
                raise PictureError(
                    f"{_name(source)}: {image.width}x{image.height} is more than "
                    f"{max_pixels} pixels"
                )
            with _alone if image.width * image.height > LARGE else contextlib.nullcontext():
                yield image
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(f"{_name(source)}: more than {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{_name(source)}: not a picture, or not one of {', '.join(_formats())}"
        ) from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        raise PictureError(f"{_name(source)}: cannot be read: {_reason(error)}") from error


def _read(source: Path, max_pixels: int) -> _Picture:
    with _opened(source, max_pixels) as image:
        format_name = "JPEG" if image.format == "MPO" else str(image.format)
        if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
            raise PictureError(f"{source}: has {frames} frames: save them as single pictures")
        mode = _working_mode(image, source)
        if mode.startswith("I") and image.has_transparency_data:
            raise PictureError(f"{source}: a transparent colour in 16-bit grey cannot be kept")
        if not _holds(format_name, mode):
            raise PictureError(
                f"{source}: a denoised picture of mode {mode} does not fit into {format_name}: "
                "save it as PNG first"
            )
        image.load()
        options = {**_SAVE_OPTIONS.get(format_name, {}), **_metadata(image)}
        alpha = None
        if mode.startswith("I"):
            planes = [_sixteen_bit(image, source)]
        elif mode == "CMYK":  # inks darken, light brightens: inverted, they look like a picture
            planes = [_plane(image, index, np.uint8) for index in (np.s_[..., :3], np.s_[..., 3])]
            for plane in planes:
                np.invert(plane, out=plane)
        else:
            worked = _converted(image, "RGB" if mode == "YCbCr" else mode)
            planes = [_plane(worked, _COLOUR.get(mode, ...), np.uint8)]
            if mode in _COLOUR:
                alpha = worked.getchannel("A")
    return _Picture(format_name, mode, planes, alpha, options)


def _working_mode(image: Image.Image, source: Path | BinaryIO) -> str:
    mode = _WORKING_MODE.get(image.mode)
    if mode is None:
        raise PictureError(
            f"{_name(source)}: mode {image.mode} is not supported: "
            "save it as RGB or grey of 8 bits, or grey of 16"
        )
    if image.has_transparency_data:
        return {"L": "LA", "RGB": "RGBA"}.get(mode, mode)
    return mode


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """Converts; unlike Pillow's convert, makes no copy of an image that has the mode."""
    return image if image.mode == mode else image.convert(mode)


def _plane(
    image: Image.Image,
    index: EllipsisType | tuple[EllipsisType, int | slice],
    dtype: type[np.uint8] | type[np.float32],
) -> NDArray[Any]:
    """Copies an image's array[index] strip by strip: whole, Pillow copies it twice on the way."""
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    bands = np.asarray(image.crop((0, 0, 1, 1)))[index].shape[2:]
    plane = np.empty((height, width, *bands), dtype)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        plane[top : top + rows] = np.asarray(strip)[index]
    return plane


def _sixteen_bit(image: Image.Image, source: Path | BinaryIO) -> NDArray[np.float32]:
    plane = _plane(image, ..., np.float32)
    if plane.min() < 0 or plane.max() > 65535:
        raise PictureError(f"{_name(source)}: values outside 0 to 65535: save it with 16 bits")
    plane /= 65535
    return plane


def _metadata(image: Image.Image) -> dict[str, Any]:
    """Collects, as options of `Image.save`, what a loaded image knows besides its pixels."""
    options: dict[str, Any] = {
        key: image.info[key] for key in ("exif", "icc_profile", "xmp") if key in image.info
    }
    dpi = tuple(float(value) for value in image.info.get("dpi", ()))
    if dpi and all(0 < value < 65536 for value in dpi):  # files do say 0, or nan
        options["dpi"] = dpi
    if image.format == "TIFF":
        tags = image.getexif()
        for tag in set(tags) - _TIFF_TAGS:
            del tags[tag]
        compression = image.info.get("compression")
        if _TIFF_BRANCHES & set(tags):
            compression = "raw"
        elif compression not in _LOSSLESS_TIFF:
            compression = "tiff_adobe_deflate"
        options |= {"exif": tags, "compression": compression}
    return options


def _assemble(picture: _Picture) -> Image.Image:
    """Makes the image to save; takes the picture's planes, so that they do not outlive it."""
    plane = picture.planes.pop(0)
    if picture.mode == "CMYK":
        inks = np.dstack((plane, picture.planes.pop()))
        np.invert(inks, out=inks)
        size = inks.shape[1], inks.shape[0]
        return Image.frombuffer("CMYK", size, inks, "raw", "CMYK", 0, 1)
    if picture.mode.startswith("I"):
        np.clip(plane, 0, 1, out=plane)
        plane *= 65535
        np.rint(plane, out=plane)
        return Image.fromarray(plane.astype({"I": "<i4", "I;16B": ">u2"}.get(picture.mode, "<u2")))
    image = Image.fromarray(plane)
    if picture.alpha is not None:
        image.putalpha(picture.alpha)
    return image if picture.mode != "YCbCr" else image.convert("YCbCr")
