"""Keep what a picture says beside its pixels, and tell what is lost.

Pillow writes EXIF, XMP, the ICC profile and the resolution of some formats. Here the parts of a
source are copied into the file that Pillow wrote, byte by byte, if the format allows it.
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raydae.images import (
    avif_boxes,
    bmp_header,
    jp2_boxes,
    jpeg_segments,
    lost_metadata,
    png_chunks,
)


def _restore_png(source: bytes, written: bytes) -> tuple[bytes, list[str], list[str]]:
    kept, lost = png_chunks.kept_chunks(source)
    return png_chunks.with_chunks(written, kept), lost, []


def _restore_jp2(source: bytes, written: bytes) -> tuple[bytes, list[str], list[str]]:
    return *jp2_boxes.restored(source, written), []


def _restore_avif(source: bytes, written: bytes) -> tuple[bytes, list[str], list[str]]:
    return *avif_boxes.restored(source, written), []


def _restore_pcx(source: bytes, written: bytes) -> tuple[bytes, list[str], list[str]]:
    resolution = slice(12, 16)
    return written[: resolution.start] + source[resolution] + written[resolution.stop :], [], []


def _restore_bmp(source: bytes, written: bytes) -> tuple[bytes, list[str], list[str]]:
    return bmp_header.restored(source, written), [], []


_RESTORE: dict[str, Callable[[bytes, bytes], tuple[bytes, list[str], list[str]]]] = {
    "JPEG": jpeg_segments.restored,
    "PNG": _restore_png,
    "JPEG2000": _restore_jp2,
    "AVIF": _restore_avif,
    "PCX": _restore_pcx,
    "BMP": _restore_bmp,
}
"""Each takes a source and what Pillow wrote; returns the file to write, the names of what is lost,
and the names of what was kept and not denoised."""

# Options of `Image.save` that are copied here instead, for each format.
_COPIED = {"PNG": {"exif", "icc_profile", "xmp", "dpi"}}
_COPIED["JPEG"] = _COPIED["PNG"]


def without_copied(options: dict[str, Any], file_format: str) -> dict[str, Any]:
    """Return the options of `Image.save`, less the metadata that `restore` copies."""
    copied = _COPIED.get(file_format, set())
    return {key: value for key, value in options.items() if key not in copied}


def restore(source: Path, written: Path, file_format: str) -> list[str]:
    """Copy the metadata of a source into a file that Pillow wrote.

    Args:
        source: The source.
        written: The file that Pillow wrote; it is changed.
        file_format: Pillow's name of the format of both.

    Returns:
        Lines for the user: what is lost, and what was not denoised.

    Raises:
        OSError: A file cannot be read or written.
    """
    unchanged: list[str] = []
    if file_format in _RESTORE:
        old, new = source.read_bytes(), written.read_bytes()
        try:
            content, lost, unchanged = _RESTORE[file_format](old, new)
        except (ValueError, IndexError, struct.error):  # Pillow read the pixels nevertheless
            content, lost = new, ["all metadata, which is damaged"]
        if content != new:
            written.write_bytes(content)
    else:
        lost = lost_metadata.names_of(source, file_format)
    lines = [f"lost {', '.join(lost)}"] if lost else []
    return lines + ([f"not denoised, but kept: {', '.join(unchanged)}"] if unchanged else [])
