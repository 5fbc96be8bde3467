"""The boxes of JPEG 2000 and AVIF files (ISO base media)."""

import struct
from typing import NamedTuple


class Box(NamedTuple):
    """A box: where it is in its file, and where its content begins."""

    kind: bytes
    start: int
    body: int
    end: int


def boxes_of(data: bytes, start: int = 0, end: int | None = None) -> list[Box]:
    """Return the boxes in a part of a file, in order; they end where one is damaged.

    Args:
        data: The file.
        start: Where the part begins.
        end: Where it ends; none: at the end of the file.
    """
    end = len(data) if end is None else end
    found = []
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1 and start + 16 <= end:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        size = size or end - start  # 0: to the end
        if start + size > end or start + size < body:
            break
        found.append(Box(kind, start, body, start + size))
        start += size
    return found


def find_box(data: bytes, *kinds: bytes) -> Box | None:
    """Return the first box of a path such as ``meta, iprp, ipco``; none if there is none."""
    start, end = 0, len(data)
    box = None
    for kind in kinds:
        box = next((each for each in boxes_of(data, start, end) if each.kind == kind), None)
        if box is None:
            return None
        start, end = box.body + (4 if kind == b"meta" else 0), box.end  # version and flags
    return box


def make_box(kind: bytes, body: bytes) -> bytes:
    """Return a box as it is stored."""
    return struct.pack(">I4s", 8 + len(body), kind) + body
