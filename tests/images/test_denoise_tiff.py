"""TIFFs of any depth keep their form: bits, compression, tags, pages, channels and alpha."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from raydae.images.denoise_file import denoise_file
from raydae.images.pictures import PictureError
from tests.images.deep_pictures import RAMP, pages_of, random_values, tags_of, tiff
from tests.images.sample_pictures import Recorder, identity, inverted
from tests.images.test_denoise_file_metadata import with_iso

DTYPES = ["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"]
STORED: list[dict[str, Any]] = [
    {},
    {"rowsperstrip": 7},
    {"byteorder": ">"},
    {"planarconfig": "separate"},
    {"tile": (16, 32), "compression": "zstd"},
    {"compression": "lzw", "predictor": True, "rowsperstrip": 7, "byteorder": ">"},
    {"compression": "zlib", "predictor": True, "planarconfig": "separate", "tile": (16, 16)},
    {"compression": "packbits", "rowsperstrip": 5},
    {"compression": "lzma", "bigtiff": True},
]


class TestForms:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("options", STORED, ids=str)
    def test_identity_keeps_every_bit(
        self, tmp_path: Path, dtype: str, options: dict[str, Any]
    ) -> None:
        pixels = random_values((37, 41, 3), dtype)
        if options.get("planarconfig") == "separate":
            pixels = np.moveaxis(pixels, 2, 0)
        source = tiff(tmp_path / "in.tif", pixels, photometric="rgb", **options)
        target = tmp_path / "out.tif"
        assert denoise_file(source, target, identity, pages=True) == (37, 41)
        np.testing.assert_array_equal(pages_of(target)[0], pixels)
        assert pages_of(target)[0].dtype == pixels.dtype
        assert tags_of(target) == tags_of(source)

    @pytest.mark.parametrize("options", STORED, ids=str)
    def test_changed_pixels_are_stored_in_the_same_form(
        self, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        pixels = np.repeat(np.repeat(random_values((4, 5, 3)), 9, axis=0), 9, axis=1)
        if options.get("planarconfig") == "separate":
            pixels = np.moveaxis(pixels, 2, 0)
        source = tiff(tmp_path / "in.tif", pixels, photometric="rgb", **options)

        def noisier(array: NDArray[Any]) -> NDArray[Any]:  # so that it compresses worse
            change = np.random.default_rng(0).random(array.shape, np.float32) - np.float32(0.5)
            changed: NDArray[Any] = np.clip(array + change, 0, 1)
            return changed

        denoise_file(source, tmp_path / "out.tif", noisier)
        expected = np.moveaxis(pixels, 0, 2) if len(pixels) == 3 else pixels
        expected = np.rint(noisier((expected / 65535).astype(np.float32)) * 65535.0)
        after = pages_of(tmp_path / "out.tif")[0]
        after = np.moveaxis(after, 0, 2) if len(after) == 3 else after
        np.testing.assert_allclose(after, expected, atol=1)
        assert tags_of(tmp_path / "out.tif") == tags_of(source)

    def test_every_value_of_sixteen_bits_survives(self, tmp_path: Path) -> None:
        source = tiff(tmp_path / "in.tif", np.dstack([RAMP] * 3), photometric="rgb")
        denoise_file(source, tmp_path / "out.tif", identity)
        np.testing.assert_array_equal(pages_of(tmp_path / "out.tif")[0], np.dstack([RAMP] * 3))

    def test_values_are_passed_at_full_depth(self, tmp_path: Path) -> None:
        recorder = Recorder()
        source = tiff(tmp_path / "in.tif", np.dstack([RAMP] * 3), photometric="rgb")
        denoise_file(source, tmp_path / "out.tif", recorder)
        (array,) = recorder.arrays
        assert array.shape == (256, 256, 3)
        assert array.dtype == np.float32
        np.testing.assert_allclose(array[..., 0], RAMP / 65535, atol=1e-7)

    @pytest.mark.parametrize(("extra", "kept"), [("unassalpha", 1), ("assocalpha", 1)])
    @pytest.mark.parametrize("colours", [1, 3])
    def test_alpha_keeps_its_bits(
        self, tmp_path: Path, extra: str, kept: int, colours: int
    ) -> None:
        pixels = random_values((20, 30, colours + 1))
        options = {"photometric": "rgb" if colours == 3 else "minisblack", "extrasamples": [extra]}
        source = tiff(tmp_path / "in.tif", pixels, planarconfig="contig", **options)
        denoise_file(source, tmp_path / "out.tif", inverted)
        after = pages_of(tmp_path / "out.tif")[0]
        np.testing.assert_array_equal(after[..., -1], pixels[..., -1])
        np.testing.assert_array_equal(after[..., :-1], 65535 - pixels[..., :-1])

    def test_further_channels_beside_colour_are_kept(self, tmp_path: Path) -> None:
        pixels = random_values((20, 30, 5), np.uint8)
        source = tiff(tmp_path / "in.tif", pixels, photometric="rgb", extrasamples=[0, 0])
        denoise_file(source, tmp_path / "out.tif", inverted)
        after = pages_of(tmp_path / "out.tif")[0]
        np.testing.assert_array_equal(after[..., 3:], pixels[..., 3:])
        np.testing.assert_array_equal(after[..., :3], 255 - pixels[..., :3])

    @pytest.mark.parametrize(("extra", "channels"), [([0], 2), ([0, 2], 3), ([2], 2)])
    @pytest.mark.parametrize("layout", ["contig", "separate"])
    def test_further_channels_beside_grey_are_kept(
        self, tmp_path: Path, extra: list[int], channels: int, layout: str
    ) -> None:
        pixels = random_values((20, 30, channels), np.uint8)
        stored = pixels if layout == "contig" else np.moveaxis(pixels, -1, 0)
        options = {"photometric": "minisblack", "extrasamples": extra, "planarconfig": layout}
        source = tiff(tmp_path / "in.tif", stored, **options)
        denoise_file(source, tmp_path / "out.tif", inverted)
        after = pages_of(tmp_path / "out.tif")[0]
        after = after if layout == "contig" else np.moveaxis(after, 0, -1)
        np.testing.assert_array_equal(after[..., 1:], pixels[..., 1:])
        np.testing.assert_array_equal(after[..., 0], 255 - pixels[..., 0])

    @pytest.mark.parametrize("layout", ["contig", "separate"])
    def test_more_than_two_channels_that_are_no_colours_are_refused(
        self, tmp_path: Path, layout: str
    ) -> None:
        pixels = random_values((5, 20, 30) if layout == "separate" else (20, 30, 5))
        options = {"photometric": "minisblack", "planarconfig": layout}
        source = tiff(tmp_path / "in.tif", pixels, **options)
        with pytest.raises(PictureError, match="has 5 channels: save it as RGB or grey, or each"):
            denoise_file(source, tmp_path / "out.tif", inverted)
        assert not (tmp_path / "out.tif").exists()

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_more_that_is_darker_is_inverted_for_the_denoiser(
        self, tmp_path: Path, dtype: Any
    ) -> None:
        recorder = Recorder()
        top = np.iinfo(dtype).max
        pixels = np.full((9, 9, 4), top, dtype)
        pixels[0] = 0
        source = tiff(tmp_path / "in.tif", np.stack([pixels] * 2), photometric="separated")
        denoise_file(source, tmp_path / "out.tif", recorder, pages=True)
        assert [array.shape for array in recorder.arrays] == [(9, 9, 3), (9, 9)] * 2
        assert all(array[0].min() > 0 and array[1].max() == 0 for array in recorder.arrays)
        np.testing.assert_array_equal(pages_of(tmp_path / "out.tif")[1], pixels)

    def test_lossy_compression_becomes_deflate(self, tmp_path: Path) -> None:
        pixels = np.stack([np.full((32, 48, 3), value, np.uint8) for value in (40, 90)])
        options = {"photometric": "ycbcr", "compression": "jpeg"}
        source = tiff(tmp_path / "in.tif", pixels, **options)
        denoise_file(source, tmp_path / "out.tif", identity, pages=True)
        with tifffile.TiffFile(tmp_path / "out.tif") as file:
            assert [page.compression.name for page in file.pages] == ["ADOBE_DEFLATE"] * 2
        np.testing.assert_array_equal(pages_of(tmp_path / "out.tif"), pages_of(source))

    def test_metadata_is_kept(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {
            "description": "Zürich, 5 µm".encode(),
            "iccprofile": b"profile of 16 bits",
            "resolution": (300, 300),
            "software": "camera",
            "extratags": [(700, 1, 12, b"<x:xmpmeta/>", True), (274, 3, 1, 6, True)],
        }
        source = tiff(tmp_path / "in.tif", random_values((20, 30, 3)), photometric="rgb", **options)
        source.write_bytes(with_iso(source.read_bytes(), 3200))
        denoise_file(source, tmp_path / "out.tif", inverted)
        assert tags_of(tmp_path / "out.tif") == tags_of(source)
        tags = tags_of(tmp_path / "out.tif")[0]
        assert (tags[34675], tags[274]) == (b"profile of 16 bits", 6)
        assert tags[34665]["ISOSpeedRatings"] == 3200


class TestPages:
    @pytest.mark.parametrize("compression", [None, "zlib"])
    @pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
    def test_an_ome_stack_stays_one(
        self, tmp_path: Path, compression: str | None, dtype: str
    ) -> None:
        stack = random_values((2, 3, 2, 20, 30), dtype)
        metadata = {"axes": "TZCYX", "PhysicalSizeX": 0.1, "PhysicalSizeXUnit": "µm"}
        source, target = tmp_path / "in.ome.tif", tmp_path / "out.ome.tif"
        tiff(source, stack, ome=True, metadata=metadata, compression=compression)
        recorder = Recorder()
        denoise_file(source, target, recorder, pages=True)
        assert [array.shape for array in recorder.arrays] == [(20, 30)] * 12
        denoise_file(source, target, inverted, pages=True)
        with tifffile.TiffFile(source) as before, tifffile.TiffFile(target) as after:
            assert after.ome_metadata == before.ome_metadata
            assert after.series[0].axes == before.series[0].axes == "TZCYX"
            top = 1 if dtype == "f4" else np.iinfo(dtype).max
            np.testing.assert_allclose(after.asarray(), top - stack, atol=1e-6)

    @pytest.mark.parametrize("truncated", [False, True])
    def test_an_imagej_hyperstack_stays_one(self, tmp_path: Path, truncated: bool) -> None:
        # ImageJ writes stacks of more than 4 GiB with the first page only.
        stack = random_values((2, 3, 2, 20, 30))
        metadata = {"axes": "TZCYX", "spacing": 0.5, "unit": "um", "Labels": ["a"] * 12}
        source, target = tmp_path / "in.tif", tmp_path / "out.tif"
        with tifffile.TiffWriter(source, imagej=True) as writer:
            writer.write(stack, metadata=metadata, truncate=truncated)
        denoise_file(source, target, inverted, pages=True)
        with tifffile.TiffFile(source) as before, tifffile.TiffFile(target) as after:
            assert len(after.pages) == len(before.pages) == (1 if truncated else 12)
            assert after.imagej_metadata == before.imagej_metadata
            assert after.series[0].axes == "TZCYX"
            np.testing.assert_array_equal(after.asarray(), 65535 - stack)
        assert tags_of(source)[0] == tags_of(target)[0]

    def test_several_pages_are_refused_without_the_option(self, tmp_path: Path) -> None:
        recorder = Recorder()
        for number, options in enumerate(({}, {"imagej": True, "metadata": {"axes": "ZYX"}})):
            source = tmp_path / f"{number}.tif"
            tiff(source, random_values((3, 20, 30)), photometric="minisblack", **options)
            with pytest.raises(PictureError, match=r"tif: has 3 pages: --pages denoises each"):
                denoise_file(source, tmp_path / "out.tif", recorder)
        assert not recorder.arrays
        assert not (tmp_path / "out.tif").exists()

    def test_pages_of_different_kinds(self, tmp_path: Path) -> None:
        pages = [random_values((20, 30)), random_values((10, 12, 3), np.uint8)]
        source = tmp_path / "in.tif"
        with tifffile.TiffWriter(source) as writer:
            for page in pages:
                writer.write(page, photometric="rgb" if page.ndim == 3 else "minisblack")
        denoise_file(source, tmp_path / "out.tif", inverted, pages=True)
        for before, after in zip(pages, pages_of(tmp_path / "out.tif"), strict=True):
            np.testing.assert_array_equal(after, np.iinfo(before.dtype).max - before)

    def test_a_pyramid_is_one_page(self, tmp_path: Path) -> None:
        large, small = random_values((64, 64)), random_values((32, 32))
        with tifffile.TiffWriter(tmp_path / "in.tif") as writer:
            writer.write(large, subifds=1, tile=(16, 16))
            writer.write(small, subfiletype=1, tile=(16, 16))
        denoise_file(tmp_path / "in.tif", tmp_path / "out.tif", inverted)
        with tifffile.TiffFile(tmp_path / "out.tif") as file:
            page = file.pages.first
            assert page.pages is not None
            np.testing.assert_array_equal(page.asarray(), 65535 - large)
            np.testing.assert_array_equal(page.pages.first.asarray(), 65535 - small)

    def test_pages_and_strips_that_share_their_pixels(self, tmp_path: Path) -> None:
        pixels = np.tile(random_values((8, 30, 3)), (3, 1, 1))
        options = {"photometric": "rgb", "rowsperstrip": 8, "compression": "zlib"}
        source = tiff(tmp_path / "in.tif", np.stack([pixels] * 2), **options)
        with tifffile.TiffFile(source, mode="r+") as file:
            first = file.pages[0].dataoffsets[0]
            for page in file.pages:
                assert isinstance(page, tifffile.TiffPage)
                page.tags[273].overwrite([first] * 3)

        def darker(array: NDArray[Any]) -> NDArray[Any]:
            dark: NDArray[Any] = array * np.linspace(0.2, 0.9, 24, dtype=np.float32)[:, None, None]
            return dark

        denoise_file(source, tmp_path / "out.tif", darker, pages=True)
        expected = pixels * np.linspace(0.2, 0.9, 24)[:, None, None]
        np.testing.assert_allclose(pages_of(tmp_path / "out.tif"), [expected] * 2, atol=1)


class TestRefusals:
    @pytest.mark.parametrize(
        ("pixels", "options", "reason"),
        [
            (np.zeros((9, 9), np.complex64), {}, "64 bits a channel .COMPLEXIEEEFP. are not"),
            (np.zeros((9, 9), np.uint64), {}, "uint64 values cannot be denoised: save them as f"),
            (np.full((9, 9), np.nan, "f4"), {}, "values that are no numbers: replace them"),
            (np.array([[1, np.inf]], "f8"), {}, "has infinite values"),
            (np.zeros((16, 32, 32), "u2"), {"volumetric": True, "tile": (16, 16, 16)}, "volumes"),
            (np.zeros((9, 9), "u2"), {"photometric": "cfa"}, "is a raw photograph"),
        ],
    )
    def test_refused(
        self, tmp_path: Path, pixels: NDArray[Any], options: dict[str, Any], reason: str
    ) -> None:
        if options.get("photometric") == "cfa":
            options = {**options, "extratags": [(33421, 3, 2, (2, 2), True)]}
            options["extratags"].append((33422, 1, 4, b"\0\1\1\2", True))
        source = tiff(tmp_path / "in.tif", pixels, **options)
        with pytest.raises(PictureError, match=reason) as caught:
            denoise_file(source, tmp_path / "out.tif", identity)
        assert str(caught.value).startswith(f"{source}: ")
        assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]

    def test_a_bad_page_is_named(self, tmp_path: Path) -> None:
        stack = random_values((3, 9, 9), "f4")
        stack[1, 2, 3] = np.nan
        source = tiff(tmp_path / "in.tif", stack, photometric="minisblack")
        with pytest.raises(PictureError, match="page 2 of 3: has infinite values, or values that"):
            denoise_file(source, tmp_path / "out.tif", identity, pages=True)

    @pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "packbits"])
    @pytest.mark.parametrize("lost", [60, 300, 5000])
    def test_a_cut_off_file(self, tmp_path: Path, compression: str | None, lost: int) -> None:
        pixels = random_values((3, 50, 60, 3))
        options = {"photometric": "rgb", "compression": compression, "rowsperstrip": 9}
        source = tiff(tmp_path / "in.tif", pixels, **options)
        source.write_bytes(source.read_bytes()[:-lost])
        with pytest.raises(PictureError, match=r"in\.tif: .*(truncated|cannot be read)"):
            denoise_file(source, tmp_path / "out.tif", identity, pages=True)
        assert [path.name for path in tmp_path.iterdir()] == ["in.tif"]

    @pytest.mark.parametrize("compression", ["lzw", "zlib"])
    def test_damaged_pixels(self, tmp_path: Path, compression: str) -> None:
        options = {"photometric": "rgb", "compression": compression}
        source = tiff(tmp_path / "in.tif", random_values((50, 60, 3)), **options)
        data = bytearray(source.read_bytes())
        data[5000:5040] = b"\xff" * 40
        source.write_bytes(data)
        with pytest.raises(PictureError, match=r"in\.tif: cannot be read: "):
            denoise_file(source, tmp_path / "out.tif", identity)

    @pytest.mark.parametrize(
        ("code", "value", "reason"),
        [(256, 2**20, "1048576x1048576 is more than"), (277, 60000, "truncated|channels|damaged")],
    )
    def test_a_header_that_claims_too_much(
        self, tmp_path: Path, code: int, value: int, reason: str
    ) -> None:
        source = tiff(tmp_path / "in.tif", random_values((20, 30, 3)), photometric="rgb")
        with tifffile.TiffFile(source, mode="r+") as file:
            page = file.pages.first
            page.tags[code].overwrite(value, dtype=4)
            if code == 256:
                page.tags[257].overwrite(value, dtype=4)
        with pytest.raises(PictureError, match=reason):
            denoise_file(source, tmp_path / "out.tif", identity)
        assert not (tmp_path / "out.tif").exists()

    def test_a_broken_chain_of_pages(self, tmp_path: Path) -> None:
        source = tiff(tmp_path / "in.tif", random_values((20, 30, 3)), photometric="rgb")
        data = bytearray(source.read_bytes())
        (start,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, start)
        struct.pack_into("<I", data, start + 2 + 12 * count, len(data) + 100)
        source.write_bytes(data)
        with pytest.raises(PictureError, match="a page after page 1 is missing"):
            denoise_file(source, tmp_path / "out.tif", identity)

    def test_integers_of_eight_bits_with_a_sign_are_not_read_as_unsigned(
        self, tmp_path: Path
    ) -> None:
        recorder = Recorder()
        source = tiff(tmp_path / "in.tif", np.array([[-128, 0, 127]], np.int8))
        denoise_file(source, tmp_path / "out.tif", recorder)
        assert recorder.arrays[0].tolist() == [[0, pytest.approx(128 / 255), 1]]

    def test_a_picture_of_pillow_stays_with_pillow(self, tmp_path: Path) -> None:
        Image.new("RGB", (9, 9)).save(tmp_path / "in.tif")
        recorder = Recorder()
        denoise_file(tmp_path / "in.tif", tmp_path / "out.tif", recorder)
        assert recorder.arrays[0].dtype == np.uint8
