"""Pictures for tests, and simple denoisers."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from raydae.images import pillow_file

BYTES_PER_PIXEL = {"L": 1, "P": 1, "LA": 2, "PA": 2, "I;16": 2, "I;16B": 2, "RGB": 3}


def picture(mode: str, size: tuple[int, int] = (17, 31)) -> Image.Image:
    """Return a picture of random pixels. In mode I, values fit into 16 bits."""
    rng = np.random.default_rng(7)
    if mode == "I":
        return Image.fromarray(rng.integers(0, 65536, size[::-1], dtype=np.int32))
    if mode == "1":
        return Image.fromarray(rng.integers(0, 256, size[::-1], dtype=np.uint8)).convert("1")
    data = rng.bytes(size[0] * size[1] * BYTES_PER_PIXEL.get(mode, 4))
    image = Image.frombytes(mode, size, data)
    if mode in ("P", "PA"):
        image.putpalette(rng.bytes(768))
    return image


def smooth(mode: str = "RGB") -> Image.Image:
    """Return a gradient, which lossy formats hardly change."""
    ramps = [np.linspace(20, 220, 48 * 64).reshape(48, 64), np.full((48, 64), 90.0)]
    array = np.stack([ramps[0], ramps[1], ramps[0][::-1]], axis=2).astype(np.uint8)
    return Image.fromarray(array).convert(mode)


def saved(image: Image.Image, path: Path, file_format: str = "PNG", **options: Any) -> Path:
    if file_format == "WEBP":
        options = {"lossless": True, "exact": True, **options}
    image.save(path, file_format, **options)
    return path


def opened(path: Path) -> Image.Image:
    # From a stream: given a path, Pillow garbles some TIFFs with an orientation tag.
    image = Image.open(io.BytesIO(path.read_bytes()))
    image.load()
    return image


def identity(array: NDArray[Any]) -> NDArray[Any]:
    return array


def inverted(array: NDArray[Any]) -> NDArray[Any]:
    result: NDArray[Any] = (255 if array.dtype == np.uint8 else np.float32(1)) - array
    return result


# Early releases of Pillow 11 cannot read the YCbCr that they write.
needs_ycbcr = pytest.mark.skipif(not pillow_file.can_store("TIFF", "YCbCr"), reason="old Pillow")


class Recorder:
    """A denoiser that changes nothing and records its arguments."""

    def __init__(self) -> None:
        self.arrays: list[NDArray[Any]] = []

    def __call__(self, array: NDArray[Any]) -> NDArray[Any]:
        assert array.flags.writeable
        assert array.flags.c_contiguous
        self.arrays.append(array.copy())
        return array


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))
