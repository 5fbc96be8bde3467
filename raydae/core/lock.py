"""One process at a time works in a folder.

Not filelock: it empties the lock file on each attempt, and so would lose the holder's name.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from raydae.core.errors import UserError, first_line
from raydae.core.storage import Folder

LOCK_FILE = ".lock"


@contextmanager
def lock(folder: Folder) -> Iterator[None]:
    """Hold a folder, so that no second process works in it; a process that dies holds nothing.

    A folder behind a URI cannot be locked. A folder with nothing but the lock in it is removed at
    the end.

    Raises:
        UserError: a live process holds the folder, or it cannot be written.
    """
    if folder.local is None:
        yield
        return
    try:
        folder.uri.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{folder} is not UTF-8, which Ray and TensorBoard need; choose another --storage"
        ) from None
    try:
        folder.local.mkdir(parents=True, exist_ok=True)
        file = (folder.local / LOCK_FILE).open("a+")
    except OSError as error:
        raise unusable(folder, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                raise UserError(
                    f"{folder} cannot be locked ({first_line(error)}); choose a --storage whose "
                    "file system has locks (flock)"
                ) from None
            file.seek(0)
            raise UserError(
                f"{folder.name} is in use by {file.read().strip() or 'another process'}; "
                "wait for it, stop it, or choose another --name"
            ) from None
        with suppress(OSError):  # on a full disk the lock holds without the holder's name
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            os.fsync(file.fileno())  # so that other machines read it too, over NFS
        try:
            yield
        finally:
            with suppress(FileNotFoundError):  # someone has deleted it meanwhile
                if [path.name for path in folder.local.iterdir()] == [LOCK_FILE]:
                    (folder.local / LOCK_FILE).unlink()
                    folder.local.rmdir()


def move_aside(folder: Folder) -> Folder:
    """Move the content of a folder to NAME.1, or the first such name that is free; return that.

    The folder itself stays, with its lock: other machines may have looked it up already.

    Raises:
        OSError: it cannot be moved; some of it may be in the other folder.
    """
    number = 1
    while (other := folder.sibling(f"{folder.name}.{number}")).exists():
        number += 1
    if folder.local is None or other.local is None:
        folder.copy_to(other)
        for name in [*folder.folders(), *folder.files()]:
            folder.delete(name)
        return other
    other.local.mkdir()
    # `config.json` first: what a kill leaves behind is no run.
    for path in sorted(folder.local.iterdir(), key=lambda path: path.name != "config.json"):
        if path.name != LOCK_FILE:
            path.rename(other.local / path.name)
    return other


def lock_text(folder: Folder) -> bytes:
    """Return what a lock says, which tells whether two machines see the same local folder."""
    try:
        return b"" if folder.local is None else (folder.local / LOCK_FILE).read_bytes()
    except OSError:
        return b""


def unusable(folder: Folder, error: OSError) -> UserError:
    """Return the error for a storage folder that cannot be read or written."""
    return UserError(f"{folder} cannot be used ({first_line(error)}); choose another --storage")
