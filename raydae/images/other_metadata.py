"""Metadata of formats that hold little: WebP, PCX, PPM, SGI, TGA."""

import struct

_WEBP = {b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ICCP", b"EXIF", b"XMP "}  # written by Pillow
_CREDENTIALS = b"C2PA"  # their hash is of the old pixels
_PCX_RESOLUTION = slice(12, 16)
_SGI_NAME = slice(24, 104)
_TGA_FOOTER = 26
_SPACES = (b" ", b"\t", b"\n", b"\v", b"\f", b"\r")
_PPM_NUMBERS = {b"P1": 2, b"P4": 2, b"P2": 3, b"P3": 3, b"P5": 3, b"P6": 3}


def restored_webp(source: bytes, written: bytes) -> tuple[bytes, list[str]]:
    """Return what Pillow wrote with the unknown chunks of the source, and what is lost."""
    kept, lost = b"", []
    start = 12
    while start + 8 <= len(source):
        kind, size = struct.unpack_from("<4sI", source, start)
        end = start + 8 + size + size % 2
        if kind == _CREDENTIALS:
            lost.append("content credentials")
        elif kind not in _WEBP and end <= len(source):
            kept += source[start:end]
        start = end
    size = len(written) + len(kept) - 8
    return written[:4] + struct.pack("<I", size) + written[8:] + kept, lost


def restored_pcx(source: bytes, written: bytes) -> tuple[bytes, list[str]]:
    """Return what Pillow wrote with the resolution of the source, and what is lost: nothing."""
    before, after = written[: _PCX_RESOLUTION.start], written[_PCX_RESOLUTION.stop :]
    return before + source[_PCX_RESOLUTION] + after, []


def restored_sgi(source: bytes, written: bytes) -> tuple[bytes, list[str]]:
    """Return what Pillow wrote with the name of the source, and what is lost: nothing."""
    before, after = written[: _SGI_NAME.start], written[_SGI_NAME.stop :]
    return before + source[_SGI_NAME] + after, []


def restored_ppm(source: bytes, written: bytes) -> tuple[bytes, list[str]]:
    """Return what Pillow wrote with the comments of the source, and what is lost: nothing."""
    comments, at, numbers = b"", 2, 0
    while at < len(source) and numbers < _PPM_NUMBERS.get(source[:2], 0):
        if source[at : at + 1] == b"#":
            end = source.find(b"\n", at) + 1 or len(source)
            comments += source[at:end]
            at = end
        elif source[at : at + 1].isspace():
            at += 1
        else:
            numbers += 1
            while at < len(source) and source[at : at + 1] not in (b"#", *_SPACES):
                at += 1
    return written[:3] + comments + written[3:], []


def restored_tga(source: bytes, written: bytes) -> tuple[bytes, list[str]]:
    """Return what Pillow wrote, and what is lost: author, date, gamma, at the end of the file."""
    footer = source[-_TGA_FOOTER:]
    has_extension = footer[8:24] == b"TRUEVISION-XFILE" and footer[:4] != bytes(4)
    return written, ["TGA extension area"] if has_extension else []
