"""PNG with 16 bits a channel and colour or alpha, which Pillow opens as 8 bits.

imagecodecs (libpng) decodes and encodes the pixels. All other chunks are copied from the source.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raydae.images.depth import PixelsError

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Chunks that describe the stored pixels: their size, data, transparent colour and frames, and how
# many bits are significant, which denoising changes.
_NOT_COPIED = {
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"sBIT", b"hIST"),
    *(b"acTL", b"fcTL", b"fdAT"),
}
# The chunks of the standard, which describe colours and the picture as a whole. Of others, those
# whose fourth letter is a capital must not be copied if pixels change.
_KNOWN = {b"bKGD", b"cHRM", b"gAMA", b"iCCP", b"pHYs", b"sPLT", b"sRGB", b"tIME", b"cICP", b"mDCV"}
_KNOWN |= {b"cLLI", b"eXIf", b"tEXt", b"iTXt", b"zTXt"}

_CHANNELS = {2: 3, 4: 2, 6: 4}  # of each colour type: RGB, grey with alpha, RGBA


class Header(NamedTuple):
    """The size of a picture, and how many channels it has."""

    width: int
    height: int
    channels: int


def read_header(stream: BinaryIO) -> Header | None:
    """Return the header of a PNG with 16 bits and colour or alpha; none for other files.

    The stream is left at its beginning.
    """
    start = stream.read(33)
    stream.seek(0)
    if len(start) < 33 or start[:8] != SIGNATURE or start[12:16] != b"IHDR":
        return None
    width, height, bits, colours = struct.unpack(">IIBB", start[16:26])
    if bits != 16 or colours not in _CHANNELS or not (width and height):
        return None
    return Header(width, height, _CHANNELS[colours])


def decode(data: bytes, header: Header, max_pixels: int) -> tuple[NDArray[np.uint16], bytes]:
    """Return the pixels of a file, uint16 H×W×C, and the chunks to keep.

    A transparent colour becomes an alpha channel.

    Raises:
        PixelsError: The file is damaged, has several frames, or more than `max_pixels`.
        imagecodecs.PngError: The file is damaged.
    """
    import imagecodecs

    if header.width * header.height > max_pixels:
        raise PixelsError(f"{header.width}x{header.height} is more than {max_pixels} pixels")
    key: NDArray[np.uint16] | None = None
    kept: list[bytes | bytearray] = []
    for kind, content in _chunks(data):
        if kind == b"acTL" and (frames := int.from_bytes(content[:4], "big")) > 1:
            raise PixelsError(f"has {frames} frames: save them as single pictures")
        if kind == b"tRNS" and header.channels == 3:
            key = np.array(struct.unpack(">3H", content), np.uint16)
        if kind not in _NOT_COPIED and (kind in _KNOWN or kind[3:].islower()):
            checksum = zlib.crc32(kind + content)
            kept += [struct.pack(">I", len(content)), kind, content, struct.pack(">I", checksum)]
    pixels: NDArray[np.uint16] = imagecodecs.png_decode(data)
    pixels = pixels.reshape(header.height, header.width, -1)
    if key is not None:
        alpha = np.where((pixels[..., :3] == key).all(2), 0, 65535).astype(np.uint16)
        pixels = np.dstack((pixels[..., :3], alpha))
    return pixels, b"".join(kept)


def encode(pixels: NDArray[np.uint16], kept: bytes) -> bytes:
    """Return a file of pixels, uint16 H×W×C, with the chunks that `decode` returned."""
    import imagecodecs

    encoded = bytes(imagecodecs.png_encode(pixels, level=6))
    return encoded[:33] + kept + encoded[33:]


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the type and the data of each chunk; none for the data of IDAT.

    Raises:
        PixelsError: The file is truncated, or a chunk's checksum is wrong.
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
        if zlib.crc32(memoryview(data)[start + 4 : end - 4]) != int.from_bytes(
            data[end - 4 : end], "big"
        ):
            raise PixelsError(f"the checksum of chunk {kind.decode('ascii', 'replace')} is wrong")
        yield kind, b"" if kind in (b"IDAT", b"fdAT") else data[start + 8 : end - 4]
        start = end
