"""Pictures of other formats in a folder of training or test images are counted, not passed over."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.images import listing
from raydae.images.config import DataConfig
from raydae.images.listing import list_folder
from raydae.images.pairs import match_folders
from raydae.images.pictures import suffixes, unreadable_suffixes
from raydae.images.sources import evaluation_images, find_images
from tests.conftest import draw_folder, draw_pairs

OTHERS = ("a.dng", "b.DNG", "train/c.cr2", "val/d.psd", "e.cr3")
NO_PICTURES = ("notes.txt", "list.csv", "README.md", "truth.mat", ".f.dng", ".cache/g.dng")
LINE = "left out: 2 .dng, 1 .cr2, 1 .cr3, 1 .psd"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = draw_folder(tmp_path / "photographs")
    for name in (*OTHERS, *NO_PICTURES):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return folder


def test_to_train_and_to_evaluate(photographs: Path) -> None:
    said: list[str] = []
    config = DataConfig(path=str(photographs), patch_size=16)
    sets = find_images(config, say=said.append)
    assert said == [LINE]
    assert sets.left_out == (), "these are files that are listed and cannot be used"
    _, images = evaluation_images(str(photographs), None, say=said.append)
    assert said == [LINE, LINE]
    assert len(images) == 10


def test_pairs(tmp_path: Path) -> None:
    folder = draw_pairs(tmp_path)
    (folder / "noisy/a.dng").touch()
    said: list[str] = []
    config = DataConfig(path=str(folder), patch_size=16, pairs="noisy/*=clean/*")
    find_images(config, say=said.append)
    match_folders(str(folder / "noisy"), str(folder / "clean"), said.append)
    assert said == ["left out: 1 .dng", f"{folder / 'noisy'}: left out: 1 .dng"]


def test_a_bucket_is_listed_once(s3: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder.of(s3("photographs"))
    for name in ("a.png", *OTHERS, "notes.txt"):
        folder.write(name, b"")
    calls: list[bool] = []
    stamps = Folder.stamps

    def counted(self: Folder, recursive: bool = False) -> dict[str, tuple[int, float]]:
        calls.append(recursive)
        return stamps(self, recursive)

    monkeypatch.setattr(Folder, "stamps", counted)
    said: list[str] = []
    assert list_folder(folder.uri, said.append).names == ["a.png"]
    assert (said, calls) == ([LINE], [True])


def test_a_folder_of_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.nef").touch()
    with pytest.raises(UserError, match=r"has no images \(.*\); left out: 1 \.nef$"):
        list_folder(str(tmp_path))


def test_a_format_whose_package_is_missing(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heif = {".heic", ".heif", ".jxl"}
    monkeypatch.setattr(listing, "suffixes", lambda: suffixes() - heif)
    monkeypatch.setattr(listing, "unreadable_suffixes", lambda: heif)
    monkeypatch.setattr("raydae.images.inputs.advice_for", lambda suffix: "ADVICE")
    for name in ("a.heic", "b.HEIC", "c.jxl"):
        (photographs / name).touch()
    said: list[str] = []
    list_folder(str(photographs), said.append)
    assert said == ["left out: 2 .heic, 1 .jxl; ADVICE"]


def test_no_suffix_is_read_and_left_out() -> None:
    unreadable = unreadable_suffixes()
    assert not unreadable & suffixes()
    assert {".dng", ".nef", ".cr2", ".cr3", ".raf", ".psd"} <= unreadable
    assert all(re.fullmatch(r"\.[a-z0-9]+", suffix) for suffix in unreadable)
