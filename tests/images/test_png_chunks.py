"""PNGs keep their transparent colours in every depth, and what they say beside their pixels."""

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from raydae.images.denoise_file import denoise_file
from raydae.images.pictures import read_rgb
from raydae.images.png_chunks import chunks
from tests.images.sample_pictures import chunk, identity, inverted, opened

WIDTH = 16


def png(
    path: Path, bits: int, colours: int, row: NDArray[np.uint16], *extra: tuple[bytes, bytes]
) -> Path:
    """Write a PNG of two equal rows of samples; further chunks stand behind the header."""
    if bits == 16:
        packed = row.astype(">u2").tobytes()
    else:
        digits = "".join(f"{value:0{bits}b}" for value in row.ravel())
        packed = int(digits, 2).to_bytes(len(digits) // 8, "big")
    header = struct.pack(">IIBBBBB", WIDTH, 2, bits, colours, 0, 0, 0)
    data = chunk(b"IHDR", header) + b"".join(chunk(*each) for each in extra)
    data += chunk(b"IDAT", zlib.compress((b"\0" + packed) * 2)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def chunks_of(path: Path) -> dict[bytes, bytes]:
    return {kind: data for kind, data, _ in chunks(path.read_bytes())}


class TestTransparentColour:
    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_grey(self, tmp_path: Path, bits: int) -> None:
        top = 2**bits - 1
        row = (np.arange(WIDTH) % (top + 1)).astype(np.uint16)
        key = 1 if bits == 1 else 2
        source = png(tmp_path / "in.png", bits, 0, row, (b"tRNS", struct.pack(">H", key)))
        denoise_file(source, tmp_path / "out.png", inverted)
        after = opened(tmp_path / "out.png")
        assert after.mode == "LA"
        grey, alpha = np.moveaxis(np.asarray(after), 2, 0)
        np.testing.assert_array_equal(grey[0], 255 - row * (255 // top))
        np.testing.assert_array_equal(alpha[0], np.where(row == key, 0, 255))

    def test_grey_of_sixteen_bits(self, tmp_path: Path) -> None:
        row = np.arange(40000, 40000 + WIDTH).astype(np.uint16)
        source = png(tmp_path / "in.png", 16, 0, row, (b"tRNS", struct.pack(">H", 40003)))
        denoise_file(source, tmp_path / "out.png", identity)
        data = (tmp_path / "out.png").read_bytes()
        assert tuple(data[24:26]) == (16, 4)  # bits, and grey with alpha
        assert read_rgb(tmp_path / "out.png").shape == (2, WIDTH, 3)
        pixels = imagecodecs.png_decode(data)
        np.testing.assert_array_equal(pixels[0, :, 0], row)
        np.testing.assert_array_equal(pixels[0, :, 1], np.where(row == 40003, 0, 65535))

    def test_colour_of_sixteen_bits(self, tmp_path: Path) -> None:
        row = np.arange(40000, 40000 + 3 * WIDTH).astype(np.uint16)
        key = struct.pack(">3H", *row[6:9])
        source = png(tmp_path / "in.png", 16, 2, row, (b"tRNS", key))
        denoise_file(source, tmp_path / "out.png", identity)
        pixels = imagecodecs.png_decode((tmp_path / "out.png").read_bytes())
        np.testing.assert_array_equal(pixels[0, :, :3].ravel(), row)
        assert pixels[0, :, 3].tolist() == [65535, 65535, 0] + [65535] * (WIDTH - 3)


ROW = np.arange(3 * WIDTH).astype(np.uint16)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXIF = (
    b"\nexif\n      14\n" + (b"Exif\0\0II*\0\x08\0\0\0".hex().encode()) + b"\n"
)  # as ImageMagick writes it
SAFE: dict[bytes, bytes] = {
    b"gAMA": struct.pack(">I", 100000),
    b"cHRM": struct.pack(">8I", *(31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600)),
    b"cICP": bytes((9, 16, 0, 1)),
    b"iCCP": b"a profile\0\0" + zlib.compress(PROFILE),
    b"pHYs": struct.pack(">IIB", 2, 1, 0),  # pixels that are not square
    b"zTXt": b"Raw profile type exif\0\0" + zlib.compress(EXIF),
    b"tEXt": b"Comment\0from the balcony",
    b"iTXt": b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta/>",
    b"eXIf": b"II*\0\x08\0\0\0\0\0\0\0\0\0",
    b"sCAL": b"\1" + b"0.5\x000.5",
    b"prVt": b"a private chunk",
}


class TestChunks:
    @pytest.mark.parametrize("bits", [8, 16])
    def test_are_kept_byte_by_byte(self, tmp_path: Path, bits: int) -> None:
        lines: list[str] = []
        source = png(tmp_path / "in.png", bits, 2, ROW, *SAFE.items())
        denoise_file(source, tmp_path / "out.png", inverted, say=lines.append)
        after = chunks_of(tmp_path / "out.png")
        assert {kind: after[kind] for kind in SAFE} == SAFE
        assert [line for line in lines if line.startswith("lost")] == []

    @pytest.mark.parametrize("bits", [8, 16])
    def test_that_changed_pixels_make_wrong_are_lost_and_said(
        self, tmp_path: Path, bits: int
    ) -> None:
        lines: list[str] = []
        source = png(tmp_path / "in.png", bits, 2, ROW, (b"prVT", b"a checksum of the pixels"))
        denoise_file(source, tmp_path / "out.png", inverted, say=lines.append)
        assert b"prVT" not in chunks_of(tmp_path / "out.png")
        assert "lost chunk prVT" in lines

    def test_background_of_a_palette_becomes_a_colour(self, tmp_path: Path) -> None:
        row = (np.arange(WIDTH) % 4).astype(np.uint16)
        palette = bytes((1, 2, 3, 40, 50, 60, 7, 8, 9, 10, 11, 12))
        extra = ((b"PLTE", palette), (b"bKGD", b"\1"))
        source = png(tmp_path / "in.png", 2, 3, row, *extra)
        denoise_file(source, tmp_path / "out.png", identity)
        assert opened(tmp_path / "out.png").mode == "RGB"
        assert struct.unpack(">3H", chunks_of(tmp_path / "out.png")[b"bKGD"]) == (40, 50, 60)

    def test_background_of_few_bits_is_scaled(self, tmp_path: Path) -> None:
        row = (np.arange(WIDTH) % 4).astype(np.uint16)
        source = png(tmp_path / "in.png", 2, 0, row, (b"bKGD", b"\0\2"))
        denoise_file(source, tmp_path / "out.png", identity)
        assert chunks_of(tmp_path / "out.png")[b"bKGD"] == b"\0\xaa"

    def test_orientation_that_imagemagick_writes_is_kept(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[274] = 6
        digits = exif.tobytes().hex()
        text = f"\nexif\n{len(exif.tobytes()):8d}\n{digits}\n".encode()
        profile = b"Raw profile type exif\0\0" + zlib.compress(text)
        source = png(tmp_path / "in.png", 8, 2, ROW, (b"zTXt", profile))
        assert opened(source).getexif()[274] == 6
        denoise_file(source, tmp_path / "out.png", inverted)
        after = opened(tmp_path / "out.png")
        assert after.getexif()[274] == 6
        assert after.size == (WIDTH, 2)
