"""Values of any depth are scaled for the network, and keep the bits that it does not change."""

import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from raydae.images.denoise_file import denoise_file
from raydae.images.depth import PixelsError, Scale, Stretches, denoise_values
from raydae.images.pictures import PictureError, read_rgb
from tests.images.deep_pictures import RAMP, png, random_values, tiff
from tests.images.sample_pictures import Recorder, chunk, identity, inverted, saved


def denoised(values: NDArray[Any], denoise: Any) -> tuple[NDArray[Any], str]:
    result, stretches = values.copy(), Stretches()
    denoise_values(result, denoise, stretches)
    return result, stretches.line


class TestValues:
    @pytest.mark.parametrize(
        ("values", "low", "high"),
        [
            (np.array([[0, 65535]], np.uint16), 0, 65535),
            (np.array([[9, 30000]], np.int32), 0, 65535),
            (np.array([[0, 1]], np.float64), 0, 1),
            (np.array([[0.1, 0.3]], np.float16), 0, 1),
            (np.array([[100, 4095]], np.uint16), 100, 4095),  # 12 bits in 16
            (np.array([[-1000, 3000]], np.int16), -1000, 3000),
            (np.array([[0, 2**32 - 1]], np.uint32), 0, 2**32 - 1),
            (np.array([[0.0, 0.01]], np.float32), 0, np.float32(0.01)),
            (np.array([[-0.5, 40]], np.float32), -0.5, 40),
        ],
    )
    def test_scale(self, values: NDArray[Any], low: float, high: float) -> None:
        assert Scale.of(values)[:2] == (low, high)

    def test_outliers_do_not_set_the_scale_and_stay(self) -> None:
        values = random_values((100, 100), np.float32) * 50
        values[3, 4], values[5, 6] = 1e6, -1e6
        result, line = denoised(values, lambda unit: np.full_like(unit, 0.5))
        assert (result[3, 4], result[5, 6]) == (1e6, -1e6)
        others = np.delete(result.ravel(), [304, 506])
        np.testing.assert_allclose(others, 25, atol=1)
        assert re.fullmatch(r"values from -\S+ to 5\S+ were scaled linearly .*; 2 beyond .*", line)

    @pytest.mark.parametrize("dtype", ["i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
    def test_what_the_denoiser_leaves_alone_keeps_every_bit(self, dtype: str) -> None:
        values = random_values((50, 60), dtype)
        values = values if values.dtype.kind != "f" else values * 77 - 11
        result, line = denoised(values, identity)
        np.testing.assert_array_equal(result, values)
        assert bool(line) == (dtype != "u2")

    def test_a_change_is_added_to_the_value(self) -> None:
        values = random_values((50, 60), np.float64) * 1e6
        result, _ = denoised(values, lambda unit: np.clip(unit * np.float32(0.5), 0, 1))
        low, high = values.min(), values.max()
        np.testing.assert_allclose(result, low + (values - low) / 2, atol=(high - low) * 1e-7)

    def test_results_do_not_wrap(self) -> None:
        values = np.array([[0, 65535, 40000]], np.uint16)
        result, _ = denoised(values, lambda unit: unit * 3 - 1)
        assert result.tolist() == [[0, 65535, 54465]]

    def test_equal_values_are_left_alone(self) -> None:
        recorder = Recorder()
        result, line = denoised(np.full((9, 9), 1e9, np.float32), recorder)
        assert not recorder.arrays
        assert (result == 1e9).all()
        assert line == ""

    @pytest.mark.parametrize("kind", ["c8", "u8", "?"])
    def test_other_types_are_refused(self, kind: str) -> None:
        with pytest.raises(PixelsError, match="values cannot be denoised: save them as float32"):
            denoised(np.zeros((4, 4), kind), identity)


class TestPng:
    @pytest.mark.parametrize("channels", [2, 3, 4])
    def test_sixteen_bits_come_back_with_alpha_unchanged(
        self, tmp_path: Path, channels: int
    ) -> None:
        pixels = np.dstack([RAMP, RAMP[::-1], RAMP.T, RAMP[:, ::-1]][:channels])
        source = png(tmp_path / "in.png", pixels)
        recorder = Recorder()
        assert denoise_file(source, tmp_path / "out.png", recorder) == (256, 256)
        np.testing.assert_array_equal(imagecodecs.imread(tmp_path / "out.png"), pixels)
        assert recorder.arrays[0].shape == ((256, 256) if channels == 2 else (256, 256, 3))
        denoise_file(source, tmp_path / "out.png", inverted)
        after = imagecodecs.imread(tmp_path / "out.png")
        colours = 1 if channels == 2 else 3
        np.testing.assert_array_equal(after[..., :colours], 65535 - pixels[..., :colours])
        np.testing.assert_array_equal(after[..., colours:], pixels[..., colours:])

    def test_other_chunks_are_kept(self, tmp_path: Path) -> None:
        chunks = [
            (b"gAMA", (45455).to_bytes(4, "big")),
            (b"sBIT", b"\x0c\x0c\x0c"),
            (b"tEXt", b"Author\0someone"),
            (b"tEXt", b"Title\0a street"),
            (b"pHYs", b"\0\0\x0b\x13\0\0\x0b\x13\1"),
            (b"eXIf", b"II*\0\x08\0\0\0\0\0\0\0\0\0"),
            (b"prVt", b"of another program, safe to copy"),
            (b"prVT", b"of another program, not safe"),
        ]
        source = png(tmp_path / "in.png", random_values((9, 8, 3)), *chunks)
        denoise_file(source, tmp_path / "out.png", inverted)
        data = (tmp_path / "out.png").read_bytes()
        for kind, content in chunks:
            assert (chunk(kind, content) in data) == (kind not in (b"sBIT", b"prVT")), kind
        with Image.open(tmp_path / "out.png") as image:
            assert image.info["Author"] == "someone"  # type: ignore[comparison-overlap,unused-ignore]
            assert image.info["dpi"] == pytest.approx((72.01, 72.01), abs=0.01)

    def test_nothing_of_libpng_is_printed(self, tmp_path: Path) -> None:
        """A profile that does not fit the colours makes it warn."""
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        chunk = (b"iCCP", b"x\0\0" + zlib.compress(profile))
        png(tmp_path / "in.png", random_values((9, 8)), chunk)
        code = (
            "import sys, pathlib; from raydae.images.denoise_file import denoise_file\n"
            "denoise_file(*map(pathlib.Path, sys.argv[1:]), lambda array: array)"
        )
        files = [str(tmp_path / name) for name in ("in.png", "out.png")]
        done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, check=True)
        assert (done.stdout, done.stderr) == (b"", b"")

    def test_a_transparent_colour_becomes_alpha(self, tmp_path: Path) -> None:
        pixels = np.array([[[1, 2, 3], [4, 5, 60000]]], np.uint16)
        source = png(tmp_path / "in.png", pixels, (b"tRNS", b"\0\1\0\2\0\3"))
        denoise_file(source, tmp_path / "out.png", inverted)
        after = imagecodecs.imread(tmp_path / "out.png")
        assert after[0, :, 3].tolist() == [0, 65535]
        np.testing.assert_array_equal(after[..., :3], 65535 - pixels)

    @pytest.mark.parametrize("lost", [4, 12, 30, 3000])
    def test_a_cut_off_file(self, tmp_path: Path, lost: int) -> None:
        source = png(tmp_path / "in.png", random_values((50, 60, 3)))
        source.write_bytes(source.read_bytes()[:-lost])
        with pytest.raises(PictureError, match=r"in\.png: the file is truncated"):
            denoise_file(source, tmp_path / "out.png", identity)
        with pytest.raises(PictureError, match="the file is truncated"):
            read_rgb(source)
        assert [path.name for path in tmp_path.iterdir()] == ["in.png"]

    def test_damaged_and_huge_files(self, tmp_path: Path) -> None:
        source = png(tmp_path / "in.png", random_values((50, 60, 3)))
        data = bytearray(source.read_bytes())
        data[3000] ^= 255
        source.write_bytes(data)
        with pytest.raises(PictureError, match="checksum of chunk IDAT is wrong"):
            denoise_file(source, tmp_path / "out.png", identity)
        header = (2**31 - 1).to_bytes(4, "big") * 2 + b"\x10\2\0\0\0"
        source.write_bytes(data[:8] + chunk(b"IHDR", header) + data[33:])
        with pytest.raises(PictureError, match="2147483647x2147483647 is more than 1000000000"):
            denoise_file(source, tmp_path / "out.png", identity)

    def test_animations_are_refused(self, tmp_path: Path) -> None:
        frames = (b"acTL", (3).to_bytes(4, "big") + bytes(4))
        source = png(tmp_path / "in.png", random_values((9, 9, 3)), frames)
        with pytest.raises(PictureError, match="has 3 frames"):
            denoise_file(source, tmp_path / "out.png", identity)


class TestReadRgb:
    LEVELS = np.array([0, 128, 129, 257, 32768, 65535], np.uint16)
    EXPECTED = (0, 0, 1, 1, 128, 255)

    def test_sixteen_bits_are_scaled_and_rounded(self, tmp_path: Path) -> None:
        colour = np.stack([self.LEVELS] * 4, axis=1)[None]
        files = [
            png(tmp_path / "rgb.png", colour[..., :3]),
            png(tmp_path / "rgba.png", colour),
            png(tmp_path / "la.png", colour[..., :2]),
            tiff(tmp_path / "rgb.tif", colour[..., :3], photometric="rgb", compression="lzw"),
            tiff(tmp_path / "rgba.tif", colour, photometric="rgb", extrasamples=[2]),
            tiff(tmp_path / "grey.tif", colour[..., 0], byteorder=">"),
            tiff(tmp_path / "int32.tif", colour[..., 0].astype(np.int32)),
            tiff(tmp_path / "white.tif", 65535 - colour[..., 0], photometric="miniswhite"),
            tiff(tmp_path / "f4.tif", (colour[..., :3] / 65535).astype("f4"), photometric="rgb"),
        ]
        for file in files:
            pixels = read_rgb(file)
            assert pixels.dtype == np.uint8
            assert pixels.tolist() == [[[value] * 3 for value in self.EXPECTED]], file.name
            assert pixels.flags.writeable
            with file.open("rb") as stream:
                np.testing.assert_array_equal(read_rgb(stream), pixels)
                assert not stream.closed

    @pytest.mark.parametrize(
        ("pixels", "options", "reason"),
        [
            (np.array([[0, 1.01]], "f4"), {}, "has values outside 0 to 1: scale them"),
            (np.array([[0, np.nan]], "f4"), {}, "has values outside 0 to 1: scale them"),
            (np.array([[0, 65536]], "i4"), {}, "has values outside 0 to 65535"),
            (np.array([[-1, 6]], "i2"), {}, "has values outside 0 to 65535"),
            (np.zeros((2, 9, 9), "u2"), {"photometric": "minisblack"}, "has 2 pages: save them"),
            (np.zeros((9, 9, 5), "u2"), {"photometric": "minisblack"}, "has 5 channels: save it"),
            (np.zeros((9, 9, 5), "u1"), {"photometric": "minisblack"}, "has 5 channels: save it"),
            (np.zeros((9, 9, 5), "u1"), {"photometric": "separated"}, "has 5 channels: save it"),
            (np.zeros((9, 9), "c8"), {}, "are not supported"),
            (np.zeros((9, 9), "i1"), {}, "int8 values are not supported: save them with 16"),
        ],
    )
    def test_what_eight_bits_cannot_hold_is_refused(
        self, tmp_path: Path, pixels: NDArray[Any], options: dict[str, Any], reason: str
    ) -> None:
        if pixels.shape[-1] == 5:
            options = {**options, "planarconfig": "contig"}
        with pytest.raises(PictureError, match=reason):
            read_rgb(tiff(tmp_path / "in.tif", pixels, **options))

    @pytest.mark.parametrize("channels", [2, 4, 5])
    def test_further_channels_of_eight_bits_are_dropped_as_before(
        self, tmp_path: Path, channels: int
    ) -> None:
        pixels = random_values((9, 8, channels), np.uint8)
        kind = "minisblack" if channels == 2 else "rgb"
        extra = [0] * (channels - (1 if channels == 2 else 3))
        options = {"photometric": kind, "extrasamples": extra, "planarconfig": "contig"}
        source = tiff(tmp_path / "in.tif", pixels, **options)
        expected = np.repeat(pixels[..., :1], 3, axis=2) if channels == 2 else pixels[..., :3]
        np.testing.assert_array_equal(read_rgb(source), expected)

    @pytest.mark.parametrize("channels", [3, 4, 5])
    def test_planes_of_eight_bits(self, tmp_path: Path, channels: int) -> None:
        pixels = random_values((channels, 9, 8), np.uint8)
        extra = [2, 0][: channels - 3]
        options = {"photometric": "rgb", "extrasamples": extra, "planarconfig": "separate"}
        source = tiff(tmp_path / "in.tif", pixels, **options)
        np.testing.assert_array_equal(read_rgb(source), np.moveaxis(pixels[:3], 0, -1))

    def test_white_as_0_beside_alpha(self, tmp_path: Path) -> None:
        pixels = random_values((9, 8, 2), np.uint8)
        options = {"photometric": "miniswhite", "extrasamples": [2], "planarconfig": "contig"}
        source = tiff(tmp_path / "in.tif", pixels, **options)
        np.testing.assert_array_equal(read_rgb(source)[..., 1], 255 - pixels[..., 0])

    def test_the_first_of_several_pages_of_eight_bits_is_read_as_before(
        self, tmp_path: Path
    ) -> None:
        pixels = random_values((2, 9, 8, 3), np.uint8)
        source = tiff(tmp_path / "in.tif", pixels, photometric="rgb")
        np.testing.assert_array_equal(read_rgb(source), pixels[0])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("in.ppm", b"P6 # made by hand\n2 1\n65535\n" + bytes(range(12))),
        ("in.jp2", None),
    ],
)
def test_bits_that_are_lost_are_told(tmp_path: Path, name: str, data: bytes | None) -> None:
    source = tmp_path / name
    source.write_bytes(
        data or bytes(imagecodecs.jpeg2k_encode(random_values((40, 40, 3)), level=0))
    )
    lines: list[str] = []
    denoise_file(source, tmp_path / f"out-{name}", identity, say=lines.append)
    assert lines == ["its 16 bits a channel became 8: save it as PNG or TIFF to keep them"]


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "PPM", "SGI", "JPEG2000", "TIFF"])
def test_nothing_is_told_of_eight_bits(tmp_path: Path, file_format: str) -> None:
    source = saved(Image.new("RGB", (40, 30), "red"), tmp_path / "in", file_format)
    lines: list[str] = []
    denoise_file(source, tmp_path / "out", identity, say=lines.append)
    assert not lines


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    pixels = random_values((300, 400, 3))
    files = [
        tiff(tmp_path / "in.tif", pixels, photometric="rgb"),
        png(tmp_path / "in.png", pixels),
    ]
    program = """
import resource, signal, sys
from pathlib import Path
from raydae.images.denoise_file import denoise_file
from tests.images.sample_pictures import inverted
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    denoise_file(Path(sys.argv[1]), Path(sys.argv[2]), inverted)
except OSError as error:
    print(type(error).__name__, error)
"""
    for file in files:
        target = tmp_path / "out" / file.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(b"old")
        command = [sys.executable, "-c", program, str(file), str(target)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        assert run.stdout == f"PictureError {target}: cannot be written: File too large\n"
        assert target.read_bytes() == b"old"
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_tifffile_is_not_needed_for_other_formats(tmp_path: Path) -> None:
    source = saved(Image.new("RGB", (9, 9)), tmp_path / "in.png")
    program = (
        "import sys; from pathlib import Path; from raydae.images.pictures import read_rgb; "
        f"read_rgb(Path({str(source)!r})); print('tifffile' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "False\n"
    assert tifffile.__version__
