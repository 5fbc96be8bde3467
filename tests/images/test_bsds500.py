"""BSDS500 is found by the names of its files, and verified by their hashes."""

import shutil
from pathlib import Path

import pytest

from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.images import bsds500
from raydae.images.bsds500 import CBSD68, locate, verify
from tests.images.small_bsds500 import FILES, NAMES, make

REAL = Path(__file__).parents[3] / "shared/data/BSDS500"
pytestmark = pytest.mark.usefixtures("no_bsds500")


def find(path: Path) -> Path | None:
    found = bsds500.find(Folder.of(path))
    return None if found is None else found.local


def test_manifest_holds_the_splits_in_order() -> None:
    names = list(bsds500.manifest())
    counts = {
        split: sum(n.startswith(f"{split}/") for n in names) for split in ("train", "val", "test")
    }
    assert counts == {"train": 200, "val": 100, "test": 200}
    assert names == sorted(names)
    assert len({entry.sha256 for entry in bsds500.manifest().values()}) == 500


def test_cbsd68_is_68_images_of_val() -> None:
    assert len(CBSD68) == 68
    assert {f"val/{stem}.jpg" for stem in CBSD68} <= bsds500.manifest().keys()


@pytest.mark.parametrize(
    ("images", "given"),
    [
        ("BSR/BSDS500/data/images", "."),
        ("BSR/BSDS500/data/images", "BSR"),
        ("BSR/BSDS500/data/images", "BSR/BSDS500"),
        ("BSR/BSDS500/data/images", "BSR/BSDS500/data"),
        ("BSR/BSDS500/data/images", "BSR/BSDS500/data/images"),
        (f"BSDS500-{bsds500.MIRROR_COMMIT}/BSDS500/data/images", "."),
        (
            f"BSDS500-{bsds500.MIRROR_COMMIT}/BSDS500/data/images",
            f"BSDS500-{bsds500.MIRROR_COMMIT}",
        ),
        ("BSDS500-master/BSDS500/data/images", "."),
        ("BSDS500", "."),
        ("renamed", "renamed"),
    ],
)
def test_find_knows_the_usual_layouts(tmp_path: Path, images: str, given: str) -> None:
    make(tmp_path / images, [*bsds500.manifest(), "train/Thumbs.db", "val/notes.txt", "test/x.jpg"])
    assert find(Path(given)) == tmp_path / images


def test_find_ignores_other_folders(tmp_path: Path) -> None:
    make(tmp_path / "mine", [f"train/{i}.png" for i in range(100)])
    flat = [f"{stem}.jpg" for stem in CBSD68]  # a data set, not an incomplete BSDS500
    make(tmp_path / "CBSD68", flat)
    make(tmp_path / "few", list(bsds500.manifest())[:49])
    for folder in ("mine", "CBSD68", "few", "absent", "mine/train/0.png"):
        assert find(tmp_path / folder) is None


def test_find_refuses_a_copy_with_gaps(tmp_path: Path) -> None:
    names = list(bsds500.manifest())
    images = make(tmp_path / "BSDS500/data/images", [n for n in names if n != "val/3096.jpg"])
    with pytest.raises(UserError, match=r"images holds 499 of the 500 .* lacks val/3096\.jpg:"):
        find(tmp_path / "BSDS500")
    shutil.rmtree(images / "test")
    shutil.rmtree(images / "val")
    with pytest.raises(UserError, match=r"holds 200 of the 500 .* and 297 more: complete"):
        find(tmp_path)
    with pytest.raises(UserError, match="holds 50 of the 500"):
        find(make(tmp_path / "fifty", names[:50]))


def test_locate_looks_in_the_variable_then_data_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(bsds500.manifest())
    assert locate() is None
    cached = make(tmp_path / "cache/raydae/BSDS500", names)
    assert locate() == Folder.of(cached)
    local = make(tmp_path / "data/BSDS500/data/images", names)
    assert locate() == Folder.of(local)
    named = make(tmp_path / "named", names)
    monkeypatch.setenv("RAYDAE_DATA", "named")
    assert locate() == Folder.of(named)


def test_a_wrong_variable_is_never_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "data/BSDS500", list(bsds500.manifest()))
    monkeypatch.setenv("RAYDAE_DATA", "elsewhere")
    with pytest.raises(UserError, match="RAYDAE_DATA is elsewhere, where there is no BSDS500"):
        locate()


def test_cache_folder_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bsds500.cache_folder() == tmp_path / "cache/raydae"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("USERPROFILE", "/home/someone")
    assert bsds500.cache_folder() == Path("/home/someone/.cache/raydae")


@pytest.mark.skipif(not REAL.is_dir(), reason="there is no copy of BSDS500 beside the checkout")
def test_the_published_files_pass() -> None:
    folder = find(REAL)
    assert folder == REAL.absolute() / "data/images"
    verify(folder)


@pytest.mark.usefixtures("small_bsds500")
def test_verify_names_the_bad_files(tmp_path: Path) -> None:
    for name, content in FILES.items():
        make(tmp_path, [name])
        (tmp_path / name).write_bytes(content)
    verify(tmp_path)
    (tmp_path / NAMES[0]).unlink()
    (tmp_path / NAMES[4]).write_bytes(FILES[NAMES[4]] + b"x")
    (tmp_path / NAMES[8]).write_bytes(FILES[NAMES[8]][::-1])
    with pytest.raises(UserError, match=rf"{NAMES[0]}, {NAMES[4]}, {NAMES[8]}: remove"):
        verify(tmp_path)
