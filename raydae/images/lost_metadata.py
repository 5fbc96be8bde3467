"""Tell which metadata of a picture Pillow does not write, for formats that it writes alone."""

import struct
from pathlib import Path

_HEAD = 2**16
_WEBP = {b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ICCP", b"EXIF", b"XMP "}  # pixels, or written


def names_of(source: Path, file_format: str) -> list[str]:
    """Return the names of what is lost.

    Args:
        source: A picture that Pillow has opened.
        file_format: Pillow's name of its format.

    Raises:
        OSError: The file cannot be read.
    """
    with source.open("rb") as file:
        if file_format == "WEBP":
            return _of_webp(file.read())
        head = file.read(_HEAD)
    if file_format == "PPM":
        header = head.split(b"\n", 8)[:8]
        return ["comments"] if any(line.startswith(b"#") for line in header[1:4]) else []
    if file_format == "TGA" and _has_tga_extension(source):
        return ["TGA extension area"]
    return []


def _of_webp(data: bytes) -> list[str]:
    """Return the chunks of a WebP that are not written."""
    lost = []
    start = 12
    while start + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, start)
        if kind not in _WEBP:
            lost.append(f"chunk {kind.decode('ascii', 'replace').strip()}")
        start += 8 + size + size % 2
    return sorted(set(lost))


def _has_tga_extension(source: Path) -> bool:
    """Return whether a TGA says more at its end: author, date, gamma."""
    with source.open("rb") as file:
        if file.seek(0, 2) < 26:
            return False
        file.seek(-26, 2)
        footer = file.read(26)
    return footer[8:24] == b"TRUEVISION-XFILE" and footer[:4] != b"\0\0\0\0"
