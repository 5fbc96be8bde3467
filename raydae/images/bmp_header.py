"""The colours that the header of a BMP tells, in versions 4 and 5: primaries, gamma, a profile."""

import struct

_START = 14  # of the header in the file
_PILLOW = 40  # the size of the header that Pillow writes
_SIZES = (108, 124)  # of versions 4 and 5
_COLOURS = slice(56, None)  # what follows the masks in the header
_KIND = slice(56, 60)
_HAS_PROFILE = (b"DEBM", b"KNIL")  # embedded, or the name of a file


def restored(source: bytes, written: bytes) -> tuple[bytes, list[str]]:
    """Return what Pillow wrote with the colours of the source, and what is lost: nothing.

    Args:
        source: The source.
        written: What Pillow wrote: without masks, its header has 40 bytes.
    """
    (size,) = struct.unpack_from("<I", source, _START)
    if size not in _SIZES or struct.unpack_from("<I", written, _START) != (_PILLOW,):
        return written, []
    old = source[_START : _START + size]
    masks = bytes(16)
    header = struct.pack("<I", size) + written[_START + 4 : _START + _PILLOW] + masks
    header += old[_COLOURS]
    growth = size - _PILLOW
    (pixels,) = struct.unpack_from("<I", written, 10)
    body = written[_START + _PILLOW :]
    profile = b""
    if size == 124 and old[_KIND] in _HAS_PROFILE:
        start, length = struct.unpack_from("<II", old, 112)
        profile = source[_START + start : _START + start + length]
        where = len(header) + len(body)
        header = header[:112] + struct.pack("<II", where, len(profile)) + header[120:]
    total = _START + len(header) + len(body) + len(profile)
    start_of_file = struct.pack("<2sIII", written[:2], total, 0, pixels + growth)
    return start_of_file + header + body + profile, []
