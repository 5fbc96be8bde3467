"""The boxes of a JPEG 2000 file: its colours, its resolution, XML, EXIF, XMP, GeoTIFF."""

import struct

from raydae.images.iso_boxes import Box, boxes_of, find_box, make_box

_SYCC = 18  # is decoded to RGB
_KEPT = {b"xml ", b"uuid", b"uinf", b"jp2i", b"asoc", b"lbl ", b"lbl\0"}
# Those that Pillow writes, or that hold for the old codestream only.
_OWN = {b"jP  ", b"ftyp", b"jp2h", b"jp2c", b"rreq", b"free"}


def restored(source: bytes, written: bytes) -> tuple[bytes, list[str]]:
    """Copy the boxes of a file into another one.

    Args:
        source: The source; a codestream without boxes has none.
        written: What Pillow wrote.

    Returns:
        The file to write, and the names of what is lost.
    """
    old, new = find_box(source, b"jp2h"), find_box(written, b"jp2h")
    if old is None or new is None:
        return written, []
    before, after = boxes_of(source, old.body, old.end), boxes_of(written, new.body, new.end)
    colours = [box for box in before if box.kind == b"colr" and not _is_sycc(source, box)]
    header = [_stored(written, box) for box in after if box.kind != b"colr" or not colours]
    # Colours and resolution stand behind the description of the picture.
    header[1:1] = [_stored(source, box) for box in colours]
    header += [_stored(source, box) for box in before if box.kind == b"res "]
    outer = boxes_of(source)
    kept = [_stored(source, box) for box in outer if box.kind in _KEPT]
    head = written[: new.start] + make_box(b"jp2h", b"".join(header))
    others = {box.kind for box in outer} - _KEPT - _OWN
    lost = [f"box {kind.decode('ascii', 'replace').strip()}" for kind in sorted(others)]
    return head + b"".join(kept) + written[new.end :], lost


def _is_sycc(data: bytes, box: Box) -> bool:
    """Return whether a colour box says that the components are luma and chroma."""
    body = data[box.body : box.end]
    return body[:1] == b"\1" and struct.unpack(">I", body[3:7].rjust(4, b"\0"))[0] == _SYCC


def _stored(data: bytes, box: Box) -> bytes:
    return data[box.start : box.end]
