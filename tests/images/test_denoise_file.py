"""Denoised pictures have the mode and format given in the module's table."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from raydae.images import pictures
from raydae.images.denoise_file import denoise_file
from raydae.images.pictures import PictureError, read_rgb
from tests.images.sample_pictures import (
    Recorder,
    identity,
    inverted,
    needs_ycbcr,
    opened,
    picture,
    saved,
    smooth,
)

LOSSLESS = [
    *(("PNG", mode) for mode in ("L", "LA", "RGB", "RGBA", "I;16")),
    *(("TIFF", mode) for mode in ("L", "LA", "RGB", "RGBA", "CMYK", "I", "I;16", "I;16B")),
    *(("WEBP", "RGB"), ("WEBP", "RGBA"), ("BMP", "L"), ("BMP", "RGB")),
    *(("JPEG2000", "L"), ("JPEG2000", "LA"), ("JPEG2000", "RGBA"), ("JPEG2000", "I;16")),
    *(("PPM", "L"), ("PPM", "RGB"), ("PPM", "I"), ("TGA", "RGBA"), ("SGI", "L")),
]


class TestModes:
    @pytest.mark.parametrize(("file_format", "mode"), LOSSLESS)
    @pytest.mark.parametrize("size", [(1, 1), (17, 31)])
    def test_identity_gives_the_same_picture(
        self, tmp_path: Path, file_format: str, mode: str, size: tuple[int, int]
    ) -> None:
        source = saved(picture(mode, size), tmp_path / "in", file_format)
        before = opened(source)
        assert denoise_file(source, tmp_path / "out", identity) == size[::-1]
        after = opened(tmp_path / "out")
        assert (after.format, after.mode, after.size) == (file_format, mode, size)
        assert after.tobytes() == before.tobytes() == picture(mode, size).tobytes()

    @pytest.mark.parametrize(("file_format", "mode"), LOSSLESS)
    def test_denoiser_changes_all_but_alpha(
        self, tmp_path: Path, file_format: str, mode: str
    ) -> None:
        source = saved(picture(mode), tmp_path / "in", file_format)
        denoise_file(source, tmp_path / "out", inverted)
        before, after = (np.asarray(opened(tmp_path / name)) for name in ("in", "out"))
        colours = -1 if mode in ("LA", "RGBA") else None
        top = 65535 if mode.startswith("I") else 255
        if before.ndim == 3:
            np.testing.assert_array_equal(after[..., :colours], top - before[..., :colours])
            if colours:
                np.testing.assert_array_equal(after[..., -1], before[..., -1])
        else:
            np.testing.assert_array_equal(after, top - before)

    @pytest.mark.parametrize(
        ("file_format", "mode", "expected"),
        [
            ("PNG", "L", [((31, 17), np.uint8)]),
            ("PNG", "1", [((31, 17), np.uint8)]),
            ("PNG", "LA", [((31, 17), np.uint8)]),
            ("PNG", "RGB", [((31, 17, 3), np.uint8)]),
            ("PNG", "RGBA", [((31, 17, 3), np.uint8)]),
            ("PNG", "P", [((31, 17, 3), np.uint8)]),
            ("PNG", "I;16", [((31, 17), np.float32)]),
            ("TIFF", "PA", [((31, 17, 3), np.uint8)]),
            ("TIFF", "I", [((31, 17), np.float32)]),
            pytest.param("TIFF", "YCbCr", [((31, 17, 3), np.uint8)], marks=needs_ycbcr),
            ("TIFF", "CMYK", [((31, 17, 3), np.uint8), ((31, 17), np.uint8)]),
        ],
    )
    def test_arrays_passed_to_the_denoiser(
        self, tmp_path: Path, file_format: str, mode: str, expected: list[Any]
    ) -> None:
        recorder = Recorder()
        source = saved(picture(mode), tmp_path / "in", file_format)
        denoise_file(source, tmp_path / "out", recorder)
        assert [(array.shape, array.dtype) for array in recorder.arrays] == expected
        assert all(array.max() <= 1 for array in recorder.arrays if array.dtype == np.float32)

    def test_strips_join_without_a_seam(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            pictures, "_STRIP_PIXELS", 17 * 4
        )  # 31 rows: seven strips and a shorter one
        source = saved(picture("RGBA"), tmp_path / "in")
        denoise_file(source, tmp_path / "out", identity)
        assert opened(tmp_path / "out").tobytes() == picture("RGBA").tobytes()

    @pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
    def test_sixteen_bits_are_kept(self, tmp_path: Path, mode: str) -> None:
        every = np.arange(65536).reshape(256, 256)
        image = Image.fromarray(every.astype({"I": "<i4", "I;16B": ">u2"}.get(mode, "<u2")))
        assert image.mode == mode
        denoise_file(saved(image, tmp_path / "in", "TIFF"), tmp_path / "out", identity)
        np.testing.assert_array_equal(np.asarray(opened(tmp_path / "out")), every)

    def test_sixteen_bits_are_clipped_not_wrapped(self, tmp_path: Path) -> None:
        source = saved(Image.fromarray(np.array([[0, 65535]], "<u2")), tmp_path / "in")
        denoise_file(source, tmp_path / "out", lambda array: array * 3 - 1)
        assert np.asarray(opened(tmp_path / "out")).tolist() == [[0, 65535]]

    def test_bilevel_becomes_grey(self, tmp_path: Path) -> None:
        # Group 4 compresses bilevel pixels only, and the result is grey.
        source = saved(picture("1"), tmp_path / "in", "TIFF", compression="group4")
        denoise_file(source, tmp_path / "out", identity)
        after = opened(tmp_path / "out")
        assert (after.mode, after.info["compression"]) == ("L", "tiff_adobe_deflate")
        assert after.tobytes() == picture("1").convert("L").tobytes()

    @pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP", "PCX", "TGA"])
    def test_palette_of_any_format(self, tmp_path: Path, file_format: str) -> None:
        source = saved(picture("P"), tmp_path / "in", file_format)
        denoise_file(source, tmp_path / "out", identity)
        after = opened(tmp_path / "out")
        assert (after.format, after.mode) == (file_format, "RGB")
        assert after.tobytes() == picture("P").convert("RGB").tobytes()

    @pytest.mark.parametrize("transparency", [None, 3, bytes(range(256))])
    def test_palette_becomes_colours(
        self, tmp_path: Path, transparency: int | bytes | None
    ) -> None:
        options: dict[str, Any] = {} if transparency is None else {"transparency": transparency}
        source = saved(picture("P"), tmp_path / "in", **options)
        denoise_file(source, tmp_path / "out", identity)
        after = opened(tmp_path / "out")
        assert after.mode == ("RGBA" if options else "RGB")
        assert after.tobytes() == opened(source).convert(after.mode).tobytes()

    def test_palette_with_alpha_becomes_rgba(self, tmp_path: Path) -> None:
        source = saved(picture("PA"), tmp_path / "in", "TIFF")
        denoise_file(source, tmp_path / "out", inverted)
        after, before = opened(tmp_path / "out"), picture("PA")
        assert after.mode == "RGBA"
        assert after.getchannel("A").tobytes() == before.getchannel("A").tobytes()
        np.testing.assert_array_equal(
            np.asarray(after)[..., :3], 255 - np.asarray(before.convert("RGB"))
        )

    def test_premultiplied_grey_keeps_its_alpha(self, tmp_path: Path) -> None:
        source = saved(picture("LA"), tmp_path / "in", "TIFF")
        extra_samples = struct.pack("<HHI", 338, 3, 1)
        data = source.read_bytes()
        assert extra_samples + b"\2" in data
        source.write_bytes(data.replace(extra_samples + b"\2", extra_samples + b"\1"))
        try:
            assert opened(source).mode == "La"
            np.testing.assert_array_equal(
                read_rgb(source), np.asarray(opened(source).convert("LA").convert("RGB"))
            )
        except UnidentifiedImageError:
            pytest.skip("old Pillow")
        denoise_file(source, tmp_path / "out", inverted)
        after = opened(tmp_path / "out")
        assert after.mode == "La"
        before = np.asarray(opened(source))
        np.testing.assert_array_equal(np.asarray(after)[..., 1], before[..., 1])
        np.testing.assert_array_equal(np.asarray(after)[..., 0], 255 - before[..., 0])

    @pytest.mark.parametrize(("mode", "key"), [("L", 9), ("RGB", (9, 9, 9))])
    def test_transparent_colour_becomes_alpha(
        self, tmp_path: Path, mode: str, key: int | tuple[int, int, int]
    ) -> None:
        image = Image.new(mode, (2, 1), 200 if mode == "L" else (200, 200, 200))
        image.putpixel((0, 0), key)
        source = saved(image, tmp_path / "in", transparency=key)
        denoise_file(source, tmp_path / "out", inverted)
        after = opened(tmp_path / "out")
        assert after.mode == mode + "A"
        assert list(after.getchannel("A").tobytes()) == [0, 255]
        assert list(after.getchannel(0).tobytes()) == [246, 55]

    def test_cmyk_looks_like_a_picture_to_the_denoiser(self, tmp_path: Path) -> None:
        recorder = Recorder()
        image = Image.new("CMYK", (1, 1), (10, 20, 30, 40))
        denoise_file(saved(image, tmp_path / "in", "TIFF"), tmp_path / "out", recorder)
        assert [array.ravel().tolist() for array in recorder.arrays] == [[245, 235, 225], [215]]

    @needs_ycbcr
    def test_ycbcr_is_converted_and_back(self, tmp_path: Path) -> None:
        source = saved(smooth("YCbCr"), tmp_path / "in", "TIFF")
        denoise_file(source, tmp_path / "out", identity)
        after = opened(tmp_path / "out")
        assert after.mode == "YCbCr"
        np.testing.assert_allclose(np.asarray(after, int), np.asarray(smooth("YCbCr"), int), atol=1)


class TestFormats:
    @pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
    def test_jpeg_is_fine_and_keeps_full_colour(self, tmp_path: Path, mode: str) -> None:
        source = saved(smooth(mode), tmp_path / "in.jpg", "JPEG", quality=70)
        denoise_file(source, tmp_path / "out.jpg", identity)
        before, after = opened(source), opened(tmp_path / "out.jpg")
        assert (after.format, after.mode) == ("JPEG", mode)
        assert isinstance(after, JpegImagePlugin.JpegImageFile)
        if mode == "RGB":
            assert JpegImagePlugin.get_sampling(after) == 0
        np.testing.assert_allclose(np.asarray(after, int), np.asarray(before, int), atol=4)

    @pytest.mark.skipif("AVIF" not in pictures.formats(), reason="Pillow without AVIF")
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
    def test_avif(self, tmp_path: Path, mode: str) -> None:
        image = smooth(mode)
        if mode == "RGBA":  # alpha that is opaque everywhere is not stored
            image.putpixel((0, 0), (9, 9, 9, 9))
        source = saved(image, tmp_path / "in.avif", "AVIF")
        denoise_file(source, tmp_path / "out.avif", identity)
        before, after = opened(source), opened(tmp_path / "out.avif")
        if before.mode != mode:
            pytest.skip("old Pillow")
        assert (after.format, after.mode) == ("AVIF", mode)
        assert np.abs(np.asarray(after, int) - np.asarray(before, int)).mean() < 2

    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
    @pytest.mark.parametrize("mode", ["RGB", "CMYK", "I;16B"])
    def test_tiff_keeps_its_compression(self, tmp_path: Path, compression: str, mode: str) -> None:
        source = saved(picture(mode), tmp_path / "in", "TIFF", compression=compression)
        denoise_file(source, tmp_path / "out", identity)
        after = opened(tmp_path / "out")
        assert after.info["compression"] == compression
        np.testing.assert_array_equal(np.asarray(after), np.asarray(picture(mode)))

    def test_format_is_known_by_content(self, tmp_path: Path) -> None:
        source = saved(picture("RGB"), tmp_path / "in.jpg", "PNG")
        denoise_file(source, tmp_path / "new" / "folder" / "out.jpg", identity)
        assert opened(tmp_path / "new" / "folder" / "out.jpg").format == "PNG"

    @pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
    def test_several_frames_are_refused(self, tmp_path: Path, file_format: str) -> None:
        frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "green")]
        source = saved(
            *(frames[0], tmp_path / "in", file_format), save_all=True, append_images=frames[1:]
        )
        with pytest.raises(PictureError, match="in: has 3 frames"):
            denoise_file(source, tmp_path / "out", identity)

    @pytest.mark.parametrize(
        ("image", "file_format", "reason"),
        [
            (picture("P"), "GIF", "RGB does not fit into GIF"),
            (Image.new("LAB", (4, 4)), "TIFF", "mode LAB is not supported"),
        ],
    )
    def test_refused_before_the_denoising(
        self, tmp_path: Path, image: Image.Image, file_format: str, reason: str
    ) -> None:
        recorder = Recorder()
        source = saved(image, tmp_path / "in", file_format)
        with pytest.raises(PictureError, match=reason):
            denoise_file(source, tmp_path / "out", recorder)
        assert not recorder.arrays

    def test_alpha_that_the_format_would_lose_is_refused(self, tmp_path: Path) -> None:
        # A bitmap with masks (header version 3). Pillow reads its alpha but does not write it.
        header = struct.pack("<IiiHHIIiiII", 56, 1, 1, 1, 32, 3, 4, 0, 0, 0, 0)
        masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
        start = struct.pack("<2sIHHI", b"BM", 74, 0, 0, 70)
        source = tmp_path / "in.bmp"
        source.write_bytes(start + header + masks + b"\1\2\3\4")
        assert opened(source).mode == "RGBA"
        with pytest.raises(PictureError, match="RGBA does not fit into BMP"):
            denoise_file(source, tmp_path / "out", identity)
