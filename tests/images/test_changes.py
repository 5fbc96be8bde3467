"""Images that changed since a run began are found, and not trained on unseen."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydae.core.errors import UserError
from raydae.images import changes
from raydae.images.changes import Changes, accept_changes, find_changes
from raydae.images.config import DataConfig
from raydae.images.image_file import pixel_hash
from raydae.images.image_sets import ImageSets
from raydae.images.image_table import Images
from raydae.images.sources import find_images
from tests.conftest import draw, draw_folder, draw_noisy, draw_pairs


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    return DataConfig(path=str(draw_folder(tmp_path / "images")), patch_size=16)


@pytest.fixture
def sets(config: DataConfig) -> ImageSets:
    return find_images(config)


@pytest.fixture
def images(config: DataConfig) -> Path:
    return Path(config.path or "")


def names(images: Images) -> list[str]:
    return list(images.names)


def test_nothing_is_decoded_where_nothing_changed(
    config: DataConfig, sets: ImageSets, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scan(images: list[object], progress: object) -> tuple[Images, list[object]]:
        assert not images
        return Images.of([]), []

    monkeypatch.setattr(changes, "scan", scan)
    assert find_changes(sets, config) == Changes()


def test_replaced_removed_added_and_touched(
    config: DataConfig, sets: ImageSets, images: Path
) -> None:
    Image.fromarray(draw(50)).save(images / "train" / "002.png")
    (images / "train" / "003.png").unlink()
    (images / "train" / "004.png").write_bytes(b"no picture any more")
    Image.fromarray(draw(51)).save(images / "val" / "new.png")
    os.utime(images / "train" / "005.png", (1, 1))
    found = find_changes(sets, config)
    assert names(found.replaced) == ["train/002.png"]
    assert names(found.removed) == ["train/003.png", "train/004.png"]
    assert names(found.touched) == ["train/005.png"]
    assert [name for _, name in found.added] == ["val/new.png"]

    now = accept_changes(sets, found, 16)
    assert names(now.train) == names(sets.train), "no other sample changes"
    assert now.train[0].sha256 == pixel_hash(draw(50))
    assert now.replaced_train_hashes == (sets.train[0].sha256,)
    assert now.left_out == ("val/new.png: added after the run began",)
    assert find_changes(now, config) == Changes()
    assert ImageSets.from_parquet(now.to_parquet()) == now

    Image.fromarray(draw(3)).save(images / "train" / "003.png")  # it is back
    back = find_changes(now, config)
    assert not back
    assert names(back.touched) == ["train/003.png"]


def test_an_image_that_tests_is_never_trained_on(
    config: DataConfig, sets: ImageSets, images: Path
) -> None:
    shutil.copy(images / "test" / "001.png", images / "train" / "002.png")
    found = find_changes(sets, config)
    assert names(found.replaced) == ["train/002.png"]
    says = r"test/001\.png, which is not for training, and train/002\.png have the same pixels now"
    with pytest.raises(UserError, match=says):
        accept_changes(sets, found, 16)


def test_images_that_changed_places_are_refused(
    config: DataConfig, sets: ImageSets, images: Path
) -> None:
    """The one that tests now was trained on before."""
    Image.fromarray(draw(1)).save(images / "train" / "002.png")
    Image.fromarray(draw(2)).save(images / "test" / "001.png")
    found = find_changes(sets, config)
    assert names(found.replaced) == ["train/002.png", "test/001.png"]
    with pytest.raises(UserError, match=r"test/001\.png, which is not for training"):
        accept_changes(sets, found, 16)


def test_the_hash_of_a_replaced_validation_image_is_kept(
    config: DataConfig, sets: ImageSets, images: Path
) -> None:
    Image.fromarray(draw(50)).save(images / "val" / "000.png")
    now = accept_changes(sets, find_changes(sets, config), 16)
    assert now.replaced_val_hashes == (sets.val[0].sha256,)
    Image.fromarray(draw(0)).save(images / "val" / "000.png")
    assert accept_changes(now, find_changes(now, config), 16).val[0].sha256 == sets.val[0].sha256


def test_a_replacement_smaller_than_a_patch_is_refused(
    config: DataConfig, sets: ImageSets, images: Path
) -> None:
    Image.fromarray(draw(50, 12, 64)).save(images / "train" / "002.png")
    with pytest.raises(UserError, match="64x12 now, smaller than a patch"):
        accept_changes(sets, find_changes(sets, config), 16)


def test_what_was_left_out_is_not_new(config: DataConfig, images: Path) -> None:
    (images / "train" / "bad: file.png").write_bytes(b"no picture")
    sets = find_images(config)
    assert len(sets.left_out) == 1
    assert find_changes(sets, config) == Changes()


def test_noisy_files_are_compared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = draw_pairs(tmp_path / "pairs", 12)
    config = DataConfig(path=str(folder), patch_size=16, pairs="noisy/*=clean/*")
    sets = find_images(config)
    assert find_changes(sets, config) == Changes()

    first, second, third, fourth = (Path(file.noisy[0].uri) for file in sets.train[:4])
    other = np.asarray(Image.open(first)).astype(int) + 1
    Image.fromarray(np.clip(other, 0, 255).astype(np.uint8)).save(first)
    second.unlink()
    Image.fromarray(draw_noisy(0)[:30]).save(third)
    os.utime(fourth, (1, 1))
    shutil.copy(folder / "clean" / "000.png", folder / "clean" / "new.png")
    shutil.copy(folder / "noisy" / "000.png", folder / "noisy" / "new.png")
    found = find_changes(sets, config)
    assert names(found.replaced) == [sets.train[0].name]
    assert sorted(names(found.removed)) == [sets.train[1].name, sets.train[2].name]
    assert names(found.touched) == [sets.train[3].name]
    assert sorted(name for _, name in found.added) == ["clean/new.png", "noisy/new.png"]

    now = accept_changes(sets, found, 16)
    assert names(now.train) == names(sets.train), "no other sample changes"
    assert now.train[0].noisy[0].sha256 == pixel_hash(np.asarray(Image.open(first)))
    assert sets.train[0].noisy[0].sha256 in now.replaced_train_hashes
    assert find_changes(now, config) == Changes()

    shutil.copy(now.test[0].noisy[0].uri, first)  # it tests
    monkeypatch.setattr("raydae.images.pair_checks.find_shift", lambda noisy, clean: (0, 0))
    with pytest.raises(UserError, match=r"which is not for training, and .* the same pixels now"):
        accept_changes(now, find_changes(now, config), 16)


def test_a_pair_that_lost_one_of_its_shots_is_reported(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(draw(i)).save(tmp_path / f"{i}_mean.png")
        for shot in range(2):
            Image.fromarray(draw_noisy(i, sigma=5 + shot)).save(tmp_path / f"{i}_{shot}.png")
    config = DataConfig(path=str(tmp_path), patch_size=16, pairs="*_*.png=*_mean.png")
    sets = find_images(config)
    Path(sets.train[0].noisy[1].uri).unlink()
    found = find_changes(sets, config)
    assert names(found.removed) == [sets.train[0].name]
    now = accept_changes(sets, found, 16)
    assert len(now.train[0].noisy) == 2, "the samples of other shots stay the same"
    assert not find_changes(now, config)


def test_a_folder_beside_train_val_and_test_is_not_new(tmp_path: Path) -> None:
    (draw_folder(tmp_path) / "more").mkdir()
    Image.fromarray(draw(60)).save(tmp_path / "more" / "a.png")
    config = DataConfig(path=str(tmp_path), patch_size=16)
    sets = find_images(config)
    assert sets.unused == (str(tmp_path / "more" / "a.png"),)
    assert not find_changes(sets, config)
