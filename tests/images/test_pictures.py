"""Every mode and format comes back as promised, and what cannot is refused in one line."""

import errno
import io
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, JpegImagePlugin, UnidentifiedImageError

from raydae.core.errors import UserError
from raydae.images import pictures
from raydae.images.pictures import PictureError, denoise_file, expand, read_rgb

BYTES_PER_PIXEL = {"L": 1, "P": 1, "LA": 2, "PA": 2, "I;16": 2, "I;16B": 2, "RGB": 3}

LOSSLESS = [
    *(("PNG", mode) for mode in ("L", "LA", "RGB", "RGBA", "I;16")),
    *(("TIFF", mode) for mode in ("L", "LA", "RGB", "RGBA", "CMYK", "I", "I;16", "I;16B")),
    *(("WEBP", "RGB"), ("WEBP", "RGBA"), ("BMP", "L"), ("BMP", "RGB")),
    *(("JPEG2000", "L"), ("JPEG2000", "LA"), ("JPEG2000", "RGBA"), ("JPEG2000", "I;16")),
    *(("PPM", "L"), ("PPM", "RGB"), ("PPM", "I"), ("TGA", "RGBA"), ("SGI", "L")),
]


def picture(mode: str, size: tuple[int, int] = (17, 31)) -> Image.Image:
    """A picture of random pixels; within 16 bits for mode I."""
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
    """A gradient, which lossy formats hardly change."""
    ramps = [np.linspace(20, 220, 48 * 64).reshape(48, 64), np.full((48, 64), 90.0)]
    array = np.stack([ramps[0], ramps[1], ramps[0][::-1]], axis=2).astype(np.uint8)
    return Image.fromarray(array).convert(mode)


def saved(image: Image.Image, path: Path, file_format: str = "PNG", **options: Any) -> Path:
    if file_format == "WEBP":
        options = {"lossless": True, "exact": True, **options}
    image.save(path, file_format, **options)
    return path


def opened(path: Path) -> Image.Image:
    # By way of a stream, for Pillow garbles some turned TIFFs that it is given the path of.
    image = Image.open(io.BytesIO(path.read_bytes()))
    image.load()
    return image


def identity(array: NDArray[Any]) -> NDArray[Any]:
    return array


def inverted(array: NDArray[Any]) -> NDArray[Any]:
    result: NDArray[Any] = (255 if array.dtype == np.uint8 else np.float32(1)) - array
    return result


# Early releases of Pillow 11 cannot read the YCbCr that they write.
needs_ycbcr = pytest.mark.skipif(not pictures._holds("TIFF", "YCbCr"), reason="old Pillow")


class Recorder:
    """An identity that remembers what it was given."""

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


def with_iso(tiff: bytes, iso: int) -> bytes:
    """Adds an EXIF branch to a little-endian TIFF, since Pillow cannot to a compressed one."""
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    entries = tiff[start + 2 : start + 2 + 12 * count]
    branch = struct.pack("<HHHIII", 1, ExifTags.Base.ISOSpeedRatings, 3, 1, iso, 0)
    entries += struct.pack("<HHII", ExifTags.IFD.Exif, 4, 1, len(tiff))
    head = tiff[:4] + struct.pack("<I", len(tiff) + len(branch)) + tiff[8:]
    return head + branch + struct.pack("<H", count + 1) + entries + bytes(4)


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
    def test_what_the_denoiser_is_given(
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
        monkeypatch.setattr(pictures, "_STRIP_PIXELS", 17 * 4)  # 31 rows: seven strips and a rest
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
        # Group 4 is a code for bilevel pixels only, which the grey result cannot have.
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
        assert after.mode == "LA"
        assert after.getchannel("A").tobytes() == picture("LA").getchannel("A").tobytes()

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

    def test_transparent_colour_of_sixteen_bits_is_refused(self, tmp_path: Path) -> None:
        source = saved(picture("I;16"), tmp_path / "in", transparency=9)
        with pytest.raises(PictureError, match="16-bit grey cannot be kept"):
            denoise_file(source, tmp_path / "out", identity)
        assert read_rgb(source).shape == (31, 17, 3)

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

    @pytest.mark.skipif("AVIF" not in pictures._formats(), reason="Pillow without AVIF")
    def test_avif(self, tmp_path: Path) -> None:
        source = saved(smooth(), tmp_path / "in.avif", "AVIF")
        denoise_file(source, tmp_path / "out.avif", identity)
        before, after = opened(source), opened(tmp_path / "out.avif")
        assert (after.format, after.mode) == ("AVIF", "RGB")
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

    def test_main_picture_of_a_phone_jpeg_is_kept(self, tmp_path: Path) -> None:
        source = saved(
            *(smooth(), tmp_path / "in.jpg", "MPO"), save_all=True, append_images=[picture("RGB")]
        )
        assert opened(source).format == "MPO"
        denoise_file(source, tmp_path / "out.jpg", identity)
        after = opened(tmp_path / "out.jpg")
        assert (after.format, after.size) == ("JPEG", smooth().size)
        np.testing.assert_allclose(np.asarray(after, int), np.asarray(smooth(), int), atol=8)

    @pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF"])
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
            (Image.new("F", (4, 4)), "TIFF", "mode F is not supported"),
            (Image.new("LAB", (4, 4)), "TIFF", "mode LAB is not supported"),
            (Image.new("I", (4, 4), 65536), "TIFF", "values outside 0 to 65535"),
            (Image.new("I", (4, 4), -1), "TIFF", "values outside 0 to 65535"),
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
        # A bitmap with masks (header version 3): Pillow reads its alpha and would not write it.
        header = struct.pack("<IiiHHIIiiII", 56, 1, 1, 1, 32, 3, 4, 0, 0, 0, 0)
        masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
        start = struct.pack("<2sIHHI", b"BM", 74, 0, 0, 70)
        source = tmp_path / "in.bmp"
        source.write_bytes(start + header + masks + b"\1\2\3\4")
        assert opened(source).mode == "RGBA"
        with pytest.raises(PictureError, match="RGBA does not fit into BMP"):
            denoise_file(source, tmp_path / "out", identity)


class TestMetadata:
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
    def test_exif_profile_and_resolution_are_kept(self, tmp_path: Path, file_format: str) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        exif[ExifTags.Base.Make] = "Camera"
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 3200
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        options = {"exif": exif, "icc_profile": profile, "dpi": (300, 300)}
        source = saved(picture("RGB"), tmp_path / "in", file_format, **options)
        denoise_file(source, tmp_path / "out", identity)
        before, after = opened(source), opened(tmp_path / "out")
        assert after.size == before.size == (17, 31)  # orientation 6 is not applied
        assert after.info["exif"] == before.info["exif"]
        assert after.getexif()[ExifTags.Base.Orientation] == 6
        assert after.info["icc_profile"] == profile
        assert after.info.get("dpi") == before.info.get("dpi")

    def test_xmp_is_kept_in_jpeg(self, tmp_path: Path) -> None:
        source = saved(picture("RGB"), tmp_path / "in", "JPEG", xmp=b"<x:xmpmeta/>")
        denoise_file(source, tmp_path / "out", identity)
        assert opened(tmp_path / "out").info["xmp"] == b"<x:xmpmeta/>"

    def test_cmyk_jpeg_keeps_its_profile(self, tmp_path: Path) -> None:
        source = saved(smooth("CMYK"), tmp_path / "in", "JPEG", icc_profile=b"inks")
        denoise_file(source, tmp_path / "out", identity)
        assert opened(tmp_path / "out").info["icc_profile"] == b"inks"

    @pytest.mark.parametrize("compression", ["tiff_lzw", "raw"])
    def test_tiff_keeps_what_describes_the_picture(self, tmp_path: Path, compression: str) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription] = "a street at night"
        exif[ExifTags.Base.XMLPacket] = b"<x:xmpmeta/>"
        options = {"compression": compression, "dpi": (300, 300), "icc_profile": b"profile"}
        source = saved(picture("P"), tmp_path / "in", "TIFF", exif=exif, **options)
        denoise_file(source, tmp_path / "out", identity)
        after = opened(tmp_path / "out")
        assert after.getexif()[ExifTags.Base.ImageDescription] == "a street at night"
        assert {key: after.info[key] for key in options} == options
        assert after.info["xmp"] == b"<x:xmpmeta/>"

    @pytest.mark.parametrize("compression", ["tiff_lzw", "raw"])
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
    def test_tiff_is_turned_upright(self, tmp_path: Path, mode: str, compression: str) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        source = saved(
            *(picture(mode), tmp_path / "in", "TIFF"), exif=exif, compression=compression
        )
        denoise_file(source, tmp_path / "out", identity)
        after = opened(tmp_path / "out")
        assert ExifTags.Base.Orientation not in after.getexif()
        upright = picture(mode).transpose(Image.Transpose.ROTATE_270)
        np.testing.assert_array_equal(np.asarray(after), np.asarray(upright))

    @pytest.mark.parametrize("compression", ["tiff_lzw", "raw"])
    def test_tiff_gives_up_compression_for_exif(self, tmp_path: Path, compression: str) -> None:
        source = saved(picture("RGB"), tmp_path / "in", "TIFF", compression=compression)
        source.write_bytes(with_iso(source.read_bytes(), 3200))
        denoise_file(source, tmp_path / "out", identity)
        after = opened(tmp_path / "out")
        tags = after.getexif().get_ifd(ExifTags.IFD.Exif)
        assert tags == {ExifTags.Base.ISOSpeedRatings: 3200}
        assert after.info["compression"] == "raw"
        assert after.tobytes() == picture("RGB").tobytes()

    def test_senseless_resolution_is_dropped(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.ResolutionUnit] = 2
        exif[ExifTags.Base.XResolution] = 1e6  # more than a JPEG header can say
        source = saved(smooth(), tmp_path / "in", "JPEG", exif=exif)
        assert opened(source).info["dpi"] == (1e6, 1e6)
        denoise_file(source, tmp_path / "out", identity)
        assert opened(tmp_path / "out").info["exif"] == opened(source).info["exif"]


class TestFailures:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "not a picture"),
            (b"a letter to my aunt\n" * 50, "not a picture"),
            (b"8BPS\0\1" + bytes(100), "not one of JPEG, PNG"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not one of JPEG, PNG"),
            (png_claiming(4, 4), "cannot be read: "),
            (png_claiming(40_000, 30_000), "more than 1000000000 pixels"),
            (png_claiming(2**31 - 1, 2**31 - 1), "more than 1000000000 pixels"),
            (None, "cannot be read: No such file or directory$"),
        ],
    )
    def test_bad_file(self, tmp_path: Path, content: bytes | None, reason: str) -> None:
        source = tmp_path / "bad.jpg"
        if content is not None:
            source.write_bytes(content)
        with pytest.raises(PictureError, match=reason) as caught:
            denoise_file(source, tmp_path / "out" / "bad.jpg", identity)
        assert str(caught.value).startswith(f"{source}: ")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
        with pytest.raises(PictureError, match=reason):
            read_rgb(source)

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "JPEG2000"])
    def test_cut_off_file(self, tmp_path: Path, file_format: str) -> None:
        source = saved(picture("RGB", (200, 200)), tmp_path / "cut.jpg", file_format)
        source.write_bytes(source.read_bytes()[:-2000])
        with pytest.raises(PictureError, match=r"cut\.jpg: "):
            denoise_file(source, tmp_path / "out.jpg", identity)
        with pytest.raises(PictureError, match=r"cut\.jpg: "):
            read_rgb(source)

    def test_source_is_not_overwritten(self, tmp_path: Path) -> None:
        source = saved(picture("RGB"), tmp_path / "in.png")
        (tmp_path / "link").symlink_to(tmp_path)
        for target in (source, tmp_path / "link" / "in.png"):
            with pytest.raises(UserError, match="would be overwritten: choose another"):
                denoise_file(source, target, inverted)
        assert opened(source).tobytes() == picture("RGB").tobytes()

    @pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
    def test_failing_denoiser_leaves_nothing(self, tmp_path: Path, error: BaseException) -> None:
        def fail(_: NDArray[Any]) -> NDArray[Any]:
            raise error

        source = saved(picture("RGB"), tmp_path / "in.png")
        with pytest.raises(type(error)):
            denoise_file(source, tmp_path / "out" / "in.png", fail)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("error", "raised"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), PictureError),
            (KeyboardInterrupt(), KeyboardInterrupt),
        ],
    )
    def test_interrupted_write_leaves_the_old_file(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
        raised: type[BaseException],
    ) -> None:
        def save(_: Image.Image, path: Path, *__: object, **___: object) -> None:
            path.write_bytes(b"half a pict")
            raise error

        source = saved(picture("RGB"), tmp_path / "in.png")
        (tmp_path / "out").mkdir()
        target = tmp_path / "out" / "in.png"
        target.write_bytes(b"old")
        pictures._holds("PNG", "RGB")  # saves a pixel, once
        monkeypatch.setattr(Image.Image, "save", save)
        with pytest.raises(raised, match="No space left" if raised is PictureError else None):
            denoise_file(source, target, identity)
        assert [path.name for path in target.parent.iterdir()] == ["in.png"]
        assert target.read_bytes() == b"old"

    def test_target_folder_cannot_be_made(self, tmp_path: Path) -> None:
        source = saved(picture("RGB"), tmp_path / "in.png")
        with pytest.raises(PictureError, match="cannot be written: "):
            denoise_file(source, source / "out.png", identity)

    @pytest.mark.parametrize(
        "wrong", [lambda array: array[:-1], lambda array: array.astype(np.float32) / 255]
    )
    def test_denoiser_that_breaks_its_promise(
        self, tmp_path: Path, wrong: Callable[[NDArray[Any]], NDArray[Any]]
    ) -> None:
        source = saved(picture("RGB"), tmp_path / "in.png")
        with pytest.raises(ValueError, match=r"was given uint8 \(31, 17, 3\) and returned"):
            denoise_file(source, tmp_path / "out.png", wrong)


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

    def test_range_unknown(self, tmp_path: Path) -> None:
        with pytest.raises(PictureError, match="mode F is not supported"):
            read_rgb(saved(Image.new("F", (4, 4)), tmp_path / "in", "TIFF"))

    def test_bound_is_checked_before_decoding(self) -> None:
        with pytest.raises(PictureError, match="picture: 12000x8400 is more than 1000 pixels"):
            read_rgb(io.BytesIO(png_claiming(12_000, 8_400)), 1000)


class TestExpand:
    @pytest.fixture(autouse=True)
    def shots(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A folder of files, most of them pictures by name; expand looks at names only."""
        monkeypatch.chdir(tmp_path)
        for name in (
            *("shots/b.JPG", "shots/a.png", "shots/day 1/a.png", "shots/day 1/c.tiff"),
            *("shots/Thumbs.db", "shots/notes.txt", "shots/.hidden.png", "shots/._a.png"),
            *("shots/.cache/d.png", "other/a.png", "other/x[1].png", "empty/readme.md"),
        ):
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        Path("shots/folder.png").mkdir()

    @pytest.mark.parametrize(
        ("inputs", "expected"),
        [
            (["other/a.png"], {"other/a.png": "a.png"}),
            (["shots/notes.txt"], {"shots/notes.txt": "notes.txt"}),
            (["other/x[1].png"], {"other/x[1].png": "x[1].png"}),
            (["shots/*.png"], {"shots/a.png": "a.png"}),
            (["shots/day*/*"], {"shots/day 1/a.png": "a.png", "shots/day 1/c.tiff": "c.tiff"}),
            (["**/*.tiff"], {"shots/day 1/c.tiff": "c.tiff"}),
            (["shots/b.JPG", "./shots/b.JPG"], {"shots/b.JPG": "b.JPG"}),
            (
                ["shots", "other/x[[]1].png"],
                {
                    "shots/a.png": "a.png",
                    "shots/b.JPG": "b.JPG",
                    "shots/day 1/a.png": "day 1/a.png",
                    "shots/day 1/c.tiff": "day 1/c.tiff",
                    "other/x[1].png": "x[1].png",
                },
            ),
        ],
    )
    def test_finds_the_pictures(self, inputs: list[str], expected: dict[str, str]) -> None:
        assert expand(inputs) == [(Path(key), Path(value)) for key, value in expected.items()]

    def test_results_are_not_taken_for_pictures(self) -> None:
        assert expand(["shots"], Path("shots/day 1")) == [
            (Path("shots/a.png"), Path("a.png")),
            (Path("shots/b.JPG"), Path("b.JPG")),
        ]
        assert expand(["shots/**/*.tiff"], Path("shots")) == expand(["shots/**/*.tiff"])
        for above in (Path(), Path("shots")):
            assert expand(["shots/day 1"], above) == expand(["shots/day 1"])
        for inputs in ("shots", "shots/*.*"):
            with pytest.raises(UserError, match="would be overwritten"):
                expand([inputs], Path("shots"))

    def test_absolute_pattern(self, tmp_path: Path) -> None:
        assert expand([f"{tmp_path}/other/a*"]) == [(tmp_path / "other/a.png", Path("a.png"))]

    @pytest.mark.parametrize(
        ("inputs", "reason"),
        [
            (["missing.png"], "missing.png does not exist"),
            (["other/a.png", "missing"], "missing does not exist"),
            ([""], "an input is empty"),
            (["empty"], "empty holds no picture"),
            (["shots/*.gif"], r"shots/\*.gif holds no picture"),
            (["shots/*.txt"], r"shots/\*.txt holds no picture"),
            (
                ["shots", "other"],
                "shots/a.png and other/a.png would both be written as a.png: denoise them in two",
            ),
            (["shots/**/a.png"], "would both be written as a.png"),
        ],
    )
    def test_says_what_is_wrong(self, inputs: list[str], reason: str) -> None:
        with pytest.raises(UserError, match=reason) as caught:
            expand(inputs)
        assert "\n" not in str(caught.value)


def test_large_pictures_are_decoded_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(picture("RGB"), tmp_path / "a.png")
    decoding, seen = [], []

    def slow(image: Image.Image, source: Path) -> str:
        decoding.append(source)
        time.sleep(0.05)
        seen.append(len(decoding))
        decoding.pop()
        return image.mode

    monkeypatch.setattr(pictures, "_working_mode", slow)
    monkeypatch.setattr(pictures, "LARGE", 17 * 31 - 1)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_rgb, [path] * 4))
    assert seen == [1] * 4
