"""The chunks of a PNG: what it says about its picture, beside the pixels.

All chunks that still hold for a denoised picture are copied byte by byte: text, EXIF (also as
ImageMagick writes it, in text), profiles, gamma, primaries, resolution, and private ones that are
safe to copy.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from raydae.images.depth import PixelsError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE = 0, 2, 3  # colour types

# Chunks that describe the stored pixels: their size, data, transparent colour and frames, and how
# many bits are significant, which denoising changes.
_STORAGE = {
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"sBIT", b"hIST"),
    *(b"acTL", b"fcTL", b"fdAT"),
}
# The chunks of the standard, which describe colours and the picture as a whole. Of others, those
# whose fourth letter is a capital must not be copied if pixels change.
_KNOWN = {b"bKGD", b"cHRM", b"gAMA", b"iCCP", b"pHYs", b"sPLT", b"sRGB", b"tIME", b"cICP", b"mDCV"}
_KNOWN |= {b"cLLI", b"eXIf", b"tEXt", b"iTXt", b"zTXt"}
_KNOWN |= {b"oFFs", b"pCAL", b"sCAL", b"sTER"}  # registered extensions


class Chunk(NamedTuple):
    """A chunk: its type, its data, and whether its checksum is right."""

    kind: bytes
    data: bytes
    is_sound: bool


class Depth(NamedTuple):
    """How a file stores a pixel: the bits of a channel, and the colour type."""

    bits: int
    colours: int


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yield each chunk of a file, those of pixels without their data, until IEND.

    Raises:
        PixelsError: The file is truncated.
    """
    start = len(SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if start + 12 > len(data):
            raise PixelsError("the file is truncated")
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        end = start + 12 + size
        if end > len(data):
            raise PixelsError("the file is truncated")
        checksum = zlib.crc32(memoryview(data)[start + 4 : end - 4])
        is_sound = checksum == int.from_bytes(data[end - 4 : end], "big")
        yield Chunk(
            kind, b"" if kind in (b"IDAT", b"fdAT") else data[start + 8 : end - 4], is_sound
        )
        start = end


def depth_of(head: bytes) -> Depth | None:
    """Return how a file stores its pixels, by its first 26 bytes; none if it is no PNG."""
    if len(head) < 26 or head[:8] != SIGNATURE or head[12:16] != b"IHDR":
        return None
    return Depth(head[24], head[25])


def kept_chunks(data: bytes) -> tuple[bytes, list[str]]:
    """Return the chunks of a file to copy, and what is lost with the others.

    The background colour is changed to 8 bits or to RGB, if the pixels are.

    Raises:
        PixelsError: The file is truncated.
    """
    depth = depth_of(data)
    kept = bytearray()
    lost = []
    palette = b""
    for kind, content, is_sound in chunks(data):
        value = content
        if kind == b"PLTE":
            palette = content
        if kind in _STORAGE:
            continue
        name = kind.decode("ascii", "replace")
        if not is_sound:
            lost.append(f"chunk {name} (damaged)")
            continue
        if kind not in _KNOWN and not kind[3:].islower():
            lost.append(f"chunk {name}")
            continue
        if kind == b"bKGD" and depth is not None:
            value = _background(content, depth, palette)
        if value or not content:
            kept += make_chunk(kind, value)
    return bytes(kept), lost


def with_chunks(encoded: bytes, kept: bytes) -> bytes:
    """Return an encoded file with further chunks behind its header."""
    return encoded[:33] + kept + encoded[33:]


def restored(source: bytes, written: bytes) -> tuple[bytes, list[str]]:
    """Return what Pillow wrote with the chunks of the source, and what is lost.

    Raises:
        PixelsError: The source is truncated.
    """
    kept, lost = kept_chunks(source)
    return with_chunks(written, kept), lost


def make_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk as it is stored."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def scaled_key(key: int, bits: int) -> int:
    """Return a transparent grey value, as tRNS holds it, on the scale of 8 bits."""
    top = (1 << bits) - 1
    return (key & top) * 255 // top


def _background(content: bytes, depth: Depth, palette: bytes) -> bytes:
    """Return the data of bKGD for pixels of at least 8 bits without a palette."""
    if depth.colours == PALETTE:
        colour = palette[3 * content[0] : 3 * content[0] + 3] if content else b""
        return struct.pack(">3H", *colour) if len(colour) == 3 else b""
    if depth.bits < 8 and len(content) == 2:
        value = scaled_key(int.from_bytes(content, "big"), depth.bits)
        return struct.pack(">H", value)
    return content
