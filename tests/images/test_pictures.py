"""Pictures of every mode are read as RGB."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from raydae.core.budget import Budget
from raydae.images import pictures
from raydae.images.pictures import PictureError, read_rgb
from tests.images.sample_pictures import opened, picture, png_claiming, saved, smooth


class TestReading:
    @pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
    def test_jpeg_equals_pillow(self, tmp_path: Path, mode: str) -> None:
        source = saved(smooth(mode), tmp_path / "in.jpg", "JPEG")
        expected = np.asarray(opened(source).convert("RGB"))
        array = read_rgb(source)
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == np.uint8
        assert array.flags.writeable
        np.testing.assert_array_equal(read_rgb(io.BytesIO(source.read_bytes())), expected)
        with source.open("rb") as stream:
            np.testing.assert_array_equal(read_rgb(stream), expected)
            assert not stream.closed

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
    def test_any_mode_becomes_rgb(self, tmp_path: Path, mode: str) -> None:
        source = saved(picture(mode), tmp_path / "in.png")
        np.testing.assert_array_equal(read_rgb(source), np.asarray(picture(mode).convert("RGB")))

    def test_transparent_palette(self, tmp_path: Path) -> None:
        source = saved(picture("P"), tmp_path / "in.png", transparency=bytes(range(256)))
        np.testing.assert_array_equal(read_rgb(source), np.asarray(picture("P").convert("RGB")))

    @pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4"])
    def test_sixteen_bits_are_scaled(self, tmp_path: Path, dtype: str) -> None:
        grey = np.array([[0, 128, 129, 257, 32768, 65535]], dtype)
        source = saved(Image.fromarray(grey), tmp_path / "in", "TIFF")
        array = read_rgb(source)
        assert array.shape == (1, 6, 3)
        assert array[0].tolist() == [[value] * 3 for value in (0, 0, 1, 1, 128, 255)]

    def test_orientation_is_not_applied(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        source = saved(picture("RGB"), tmp_path / "in.jpg", "JPEG", exif=exif)
        assert read_rgb(source).shape == (31, 17, 3)

    def test_bound_is_checked_before_decoding(self) -> None:
        with pytest.raises(PictureError, match="picture: 12000x8400 is more than 1000 pixels"):
            read_rgb(io.BytesIO(png_claiming(12_000, 8_400)), 1000)


@pytest.mark.parametrize(("pictures_at_a_time", "most"), [(0.5, 1), (1, 1), (2.5, 2), (9, 4)])
def test_threads_decode_few_large_pictures_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures_at_a_time: float, most: int
) -> None:
    path = saved(picture("RGB"), tmp_path / "a.png")
    decoding, seen = [], []

    def slow(image: Image.Image, source: Path) -> str:
        decoding.append(source)
        time.sleep(0.05)
        seen.append(len(decoding))
        decoding.pop()
        return image.mode

    monkeypatch.setattr(pictures, "working_mode", slow)
    monkeypatch.setattr(pictures, "_budget", Budget(int(pictures_at_a_time * 17 * 31)))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_rgb, [path] * 4))
    assert max(seen) <= most
