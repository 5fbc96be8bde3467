"""The synthetic set is reproducible, and drawn once into its folder."""

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
    return [synthetic.image("test", index) for index in range(4)]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ensure() draw four images. Its processes still see the whole set."""
    monkeypatch.setattr(synthetic, "SPLITS", FEW)


def test_an_image_has_the_size_of_a_photograph_of_bsds500(images: Images) -> None:
    assert {image.shape for image in images} == {(321, 481, 3)}
    assert {image.dtype for image in images} == {np.dtype(np.uint8)}


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


def test_images_outside_the_set_are_refused() -> None:
    with pytest.raises(ValueError, match="train, val, test"):
        synthetic.image("trian", 0)
    for index in (-1, 20):
        with pytest.raises(IndexError, match="there are 20"):
            synthetic.image("val", index)


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
def test_ensure_draws_missing_and_truncated_images(tmp_path: Path) -> None:
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


def test_a_folder_that_cannot_be_made_raises_oserror(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        synthetic.ensure(tmp_path / "file" / "set")
