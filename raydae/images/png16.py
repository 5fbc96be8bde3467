"""PNG with 16 bits a channel, which Pillow opens as 8 bits if it has colour or alpha.

imagecodecs (libpng) decodes and encodes the pixels. All other chunks are copied from the source.
"""

import logging
import struct
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raydae.images.depth import PixelsError
from raydae.images.png_chunks import chunks, depth_of, kept_chunks, with_chunks

# libpng's warnings are about chunks that are not decoded here, and about interlacing.
logging.getLogger("imagecodecs").addHandler(logging.NullHandler())

_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # of each colour type: grey, RGB, grey with alpha, RGBA


class Header(NamedTuple):
    """The size of a picture, and how many channels it has."""

    width: int
    height: int
    channels: int


def read_header(stream: BinaryIO) -> Header | None:
    """Return the header of a PNG with 16 bits a channel; none for other files.

    The stream is left at its beginning.
    """
    start = stream.read(33)
    stream.seek(0)
    depth = depth_of(start)
    if depth is None or depth.bits != 16 or depth.colours not in _CHANNELS:
        return None
    width, height = struct.unpack(">II", start[16:24])
    return Header(width, height, _CHANNELS[depth.colours]) if width and height else None


def decode(
    data: bytes, header: Header, max_pixels: int
) -> tuple[NDArray[np.uint16], bytes, list[str]]:
    """Return the pixels of a file, uint16 H×W×C, the chunks to keep, and what is lost.

    A transparent colour becomes an alpha channel.

    Raises:
        PixelsError: The file is damaged, has several frames, or more than `max_pixels`.
        imagecodecs.PngError: The file is damaged.
    """
    import imagecodecs

    if header.width * header.height > max_pixels:
        raise PixelsError(f"{header.width}x{header.height} is more than {max_pixels} pixels")
    key: NDArray[np.uint16] | None = None
    colours = header.channels - (header.channels in (2, 4))
    for kind, content, is_sound in chunks(data):
        if not is_sound:
            raise PixelsError(f"the checksum of chunk {kind.decode('ascii', 'replace')} is wrong")
        if kind == b"acTL" and (frames := int.from_bytes(content[:4], "big")) > 1:
            raise PixelsError(f"has {frames} frames: save them as single pictures")
        if kind == b"tRNS" and header.channels == colours and len(content) == 2 * colours:
            key = np.frombuffer(content, ">u2").astype(np.uint16)
    pixels: NDArray[np.uint16] = imagecodecs.png_decode(data)
    pixels = pixels.reshape(header.height, header.width, -1)
    if key is not None:
        pixels = pixels[..., :colours]
        alpha = np.where((pixels == key).all(2), 0, 65535).astype(np.uint16)
        pixels = np.dstack((pixels, alpha))
    return pixels, *kept_chunks(data)


def encode(pixels: NDArray[np.uint16], kept: bytes) -> bytes:
    """Return a file of pixels, uint16 H×W×C, with the chunks that `decode` returned."""
    import imagecodecs

    pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    return with_chunks(bytes(imagecodecs.png_encode(pixels, level=6)), kept)
