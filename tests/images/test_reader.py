import dataclasses
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from raydae.core.errors import UserError
from raydae.images import reader
from raydae.images.config import DataConfig
from raydae.images.image_cache import ImageCache
from raydae.images.image_file import read_image
from raydae.images.image_sets import ImageSets
from raydae.images.pixel_store import PixelStore
from raydae.images.reader import Reader, store_report
from raydae.images.sources import find_images
from raydae.images.stored_image import StoredImage
from tests.conftest import draw_folder

BYTES = 48 * 64 * 3  # of an image of `draw_folder`


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for two images only."""
    monkeypatch.setattr(reader, "_cache", ImageCache(2 * BYTES))
    monkeypatch.setattr(reader, "_opened", OrderedDict())
    reader.store_of.cache_clear()


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    folder = str(draw_folder(tmp_path / "images"))
    return DataConfig(path=folder, patch_size=16, cache=str(tmp_path / "pixels"))


def held(config: DataConfig) -> set[str]:
    return PixelStore(Path(config.cache or ""), 2**40).names()


def test_training_images_are_put_into_the_store_while_they_are_decoded(config: DataConfig) -> None:
    sets = find_images(config)
    training = {file.sha256 for file in sets.train}
    assert held(config) == training
    assert store_report(config, sets.train) is None


def test_what_the_store_lacks_is_put_there_when_it_is_read(config: DataConfig) -> None:
    sets = find_images(config)
    training = held(config)
    store = PixelStore(Path(config.cache or ""), 2**40)
    for name in list(store.names())[:3]:
        store.remove(name)
    assert len(held(config)) == len(training) - 3
    reader.store_of.cache_clear()
    images = Reader.of(config, sets.train)
    for file in sets.train:
        assert images.read(file, file.height, file.width) is not None
    assert held(config) == training
    kept = images.read(sets.train[0], sets.train[0].height, sets.train[0].width)
    assert isinstance(kept, StoredImage)
    whole = kept.region(0, 0, *kept.shape[:2])
    np.testing.assert_array_equal(whole, read_image(sets.train[0].uri))


def test_images_that_the_memory_holds_are_not_stored(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_cache", ImageCache(2**20))
    sets = find_images(config)
    images = Reader.of(config, sets.train)
    assert images.store is None
    assert all(images.read(file, file.height, file.width) is not None for file in sets.train)
    assert not held(config)
    assert store_report(config, sets.train) is None


def test_no_store_is_used_where_its_limit_is_0(config: DataConfig) -> None:
    config = dataclasses.replace(config, cache_gib=0)
    sets = find_images(config)
    assert Reader.of(config, sets.train).store is None
    assert not held(config)
    assert store_report(config, sets.train) is None


def test_a_store_that_is_too_small_is_said(config: DataConfig) -> None:
    config = dataclasses.replace(config, cache_gib=3.5 * BYTES / 2**30)
    sets = find_images(config)
    assert len(held(config)) == 3
    report = store_report(config, sets.train)
    assert report is not None
    assert report.startswith(f"the pixel store has 3 of {len(sets.train)} training images: ")
    assert "GiB, and" in report
    assert "--data.cache-gib" in report


def test_a_store_that_cannot_be_written_is_said_and_nothing_fails(
    config: DataConfig, tmp_path: Path
) -> None:
    (tmp_path / "pixels").write_text("no folder")
    sets = find_images(config)
    report = store_report(config, sets.train)
    assert report is not None
    assert "cannot be used (File exists)" in report
    images = Reader.of(config, sets.train)
    assert all(images.read(file, file.height, file.width) is not None for file in sets.train)


def test_a_limit_below_0_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.cache_gib must be at least 0, not -1"):
        DataConfig(cache_gib=-1)


def test_evaluation_images_are_not_stored(config: DataConfig) -> None:
    sets: ImageSets = find_images(config)
    assert not held(config) & {file.sha256 for file in (*sets.val, *sets.test)}
