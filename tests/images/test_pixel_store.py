import errno
import multiprocessing
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from raydae.images import pixel_store
from raydae.images.image_file import pixel_hash
from raydae.images.pixel_store import (
    DRAFT,
    UNUSED_S,
    PixelStore,
    default_bytes,
)
from raydae.images.stored_image import BLOCK, DamagedError
from tests.conftest import draw


def stored(store: PixelStore, image: NDArray[np.uint8]) -> str:
    name = pixel_hash(image)
    assert store.put(name, image)
    return name


def file_of(store: PixelStore, name: str) -> Path:
    return store.folder / name[:2] / f"{name}.pixels"


@pytest.fixture
def store(tmp_path: Path) -> PixelStore:
    return PixelStore(tmp_path / "pixels", 2**24)


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give small images files of their own, as large ones have; test_packs.py has the others."""
    monkeypatch.setattr("raydae.images.pixel_store.SMALL", 0)


@pytest.mark.parametrize(
    "size", [(1, 1), (100, 300), (33, 512), (128, 640), (300, 513), (257, 767)]
)
def test_any_part_of_an_image_is_what_was_put_in(store: PixelStore, size: tuple[int, int]) -> None:
    height, width = size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    kept = store.get(stored(store, image), height, width)
    assert kept is not None
    assert kept.shape == image.shape
    np.testing.assert_array_equal(kept.region(0, 0, height, width), image)
    rng = np.random.default_rng(1)
    for _ in range(50):
        h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        np.testing.assert_array_equal(kept.region(y, x, h, w), image[y : y + h, x : x + w])


def test_what_is_not_there_is_none(store: PixelStore) -> None:
    assert store.get("ab" * 16, 4, 4) is None
    assert not store.folder.exists(), "nothing is made before something is kept"


@pytest.mark.usefixtures("unpacked")
@pytest.mark.parametrize("width", [150, 600])
@pytest.mark.parametrize("place", [0, 9, 13, 17, 22, -1, -3 * BLOCK * BLOCK])
def test_one_wrong_byte_is_noticed(store: PixelStore, place: int, width: int) -> None:
    image = draw(0, 200, width)
    name = stored(store, image)
    path = file_of(store, name)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    kept = store.get(name, 200, width)
    if kept is None:
        assert not path.exists(), "it makes room for a whole one"
        assert store.bytes == 0
    else:
        with pytest.raises(DamagedError) as caught:
            kept.region(0, 0, 200, width)
        assert caught.value.name == name


@pytest.mark.usefixtures("unpacked")
@pytest.mark.parametrize("keep", [0, 10, 30, 5000])
def test_a_file_that_was_cut_short_is_removed(store: PixelStore, keep: int) -> None:
    name = stored(store, draw(0, 200, 150))
    path = file_of(store, name)
    path.write_bytes(path.read_bytes()[:keep])
    assert store.get(name, 200, 150) is None
    assert not path.exists()


def test_an_image_of_another_size_is_not_taken_for_this_one(store: PixelStore) -> None:
    name = stored(store, draw(0, 200, 150))
    assert store.get(name, 150, 200) is None


@pytest.mark.usefixtures("unpacked")
def test_the_limit_holds_and_what_was_not_used_lately_makes_room(tmp_path: Path) -> None:
    images = [draw(i, 100, 100) for i in range(4)]
    old = PixelStore(tmp_path, 3 * 30_100)
    names = [stored(old, image) for image in images[:3]]
    assert old.bytes == sum(path.stat().st_size for path in tmp_path.glob("??/*"))
    for i, name in enumerate(names):
        os.utime(file_of(old, name), times=(0, time.time() - 2 * UNUSED_S + i))

    store = PixelStore(tmp_path, 3 * 30_100)
    assert store.get(names[0], 100, 100) is not None, "which counts as used"
    stored(store, images[3])
    assert [file_of(store, name).exists() for name in names] == [True, False, True]
    assert store.bytes <= store.max_bytes
    assert store.bytes == sum(path.stat().st_size for path in tmp_path.glob("??/*"))


def test_a_full_store_keeps_what_it_has(store: PixelStore) -> None:
    store.max_bytes = 50_000
    first = stored(store, draw(0, 100, 100))
    assert not store.put(pixel_hash(draw(1, 100, 100)), draw(1, 100, 100))
    assert store.full
    assert store.problem is None
    assert store.get(first, 100, 100) is not None
    assert not PixelStore(store.folder, 10).put("ab" * 16, draw(0)), "larger than the limit"


@pytest.mark.usefixtures("unpacked")
def test_a_full_disk_is_said_and_leaves_nothing_behind(
    store: PixelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stored(store, draw(0, 100, 100))

    def full(pixels: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("raydae.images.pixel_store.file_parts", full)
    before = store.bytes
    assert not store.put(pixel_hash(draw(1)), draw(1))
    assert store.problem is not None
    assert "No space left on device" in store.problem
    assert store.bytes == before
    assert [path.name for path in store.folder.glob("??/*")] == [f"{first}.pixels"]
    assert not store.put(pixel_hash(draw(2)), draw(2)), "and is not tried again"
    assert store.get(first, 100, 100) is not None


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = PixelStore(tmp_path / "file", 2**20)
    assert not store.put(pixel_hash(draw(0)), draw(0))
    assert store.problem is not None
    assert store.get(pixel_hash(draw(0)), 64, 64) is None


@pytest.mark.usefixtures("unpacked")
def test_drafts_that_a_killed_process_left_are_removed(store: PixelStore) -> None:
    first = stored(store, draw(0, 100, 100))
    draft = file_of(store, first).with_name(f"x{DRAFT}")
    draft.write_bytes(bytes(20_000))
    os.utime(draft, times=(0, 0))
    (store.folder / "usage").unlink()
    again = PixelStore(store.folder, 65_000)
    assert again.bytes > 50_000
    stored(again, draw(1, 100, 100))
    assert not draft.exists()
    assert again.get(first, 100, 100) is not None


def _fill(store: PixelStore, count: int, small: int) -> None:
    pixel_store.SMALL = small
    for i in range(count):
        image = draw(i, 80, 90)
        assert store.put(pixel_hash(image), image)


@pytest.mark.parametrize("small", [0, 2**20])
def test_processes_share_a_store(
    store: PixelStore, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydae.images.pixel_store.SMALL", small)
    workers = [
        multiprocessing.get_context("spawn").Process(target=_fill, args=(store, 12, small))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    files = [*store.folder.glob("??/*"), *store.folder.glob("packs/*.pack")]
    assert len(files) in ((1, 2, 3) if small else (12,))
    assert store.bytes == sum(path.stat().st_size for path in files)
    for i in range(12):
        kept = store.get(pixel_hash(draw(i, 80, 90)), 80, 90)
        assert kept is not None
        np.testing.assert_array_equal(kept.region(0, 0, 80, 90), draw(i, 80, 90))


def test_a_store_travels_to_another_process(store: PixelStore) -> None:
    name = stored(store, draw(0))
    assert pickle.loads(pickle.dumps(store)).get(name, *draw(0).shape[:2]) is not None


def test_the_default_limit_is_half_of_the_free_disk_and_counts_the_store_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    assert default_bytes(tmp_path / "not" / "there") == 500
    store = PixelStore(tmp_path, 2**20)
    stored(store, draw(0, 10, 10))
    assert default_bytes(tmp_path) == (1000 + store.bytes) // 2
