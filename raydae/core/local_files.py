"""Files of local folders. Their names may hold any bytes; those of pyarrow must be UTF-8."""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path


def write(target: Path, data: bytes) -> None:
    """Write a file, whole or not at all, flushed to the disk; create missing folders.

    Raises:
        OSError: it cannot be written; an earlier file of that name is untouched.
    """
    new = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    # Short, because the target's name may be as long as the file system permits.
    temporary = target.with_name(f".raydae-{secrets.token_hex(8)}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        for folder in (target.parent, *(folder.parent for folder in new)):
            _flush(folder)
    finally:
        temporary.unlink(missing_ok=True)


def check_regular(path: Path) -> os.stat_result:
    """Return the status of a file. Opening anything else, such as a pipe, may wait for ever.

    Raises:
        OSError: it is a folder, a pipe, a socket or a device, or there is no such file.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return status


def stamp(path: Path) -> tuple[int, float]:
    """Return a file's size in bytes, and when it was written, in seconds since 1970.

    Raises:
        OSError: as `check_regular`; FileNotFoundError also if it is a folder.
    """
    try:
        status = check_regular(path)
    except (IsADirectoryError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    return status.st_size, status.st_mtime_ns / 1e9


def names(folder: Path, folders: bool, recursive: bool) -> list[str]:
    """Return the relative names of a folder's files, or of its folders, sorted; see `walk`."""
    found = walk(folder, recursive)
    return sorted(name for name, entry in found if (entry.is_dir() if folders else entry.is_file()))


def exists(path: Path) -> bool:
    """Return whether there is a file or folder.

    Raises:
        OSError: the folders above cannot be read.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def walk(folder: Path, recursive: bool) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield everything in a folder, each with its relative name; nothing if there is no folder.

    A linked folder is followed, unless it holds the link. Names that are not UTF-8 are as
    `os.fsdecode` returns them.

    Raises:
        OSError: it cannot be listed.
    """

    def entries(prefix: str, above: frozenset[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
        here = os.path.realpath(folder / prefix)
        if here in above:
            return
        with os.scandir(here) as found:
            for entry in found:
                yield f"{prefix}{entry.name}", entry
                if recursive and entry.is_dir():
                    yield from entries(f"{prefix}{entry.name}/", above | {here})

    if exists(folder):
        yield from entries("", frozenset())


def delete(path: Path) -> None:
    """Delete a file, or a folder with everything in it; do nothing if there is none.

    Raises:
        OSError: it cannot be deleted.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(folder: Path) -> None:
    """Make the names in a folder survive a power failure, on file systems that support it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # this file system cannot flush folders
            raise
    finally:
        os.close(descriptor)
