import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydae.core.storage import Folder
from raydae.images.config import DataConfig
from raydae.images.image_file import MISSING, pixel_hash, read_image, stamp_of, stamps_of
from raydae.images.index import Index
from raydae.images.listed import Listed
from raydae.images.listing import list_images
from raydae.images.scan import scan
from raydae.images.sources import find_images
from tests.conftest import draw, draw_folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten images in train, val and test, written an hour ago."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = draw_folder(tmp_path / "images")
    for path in folder.rglob("*.png"):
        age(path, 3600)
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded from now on."""
    names: list[str] = []

    def counting(uri: str) -> object:
        names.append(Path(uri).name)
        return read_image(uri)

    monkeypatch.setattr("raydae.images.decoding.read_image", counting)
    return names


def age(path: Path, seconds: float) -> None:
    when = path.stat().st_mtime - seconds
    os.utime(path, (when, when))


def config(folder: Path) -> DataConfig:
    return DataConfig(path=str(folder), patch_size=16)


def test_a_second_run_decodes_nothing(folder: Path, decoded: list[str]) -> None:
    first = find_images(config(folder))
    assert len(decoded) == 10
    decoded.clear()
    said: list[tuple[int, int]] = []
    assert find_images(config(folder), None, lambda *at: said.append(at)) == first
    assert not decoded
    assert not said


def test_only_what_is_new_or_changed_is_decoded(folder: Path, decoded: list[str]) -> None:
    before = find_images(config(folder))
    decoded.clear()
    paths = sorted((folder / "train").iterdir())
    Image.fromarray(draw(50)).save(folder / "train" / "added.png")
    Image.fromarray(draw(51)).save(paths[0])
    os.utime(paths[1])
    paths[2].unlink()
    now = find_images(config(folder))
    assert sorted(decoded) == sorted(["added.png", paths[0].name, paths[1].name])
    hashes = dict(zip(now.train.names, now.train.hashes, strict=True))
    assert hashes[f"train/{paths[0].name}"] == pixel_hash(draw(51))
    assert hashes["train/added.png"] == pixel_hash(draw(50))
    assert f"train/{paths[2].name}" not in hashes
    assert len(now.train) == len(before.train)
    assert now.train.names == sorted(now.train.names), "the order is that of the list"


def test_a_file_written_a_moment_ago_is_decoded_again(folder: Path, decoded: list[str]) -> None:
    path = sorted((folder / "train").iterdir())[0]
    find_images(config(folder))
    size = path.stat().st_size
    os.utime(path)
    find_images(config(folder))
    decoded.clear()
    assert path.stat().st_size == size
    find_images(config(folder))
    assert decoded == [path.name]


def test_what_cannot_be_read_is_tried_again(folder: Path, decoded: list[str]) -> None:
    bad = folder / "train" / "bad.png"
    bad.write_bytes(b"no picture")
    age(bad, 3600)
    for _ in range(2):
        decoded.clear()
        assert len(find_images(config(folder)).left_out) == 1
        assert "bad.png" in decoded
    assert decoded == ["bad.png"]


def test_an_interrupt_keeps_what_is_done(
    folder: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydae.images.scan.PART_IMAGES", 1)
    listed = list_images(str(folder))

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(Listed.of(listed), stop, index=Index(str(folder)))
    decoded.clear()
    files, _ = scan(Listed.of(listed), index=Index(str(folder)))
    assert files.names == [name for _, name in listed]
    assert len(decoded) == 3


def test_a_part_of_a_place_does_not_remove_the_rest(folder: Path, decoded: list[str]) -> None:
    listed = list_images(str(folder))
    scan(Listed.of(listed), index=Index(str(folder)))
    os.utime(listed[0][0], (1, 1))
    scan(Listed.of(listed[:2]), index=Index(str(folder)))
    decoded.clear()
    scan(Listed.of(listed), index=Index(str(folder)))
    assert not decoded


def test_a_damaged_or_unwritable_index_costs_only_time(
    folder: Path, tmp_path: Path, decoded: list[str]
) -> None:
    first = find_images(config(folder))
    (path,) = (tmp_path / "cache" / "raydae" / "index").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert find_images(config(folder)) == first
    assert len(decoded) == 20
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("no folder")
    assert find_images(config(folder)) == first
    assert len(decoded) == 30


def test_images_without_a_file_are_not_recorded(folder: Path) -> None:
    index = Index("tests.images.example_sources:Waves")
    listed = Listed.of([("source:a#0", "0")])
    assert index.find(listed, np.zeros(1, np.int64), np.zeros(1)).tolist() == [-1]
    assert index.find(Listed.of([]), np.zeros(0, np.int64), np.zeros(0)).tolist() == []


def test_stamps_of_a_bucket_are_listed_and_equal_those_of_each_file(
    tmp_path: Path, s3: Callable[[str], str]
) -> None:
    folder = Folder.of(s3("stamped"))
    names = [f"{part}/é {i}.png" for part in "ab" for i in range(9)] + ["c/alone.png"]
    for number, name in enumerate(names):
        folder.write(name, bytes(number + 1))
    uris = [folder.path_of(name) for name in [*names, "a/gone.png", "d/gone.png"]]
    size, modified = stamps_of(uris)
    assert size.tolist() == [*range(1, 20), MISSING, MISSING]
    each = [stamp_of(uri) for uri in uris[:-2]]
    assert list(zip(size[:-2].tolist(), modified[:-2].tolist(), strict=True)) == each
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"abc")
    local = [str(tmp_path / name) for name in ("file", "folder", "gone")]
    assert stamps_of(local)[0].tolist() == [3, MISSING, MISSING]
    assert stamps_of(["source:a:B?{}#0"])[0].tolist() == [0]
    assert [len(part) for part in stamps_of([])] == [0, 0]
