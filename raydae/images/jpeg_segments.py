"""The segments of a JPEG, and what follows its picture: gain maps, further pictures, videos.

All segments that still hold for a denoised picture are copied byte by byte: EXIF, XMP in several
parts, ICC profiles, IPTC, comments. What follows is copied too, and the index of the pictures in
the file (CIPA DC-007, Multi-Picture Format) is set right.
"""

import re
import struct
from typing import NamedTuple

SOI = b"\xff\xd8"
_SOS, _EOI, _COM, _APP2, _APP11, _ADOBE = 0xDA, 0xD9, 0xFE, 0xE2, 0xEB, 0xEE
_APPS = range(0xE0, 0xF0)
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])", re.DOTALL)  # in entropy-coded data
_MPF = b"MPF\0"
_MP_ENTRIES = 0xB002


class Segment(NamedTuple):
    """A segment in front of the first scan."""

    marker: int
    data: bytes

    @property
    def stored(self) -> bytes:
        """Return the segment as it is stored."""
        return struct.pack(">BBH", 0xFF, self.marker, len(self.data) + 2) + self.data


class Parts(NamedTuple):
    """A JPEG: the segments in front of the first scan, the scans, and what follows them."""

    segments: list[Segment]
    scans: bytes
    """From the first scan to the end of the picture."""
    trailer: bytes

    @property
    def stored(self) -> bytes:
        """Return the whole file."""
        return self.picture + self.trailer

    @property
    def picture(self) -> bytes:
        """Return the file without its trailer."""
        return SOI + b"".join(segment.stored for segment in self.segments) + self.scans


def split(data: bytes) -> Parts:
    """Return the parts of a JPEG. Where it is damaged, the segments end; decoders do the same."""
    segments = []
    at = 2
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker in (0, 0xFF) or marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in (_SOS, _EOI) or end > len(data) or end < at + 4:
            break
        segments.append(Segment(marker, data[at + 4 : end]))
        at = end
    start = max(at, 0)
    end = _end_of_picture(data, start)
    return Parts(segments, data[start:end], data[end:])


def _end_of_picture(data: bytes, start: int) -> int:
    """Return where a picture ends whose first scan is at `start`."""
    at = start
    while (found := _MARKER.search(data, at)) is not None:
        marker = found[1][0]
        at = found.end()
        if marker == _EOI:
            return at
        if marker not in _ALONE:
            at += int.from_bytes(data[at : at + 2], "big")
    return len(data)


def restored(source: bytes, written: bytes) -> tuple[bytes, list[str]]:
    """Copy the segments of a JPEG and what follows its picture into another one.

    Args:
        source: The source.
        written: What Pillow wrote, without metadata.

    Returns:
        The file to write, and the names of what is lost.
    """
    old, new = split(source), split(written)
    lost = []
    kept = []
    for segment in old.segments:
        if segment.marker == _APP11 and b"jumb" in segment.data[:64]:
            lost.append("content credentials")  # their hash is of the old pixels
        elif segment in kept and segment.data[:12] == b"ICC_PROFILE\0":
            continue  # twice in front of the picture, its parts would not be counted right
        elif segment.marker == _COM or (segment.marker in _APPS and not _is_adobe(segment)):
            kept.append(segment)
    segments = kept + [part for part in new.segments if not _is_jfif(part)]
    result = Parts(segments, new.scans, old.trailer)
    before = len(source) - len(old.trailer)
    after = len(result.picture)
    index = next((n for n, part in enumerate(segments) if _is_index(part)), None)
    if index is not None:
        old_start = source.find(segments[index].stored) + 4 + len(_MPF)
        new_start = result.picture.find(segments[index].stored) + 4 + len(_MPF)
        data = _moved(segments[index].data, (old_start, before), (new_start, after))
        segments[index] = Segment(_APP2, data)
    return result.stored, sorted(set(lost))


def _is_adobe(segment: Segment) -> bool:
    """Return whether a segment says how the colours are stored, which changes."""
    return segment.marker == _ADOBE and segment.data[:5] == b"Adobe"


def _is_jfif(segment: Segment) -> bool:
    return segment.marker == _APPS[0] and segment.data[:5] == b"JFIF\0"


def _is_index(segment: Segment) -> bool:
    """Return whether a segment is the index of the pictures in the file."""
    return segment.marker == _APP2 and segment.data[:4] == _MPF


def _moved(data: bytes, before: tuple[int, int], after: tuple[int, int]) -> bytes:
    """Return an index whose pictures have moved.

    Args:
        data: The segment.
        before: Where its offsets were counted from, and where the first picture ended.
        after: The same in the new file.
    """
    order = "<" if data[4:6] == b"II" else ">"
    tiff = bytearray(data[4:])
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, size, where = struct.unpack_from(order + "HHII", tiff, at)
            if tag != _MP_ENTRIES:
                continue
            for entry in range(where, where + size, 16):
                _, offset = struct.unpack_from(order + "II", tiff, entry + 4)
                if offset == 0:  # the first picture
                    struct.pack_into(order + "I", tiff, entry + 4, after[1])
                elif before[0] + offset >= before[1]:
                    moved = before[0] + offset - before[1] + after[1] - after[0]
                    struct.pack_into(order + "I", tiff, entry + 8, moved)
    except struct.error:  # a damaged index is copied as it is
        return data
    return data[:4] + bytes(tiff)


def names_of_trailer(source: bytes) -> list[str]:
    """Return the names of what follows the picture of a JPEG."""
    names = []
    parts = split(source)
    trailer = parts.trailer
    head = b"".join(part.data for part in parts.segments if part.marker in _APPS) + trailer
    if b"\xff\xd8\xff" in trailer:
        gain_map = any(text in head for text in (b"hdrgm", b"HDRGainMap", b"hdrgainmap", b":21496"))
        names.append("gain map" if gain_map else "further pictures")
    if b"ftyp" in trailer:
        names.append("video")
    return names
