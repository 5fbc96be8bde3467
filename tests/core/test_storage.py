import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raydae.core.errors import UserError
from raydae.core.lock import lock
from raydae.core.storage import Folder, split_path


@pytest.fixture(params=["path", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, s3: Callable[[str], str]) -> Folder:
    return Folder.of(s3(tmp_path.name) if request.param == "s3" else tmp_path / "a")


def test_what_is_written_is_read(folder: Folder) -> None:
    folder.write("b", b"one")
    folder.write("b", b"two")
    assert folder.read("b") == b"two"
    assert folder.files() == ["b"]
    folder.delete("b")
    folder.delete("b")
    assert folder.files() == []


def test_an_absent_folder_is_empty(folder: Folder) -> None:
    assert folder.files() == folder.folders() == []
    with pytest.raises(FileNotFoundError):
        folder.read("b")


def test_folders_within(folder: Folder) -> None:
    (folder / "b").write("c", b"")
    (folder / "b" / "d").write("e é?", b"")
    assert folder.folders() == ["b"]
    assert folder.files() == []
    assert folder.files(recursive=True) == ["b/c", "b/d/e é?"]
    assert (folder / "b" / "d").read("e é?") == b""
    folder.delete("b")
    assert folder.files(recursive=True) == []
    assert (folder / "b").name == "b"


def test_when_a_file_was_written(folder: Folder) -> None:
    assert folder.written("b") == 0
    folder.write("b", b"")
    assert folder.written("b") == pytest.approx(time.time(), abs=60)


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder.of(tmp_path)
    folder.write("b", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.write("b", b"new")
    assert folder.read("b") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Folder.of("runs").uri == str(tmp_path / "runs")


def test_a_file_uri_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a b"
    assert Folder.of(path.as_uri()) == Folder.of(path)
    assert split_path(f"{path.as_uri()}/c%20d") == split_path(path / "c d")


def test_names_are_flushed_to_the_disk_with_what_they_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(os.fstat(number).st_ino))
    Folder.of(tmp_path / "a" / "b").write("c", b"d")
    places = (tmp_path / "a" / "b" / "c", tmp_path / "a" / "b", tmp_path / "a", tmp_path)
    assert flushed == [place.stat().st_ino for place in places]


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    folder = Folder.of(tmp_path / name)
    try:
        folder.write(name, b"one")
    except OSError:
        pytest.skip("this file system has no such names")
    assert folder.files() == [name]
    assert Folder.of(tmp_path).folders() == [name]
    assert Folder.of(tmp_path).files(recursive=True) == [f"{name}/{name}"]
    assert folder.read(name) == b"one"
    assert folder.stamp(name)[0] == 3
    folder.copy_to(Folder.of(tmp_path / "copy"))
    folder.delete(name)
    assert folder.files() == []
    assert (tmp_path / "copy" / name).read_bytes() == b"one"
    with pytest.raises(UserError, match="is not UTF-8, which Ray"), lock(folder):
        pass


def test_a_name_as_long_as_the_file_system_permits(tmp_path: Path) -> None:
    name = "a" * os.pathconf(tmp_path, "PC_NAME_MAX")
    Folder.of(tmp_path).write(name, b"one")
    assert Folder.of(tmp_path).files() == [name]


def test_linked_folders_are_listed_unless_they_hold_the_link(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "to a").symlink_to(tmp_path / "a")
    (tmp_path / "c" / "loop").symlink_to(tmp_path / "c")
    (tmp_path / "c" / "gone").symlink_to(tmp_path / "none")
    assert Folder.of(tmp_path / "c").files(recursive=True) == ["to a/b"]


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    folder = Folder.of(tmp_path)
    assert folder.files() == []
    for use in (folder.read, folder.stamp):
        with pytest.raises(OSError, match="Not a regular file"):
            use("pipe")


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(UserError, match="a path is empty"):
        Folder.of("")


def test_a_uri_that_is_none() -> None:
    with pytest.raises(UserError, match="nonsense"):
        Folder.of("nonsense://x/y")
