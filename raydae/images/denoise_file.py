"""Denoise a picture into another file of the same mode, format and metadata.

| mode of the file      | passed to the denoiser                      | mode written             |
|-----------------------|---------------------------------------------|--------------------------|
| L, 1                  | uint8 H×W                                   | L                        |
| RGB                   | uint8 H×W×3                                 | RGB                      |
| LA, La; RGBA, PA      | the same, without alpha                     | LA; RGBA; alpha unchanged|
| P                     | uint8 H×W×3                                 | RGB, RGBA if transparent |
| CMYK                  | C, M, Y inverted as RGB; K inverted as grey | CMYK                     |
| YCbCr                 | uint8 H×W×3, converted                      | YCbCr                    |
| I;16, I;16B           | float32 H×W, value / 65535                  | the same                 |
| I, within 0 … 65535   | float32 H×W, value / 65535                  | I                        |
| F, LAB, HSV, others   | refused                                     |                          |

Pillow opens colour of 16 bits a channel, and grey of 16 bits with alpha, as 8 bits. Such files are
denoised and written with 8 bits. A transparent colour of a PNG becomes an alpha channel.
"""

import contextlib
import functools
import io
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raydae.core.errors import UserError
from raydae.images.pictures import (
    MAX_PIXELS,
    Index,
    PictureError,
    convert,
    open_picture,
    read_16_bit,
    read_channels,
    reason_of,
    working_mode,
)

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
    denoise: Callable[[NDArray[Any]], NDArray[Any]],
    max_pixels: int = MAX_PIXELS,
) -> tuple[int, int]:
    """Denoise a picture into another file of the same format, size and metadata.

    The module's table lists the modes. EXIF, XMP (not in PNG), the ICC profile and the resolution
    are kept. The orientation tag is kept and not applied, except in a TIFF: Pillow turns it upright
    and the tag is removed.

    JPEG and AVIF are written with quality 95 and without chroma subsampling, the other formats
    without loss. A TIFF keeps its compression; if that was lossy, it is deflated; if it has EXIF or
    GPS data, it is uncompressed. Of a JPEG with several pictures (MPO), as phones write it, only
    the main picture is kept.

    The target is written whole or not at all. Missing folders are created.

    Args:
        source: The picture. Its content, not its suffix, determines the format.
        target: The file to write; replaced if it exists.
        denoise: Maps an array, uint8 H×W×3 or H×W, or float32 H×W in [0, 1], to an array of the
            same shape and dtype. It may overwrite its argument and return it. The array that it
            returns may be overwritten here. It is called twice for CMYK.
        max_pixels: Refuse a larger picture before it is decoded; at most `MAX_PIXELS`.

    Returns:
        The picture's (height, width).

    Raises:
        UserError: The target is the source.
        PictureError: The source is damaged, has several frames, or has a mode or format that is
            not supported; this is checked before `denoise` is called. Or the target cannot be
            written.
        ValueError: `denoise` returned another shape or dtype.
    """
    with contextlib.suppress(OSError):  # one of them does not exist
        if target.samefile(source):
            raise UserError(f"{source} would be overwritten: choose another output folder")
    picture = _decode(source, max_pixels)
    for index, plane in enumerate(picture.planes):
        result = denoise(plane)
        if (result.shape, result.dtype) != (plane.shape, plane.dtype):
            raise ValueError(
                f"the denoiser was given {plane.dtype} {plane.shape} "
                f"and returned {result.dtype} {result.shape}"
            )
        picture.planes[index] = result
        del plane, result  # free the memory before encoding
    image = _assemble(picture)
    temporary = target.with_name(f".raydae-{secrets.token_hex(8)}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(temporary, picture.format, **picture.options)
        temporary.replace(target)
    except Exception as error:  # the disk is full, or Pillow cannot write metadata that it read
        raise PictureError(f"{target}: cannot be written: {reason_of(error)}") from error
    finally:
        with contextlib.suppress(OSError):  # replaced, or never created
            temporary.unlink()
    return image.height, image.width


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
        options = {**_SAVE_OPTIONS.get(format_name, {}), **_metadata(image)}
        alpha = None
        if mode.startswith("I"):
            planes = [read_16_bit(image, source)]
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
    return _Picture(format_name, mode, planes, alpha, options)


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
        key: image.info[key] for key in ("exif", "icc_profile", "xmp") if key in image.info
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
        np.clip(plane, 0, 1, out=plane)
        plane *= 65535
        np.rint(plane, out=plane)
        return Image.fromarray(plane.astype({"I": "<i4", "I;16B": ">u2"}.get(picture.mode, "<u2")))
    image = Image.fromarray(plane)
    if picture.alpha is not None:
        image.putalpha(picture.alpha)
    return image if picture.mode != "YCbCr" else image.convert("YCbCr")
