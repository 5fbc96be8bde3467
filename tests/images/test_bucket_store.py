import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raydae.core.storage import Folder
from raydae.images.bucket_store import BucketStore
from raydae.images.image_file import pixel_hash
from raydae.images.stored_image import DamagedError
from tests.conftest import draw

HEIGHT, WIDTH = 300, 200
IMAGE = draw(0, HEIGHT, WIDTH)
NAME = pixel_hash(IMAGE)


@pytest.fixture
def store(s3: Callable[[str], str], tmp_path: Path) -> BucketStore:
    return BucketStore(Folder.of(s3(f"pixels/{tmp_path.name}")), 2**24)


def test_any_part_of_an_image_is_what_was_put_in(store: BucketStore) -> None:
    assert store.get(NAME, HEIGHT, WIDTH) is None
    assert store.put(NAME, IMAGE)
    assert store.put(NAME, IMAGE), "it is there already"
    other = pickle.loads(pickle.dumps(BucketStore(store.folder, store.max_bytes)))
    assert other.names() == {NAME}
    assert other.room() == store.room() < store.max_bytes - IMAGE.nbytes
    kept = other.get(NAME, HEIGHT, WIDTH)
    assert kept is not None
    rng = np.random.default_rng(1)
    for _ in range(20):
        y, x = int(rng.integers(HEIGHT - 64)), int(rng.integers(WIDTH - 64))
        np.testing.assert_array_equal(kept.region(y, x, 64, 64), IMAGE[y : y + 64, x : x + 64])
    assert store.get(NAME, WIDTH, HEIGHT) is None, "of another size"


@pytest.mark.parametrize("place", [0, 9, 22, -1])
def test_one_wrong_byte_is_noticed(store: BucketStore, place: int) -> None:
    store.put(NAME, IMAGE)
    data = bytearray(store.folder.read(f"{NAME}.pixels"))
    data[place] ^= 1
    store.folder.write(f"{NAME}.pixels", bytes(data))
    if (kept := store.get(NAME, HEIGHT, WIDTH)) is None:
        assert not store.folder.files(), "it makes room for a whole one"
        assert not store.names()
    else:
        with pytest.raises(DamagedError):
            kept.region(0, 0, HEIGHT, WIDTH)


def test_what_was_removed_meanwhile_counts_as_damaged(store: BucketStore) -> None:
    store.put(NAME, IMAGE)
    kept = store.get(NAME, HEIGHT, WIDTH)
    assert kept is not None
    store.remove(NAME)
    with pytest.raises(DamagedError):
        kept.region(0, 0, 64, 64)
    assert store.put(NAME, IMAGE), "it is put there again"


def test_the_limit_holds(store: BucketStore) -> None:
    store.max_bytes = 1.5 * IMAGE.nbytes
    assert store.put(NAME, IMAGE)
    assert not store.put(pixel_hash(draw(1, HEIGHT, WIDTH)), draw(1, HEIGHT, WIDTH))
    assert store.full
    assert store.problem is None


def test_a_bucket_that_is_not_there_is_said(s3: Callable[[str], str]) -> None:
    store = BucketStore(Folder.of(s3("").replace("bucket/", "nowhere/pixels")), 2**24)
    assert not store.put(NAME, IMAGE)
    assert store.problem is not None
    assert "cannot be written" in store.problem
    assert store.get(NAME, HEIGHT, WIDTH) is None
