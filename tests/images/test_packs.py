"""Small images of a store, many to a file."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from raydae.images import packs
from raydae.images.image_file import pixel_hash
from raydae.images.pixel_store import UNUSED_S, PixelStore
from raydae.images.stored_image import DamagedError, file_size
from tests.conftest import draw

SIZE = 80, 90


def stored(store: PixelStore, number: int) -> str:
    image = draw(number, *SIZE)
    name = pixel_hash(image)
    assert store.put(name, image)
    return name


def whole(store: PixelStore, name: str) -> NDArray[np.uint8] | None:
    """Return an image; none if it is not there, or damaged, and then it is removed."""
    image = store.get(name, *SIZE)
    try:
        return None if image is None else image.region(0, 0, *SIZE)
    except DamagedError as error:
        store.remove(error.name)
        return None


@pytest.fixture
def store(tmp_path: Path) -> PixelStore:
    return PixelStore(tmp_path / "pixels", 2**24)


def test_images_are_packed_and_another_process_finds_them(
    store: PixelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "LOOK_S", 0)
    other = PixelStore(store.folder, 2**24)
    assert whole(other, stored(store, 0)) is not None
    names = [stored(store, number) for number in range(30)]
    assert len(list(store.folder.glob("packs/*.pack"))) == 1
    assert not list(store.folder.glob("??/*"))
    for number, name in enumerate(names):
        for each in (store, other):
            np.testing.assert_array_equal(whole(each, name), draw(number, *SIZE))
    assert store.names() == other.names() == set(names)
    assert store.bytes == 30 * file_size(*SIZE)


def test_a_new_file_is_begun_when_one_is_large(
    store: PixelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "PACK_BYTES", 5 * file_size(*SIZE))
    names = [stored(store, number) for number in range(12)]
    files = list(store.folder.glob("packs/*.pack"))
    assert len(files) == 3
    assert max(path.stat().st_size for path in files) <= packs.PACK_BYTES
    assert all(whole(store, name) is not None for name in names)


@pytest.mark.parametrize("place", [3, 13, 30, -1])
def test_a_damaged_image_is_struck_out_for_all_and_can_be_put_again(
    store: PixelStore, place: int
) -> None:
    names = [stored(store, number) for number in range(3)]
    (path,) = store.folder.glob("packs/*.pack")
    size = file_size(*SIZE)
    data = bytearray(path.read_bytes())
    data[size + place if place >= 0 else 2 * size + place] ^= 1
    path.write_bytes(data)

    assert whole(PixelStore(store.folder, 2**24), names[1]) is None
    third = PixelStore(store.folder, 2**24)
    assert third.names() == {names[0], names[2]}
    stored(third, 1)
    fourth = PixelStore(store.folder, 2**24)
    for number, name in enumerate(names):
        np.testing.assert_array_equal(whole(fourth, name), draw(number, *SIZE))


def test_a_file_that_was_cut_short_or_is_gone_has_none_of_its_images(store: PixelStore) -> None:
    names = [stored(store, number) for number in range(3)]
    (path,) = store.folder.glob("packs/*.pack")
    path.write_bytes(path.read_bytes()[: 2 * file_size(*SIZE) + 100])
    assert [whole(PixelStore(store.folder, 2**24), name) is None for name in names] == [0, 0, 1]
    path.unlink()
    assert all(whole(PixelStore(store.folder, 2**24), name) is None for name in names)


def test_an_index_of_garbage_names_nothing_that_is_read(store: PixelStore) -> None:
    name = stored(store, 0)
    (index,) = store.folder.glob("packs/*.index")
    row = index.read_bytes()
    index.write_bytes(row + b"\xff" * 48 + name.encode()[::-1] + bytes(16) + b"half")
    again = PixelStore(store.folder, 2**24)
    np.testing.assert_array_equal(whole(again, name), draw(0, *SIZE))
    for other in again.names() - {name}:
        assert whole(again, other) is None
    assert PixelStore(store.folder, 2**24).names() == {name}


@pytest.mark.parametrize("small", [0, 2**20])
def test_a_store_of_another_user_is_read(
    store: PixelStore, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydae.images.pixel_store.SMALL", small)
    name = stored(store, 0)
    for path in store.folder.rglob("*.p*"):
        os.utime(path, times=(0, 0))

    def refused(path: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refused)
    assert whole(PixelStore(store.folder, 2**24), name) is not None


def test_an_image_is_whole_or_not_there_when_its_writer_is_killed(store: PixelStore) -> None:
    code = (
        "import sys; from pathlib import Path; from raydae.images.pixel_store import PixelStore\n"
        "from raydae.images.image_file import pixel_hash; from tests.conftest import draw\n"
        "store = PixelStore(Path(sys.argv[1]), 2**30)\n"
        "for number in range(10**6):\n"
        "    image = draw(number, 80, 90); store.put(pixel_hash(image), image)\n"
    )
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", code, str(store.folder)])
        deadline = time.monotonic() + 60
        before = len(store.names())
        while len(store.names()) < before + 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        (store.folder / "packs" / "1-torn.index").write_bytes(b"x" * 20)
        again = PixelStore(store.folder, 2**24)
        names = again.names()
        assert len(names) >= before + 5 or before
        for number in range(len(names)):
            name = pixel_hash(draw(number, *SIZE))
            if name in names:
                np.testing.assert_array_equal(whole(again, name), draw(number, *SIZE))


def test_a_full_disk_is_said_and_the_images_before_stay(
    store: PixelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stored(store, 0)
    before = store.bytes

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(packs, "_append", full)
    assert not store.put(pixel_hash(draw(1, *SIZE)), draw(1, *SIZE))
    assert store.problem is not None
    assert "No space left on device" in store.problem
    assert store.bytes == before
    assert whole(store, first) is not None


def test_what_cannot_be_appended_whole_is_not_appended(tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert packs._append(file, b"abc") == 0
    limit = (
        "import resource, sys; from pathlib import Path; from raydae.images.packs import _append\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "_append(Path(sys.argv[1]), bytes(2000))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", limit, str(file)], capture_output=True, text=True, check=False
    )
    assert "File too large" in done.stderr
    assert file.read_bytes() == b"abc"


def test_files_that_nobody_uses_make_room(store: PixelStore) -> None:
    name = stored(store, 0)
    (path,) = store.folder.glob("packs/*.pack")
    for used, left in ((True, 0), (False, 1)):
        os.utime(path, times=(0, time.time() - 2 * UNUSED_S))
        again = PixelStore(store.folder, file_size(*SIZE) + 10)
        if used:
            assert whole(again, name) is not None, "which counts as use"
        image = draw(1, *SIZE)
        assert again.put(pixel_hash(image), image) == left
    assert not path.exists()
    assert not path.with_suffix(".index").exists()
    assert PixelStore(store.folder, 2**20).names() == {pixel_hash(image)}
    assert again.bytes == file_size(*SIZE)
