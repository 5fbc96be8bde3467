"""Images of folders, URIs and BSDS500 are found, decoded once and split."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.images import bsds500 as data
from raydae.images import sources
from raydae.images.bsds500_download import DownloadError
from raydae.images.config import DataConfig
from raydae.images.image_file import pixel_hash, read_image
from raydae.images.image_sets import ImageSets, subsample
from raydae.images.image_table import Images
from raydae.images.listed import Listed
from raydae.images.listing import choose_splits, list_images
from raydae.images.scan import scan
from raydae.images.sources import evaluation_images, find_images
from tests.conftest import draw, draw_folder


def names(images: Images) -> set[str]:
    return set(images.names)


def find(path: Path, **settings: object) -> ImageSets:
    return find_images(DataConfig(path=str(path), patch_size=16, **settings))  # type: ignore[arg-type]


def test_split_folders_are_taken_as_they_are(pictures: Path) -> None:
    sets = find(pictures)
    assert (len(sets.train), len(sets.val), len(sets.test)) == (8, 1, 1)
    assert all(file.name.startswith("train/") for file in sets.train)
    assert (sets.train[0].height, sets.train[0].width) == (48, 64)
    assert sets.train[0].sha256 == pixel_hash(draw(2))


def test_the_sets_survive_a_dictionary(pictures: Path) -> None:
    sets = find(pictures)
    assert ImageSets.from_parquet(sets.to_parquet()) == sets


def test_a_plain_folder_is_split_by_names_and_adding_images_moves_none(tmp_path: Path) -> None:
    for i in range(60):
        (tmp_path / f"{i % 3}").mkdir(exist_ok=True)
        Image.fromarray(draw(i, 16, 16)).save(tmp_path / f"{i % 3}" / f"{i}.png")
    before = find(tmp_path)
    for i in range(60, 80):
        Image.fromarray(draw(i, 16, 16)).save(tmp_path / f"{i}.png")
    after = find(tmp_path)
    assert len(before.train) > 40
    for split in ("train", "val", "test"):
        assert names(getattr(before, split)) <= names(getattr(after, split))


def test_three_images_are_enough_and_two_are_not(tmp_path: Path) -> None:
    for i in range(2):
        Image.fromarray(draw(i, 16, 16)).save(tmp_path / f"{i}.png")
    with pytest.raises(UserError, match=r"has 2 images; it needs 3 at least: one to train on"):
        find(tmp_path)
    Image.fromarray(draw(2, 16, 16)).save(tmp_path / "2.png")
    sets = find(tmp_path)
    assert [len(sets.train), len(sets.val), len(sets.test)] == [1, 1, 1]


def test_bad_files_are_left_out_and_named(tmp_path: Path) -> None:
    draw_folder(tmp_path, 20)
    (tmp_path / "train" / "text.jpg").write_text("not a picture")
    whole = (tmp_path / "train" / "002.png").read_bytes()
    (tmp_path / "train" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "train" / "Thumbs.db").write_bytes(b"stray")
    (tmp_path / "train" / ".hidden.png").write_bytes(whole)
    sets = find(tmp_path)
    assert len(sets.train) == 16
    assert len(sets.left_out) == 2
    assert "cut.png" in sets.left_out[0]
    assert "text.jpg" in sets.left_out[1]


def test_copies_of_validation_and_test_images_are_not_trained_on(tmp_path: Path) -> None:
    draw_folder(tmp_path)
    for copy, original in (("a.png", "val/000.png"), ("b.bmp", "test/001.png")):
        Image.open(tmp_path / original).save(tmp_path / "train" / copy)
    sets = find(tmp_path)
    assert {file.name for file in sets.train} == {f"train/{i:03}.png" for i in range(2, 10)}
    assert sets.left_out == (
        "train/a.png: not used for training, same pixels as val/000.png in val or test",
        "train/b.bmp: not used for training, same pixels as test/001.png in val or test",
    )


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    draw_folder(tmp_path)
    name = os.fsdecode(b"caf\xe9.png")
    try:
        Image.fromarray(draw(20)).save(tmp_path / "train" / name)
    except OSError:
        pytest.skip("this file system has no such names")
    sets = find(tmp_path)
    (file,) = [file for file in sets.train if file.name == r"train/caf\udce9.png"]
    assert file.uri == f"file://{quote(str(tmp_path))}/train/caf%E9.png"
    np.testing.assert_array_equal(read_image(file.uri), draw(20))
    assert sorted(choose_splits([name] * 3, [None] * 3)) == ["test", "train", "val"]


def test_images_smaller_than_a_patch(tmp_path: Path) -> None:
    draw_folder(tmp_path)
    Image.fromarray(draw(0, 15, 64)).save(tmp_path / "train" / "small.png")
    with pytest.raises(UserError, match=r"train/small\.png is 64x15.*--data\.small-images skip"):
        find(tmp_path)
    sets = find(tmp_path, small_images="skip")
    assert len(sets.train) == 8
    assert sets.left_out == ("train/small.png: 64x15, smaller than a patch",)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "is not a folder"),
        (lambda path: path.write_text(""), "is not a folder"),
        (lambda path: path.mkdir(), "has no images"),
        (lambda path: (path.mkdir(), (path / "a.jpg").write_text("x")), "has 1 image; it needs 3"),
    ],
)
def test_folders_without_images(tmp_path: Path, make: object, says: str) -> None:
    path = tmp_path / "data"
    make(path)  # type: ignore[operator]
    with pytest.raises(UserError, match=says):
        find(path)


def test_the_protocol_of_the_literature_needs_bsds500(pictures: Path) -> None:
    with pytest.raises(UserError, match="needs BSDS500"):
        find(pictures, protocol="cbsd68")
    with pytest.raises(UserError, match="needs BSDS500"):
        evaluation_images(str(pictures), "cbsd68")


def test_a_uri_is_a_folder_too(tmp_path: Path, s3: Callable[[str], str]) -> None:
    folder = draw_folder(tmp_path / "my 100% pictures")
    (folder / "train" / "002.png").rename(folder / "train" / "a b#c.png")
    local = find(folder)
    uri = s3("my%20100%25%20pictures")
    for path in folder.rglob("*.png"):
        Folder.of(uri).write(str(path.relative_to(folder)), path.read_bytes())
    remote = find_images(DataConfig(path=uri, patch_size=16))
    assert remote.left_out == ()
    assert {file.sha256 for file in remote.train} == {file.sha256 for file in local.train}
    assert remote.train[0].uri.startswith("s3://")
    np.testing.assert_array_equal(read_image(remote.val[0].uri), draw(0))
    Folder.of(uri).write("train/bad.png", b"no picture")
    (said,) = find_images(DataConfig(path=uri, patch_size=16)).left_out
    assert said.startswith("s3://")
    assert "bad.png" in said
    assert ": not a picture" in said


def test_raydae_data_is_the_default(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDAE_DATA", pictures.as_uri())
    assert len(find_images(DataConfig(patch_size=16)).train) == 8
    name, images = evaluation_images(None, None)
    assert (name, len(images)) == (pictures.name, 10)


def test_two_split_folders_of_three_are_no_split(tmp_path: Path) -> None:
    shutil.rmtree(draw_folder(tmp_path) / "val")
    with pytest.raises(UserError, match="folders train and test but no val"):
        find(tmp_path)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(UserError, match="not a URI"):
        list_images("nonsense://bucket/folder")


def test_the_same_pixels_have_the_same_hash_in_any_format(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp", "a.tif"):
        Image.fromarray(draw(0)).save(tmp_path / name)
    files, _ = scan(Listed.of(list_images(str(tmp_path))))
    assert len({file.sha256 for file in files}) == 1
    assert pixel_hash(draw(0)) != pixel_hash(draw(1))
    flat = np.zeros((4, 9, 3), np.uint8)
    assert pixel_hash(flat) != pixel_hash(flat.reshape(9, 4, 3))


def test_subsample_is_evenly_spaced(pictures: Path) -> None:
    train = find(pictures).train
    assert subsample(train, 0) == subsample(train, 8) == subsample(train, 99) == train
    assert subsample(train, 4) == train[::2]


def test_no_data_and_no_download_means_the_synthetic_set(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Path:
        raise DownloadError("no network")

    monkeypatch.setattr(data, "locate", lambda: None)
    monkeypatch.setattr(sources, "download", refuse)
    reasons = []

    def fallback(reason: str) -> Path:
        reasons.append(reason)
        return pictures

    sets = find_images(DataConfig(patch_size=16), fallback)
    assert reasons == ["no network"]
    assert "synthetic" in sets.source
    with pytest.raises(UserError, match="no network"):
        find_images(DataConfig(protocol="cbsd68"), fallback)
    with pytest.raises(UserError, match="no network"):
        find_images(DataConfig())
    with pytest.raises(UserError, match="no network"):
        evaluation_images(None, "cbsd68")


def test_both_protocols_on_bsds500(bsds500: Path) -> None:
    own = find_images(DataConfig(path=str(bsds500)))
    assert [len(own.train), len(own.val), len(own.test)] == [200, 100, 200]
    literature = find_images(DataConfig(path=str(bsds500), protocol="cbsd68"))
    assert [len(literature.train), len(literature.val), len(literature.test)] == [400, 32, 68]
    assert names(literature.train) == names(own.train) | names(own.test)
    assert names(literature.test) | names(literature.val) == names(own.val)
    assert {Path(name).stem for name in names(literature.test)} == data.CBSD68
    hashes = {file.sha256 for files in (own.train, own.val, own.test) for file in files}
    assert len(hashes) == 500


@pytest.mark.parametrize("folder", [".", "..", "../.."])
def test_bsds500_behind_a_uri_is_known_by_its_files(bsds500: Path, folder: str) -> None:
    found = data.find(Folder.of(bsds500))
    assert found is not None
    assert found.local is not None
    root = found.local.resolve()
    uri = (root / folder).resolve().as_uri()
    assert data.find(Folder(uri)) == Folder(root.as_uri())
    name, images = evaluation_images(uri, "cbsd68")
    assert (name, len(images)) == ("CBSD68", 68)
    assert images[0][0] == f"{root}/{images[0][1]}"


@pytest.mark.parametrize("as_uri", [False, True])
def test_a_part_of_bsds500_is_a_folder_like_any_other(
    bsds500: Path, tmp_path: Path, as_uri: bool
) -> None:
    found = data.find(Folder.of(bsds500))
    assert found is not None
    assert found.local is not None
    root, copy = found.local, Folder(tmp_path.as_uri()) if as_uri else Folder.of(tmp_path)
    for split in ("train", "val", "test"):
        (tmp_path / split).mkdir()
        for file in (root / split).glob("*.jpg"):
            (tmp_path / split / file.name).symlink_to(file)
    assert data.find(copy) == copy
    for path in sorted(tmp_path.rglob("*.jpg"))[::3]:
        path.unlink()
    sets = find_images(DataConfig(path=str(copy)))
    assert (len(sets.train), len(sets.val), len(sets.test)) == (133, 67, 133)
    assert sets.source == f"{tmp_path}, 333 of the 500 files of BSDS500"
    name, images = evaluation_images(str(copy), None)
    assert (name, len(images)) == (tmp_path.name, 333)
    for call in (
        lambda: find_images(DataConfig(path=str(copy), protocol="cbsd68")),
        lambda: evaluation_images(str(copy), "cbsd68"),
    ):
        with pytest.raises(UserError, match="holds 333 of the 500 files of BSDS500 and lacks"):
            call()


def test_an_unreadable_image_does_not_leave_a_set_empty(tmp_path: Path) -> None:
    for i in range(6):
        Image.fromarray(draw(i)).save(tmp_path / f"{i}.png")
    (validation,) = find(tmp_path).val
    (tmp_path / validation.name).write_bytes(b"no picture")
    sets = find(tmp_path)
    assert [len(sets.train), len(sets.val), len(sets.test)] == [3, 1, 1]
    assert len(sets.left_out) == 1
    assert len(sets.unused) == 1
