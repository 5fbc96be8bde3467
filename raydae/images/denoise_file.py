"""Denoise a picture into another file of the same mode, format and metadata.

| mode of the file      | passed to the denoiser                      | mode written             |
|-----------------------|---------------------------------------------|--------------------------|
| L, 1                  | uint8 H×W                                   | L                        |
| RGB                   | uint8 H×W×3                                 | RGB                      |
| LA, La; RGBA, PA      | the same, without alpha                     | LA; RGBA; alpha unchanged|
| P                     | uint8 H×W×3                                 | RGB, RGBA if transparent |
| CMYK                  | C, M, Y inverted as RGB; K inverted as grey | CMYK                     |
| YCbCr                 | uint8 H×W×3, converted                      | YCbCr                    |
| I;16, I;16B           | float32 H×W, see `depth`                    | the same                 |
| I, within 0 … 65535   | float32 H×W, see `depth`                    | I                        |
| PNG, 16 bits: colour  | float32 H×W×3, see `depth`                  | the same; alpha unchanged|
| or grey with alpha    | float32 H×W                                 |                          |
| TIFF of 8, 16 or 32   | each page, with `pages` if there are several| the same; alpha unchanged|
| bits or floating point| float32, uint8 if 8 bits; H×W×3 if RGB,     |                          |
|                       | each channel as H×W if not RGB              |                          |
| LAB, HSV, others      | refused                                     |                          |

Other formats that Pillow opens as 8 bits although they hold more (colour in PPM, JPEG 2000, SGI and
AVIF) are written with 8 bits. A transparent colour of a PNG becomes an alpha channel.
"""

import contextlib
import functools
import io
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raydae.core.errors import UserError
from raydae.images import plugins, png16
from raydae.images.denoise_tiff import denoise_tiff
from raydae.images.depth import Denoise, Stretches, denoise_values
from raydae.images.pictures import (
    MAX_PIXELS,
    Index,
    PictureError,
    convert,
    open_picture,
    read_channels,
    reading,
    reason_of,
    working_mode,
)
from raydae.images.stored_bits import stored_bits
from raydae.images.tiff import is_beyond_pillow

# The channels to denoise, for the modes that have others.
_COLOUR: dict[str, Index] = {"LA": np.s_[..., 0], "RGBA": np.s_[..., :3]}

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    # Better than the quality that most cameras use, so that the second lossy compression does not
    # undo the gain of denoising.
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "AVIF": {"quality": 95, "subsampling": "4:4:4"},
    # Pillow does not tell whether the source was lossless, and lossy WebP always subsamples colour.
    # exact: keep the colour of fully transparent pixels.
    "WEBP": {"lossless": True, "exact": True},
}

# A TIFF with another compression (JPEG, or fax codes for bilevel pixels) is written deflated.
_LOSSLESS_TIFF = {"raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "zstd"}

# The TIFF tags to keep: description, make, model, software, date, artist, computer, XMP, copyright,
# EXIF and GPS. Most others describe how the pixels are stored, which changes.
_TIFF_TAGS = {270, 271, 272, 305, 306, 315, 316, 700, 33432, 34665, 34853}

# EXIF and GPS. Pillow can write them only without compression: libtiff, which compresses, fails.
_TIFF_DIRECTORIES = {34665, 34853}


def denoise_file(
    source: Path,
    target: Path,
    denoise: Denoise,
    max_pixels: int = MAX_PIXELS,
    pages: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[int, int]:
    """Denoise a picture into another file of the same format, size and metadata.

    The module's table lists the modes. EXIF, XMP (not in PNG of 8 bits), the ICC profile and the
    resolution are kept. The orientation tag is kept and not applied, except in a TIFF of 8 bits, or
    of grey with 16: Pillow turns it upright and the tag is removed.

    JPEG and AVIF are written with quality 95 and without chroma subsampling, the other formats
    without loss. A TIFF keeps its compression; if that was lossy, it is deflated; if it has EXIF or
    GPS data and Pillow writes it, it is uncompressed. Of a JPEG with several pictures (MPO), as
    phones write it, only the main picture is kept.

    The target is written whole or not at all. Missing folders are created.

    Args:
        source: The picture. Its content, not its suffix, determines the format.
        target: The file to write; replaced if it exists.
        denoise: Maps an array, uint8 or float32 on [0, 1], H×W×3 or H×W, to an array of the same
            shape and dtype. It may overwrite its argument and return it. The array that it returns
            may be overwritten here. It is called twice for CMYK, and once for each page, and each
            channel that is not part of a colour.
        max_pixels: Refuse a larger picture before it is decoded; at most `MAX_PIXELS`.
        pages: Denoise every page of a TIFF that has several.
        say: Is called with a line for the user if values were scaled, or bits lost.

    Returns:
        The picture's (height, width); of several pages the first's.

    Raises:
        UserError: The target is the source.
        PictureError: The source is damaged, has several frames, or has a mode or format that is
            not supported; all but values that are no numbers is checked before `denoise` is called.
            Or the target cannot be written.
        ValueError: `denoise` returned another shape or dtype.
    """
    with contextlib.suppress(OSError):  # one of them does not exist
        if target.samefile(source):
            raise UserError(f"{source} would be overwritten: choose another output folder")
    stretches = Stretches()
    with reading(source), source.open("rb") as stream:
        header = png16.read_header(stream)
        beyond_pillow = is_beyond_pillow(stream)
    if beyond_pillow:
        with _replacing(target) as temporary:
            size = denoise_tiff(source, temporary, denoise, max_pixels, pages, stretches)
    elif header is not None:
        size = _denoise_png16(source, target, denoise, header, max_pixels, stretches)
    else:
        size = _denoise_with_pillow(source, target, denoise, max_pixels, stretches, say)
    if stretches.line:
        say(stretches.line)
    return size


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary name, and rename its file to the target at the end; or delete it.

    Raises:
        PictureError: The body raised an OSError, as when the disk is full.
    """
    temporary = target.with_name(f".raydae-{secrets.token_hex(8)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(target)
    except PictureError:
        raise
    except OSError as error:
        raise PictureError(f"{target}: cannot be written: {reason_of(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # replaced, or never created
            temporary.unlink()


def _denoise_with_pillow(
    source: Path,
    target: Path,
    denoise: Denoise,
    max_pixels: int,
    stretches: Stretches,
    say: Callable[[str], None],
) -> tuple[int, int]:
    """Denoise a picture that Pillow reads and writes; return (height, width)."""
    picture = _decode(source, max_pixels)
    for plane in picture.planes:
        denoise_values(plane, denoise, stretches)
    image = _assemble(picture)
    with _replacing(target) as temporary:
        try:
            image.save(temporary, picture.format, **picture.options)
        except Exception as error:  # Pillow cannot write metadata that it read
            raise OSError(reason_of(error)) from error
    if picture.lost:
        say(f"lost {', '.join(picture.lost)}")
    if picture.bits > 8:
        say(f"its {picture.bits} bits a channel became 8: save it as PNG or TIFF to keep them")
    return image.height, image.width


def _denoise_png16(
    source: Path,
    target: Path,
    denoise: Denoise,
    header: png16.Header,
    max_pixels: int,
    stretches: Stretches,
) -> tuple[int, int]:
    """Denoise a PNG of 16 bits with colour or alpha; return (height, width)."""
    with reading(source):
        pixels, kept = png16.decode(source.read_bytes(), header, max_pixels)
    colours = pixels[..., :3] if pixels.shape[2] > 2 else pixels[..., 0]
    denoise_values(colours, denoise, stretches)
    with _replacing(target) as temporary:
        temporary.write_bytes(png16.encode(pixels, kept))
    return header.height, header.width


@dataclass
class _Picture:
    """A decoded picture. Pillow's own copy of the pixels, 4 bytes each, has been freed."""

    format: str
    mode: str
    planes: list[NDArray[Any]]
    """The arrays to denoise separately: two for CMYK, one for other modes."""
    alpha: Image.Image | None
    options: dict[str, Any]
    """Metadata and quality: options of `Image.save`."""
    bits: int
    """Bits a channel in the file; 0 if the mode keeps them."""
    lost: list[str]
    """What the result lacks, of what the file has besides the pixels."""


def _decode(source: Path, max_pixels: int) -> _Picture:
    """Read a picture as arrays to denoise.

    Raises:
        PictureError: As in `denoise_file`.
    """
    with open_picture(source, max_pixels) as image:
        format_name = "JPEG" if image.format == "MPO" else str(image.format)
        if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
            raise PictureError(f"{source}: has {frames} frames: save them as single pictures")
        mode = working_mode(image, source)
        if mode.startswith("I") and image.has_transparency_data:
            raise PictureError(f"{source}: a transparent colour in 16-bit grey cannot be kept")
        if not _can_store(format_name, mode):
            raise PictureError(
                f"{source}: a denoised picture of mode {mode} does not fit into {format_name}: "
                "save it as PNG first"
            )
        image.load()
        plugins.check(image)
        options = {**_SAVE_OPTIONS.get(format_name, {}), **plugins.save_options(image)}
        options |= _metadata(image)
        alpha = None
        if mode.startswith("I"):
            planes = [read_channels(image, ..., np.int32 if mode == "I" else np.uint16)]
        elif mode == "CMYK":  # more ink is darker: inverted, the inks look like a photograph
            planes = [
                read_channels(image, index, np.uint8) for index in (np.s_[..., :3], np.s_[..., 3])
            ]
            for plane in planes:
                np.invert(plane, out=plane)
        else:
            converted = convert(image, "RGB" if mode == "YCbCr" else mode)
            planes = [read_channels(converted, _COLOUR.get(mode, ...), np.uint8)]
            if mode in _COLOUR:
                alpha = converted.getchannel("A")
        bits = stored_bits(source, format_name) if not mode.startswith("I") else 0
        lost = plugins.lost(source, image)
    return _Picture(format_name, mode, planes, alpha, options, bits, lost)


@functools.cache
def _can_store(format_name: str, mode: str) -> bool:
    """Return whether a format keeps a mode, found by saving and opening one pixel."""
    buffer = io.BytesIO()
    try:
        Image.new(mode, (1, 1)).save(buffer, format_name)
    except (OSError, ValueError):
        return False
    with Image.open(buffer, formats=[format_name]) as image:
        return str(image.mode) == mode


def _metadata(image: Image.Image) -> dict[str, Any]:
    """Return the metadata of a loaded image as options of `Image.save`."""
    options: dict[str, Any] = {
        key: image.info[key] for key in ("exif", "icc_profile", "xmp") if image.info.get(key)
    }
    dpi = tuple(float(value) for value in image.info.get("dpi", ()))
    if dpi and all(0 < value < 65536 for value in dpi):  # some files say 0 or nan
        options["dpi"] = dpi
    if image.format == "TIFF":
        tags = image.getexif()
        for tag in set(tags) - _TIFF_TAGS:
            del tags[tag]
        compression = image.info.get("compression")
        if _TIFF_DIRECTORIES & set(tags):
            compression = "raw"
        elif compression not in _LOSSLESS_TIFF:
            compression = "tiff_adobe_deflate"
        options |= {"exif": tags, "compression": compression}
    return options


def _assemble(picture: _Picture) -> Image.Image:
    """Return the image to save. Remove the planes from the picture, to free their memory."""
    plane = picture.planes.pop(0)
    if picture.mode == "CMYK":
        inks = np.dstack((plane, picture.planes.pop()))
        np.invert(inks, out=inks)
        size = inks.shape[1], inks.shape[0]
        return Image.frombuffer("CMYK", size, inks, "raw", "CMYK", 0, 1)
    if picture.mode.startswith("I"):
        return Image.fromarray(plane.astype({"I": "<i4", "I;16B": ">u2"}.get(picture.mode, "<u2")))
    image = Image.fromarray(plane)
    if picture.alpha is not None:
        image.putalpha(picture.alpha)
    return image if picture.mode != "YCbCr" else image.convert("YCbCr")
