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
    other_metadata,
    png_chunks,
)

_RESTORE: dict[str, Callable[[bytes, bytes], tuple[bytes, list[str]]]] = {
    "JPEG": jpeg_segments.restored,
    "PNG": png_chunks.restored,
    "JPEG2000": jp2_boxes.restored,
    "AVIF": avif_boxes.restored,
    "BMP": bmp_header.restored,
    "WEBP": other_metadata.restored_webp,
    "PCX": other_metadata.restored_pcx,
    "PPM": other_metadata.restored_ppm,
    "SGI": other_metadata.restored_sgi,
    "TGA": other_metadata.restored_tga,
}
"""Each takes a source and what Pillow wrote; returns the file to write, and what is lost."""

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
    if file_format not in _RESTORE:
        return []
    old, new = source.read_bytes(), written.read_bytes()
    try:
        content, lost = _RESTORE[file_format](old, new)
    except (ValueError, IndexError, struct.error):  # Pillow read the pixels nevertheless
        content, lost = new, ["all metadata, which is damaged"]
    if content != new:
        written.write_bytes(content)
    lines = [f"lost {', '.join(lost)}"] if lost else []
    unchanged = jpeg_segments.names_of_trailer(old) if file_format == "JPEG" else []
    return lines + ([f"not denoised, but kept: {', '.join(unchanged)}"] if unchanged else [])
