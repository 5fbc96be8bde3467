"""Denoise the pages of a TIFF in a copy of the file, which keeps everything but the pixels.

Only the pixels of one page are in memory at a time.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydae.images.depth import Denoise, PixelsError, Stretches, denoise_values
from raydae.images.pictures import PictureError, reading
from raydae.images.tiff import (
    Plane,
    channel_groups,
    channels_last,
    check,
    check_chain,
    is_inverted,
    open_tiff,
    planes_of,
    read_plane,
)

# GDAL leaves room for the other answer.
_GDAL_HEAD, _GDAL_LAYOUT = 1024, b"KNOWN_INCOMPATIBLE_EDITION="


def denoise_tiff(
    source: Path,
    target: Path,
    denoise: Denoise,
    max_pixels: int,
    pages: bool,
    stretches: Stretches,
) -> tuple[int, int]:
    """Denoise a TIFF into another file; see `denoise_file`.

    Colour is denoised as RGB, grey and the K of CMYK as grey. Alpha and other extra channels are
    kept. Smaller copies of a page, such as the levels of a pyramid, are denoised as well.

    Args:
        source: The TIFF.
        target: The file to write, not atomically.
        denoise: As in `denoise_file`.
        max_pixels: Refuse larger pages before anything is decoded.
        pages: Whether a file of several pages is wanted; else it is refused.
        stretches: Is told how values were scaled.

    Returns:
        The first page's (height, width).

    Raises:
        PictureError: The source is damaged, has several pages or is not supported.
        OSError: The target cannot be written.
    """
    _check_all(source, max_pixels, pages)
    shutil.copyfile(source, target)
    _tell_gdal(target)
    # The copy's own planes: writing one page does not move another.
    import tifffile

    from raydae.images.tiff_rewrite import Space, write_plane

    with tifffile.TiffFile(target, mode="r+") as tiff:
        planes = planes_of(tiff)
        space = Space(tiff, planes)
        for number, plane in enumerate(planes, start=1):
            with reading(source):
                array = read_plane(tiff, plane)
            try:
                _denoise_array(array, plane, denoise, stretches)
            except PixelsError as error:
                raise PictureError(f"{source}: {_page(number, planes)}{error}") from error
            try:
                write_plane(tiff, plane, array, space)
            except (ValueError, RuntimeError) as error:  # too large, or an encoder failed
                raise OSError(str(error)) from error
        size = planes[0].size
    try:
        _check_all(target, max_pixels, pages)
    except PictureError as error:  # what the source calls pixels was something else
        raise PictureError(f"{source}: is damaged: the result could not be read") from error
    return size


def _page(number: int, planes: list[Plane]) -> str:
    """Return which page a message is about, if there are several."""
    return f"page {number} of {len(planes)}: " if len(planes) > 1 else ""


def _tell_gdal(target: Path) -> None:
    """Say in a cloud-optimized GeoTIFF that its tiles are not where its first lines say."""
    with target.open("r+b") as file:
        start = file.read(_GDAL_HEAD).find(_GDAL_LAYOUT + b"NO\n ")
        if start >= 0:
            file.seek(start)
            file.write(_GDAL_LAYOUT + b"YES\n")


def _check_all(source: Path, max_pixels: int, pages: bool) -> None:
    """Raise a PictureError if a page cannot be denoised, or if there are several and may not be."""
    size = source.stat().st_size
    with reading(source), source.open("rb") as stream, open_tiff(stream) as tiff:
        check_chain(tiff)
        planes = planes_of(tiff)
        count = sum(not plane.copy for plane in planes)
        if count > 1 and not pages:
            raise PictureError(f"{source}: has {count} pages: --pages denoises each of them")
        number = 0
        try:
            for number, plane in enumerate(planes, start=1):  # noqa: B007  # for the message
                check(plane, size, max_pixels)
        except PixelsError as error:
            raise PixelsError(f"{_page(number, planes)}{error}") from error
        if not planes:
            raise ValueError("has no pages")


def _denoise_array(
    array: NDArray[Any], plane: Plane, denoise: Denoise, stretches: Stretches
) -> None:
    """Denoise the pixels of a plane, P×H×W×S, in place."""
    pixels = channels_last(array)
    inverted = is_inverted(plane.page) and array.dtype.kind == "u"
    for group in channel_groups(plane.page):
        values = pixels[..., : len(group)] if len(group) == 3 else pixels[..., group[0]]
        if inverted:  # more is darker: inverted, the values look like a photograph
            np.invert(values, out=values)
        denoise_values(values, denoise, stretches)
        if inverted:
            np.invert(values, out=values)
