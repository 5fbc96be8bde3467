"""Facts about the dead leaves set: its statistics, its reproducibility, its cache."""

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from raydae.images import synthetic

Images = list[NDArray[np.uint8]]

FEW = {"train": 2, "val": 1, "test": 1}


@pytest.fixture(scope="module")
def images() -> Images:
    return [synthetic.image("test", index) for index in range(12)]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ensure() draw four images. Its processes still see the whole set."""
    monkeypatch.setattr(synthetic, "SPLITS", FEW)


def spectral_slope(image: NDArray[np.uint8]) -> float:
    """Slope in log-log of the radially averaged power of luminance, 0.02 to 0.4 cycles a pixel."""
    height, width = image.shape[:2]
    luminance = image.mean(axis=2)
    window = np.hanning(height)[:, None] * np.hanning(width)
    power = np.abs(np.fft.fft2((luminance - luminance.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    edges = np.geomspace(0.02, 0.4, 13)
    ring = np.digitize(frequency, edges)
    means = [power[ring == number].mean() for number in range(1, len(edges))]
    slope, _ = np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), np.log(means), 1)
    return float(slope)


def test_an_image_has_the_size_of_a_photograph_of_bsds500(images: Images) -> None:
    assert {image.shape for image in images} == {(321, 481, 3)}
    assert {image.dtype for image in images} == {np.dtype(np.uint8)}


def test_other_sizes_can_be_drawn() -> None:
    for height, width in [(40, 70), (33, 1), (1, 1)]:
        image = synthetic.dead_leaves(np.random.default_rng(0), height, width)
        assert image.shape == (height, width, 3)


def test_a_fresh_process_draws_the_same_pixels(images: Images) -> None:
    code = (
        "import hashlib; from raydae.images.synthetic import image;"
        "print(hashlib.sha256(image('test', 3).tobytes()).hexdigest())"
    )
    fresh = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert fresh.stdout.strip() == hashlib.sha256(images[3].tobytes()).hexdigest()


def test_every_image_of_every_split_differs(images: Images) -> None:
    others = [synthetic.image("train", 0), synthetic.image("val", 0)]
    assert len({image.tobytes() for image in images + others}) == len(images) + 2


def test_version_enters_the_seed(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
    assert not np.array_equal(synthetic.image("test", 0), images[0])


def test_what_is_not_in_the_set_is_refused() -> None:
    with pytest.raises(ValueError, match="train, val, test"):
        synthetic.image("trian", 0)
    for index in (-1, 20):
        with pytest.raises(IndexError, match="there are 20"):
            synthetic.image("val", index)


def test_radii_have_density_r_to_the_minus_3() -> None:
    # The law holds over the plane, hence for leaves centred in the frame.
    r_min, r_max = 2.0, 200.0
    leaves = synthetic._fall(np.random.default_rng(0), (400, 600), 40, r_min, r_max)
    centred = (np.abs(leaves.x - 300) < 300) & (np.abs(leaves.y - 200) < 200)
    radius = np.sort(leaves.radius[centred])
    assert len(radius) > 50_000
    law = (r_min**-2 - radius**-2) / (r_min**-2 - r_max**-2)
    distance = np.abs(law - np.arange(len(radius)) / len(radius)).max()
    assert distance < 1.63 / np.sqrt(len(radius))  # Kolmogorov and Smirnov, at 1 %


def test_leaves_cover_the_plane_as_often_as_asked() -> None:
    leaves = synthetic._fall(np.random.default_rng(0), (400, 600), 30, 2, 10)
    centred = (np.abs(leaves.x - 300) < 300) & (np.abs(leaves.y - 200) < 200)
    area = np.pi * (leaves.radius[centred] ** 2).sum()
    assert area / (400 * 600) == pytest.approx(30, rel=0.02)


def test_leaves_in_front_hide_those_behind() -> None:
    height, width = 200, 300
    front, leaves = synthetic._cover(np.random.default_rng(0), (height, width), 2, 300)
    # No gap is left, and the leaf seen at a pixel reaches it.
    assert front.min() == 0
    assert front.max() < len(leaves.radius)
    rows, columns = np.indices(front.shape)
    away = np.hypot(rows - leaves.y[front], columns - leaves.x[front])
    assert (away <= synthetic._REACH * leaves.radius[front]).all()
    # At the pixel nearest to the centre of a leaf, that leaf or one before it is seen.
    row, column = np.rint(leaves.y).astype(int), np.rint(leaves.x).astype(int)
    framed = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    assert (front[row[framed], column[framed]] <= np.flatnonzero(framed)).all()


def test_power_falls_about_as_the_inverse_square_of_frequency(images: Images) -> None:
    # Every third training photograph of BSDS500, measured so, gives -2.36 with deviation 0.37.
    slopes = [spectral_slope(image) for image in images]
    assert -2.7 < np.mean(slopes) < -1.8
    assert all(-3.3 < slope < -1.5 for slope in slopes)


def test_channels_are_highly_correlated(images: Images) -> None:
    # BSDS500: 0.90.
    upper = np.triu_indices(3, 1)
    correlations = [np.corrcoef(image.reshape(-1, 3).T)[upper].mean() for image in images]
    assert 0.8 < np.mean(correlations) < 0.98


def test_derivatives_are_heavy_tailed(images: Images) -> None:
    # A normal law has kurtosis 3; BSDS500 has a median of 18.
    for image in images:
        derivative = np.diff(image.mean(axis=2), axis=1)
        deviations = derivative - derivative.mean()
        assert (deviations**4).mean() / (deviations**2).mean() ** 2 > 6


def test_images_differ_in_brightness_contrast_and_colour(images: Images) -> None:
    # BSDS500: brightness 106 with deviation 28.
    brightness = [image.mean() for image in images]
    assert 70 < np.mean(brightness) < 140
    assert 15 < np.std(brightness) < 55
    assert np.std([image.mean(axis=2).std() for image in images]) > 5
    saturation = [np.ptp(image.astype(int), axis=2).mean() for image in images]
    assert 15 < np.mean(saturation) < 60
    assert np.std(saturation) > 5


@pytest.mark.usefixtures("few")
def test_ensure_draws_the_set_once(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / synthetic.NAME
    calls: list[tuple[int, int]] = []
    assert synthetic.ensure(folder, lambda *call: calls.append(call)) == folder
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert list(folder.parent.iterdir()) == [folder]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = ["test/0000.png", "train/0000.png", "train/0001.png", "val/0000.png"]
    assert [path.relative_to(folder).as_posix() for path in files] == names
    for path in files:
        with Image.open(path) as stored:
            drawn = synthetic.image(path.parent.name, int(path.stem))
            assert np.array_equal(np.asarray(stored), drawn)

    times = [path.stat().st_mtime_ns for path in files]
    assert synthetic.ensure(folder, lambda *call: calls.append(call)) == folder
    assert len(calls) == 4
    assert [path.stat().st_mtime_ns for path in files] == times


@pytest.mark.usefixtures("few")
def test_ensure_mends_what_is_missing_or_cut_short(tmp_path: Path) -> None:
    synthetic.ensure(tmp_path / "set")
    deleted, cut, empty, whole = sorted((tmp_path / "set").rglob("*.png"))
    before = [path.read_bytes() for path in (deleted, cut, empty, whole)]
    inode = whole.stat().st_ino
    deleted.unlink()
    cut.write_bytes(before[1][:-1])
    empty.write_bytes(b"")
    totals: set[int] = set()
    synthetic.ensure(tmp_path / "set", lambda _, total: totals.add(total))
    assert totals == {3}
    assert [path.read_bytes() for path in (deleted, cut, empty, whole)] == before
    assert whole.stat().st_ino == inode


@pytest.mark.usefixtures("few")
def test_an_interrupted_call_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthetic.ensure(tmp_path / "set", interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("few")
def test_two_calls_at_once_both_end_well(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(synthetic.ensure, [tmp_path / "set"] * 2))
    assert folders == [tmp_path / "set"] * 2
    assert list(tmp_path.iterdir()) == [tmp_path / "set"]
    for split, count in FEW.items():
        for index in range(count):
            with Image.open(tmp_path / "set" / split / f"{index:04d}.png") as stored:
                stored.load()


def test_a_folder_that_cannot_be_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        synthetic.ensure(tmp_path / "file" / "set")
