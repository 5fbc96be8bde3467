"""Formats that Pillow learns from the packages of the extra `formats`: HEIF and JPEG XL.

They are used if they are installed: pillow-heif and pillow-jxl-plugin.
"""

import functools
import importlib
import io
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from raydae.images.depth import PixelsError

FORMATS = ("HEIF", "JXL")
SUFFIXES = (".heic", ".heics", ".heif", ".heifs", ".hif", ".jxl")
ADVICE = "pip install 'raydae[formats]' adds HEIC and JPEG XL"

_JXL_CONTAINER = b"\x00\x00\x00\x0cJXL \r\n\x87\n"


@functools.cache
def register() -> None:
    """Teach Pillow the formats whose packages are installed."""
    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    with suppress(ImportError):
        importlib.import_module("pillow_jxl")  # registers itself


def advice_for(suffix: str) -> str:
    """Return what to install to read files of a suffix; empty if that would not help."""
    register()
    needed = suffix.lower() in SUFFIXES and suffix.lower() not in Image.registered_extensions()
    return ADVICE if needed else ""


def save_options(image: Image.Image) -> dict[str, Any]:
    """Return how to write the denoised picture of an open image, besides its EXIF, XMP and profile.

    HEIF is written like JPEG, JPEG XL like WebP; see `denoise_file`.
    """
    if image.format == "HEIF":
        colours = image.info.get("nclx_profile") or {}
        names = ("color_primaries", "transfer_characteristics")
        return {"quality": 95, "chroma": 444, **{n: colours[n] for n in names if n in colours}}
    return {"lossless": True} if image.format == "JXL" else {}


def check(image: Image.Image) -> None:
    """Check that an open image can be written in its format with the same colours.

    Raises:
        PixelsError: The package for JPEG XL writes sRGB only.
    """
    profile = image.info.get("icc_profile")
    if image.format == "JXL" and profile not in (None, _srgb_of_jxl(image.mode)):
        raise PixelsError(
            "its colour profile is not sRGB, and JPEG XL is written without a profile: "
            "save it as PNG or TIFF first"
        )


def lost(source: Path, image: Image.Image) -> list[str]:
    """Return what a denoised picture lacks, of what its file has besides the pixels."""
    if image.format == "HEIF":
        names = {"depth_images": "depth map", "aux": "auxiliary images", "metadata": "metadata"}
        return [name for key, name in names.items() if image.info.get(key)]
    if image.format == "JXL":
        names = {"xml ": "XMP", "jumb": "JUMBF"}
        return [name for box, name in names.items() if box in set(_jxl_boxes(source))]
    return []


@functools.cache
def _srgb_of_jxl(mode: str) -> bytes | None:
    """Return the profile that an image of a mode has when it is read again."""
    buffer = io.BytesIO()
    Image.new(mode, (1, 1)).save(buffer, "JXL")
    with Image.open(buffer, formats=["JXL"]) as image:
        profile: bytes | None = image.info.get("icc_profile")
    return profile


def _jxl_boxes(source: Path) -> Iterator[str]:
    """Yield the types of the boxes of a JPEG XL container; of a compressed one that of its content.

    ISO/IEC 18181-2.
    """
    with source.open("rb") as file:
        if file.read(12) != _JXL_CONTAINER:
            return
        while len(head := file.read(8)) == 8:
            size, kind = int.from_bytes(head[:4], "big"), head[4:]
            start = 8
            if size == 1:  # a longer size follows
                size, start = int.from_bytes(file.read(8), "big"), 16
            if kind == b"brob":
                kind, start = file.read(4), start + 4
            yield kind.decode("latin-1")
            if size < start:  # 0: to the end of the file
                return
            file.seek(size - start, io.SEEK_CUR)
