"""The colours of an AVIF: its primaries and its transfer function, such as BT.2020 and PQ."""

from raydae.images.iso_boxes import Box, boxes_of, find_box

_PROPERTIES = {b"clli": "content light level", b"mdcv": "mastering display", b"pasp": "aspect"}
_UNSPECIFIED = b"\0\2\0\2"  # primaries and transfer function
_ITEMS = {b"tmap": "gain map"}


def restored(source: bytes, written: bytes) -> tuple[bytes, list[str]]:
    """Say in a file that Pillow wrote which primaries and transfer function its values have.

    The matrix and the range are not changed: they are those that the file was encoded with. If the
    source does not say it, neither does the result.

    Args:
        source: The source.
        written: What Pillow wrote.

    Returns:
        The file to write, and the names of what is lost.
    """
    content = bytearray(written)
    colours = _nclx(source)
    value = source[colours[0].body + 4 : colours[0].body + 8] if colours else _UNSPECIFIED
    for box in _nclx(written):
        content[box.body + 4 : box.body + 8] = value
    return bytes(content), _lost(source)


def _properties(data: bytes) -> list[Box]:
    path = (b"meta", b"iprp", b"ipco")
    holder = find_box(data, *path)
    return [] if holder is None else boxes_of(data, holder.body, holder.end)


def _nclx(data: bytes) -> list[Box]:
    """Return the boxes that tell colours by numbers (ITU-T H.273); the main picture's is first."""
    return [
        box
        for box in _properties(data)
        if box.kind == b"colr" and data[box.body : box.body + 4] == b"nclx"
    ]


def _lost(data: bytes) -> list[str]:
    """Return the names of what Pillow does not write."""
    properties = _properties(data)
    lost = [_PROPERTIES[box.kind] for box in properties if box.kind in _PROPERTIES]
    auxiliary = [data[box.body : box.end] for box in properties if box.kind == b"auxC"]
    lost += ["depth map" for kind in auxiliary if b"depth" in kind]
    items = find_box(data, b"meta", b"iinf")
    if items is not None:
        version = data[items.body]
        start = items.body + (6 if version == 0 else 8)
        for item in boxes_of(data, start, items.end):
            skip = 8 if data[item.body] < 3 else 10  # version, item, protection
            kind = data[item.body + skip : item.body + skip + 4]
            lost += [_ITEMS[kind]] if kind in _ITEMS else []
    return sorted(set(lost))
