"""The command `denoise`: strengths, what it says about noise, and pictures of any depth."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from raydae.app.denoise import describe_noise, main
from raydae.core.errors import UserError
from tests.images.deep_pictures import png, tiff

Photograph = NDArray[np.float64]


@pytest.fixture(scope="module")
def noisy() -> tuple[Photograph, Photograph]:
    """A photograph with noise of sigma 20, and without; on [0, 1]."""
    clean = 0.25 + data.chelsea()[:128, 100:260] / 510  # nothing is cut off
    noise = np.random.default_rng(0).normal(0, 20 / 255, clean.shape)
    return np.clip(clean + noise, 0, 1), clean


def psnr(image: NDArray[Any], clean: Photograph) -> float:
    return float(-10 * np.log10(((image - clean) ** 2).mean()))


def test_sixteen_bits_gain_like_eight(
    noisy: tuple[Photograph, Photograph], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, clean = noisy
    eight = np.rint(image * 255).astype(np.uint8)
    sixteen = np.rint(image * 65535).astype(np.uint16)
    Image.fromarray(eight).save(tmp_path / "a.png")
    png(tmp_path / "b.png", sixteen)
    tiff(tmp_path / "c.tif", sixteen, photometric="rgb", compression="lzw", predictor=True)
    tiff(tmp_path / "d.tif", (image * 900 - 70).astype(np.float32), photometric="rgb")
    out, results = tmp_path / "out", []
    for name, low, high in (
        *(("a.png", 0, 255), ("b.png", 0, 65535), ("c.tif", 0, 65535)),
        ("d.tif", -70, 830),
    ):
        assert main([str(tmp_path / name), "--out", str(out)]) == 0
        shown = capsys.readouterr().out
        assert f"{name}: sigma ~ {'20' if name != 'd.tif' else ''}" in shown
        path = out / name
        pixels = np.asarray(Image.open(path)) if name == "a.png" else None
        if pixels is None:
            import imagecodecs

            pixels = imagecodecs.imread(path) if name == "b.png" else tifffile.imread(path)
        results.append(psnr((pixels - float(low)) / (high - low), clean))
    assert "were scaled linearly for the network" in shown
    assert results[0] > psnr(image, clean) + 6
    assert results == pytest.approx([results[0]] * 4, abs=0.1)


def test_strengths(noisy: tuple[Photograph, Photograph], tmp_path: Path) -> None:
    image = np.rint(noisy[0] * 255).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")

    def result(*words: str) -> NDArray[np.float64]:
        assert main([str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), *words]) == 0
        return np.asarray(Image.open(tmp_path / "out" / "a.png")).astype(np.float64)

    whole = result()
    np.testing.assert_array_equal(result("--strength", "0"), image)
    np.testing.assert_allclose(result("--strength", "0.5"), (whole + image) / 2, atol=1.01)
    weights = np.array([0.299, 0.587, 0.114])
    only_colour = result("--luma", "0")
    np.testing.assert_allclose(only_colour @ weights, image @ weights, atol=1.5)
    assert np.abs(only_colour - image).mean() > 2


def test_noise_that_is_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ramp = np.add.outer(np.arange(200), np.arange(200))[..., None] * 0.4 + [20, 30, 40]
    Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / "a.png")
    assert main([str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]) == 0
    assert "; there is no noise to remove, so nothing is gained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("levels", "line"),
    [
        ([(7.04, 6.5)], "sigma ~ 7"),
        ([(7.0, 6.5), (None, 0), (9.0, 8.8)], "sigma ~ 0 to 9"),
        ([(0.3, 4.2)], "sigma ~ 4.2"),  # noise that neighbouring pixels share
        ([(None, 0.0)], "sigma is unknown: the picture is too small or too flat to estimate it"),
        ([(None, 3.0)], "sigma ~ 3"),
        ([(12.0, 0.2)], "sigma ~ 12, but the model removes next to nothing of this noise"),
        ([(0.6, 0.2)], "sigma ~ 0.6; there is no noise to remove, so nothing is gained"),
        ([(0.6, 0.0)], "sigma ~ 0.6"),  # strength 0
    ],
)
def test_lines_about_noise(levels: list[tuple[float | None, float]], line: str) -> None:
    assert describe_noise(levels) == line


@pytest.mark.parametrize("name", ["strength", "luma", "chroma"])
@pytest.mark.parametrize("value", ["-0.1", "1.5", "nan"])
def test_strengths_out_of_range(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"--{name} is a number from 0 .* not {value}$"):
        main(["a.png", "--out", str(tmp_path / "out"), f"--{name}={value}"])


def test_pages_with_noise_to_add_are_refused() -> None:
    with pytest.raises(UserError, match="--add-noise takes single pictures: leave out --pages"):
        main(["a.tif", "--out", "out", "--pages", "--add-noise", "25"])


def test_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 65536, (3, 40, 50), dtype=np.uint16)
    tiff(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    words = [str(tmp_path / "a.tif"), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert "a.tif: has 3 pages: --pages denoises each of them" in capsys.readouterr().out
    assert main([*words, "--pages"]) == 0
    with tifffile.TiffFile(tmp_path / "out" / "a.tif") as file:
        assert file.series[0].axes == "ZYX"
        assert (file.asarray() != stack).any((1, 2)).all()


def test_what_is_lost_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "a.webp"
    Image.new("RGB", (40, 40)).save(source)
    data = source.read_bytes() + b"C2PA\2\0\0\0ok"
    source.write_bytes(data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:])
    out = str(tmp_path / "out")
    assert main([str(source), "--out", out, "--model", "gaussian"]) == 0
    assert "\na.webp: lost content credentials\n" in capsys.readouterr().out


def test_raw_photograph_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tiff(tmp_path / "a.dng", np.zeros((40, 40, 3), np.uint8), photometric="rgb")
    out = tmp_path / "out"
    assert main([str(source), "--out", str(out), "--model", "gaussian"]) == 1
    assert f"{source}: is a raw photograph (DNG): develop it" in capsys.readouterr().out
    assert not (out / "a.dng").exists()
