"""Keep what a picture says beside its pixels, and tell what is lost.

Pillow writes EXIF, XMP, the ICC profile and the resolution. Here the parts of the source are copied
into the file that it wrote, byte by byte where the format allows it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from raydae.images import png_chunks

# Options of `Image.save` that are copied here instead.
_OWN_METADATA = {"exif", "icc_profile", "xmp", "dpi"}

Restore = Callable[[bytes, bytes], tuple[bytes, list[str]]]
"""Takes a source and what Pillow wrote; returns the file to write and what is lost."""


def _restore_png(source: bytes, written: bytes) -> tuple[bytes, list[str]]:
    kept, lost = png_chunks.kept_chunks(source)
    return png_chunks.with_chunks(written, kept), lost


_RESTORE: dict[str, Restore] = {"PNG": _restore_png}


def without_copied(options: dict[str, Any], file_format: str) -> dict[str, Any]:
    """Return the options of `Image.save`, less the metadata that `restored` copies."""
    if file_format not in _RESTORE:
        return options
    return {key: value for key, value in options.items() if key not in _OWN_METADATA}


def restore(source: Path, written: Path, file_format: str) -> list[str]:
    """Copy the metadata of a source into a file that Pillow wrote.

    Args:
        source: The source.
        written: The file that Pillow wrote; it is changed.
        file_format: Pillow's name of the format of both.

    Returns:
        The names of what is lost.

    Raises:
        OSError: A file cannot be read or written.
    """
    if file_format not in _RESTORE:
        return []
    content, lost = _RESTORE[file_format](source.read_bytes(), written.read_bytes())
    written.write_bytes(content)
    return lost
