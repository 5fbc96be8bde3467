"""Decode pictures that Pillow reads whole into arrays to denoise, and write them back."""

import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raydae.images import plugins
from raydae.images.metadata import restore, without_copied
from raydae.images.pictures import (
    Index,
    PictureError,
    convert,
    open_picture,
    read_channels,
    reason_of,
    working_mode,
)
from raydae.images.stored_bits import is_monochrome, stored_bits
from raydae.images.tiff_directory import write_pixels

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


@dataclass
class Picture:
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


def decode(source: Path, max_pixels: int) -> Picture:
    """Read a picture as arrays to denoise.

    Raises:
        PictureError: As in `denoise_file`.
    """
    with open_picture(source, max_pixels) as image:
        format_name = "JPEG" if image.format == "MPO" else str(image.format)
        if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
            raise PictureError(f"{source}: has {frames} frames: save them as single pictures")
        mode = working_mode(image, source)
        if not can_store(format_name, mode):
            raise PictureError(
                f"{source}: a denoised picture of mode {mode} does not fit into {format_name}: "
                "save it as PNG first"
            )
        image.load()
        plugins.check(image)
        metadata = without_copied(_metadata(image), format_name)
        is_grey = format_name == "AVIF" and is_monochrome(source)
        options = {**_save_options(format_name, is_grey), **plugins.save_options(image), **metadata}
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
    return Picture(format_name, mode, planes, alpha, options, bits, lost)


@functools.cache
def can_store(format_name: str, mode: str) -> bool:
    """Return whether a format keeps a mode, found by saving and opening one pixel."""
    buffer = io.BytesIO()
    try:
        Image.new(mode, (1, 1)).save(buffer, format_name, **_save_options(format_name, mode == "L"))
    except (OSError, ValueError):
        return False
    with Image.open(buffer, formats=[format_name]) as image:
        return str(image.mode) == mode


def _save_options(format_name: str, is_grey: bool) -> dict[str, Any]:
    """Return the options of `Image.save` for the quality of a format."""
    options = _SAVE_OPTIONS.get(format_name, {})
    if format_name == "AVIF" and is_grey:  # with colour channels, it would be read as RGB
        options = {**options, "subsampling": "4:0:0"}
    return options


_ENCODER = b"Created by "  # the comment of an encoder about itself


def _metadata(image: Image.Image) -> dict[str, Any]:
    """Return the metadata of a loaded image as options of `Image.save`."""
    options: dict[str, Any] = {
        key: image.info[key] for key in ("exif", "icc_profile", "xmp") if image.info.get(key)
    }
    dpi = tuple(float(value) for value in image.info.get("dpi", ()))
    if dpi and all(0 < value < 65536 for value in dpi):  # some files say 0 or nan
        options["dpi"] = dpi
    elif image.format == "BMP":  # without, Pillow would say 96
        options["dpi"] = (0, 0)
    if image.format == "TGA" and "id_section" in image.info:
        options["id_section"] = image.info["id_section"]
    comment = image.info.get("comment", b"")
    if image.format == "JPEG2000" and not comment.startswith(_ENCODER):
        options["comment"] = comment
    return options


def _assemble(picture: Picture) -> Image.Image:
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


def write(picture: Picture, source: Path, target: Path) -> tuple[tuple[int, int], list[str]]:
    """Write a picture whose planes were denoised. Its planes are removed, to free their memory.

    Args:
        picture: As `decode` returned it.
        source: Its file.
        target: The file to write, not atomically.

    Returns:
        The picture's (height, width), and lines for the user: what is lost, or was not denoised.

    Raises:
        OSError: The target cannot be written.
    """
    image = _assemble(picture)
    size = image.height, image.width
    try:
        if picture.format == "TIFF":
            write_pixels(source, target, np.asarray(image), image.mode)
            return size, []
        image.save(target, picture.format, **picture.options)
    except Exception as error:  # Pillow cannot write metadata that it read
        raise OSError(reason_of(error)) from error
    del image  # its memory, before files are read
    lost = [f"lost {', '.join(picture.lost)}"] if picture.lost else []
    return size, [*lost, *restore(source, target, picture.format)]
