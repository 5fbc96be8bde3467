"""TIFFs keep all tags, also those whose pixels get another form; raw photographs are refused."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from raydae.images.denoise_file import denoise_file
from raydae.images.pictures import PictureError, read_rgb
from tests.images.deep_pictures import pages_of, random_values, tags_of, tiff
from tests.images.sample_pictures import Recorder, identity, inverted, opened
from tests.images.test_denoise_file_metadata import with_iso

GEO = [
    (33550, 12, 3, (0.5, 0.5, 0.0), True),  # ModelPixelScale
    (33922, 12, 6, (0.0, 0.0, 0.0, 500000.0, 5400000.0, 0.0), True),  # ModelTiepoint
    (34735, 3, 8, (1, 1, 0, 1, 1024, 0, 1, 1), True),  # GeoKeyDirectory
]
TAGS = [
    (315, 2, 0, "Jürg Müller".encode(), True),  # Artist, not ASCII
    (33723, 7, 12, b"\x1c\x02\x50\0\5Mueller"[:12], True),  # IPTC
    (34377, 7, 8, b"8BIM\4\4\0\0", True),  # Photoshop
    (65000, 7, 5, b"mine!", True),  # private
    *GEO,
]
FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "grey": (random_values((20, 30), np.uint8), {}),
    "grey16": (random_values((20, 30)), {"byteorder": ">", "compression": "lzw"}),
    "rgb": (random_values((20, 30, 3), np.uint8), {"photometric": "rgb", "compression": "zlib"}),
    "palette": (
        random_values((20, 30), np.uint8),
        {"photometric": "palette", "colormap": random_values((3, 256))},
    ),
    "palette, big-endian": (
        random_values((20, 30), np.uint8),
        {"photometric": "palette", "colormap": random_values((3, 256)), "byteorder": ">"},
    ),
    "palette, BigTIFF": (
        random_values((20, 30), np.uint8),
        {"photometric": "palette", "colormap": random_values((3, 256)), "bigtiff": True},
    ),
    "bilevel": (random_values((20, 32), np.uint8) > 127, {"compression": "packbits"}),
    "bilevel, white is 0": (random_values((20, 32), np.uint8) > 127, {"photometric": "miniswhite"}),
}
STORAGE = {256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 320}


@pytest.mark.parametrize("form", FORMS)
class TestTags:
    def test_are_kept(self, tmp_path: Path, form: str) -> None:
        pixels, options = FORMS[form]
        source = tiff(tmp_path / "in.tif", pixels, extratags=TAGS, **options)
        denoise_file(source, tmp_path / "out.tif", inverted)
        before, after = (tags_of(tmp_path / name)[0] for name in ("in.tif", "out.tif"))
        kept = {code: value for code, value in before.items() if code not in STORAGE}
        assert {code: after[code] for code in kept} == kept
        assert len(kept) >= len(TAGS)
        assert after[315] in ("Jürg Müller", "Jürg Müller".encode())

    def test_pixels_are_those_that_the_denoiser_returned(self, tmp_path: Path, form: str) -> None:
        pixels, options = FORMS[form]
        source = tiff(tmp_path / "in.tif", pixels, **options)
        denoise_file(source, tmp_path / "out.tif", inverted)
        before, after = opened(source), opened(tmp_path / "out.tif")
        top = 65535 if form == "grey16" else 255
        mode = {"palette": "RGB", "bilevel": "L"}.get(form.partition(",")[0], before.mode)
        assert after.mode == mode
        np.testing.assert_array_equal(np.asarray(after), top - np.asarray(before.convert(mode)))


def test_exif_of_a_palette_is_kept(tmp_path: Path) -> None:
    pixels, options = FORMS["palette"]
    source = tiff(tmp_path / "in.tif", pixels, **options)
    source.write_bytes(with_iso(source.read_bytes(), 3200))
    denoise_file(source, tmp_path / "out.tif", identity)
    assert opened(tmp_path / "out.tif").getexif().get_ifd(34665) == {34855: 3200}


def test_smaller_copies_in_directories_are_kept(tmp_path: Path) -> None:
    pixels = random_values((40, 60, 3), np.uint8)
    source = tmp_path / "in.tif"
    with tifffile.TiffWriter(source) as file:
        file.write(pixels, photometric="rgb", subifds=1, metadata=None)
        file.write(pixels[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    denoise_file(source, tmp_path / "out.tif", inverted)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        (page,) = file.pages
        assert isinstance(page, tifffile.TiffPage)
        assert page.pages is not None
        np.testing.assert_array_equal(page.asarray(), 255 - pixels)
        np.testing.assert_array_equal(page.pages[0].asarray(), 255 - pixels[::2, ::2])


def test_gdal_is_told_that_the_layout_has_changed(tmp_path: Path) -> None:
    """A cloud-optimized GeoTIFF says in front of each tile how long it is."""
    layout = b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_LEADER=SIZE_AS_UINT4\nKNOWN_INCOMPATIBLE_EDITION="
    pixels = random_values((20, 30, 3), np.uint8)
    source = tiff(tmp_path / "in.tif", pixels, photometric="rgb", description=layout + b"NO\n ")
    denoise_file(source, tmp_path / "out.tif", inverted)
    assert layout + b"YES\n" in (tmp_path / "out.tif").read_bytes()


class TestValues:
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
    @pytest.mark.parametrize("compression", [None, "zlib"])
    def test_white_as_0_stays_so(self, tmp_path: Path, dtype: Any, compression: str | None) -> None:
        recorder = Recorder()
        top = np.iinfo(dtype).max if dtype != np.uint32 else 65535
        pixels = np.linspace(0, top // 2, 300).astype(dtype).reshape(10, 30)  # bright
        options = {"photometric": "miniswhite", "compression": compression}
        source = tiff(tmp_path / "in.tif", pixels, **options)
        denoise_file(source, tmp_path / "out.tif", recorder)
        np.testing.assert_array_equal(pages_of(tmp_path / "out.tif")[0], pixels)
        assert tags_of(tmp_path / "out.tif")[0][262] == 0
        (array,) = recorder.arrays
        if dtype != np.uint32:
            assert array.flat[0] == (255 if dtype == np.uint8 else 1)
            assert read_rgb(source).mean() > 127

    def test_compressed_big_endian_values_stay_so(self, tmp_path: Path) -> None:
        pixels = random_values((20, 30))
        source = tiff(tmp_path / "in.tif", pixels, byteorder=">", compression="lzw")
        denoise_file(source, tmp_path / "out.tif", identity)
        assert (tmp_path / "out.tif").read_bytes()[:2] == b"MM"
        np.testing.assert_array_equal(pages_of(tmp_path / "out.tif")[0], pixels)
        assert opened(tmp_path / "out.tif").mode == opened(source).mode

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    @pytest.mark.parametrize(
        ("kind", "colours", "extra"),
        [
            *(("rgb", 3, (0,)), ("rgb", 3, (2, 0)), ("separated", 4, (0,))),
            *(("separated", 4, (0, 0)), ("minisblack", 1, (0,)), ("minisblack", 1, (2,))),
        ],
    )
    def test_extra_channels_are_not_changed(
        self, tmp_path: Path, dtype: Any, kind: Any, colours: int, extra: tuple[int, ...]
    ) -> None:
        pixels = random_values((20, 30, colours + len(extra)), dtype)
        options = {"photometric": kind, "extrasamples": extra, "planarconfig": "contig"}
        source = tiff(tmp_path / "in.tif", pixels, **options)
        denoise_file(source, tmp_path / "out.tif", inverted)
        (after,) = pages_of(tmp_path / "out.tif")
        top = np.iinfo(dtype).max
        np.testing.assert_array_equal(after[..., colours:], pixels[..., colours:])
        np.testing.assert_array_equal(after[..., :colours], top - pixels[..., :colours])
        assert tags_of(tmp_path / "out.tif") == tags_of(source)


def raw(path: Path) -> Path:
    """Write a raw photograph: a thumbnail, and a picture of sensor data in a sub-directory."""
    pattern = [(33421, 3, 2, (2, 2), True), (33422, 1, 4, b"\0\1\1\2", True)]
    with tifffile.TiffWriter(path) as file:
        thumbnail = random_values((12, 16, 3), np.uint8)
        file.write(thumbnail, photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        sensor = random_values((48, 64))
        file.write(sensor, photometric=32803, extratags=pattern, metadata=None)
    return path


class TestRawPhotographs:
    @pytest.mark.parametrize("name", ["a.dng", "a.NEF", "a.arw", "a.pef", "a.tif"])
    def test_sensor_data_beside_a_thumbnail_is_refused(self, tmp_path: Path, name: str) -> None:
        source = raw(tmp_path / name)
        self.check(source, "is a raw photograph")

    def test_linear_data_is_refused(self, tmp_path: Path) -> None:
        source = raw(tmp_path / "a.tif")
        data = source.read_bytes()
        cfa, linear = (struct.pack("<HHIH", 262, 3, 1, kind) for kind in (32803, 34892))
        assert cfa in data
        source.write_bytes(data.replace(cfa, linear))
        self.check(source, "is a raw photograph")

    @pytest.mark.parametrize("suffix", ["dng", "NEF", "cr2", "arw", "srw", "3fr", "orf", "rw2"])
    def test_tiff_named_as_one_is_refused(self, tmp_path: Path, suffix: str) -> None:
        pixels = random_values((12, 16, 3), np.uint8)
        source = tiff(tmp_path / f"a.{suffix}", pixels, photometric="rgb")
        self.check(source, f"is a raw photograph .{suffix.upper()}.: develop it")

    @pytest.mark.parametrize(
        ("beginning", "kind"),
        [
            *((b"IIRO\x08\0\0\0", "ORF"), (b"IIU\0\x18\0\0\0", "RW2")),
            *(
                (b"II*\0\x10\0\0\0CR\2\0", "CR2"),
                (b"II*\0\x08\0\0\0IIII\1waR", "IIQ"),
                (b"FUJIFILMCCD-RAW 0201", "RAF"),
            ),
        ],
    )
    def test_known_by_its_first_bytes(self, tmp_path: Path, beginning: bytes, kind: str) -> None:
        source = tmp_path / "a.tif"
        source.write_bytes(beginning + bytes(200))
        self.check(source, f"is a raw photograph .{kind}.")

    def test_dng_version_is_enough(self, tmp_path: Path) -> None:
        pixels = random_values((12, 16, 3), np.uint8)
        version = (50706, 1, 4, b"\1\4\0\0", True)
        source = tiff(tmp_path / "a.tif", pixels, photometric="rgb", extratags=[version])
        self.check(source, "is a raw photograph")

    def test_pixels_that_look_like_a_mark_are_no_raw_photograph(self, tmp_path: Path) -> None:
        for mark in (b"CR\2\0", b"IIII"):
            pixels = np.frombuffer(mark * 20, np.uint8).reshape(8, 10)
            source = tmp_path / "in.tif"
            Image.fromarray(pixels).save(source)
            data = source.read_bytes()
            (start,) = struct.unpack_from("<I", data, 4)
            # As libtiff writes it: the pixels behind the header, the directory behind them.
            strip = struct.pack("<HHII", 273, 4, 1, data.find(pixels.tobytes()))
            assert strip in data
            moved = data[8:].replace(strip, struct.pack("<HHII", 273, 4, 1, 8))
            head = data[:4] + struct.pack("<I", start + pixels.size)
            source.write_bytes(head + pixels.tobytes() + moved)
            denoise_file(source, tmp_path / "out.tif", identity)
            np.testing.assert_array_equal(np.asarray(opened(tmp_path / "out.tif")), pixels)

    @staticmethod
    def check(source: Path, reason: str) -> None:
        recorder = Recorder()
        target = source.parent / "out" / source.name
        for read in (lambda: denoise_file(source, target, recorder), lambda: read_rgb(source)):
            with pytest.raises(PictureError, match=reason) as caught:
                read()
            assert str(caught.value).startswith(f"{source}: ")
            assert "\n" not in str(caught.value)
        stream = io.BytesIO(source.read_bytes())
        stream.name = str(source)
        with pytest.raises(PictureError, match="is a raw"):
            read_rgb(stream)
        assert not recorder.arrays
        assert not target.parent.exists()
