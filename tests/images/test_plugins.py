"""HEIF and JPEG XL, with the packages of the extra `formats`."""

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from raydae.images import plugins
from raydae.images.denoise_file import denoise_file
from raydae.images.pictures import PictureError, formats, read_rgb, suffixes
from raydae.images.stored_bits import stored_bits
from tests.images.sample_pictures import identity, inverted, saved, smooth

pytest.importorskip("pillow_heif")
pytest.importorskip("pillow_jxl")

EXACT: dict[str, dict[str, Any]] = {
    "HEIF": {"quality": -1, "chroma": 444},
    "JXL": {"lossless": True},
}


@pytest.fixture(autouse=True)
def registered() -> None:
    assert {*plugins.FORMATS} <= {*formats()}
    assert {*plugins.SUFFIXES} <= suffixes()


@pytest.mark.parametrize("file_format", plugins.FORMATS)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_picture_is_denoised_into_its_own_format(
    tmp_path: Path, mode: str, file_format: str
) -> None:
    picture = smooth(mode)
    if mode == "RGBA":
        picture.putalpha(smooth("L"))
    source = saved(picture, tmp_path / "in", file_format, **EXACT[file_format])
    assert denoise_file(source, tmp_path / "out", inverted) == picture.size[::-1]
    with Image.open(tmp_path / "out") as result:
        assert (result.format, result.mode) == (file_format, mode)
        expected = np.asarray(picture).copy()
        colours = expected[..., :3] if mode != "L" else expected
        np.invert(colours, out=colours)
        difference = np.abs(np.asarray(result).astype(int) - expected)
    assert difference.max() <= (6 if file_format == "HEIF" else 0)


@pytest.mark.parametrize("file_format", plugins.FORMATS)
def test_exif_is_kept(tmp_path: Path, file_format: str) -> None:
    exif = Image.Exif()
    exif[271] = "a camera"
    source = saved(smooth(), tmp_path / "in", file_format, exif=exif.tobytes())
    denoise_file(source, tmp_path / "out", identity)
    with Image.open(tmp_path / "out") as result:
        assert result.getexif()[271] == "a camera"


def test_the_colours_of_a_heif_are_kept(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tags = {"color_primaries": 9, "transfer_characteristics": 16}
    for options in ({"icc_profile": profile}, tags):
        source = saved(smooth(), tmp_path / "in", "HEIF", **options)
        denoise_file(source, tmp_path / "out", identity)
        with Image.open(tmp_path / "out") as result:
            found = {**result.info.get("nclx_profile", {}), **result.info}
            assert {key: found[key] for key in options} == options


def test_a_heif_of_10_bits_becomes_8_and_that_is_said(tmp_path: Path) -> None:
    import pillow_heif

    pixels = np.asarray(smooth()).astype(np.uint16) << 8
    deep = pillow_heif.from_bytes("RGB;16", (64, 48), pixels.tobytes())
    deep.save(tmp_path / "in", quality=90)
    lines: list[str] = []
    denoise_file(tmp_path / "in", tmp_path / "out", identity, say=lines.append)
    assert lines == ["its 10 bits a channel became 8: save it as PNG or TIFF to keep them"]


def test_what_the_jpeg_xl_writer_cannot_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(smooth(), tmp_path / "in", "JXL", xmp=b"<x/>", use_container=True)
    lines: list[str] = []
    denoise_file(source, tmp_path / "out", identity, say=lines.append)
    assert lines == ["lost XMP"]
    monkeypatch.setattr(plugins, "_srgb_of_jxl", lambda mode: b"another")
    with pytest.raises(PictureError, match="its colour profile is not sRGB"):
        denoise_file(source, tmp_path / "out", identity)


@pytest.mark.parametrize(
    ("dtype", "options", "bits"),
    [
        (np.uint8, {}, 8),
        (np.uint16, {}, 16),
        (np.uint16, {"bitspersample": 10, "usecontainer": True}, 10),
        (np.uint16, {"bitspersample": 12}, 12),
        (np.float32, {}, 32),
    ],
)
@pytest.mark.parametrize("size", [(8, 16), (9, 700)])
def test_bits_of_a_jpeg_xl(
    tmp_path: Path, dtype: Any, options: dict[str, Any], bits: int, size: tuple[int, int]
) -> None:
    pixels = np.zeros((*size, 3), dtype)
    (tmp_path / "in.jxl").write_bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, **options))
    assert stored_bits(tmp_path / "in.jxl", "JXL") == bits


def test_training_images(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    smooth().save(buffer, "JXL", lossless=True)
    np.testing.assert_array_equal(read_rgb(buffer), np.asarray(smooth()))


def test_without_the_packages_a_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "registered_extensions", lambda: {".png": "PNG"})
    (tmp_path / "a.HEIC").write_bytes(b"x")
    with pytest.raises(PictureError, match=r"PCX.*; pip install 'raydae\[formats\]' adds HEIC"):
        read_rgb(tmp_path / "a.HEIC")
