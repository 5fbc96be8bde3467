"""Denoised pictures keep their EXIF, XMP, colour profile, resolution and compression."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from raydae.images.denoise_file import denoise_file
from tests.images.deep_pictures import tags_of
from tests.images.sample_pictures import identity, opened, picture, saved, smooth


def with_iso(tiff: bytes, iso: int) -> bytes:
    """Add an EXIF directory to a little-endian TIFF. Pillow cannot add one if it is compressed."""
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    entries = tiff[start + 2 : start + 2 + 12 * count]
    branch = struct.pack("<HHHIII", 1, ExifTags.Base.ISOSpeedRatings, 3, 1, iso, 0)
    entries += struct.pack("<HHII", ExifTags.IFD.Exif, 4, 1, len(tiff))
    head = tiff[:4] + struct.pack("<I", len(tiff) + len(branch)) + tiff[8:]
    return head + branch + struct.pack("<H", count + 1) + entries + bytes(4)


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
    def test_tiff_keeps_its_orientation(self, tmp_path: Path, mode: str, compression: str) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        source = saved(
            *(picture(mode), tmp_path / "in", "TIFF"), exif=exif, compression=compression
        )
        denoise_file(source, tmp_path / "out", identity)
        assert tags_of(tmp_path / "out") == tags_of(source)
        assert tags_of(source)[0][ExifTags.Base.Orientation] == 6
        upright = picture(mode).transpose(Image.Transpose.ROTATE_270)
        np.testing.assert_array_equal(np.asarray(opened(tmp_path / "out")), np.asarray(upright))

    @pytest.mark.parametrize("mode", ["1", "P"])
    def test_tiff_of_another_form_is_turned_upright(self, tmp_path: Path, mode: str) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        source = saved(picture(mode), tmp_path / "in", "TIFF", exif=exif)
        denoise_file(source, tmp_path / "out", identity)
        (tags,) = tags_of(tmp_path / "out")
        assert tags[ExifTags.Base.Orientation] == 1
        upright = picture(mode).convert("L" if mode == "1" else "RGB")
        upright = upright.transpose(Image.Transpose.ROTATE_270)
        np.testing.assert_array_equal(np.asarray(opened(tmp_path / "out")), np.asarray(upright))

    @pytest.mark.parametrize("compression", ["tiff_lzw", "raw"])
    def test_tiff_keeps_exif_and_its_compression(self, tmp_path: Path, compression: str) -> None:
        source = saved(picture("RGB"), tmp_path / "in", "TIFF", compression=compression)
        source.write_bytes(with_iso(source.read_bytes(), 3200))
        denoise_file(source, tmp_path / "out", identity)
        after = opened(tmp_path / "out")
        tags = after.getexif().get_ifd(ExifTags.IFD.Exif)
        assert tags == {ExifTags.Base.ISOSpeedRatings: 3200}
        assert after.info["compression"] == compression
        assert after.tobytes() == picture("RGB").tobytes()

    def test_senseless_resolution_is_dropped(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[ExifTags.Base.ResolutionUnit] = 2
        exif[ExifTags.Base.XResolution] = 1e6  # too large for a JPEG header
        source = saved(smooth(), tmp_path / "in", "JPEG", exif=exif)
        assert opened(source).info["dpi"] == (1e6, 1e6)
        denoise_file(source, tmp_path / "out", identity)
        assert opened(tmp_path / "out").info["exif"] == opened(source).info["exif"]
