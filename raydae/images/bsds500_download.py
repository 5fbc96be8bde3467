"""Download BSDS500 from its publisher or a mirror, and verify every file.

This is not done with pooch, which knows one URL and one fixed hash for an archive (GitHub's archive
may change), limits neither the time nor the bytes that are sent or unpacked, and unpacks in place,
so that a killed process leaves, and a concurrent one sees, a part of the data set.
"""

import fcntl
import gzip
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import IO, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.images import bsds500
from raydae.images.image_sets import SPLITS

LICENSE_NOTE = """\
BSDS500 is for non-commercial research and education. Work that uses it cites
  Martin et al., A Database of Human Segmented Natural Images ..., ICCV 2001
  Arbelaez et al., Contour Detection and Hierarchical Image Segmentation, TPAMI 2011"""

# Limits for one archive, against a faulty or malicious server. The real archives are far smaller.
_TOTAL_S = 1800.0
_ARCHIVE_BYTES = 200_000_000
_EXPANDED_BYTES = 500_000_000


class DownloadError(OSError):
    """BSDS500 could not be downloaded. The message gives the reasons in one line."""


class Archive(NamedTuple):
    """A gzipped tar archive that contains BSDS500, and its size in bytes if it never changes."""

    url: str
    bytes: int | None = None


ARCHIVES = (
    Archive(
        "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz",
        70_763_455,
    ),
    # GitHub may compress a commit anew at any time, so the archive's size can change.
    Archive(f"https://codeload.github.com/BIDS/BSDS500/tar.gz/{bsds500.MIRROR_COMMIT}"),
)


def download(
    target: Path | None = None,
    archives: Sequence[Archive] = ARCHIVES,
    console: Console | None = None,
    timeout_s: float = 15.0,
) -> Path:
    """Download BSDS500 and verify every file. An existing copy is only verified.

    The target is created whole, by one rename, or not at all. Until then all files are in a hidden
    folder next to it. If this process is killed, the next download removes that folder.

    Args:
        target: The folder to create, which will hold train, val and test; by default in the cache
            folder.
        archives: Archives to try, in order.
        console: Where the terms and the progress are shown; by default standard error.
        timeout_s: Seconds to wait for a connection, and for each next byte.

    Returns:
        The absolute path of the folder that holds train, val and test.

    Raises:
        DownloadError: No archive could be downloaded, or BSDS500 cannot be written.
        UserError: The target exists and is something else, or a damaged BSDS500.
    """
    target = (target or bsds500.cache_folder() / "BSDS500").expanduser().resolve()
    if (existing := bsds500.find(Folder.of(target))) and existing.local:
        bsds500.verify(existing.local)
        return existing.local
    if target.is_file() or _list(target):
        raise UserError(f"{target} is not BSDS500: name a folder that does not exist yet")
    console = console or Console(stderr=True)
    _print(console, LICENSE_NOTE)
    failures = []
    try:
        with _workspace(target) as work:
            for number, archive in enumerate(archives):
                folder = work / str(number)
                try:
                    _fetch(archive, folder, console, timeout_s)
                except (OSError, HTTPException) as error:
                    failures.append(f"{urlsplit(archive.url).hostname}: {_reason(error)}")
                    _print(console, failures[-1])
                    continue
                _publish(folder, target)
                _print(console, f"BSDS500 is in {target}")
                return target
    except OSError as error:
        raise DownloadError(f"BSDS500 cannot be written to {target}: {_reason(error)}") from error
    raise DownloadError(
        f"BSDS500 was not downloaded ({'; '.join(failures)}): "
        "try again later, or set RAYDAE_DATA to the folder of a copy"
    )


def _fetch(archive: Archive, folder: Path, console: Console, timeout_s: float) -> None:
    """Create a folder with the files of BSDS500 from one archive, and verify them."""
    file = folder.with_suffix(".tgz")
    _receive(archive, file, console, timeout_s)
    try:
        _unpack(file, folder)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise DownloadError(f"damaged archive: {_reason(error)}") from error
    if bad := bsds500.differing_files(folder):
        raise DownloadError(f"the archive has missing or altered files, {bsds500.abridged(bad)}")


def _receive(archive: Archive, path: Path, console: Console, timeout_s: float) -> None:
    """Download one archive into a file."""
    _print(console, f"downloading {archive.url}")
    deadline = time.monotonic() + _TOTAL_S
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    try:
        request = Request(archive.url, headers={"User-Agent": "raydae"})
        response = urlopen(request, timeout=timeout_s)
    except HTTPError as error:
        error.close()  # the error is also the response
        raise DownloadError(f"HTTP {error.code} {error.reason}") from error
    with (
        response,
        path.open("wb") as file,
        # A log or a pipe gets no bar; the lines printed before and after are enough.
        Progress(*columns, console=console, disable=not console.is_interactive) as progress,
    ):
        stated = response.headers.get("Content-Length", "")
        expected = archive.bytes or (int(stated) if stated.isdecimal() else None)
        limit = min(expected or _ARCHIVE_BYTES, _ARCHIVE_BYTES)
        task = progress.add_task("BSDS500", total=expected)
        received = 0
        # read1 returns the bytes that have arrived; read would wait for all, past the deadline.
        while chunk := response.read1(1 << 16):
            received += len(chunk)
            if received > limit:
                raise DownloadError(f"sent more than {limit:,} bytes")
            if time.monotonic() > deadline:
                raise DownloadError(f"took longer than {_TOTAL_S:g} s")
            file.write(chunk)
            progress.update(task, completed=received)
    if expected is not None and received != expected:
        raise DownloadError(f"sent {received:,} of {expected:,} bytes")


class _LimitedGzip(gzip.GzipFile):
    """A gzip file that raises DownloadError if it expands to far more than BSDS500."""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if self.tell() > _EXPANDED_BYTES:
            raise DownloadError(f"the archive expands to more than {_EXPANDED_BYTES:,} bytes")
        return data


def _unpack(path: Path, folder: Path) -> None:
    """Write the files of BSDS500 out of an untrusted archive.

    The names in the archive only select files; the paths written are made from the manifest.
    Members that are not in the manifest or not regular files (links, devices) are skipped.
    """
    wanted = dict(bsds500.manifest())
    for split in SPLITS:
        (folder / split).mkdir(parents=True)
    with _LimitedGzip(path) as data, tarfile.open(fileobj=data, mode="r|") as tar:
        for member in tar:
            parts = member.name.split("/")
            name = "/".join(parts[-2:])
            if parts[-3:-2] != ["images"] or name not in wanted or not member.isreg():
                continue
            if member.size > wanted.pop(name).bytes:
                raise DownloadError(f"the archive has a {name} that is too large")
            content = tar.extractfile(member)
            assert content is not None  # it is None for members that are not regular files
            (folder / name).write_bytes(content.read())
            if not wanted:
                return  # the rest of the archive, such as the ground truth, is not needed


@contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """Yield a temporary folder next to the target, and remove it and abandoned ones."""
    prefix = f".{target.name}.part-"
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.iterdir():
        if old.name.startswith(prefix):
            with suppress(OSError):  # another download may be removing it too
                if _is_abandoned(old):
                    shutil.rmtree(old)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        with (work / "unlocked").open("wb") as file:
            with suppress(OSError):
                _lock(file)
                # The name "lock" appears only now, so no other process can find it unlocked.
                (work / "unlocked").rename(work / "lock")
            yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _is_abandoned(work: Path) -> bool:
    """Return whether the process that made a temporary folder has ended."""
    try:
        with (work / "lock").open("r+b") as file:
            _lock(file)
            return True
    except BlockingIOError:
        return False
    except OSError:  # killed before it had a lock, or a file system without locks: wait a day
        return time.time() - work.stat().st_mtime > 86_400


def _lock(file: IO[bytes]) -> None:
    """Lock a file until it is closed. The system closes it when the process ends.

    Raises:
        BlockingIOError: Another process holds the lock.
        OSError: The file system has no locks.
    """
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _publish(folder: Path, target: Path) -> None:
    """Rename the finished folder to the target, unless another download has made it."""
    try:
        folder.rename(target)
    except OSError:
        if bsds500.find(Folder.of(target)) is None:
            raise


def _list(folder: Path) -> list[str]:
    """Return the names in a folder; none if there is no such folder."""
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return the reason of an error in one line, without error numbers or urllib's wrapper."""
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _print(console: Console, text: str) -> None:
    """Print a text as it is: no markup, no highlighting, no wrapping."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
