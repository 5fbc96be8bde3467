"""BSDS500, the Berkeley Segmentation Data Set: find a copy, download one, verify it.

The package carries no images, only a manifest of their sizes and SHA-256 hashes
(``bsds500.json``). It alone decides what is BSDS500, and what is kept of a download::

    folder = locate() or download()  # holds train, val and test: 200, 100 and 200 images
"""

import gzip
import hashlib
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from importlib import resources
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

if sys.platform != "win32":
    import fcntl

LICENSE_NOTE = """\
BSDS500 is for non-commercial research and education. Work that uses it cites
  Martin et al., A Database of Human Segmented Natural Images ..., ICCV 2001
  Arbelaez et al., Contour Detection and Hierarchical Image Segmentation, TPAMI 2011"""

CBSD68 = frozenset(  # quoted one by one, they would take 68 lines
    """
    101085 101087 102061 103070 105025 106024 108005 108070 108082 109053 119082 12084 123074
    126007 130026 134035 14037 143090 145086 147091 148026 148089 157055 159008 160068 16077
    163085 167062 167083 170057 175032 175043 182053 189080 19021 196073 197017 208001 210088
    21077 216081 219090 220075 223061 227092 229036 236037 24077 241004 241048 253027 253055
    260058 271035 285079 291000 295087 296007 296059 299086 300091 302008 304034 304074 306005
    3096 33039 351093
    """.split()  # noqa: SIM905
)
"""Stems of the 68 images, all of val, on which the literature reports colour denoising."""

_COMMIT = "a04b7c6c3a9f0ace74bf205c72a43d32e1c72722"  # of BIDS/BSDS500, the mirror on GitHub
_SPLITS = ("train", "val", "test")
# Where their folders may lie in a folder that a user names: as published, or as downloaded here.
LAYOUTS = (
    "",
    "images",
    "data/images",
    "BSDS500",
    "BSDS500/data/images",
    "BSR/BSDS500/data/images",
    f"BSDS500-{_COMMIT}/BSDS500/data/images",
    "BSDS500-master/BSDS500/data/images",
)

# Bounds on what one source may cost, whatever it sends; a real archive stays far below them.
_TOTAL_S = 1800.0
_ARCHIVE_BYTES = 200_000_000
_EXPANDED_BYTES = 500_000_000


class DownloadError(OSError):
    """BSDS500 could not be downloaded; the message says in one line why."""


class Entry(NamedTuple):
    """What the manifest knows of a file."""

    bytes: int
    sha256: str


class Source(NamedTuple):
    """A gzipped tar archive that holds BSDS500, and its size in bytes where that is fixed."""

    url: str
    bytes: int | None = None


SOURCES = (
    Source(
        "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/BSR_bsds500.tgz",
        70_763_455,
    ),
    # GitHub may pack a commit anew at any time: the size can change, the files cannot.
    Source(f"https://codeload.github.com/BIDS/BSDS500/tar.gz/{_COMMIT}"),
)


def manifest() -> dict[str, Entry]:
    """Return the 500 files of BSDS500 by name, such as ``train/100075.jpg``, in sorted order."""
    text = resources.files("raydae.images").joinpath("bsds500.json").read_text("utf-8")
    return {name: Entry(**entry) for name, entry in json.loads(text).items()}


def cache_folder() -> Path:
    """Return the user's folder for what raydae can fetch again; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "raydae"


def find(folder: Folder) -> Folder | None:
    """Find BSDS500 in a folder by the names of its files; other files there do not matter.

    Args:
        folder: The folder of the split folders, one above it in an unpacked archive, or the one
            in which the archive was unpacked.

    Returns:
        The folder that holds train, val and test; None if ``folder`` is something else or does
        not exist.

    Raises:
        UserError: A tenth or more of the files are there, but not all; or a folder is unreadable.
    """
    names = list(manifest())
    place, missing = folder, names
    for layout in LAYOUTS:
        candidate = folder / layout if layout else folder
        present = {f"{split}/{name}" for split in _SPLITS for name in _names(candidate / split)}
        absent = [name for name in names if name not in present]
        if not absent:
            return candidate
        if len(absent) < len(missing):
            place, missing = candidate, absent
    found = len(names) - len(missing)
    if found * 10 < len(names):
        return None
    raise UserError(
        f"{place} holds {found} of the {len(names)} files of BSDS500 and lacks {_few(missing)}: "
        "complete this copy, or remove it and download BSDS500 again"
    )


def verify(folder: Path) -> None:
    """Check every file of BSDS500 against the manifest, which reads 37 MB.

    Args:
        folder: The folder that holds train, val and test.

    Raises:
        UserError: Files are missing, or are not the published ones byte for byte.
    """
    if bad := _differing(folder):
        raise UserError(
            f"{folder} lacks or holds altered files of BSDS500, {_few(bad)}: "
            "remove this copy and download BSDS500 again"
        )


def locate() -> Folder | None:
    """Find the user's BSDS500: in ``$RAYDAE_DATA``, in ``data/BSDS500``, in the cache folder.

    Returns:
        The folder that holds train, val and test; None if there is none.

    Raises:
        UserError: ``RAYDAE_DATA`` is set but holds no BSDS500, or a copy lacks files.
    """
    if named := os.environ.get("RAYDAE_DATA"):
        if found := find(Folder.of(named)):
            return found
        raise UserError(
            f"RAYDAE_DATA is {named}, where there is no BSDS500: "
            "set it to the folder that holds train, val and test, or unset it"
        )
    return find(Folder.of("data/BSDS500")) or find(Folder.of(cache_folder() / "BSDS500"))


def download(
    target: Path | None = None,
    sources: Sequence[Source] = SOURCES,
    console: Console | None = None,
    timeout_s: float = 15.0,
) -> Path:
    """Download BSDS500 and verify every file; a copy that is there already is only verified.

    The target appears whole, by one rename, or not at all. Until then all is in a hidden folder
    beside it; if this process is killed, the next download removes that.

    Args:
        target: The folder to make, to hold train, val and test; by default in the cache folder.
        sources: Archives to try, in order.
        console: Where the terms and the progress are shown; by default standard error.
        timeout_s: Seconds that a source may take to connect, and to go without sending a byte.

    Returns:
        The absolute path of the folder that holds train, val and test.

    Raises:
        DownloadError: No source gave BSDS500, or it cannot be written.
        UserError: The target is something else, or a damaged BSDS500.
    """
    target = (target or cache_folder() / "BSDS500").expanduser().resolve()
    if (there := find(Folder.of(target))) and there.local:
        verify(there.local)
        return there.local
    if target.is_file() or _list(target):
        raise UserError(f"{target} is not BSDS500: name a folder that does not exist yet")
    console = console or Console(stderr=True)
    _say(console, LICENSE_NOTE)
    failures = []
    try:
        with _workspace(target) as work:
            for number, source in enumerate(sources):
                folder = work / str(number)
                try:
                    _fetch(source, folder, console, timeout_s)
                except (OSError, HTTPException) as error:
                    failures.append(f"{urlsplit(source.url).hostname}: {_reason(error)}")
                    _say(console, failures[-1])
                    continue
                _publish(folder, target)
                _say(console, f"BSDS500 is in {target}")
                return target
    except OSError as error:
        raise DownloadError(f"BSDS500 cannot be written to {target}: {_reason(error)}") from error
    raise DownloadError(
        f"BSDS500 was not downloaded ({'; '.join(failures)}): "
        "try again later, or set RAYDAE_DATA to the folder of a copy"
    )


def _fetch(source: Source, folder: Path, console: Console, timeout_s: float) -> None:
    """Make ``folder`` with the files of BSDS500, all verified, from one source."""
    archive = folder.with_suffix(".tgz")
    _receive(source, archive, console, timeout_s)
    try:
        _unpack(archive, folder)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise DownloadError(f"damaged archive: {_reason(error)}") from error
    if bad := _differing(folder):
        raise DownloadError(f"its archive lacks or holds altered files, {_few(bad)}")


def _receive(source: Source, archive: Path, console: Console, timeout_s: float) -> None:
    """Download one source's archive, whole, into a file."""
    _say(console, f"downloading {source.url}")
    deadline = time.monotonic() + _TOTAL_S
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    try:
        request = Request(source.url, headers={"User-Agent": "raydae"})
        response = urlopen(request, timeout=timeout_s)
    except HTTPError as error:
        error.close()  # it is also the response
        raise DownloadError(f"HTTP {error.code} {error.reason}") from error
    with (
        response,
        archive.open("wb") as file,
        # A log or a pipe gets no bar: the lines before and after say enough.
        Progress(*columns, console=console, disable=not console.is_interactive) as progress,
    ):
        stated = response.headers.get("Content-Length", "")
        expected = source.bytes or (int(stated) if stated.isdecimal() else None)
        bound = min(expected or _ARCHIVE_BYTES, _ARCHIVE_BYTES)
        task = progress.add_task("BSDS500", total=expected)
        received = 0
        # read1 returns what has come; read would wait for a full chunk, past any deadline.
        while chunk := response.read1(1 << 16):
            received += len(chunk)
            if received > bound:
                raise DownloadError(f"sent more than {bound:,} bytes")
            if time.monotonic() > deadline:
                raise DownloadError(f"took longer than {_TOTAL_S:g} s")
            file.write(chunk)
            progress.update(task, completed=received)
    if expected is not None and received != expected:
        raise DownloadError(f"sent {received:,} of {expected:,} bytes")


class _BoundedGzip(gzip.GzipFile):
    """A gzip file that ends in an error where it becomes far larger than BSDS500: no bombs."""

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if self.tell() > _EXPANDED_BYTES:
            raise DownloadError(f"its archive expands to more than {_EXPANDED_BYTES:,} bytes")
        return data


def _unpack(archive: Path, folder: Path) -> None:
    """Write BSDS500's files out of an archive that nobody vouches for.

    Its names only select: every path written is made from the manifest. What the manifest does
    not know, and what is no regular file (a link, a device), is passed over.
    """
    wanted = dict(manifest())
    for split in _SPLITS:
        (folder / split).mkdir(parents=True)
    with _BoundedGzip(archive) as data, tarfile.open(fileobj=data, mode="r|") as tar:
        for member in tar:
            parts = member.name.split("/")
            name = "/".join(parts[-2:])
            if parts[-3:-2] != ["images"] or name not in wanted or not member.isreg():
                continue
            if member.size > wanted.pop(name).bytes:
                raise DownloadError(f"its archive holds a {name} that is too large")
            content = tar.extractfile(member)
            assert content is not None  # only what is no regular file has none
            (folder / name).write_bytes(content.read())
            if not wanted:
                return  # what may follow, the ground truth, is not for us


@contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """Lend a folder on the target's file system; remove it afterwards, and those of the dead."""
    prefix = f".{target.name}.part-"
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in target.parent.iterdir():
        if old.name.startswith(prefix):
            with suppress(OSError):  # another download may be removing it too
                if _abandoned(old):
                    shutil.rmtree(old)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        with (work / "unlocked").open("wb") as file:
            with suppress(OSError):
                _lock(file)
                # Renamed only now, so that no other download can find it free.
                (work / "unlocked").rename(work / "lock")
            yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _abandoned(work: Path) -> bool:
    """Whether the download that works here is dead: the system has freed its lock."""
    try:
        with (work / "lock").open("r+b") as file:
            _lock(file)
            return True
    except BlockingIOError:
        return False
    except OSError:  # killed before it had a lock, or there are none on this system: wait a day
        return time.time() - work.stat().st_mtime > 86_400


def _lock(file: IO[bytes]) -> None:
    """Lock a file until it is closed, at the latest by the end of the process."""
    if sys.platform == "win32":
        raise OSError("there is no flock")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _publish(folder: Path, target: Path) -> None:
    """Rename the finished folder to its place, unless another download was faster."""
    try:
        folder.rename(target)
    except OSError:
        if find(Folder.of(target)) is None:
            raise


def _differing(folder: Path) -> list[str]:
    """The files of BSDS500 that are not in the folder as the manifest states them."""

    def same(path: Path, entry: Entry) -> bool:
        if not path.is_file() or path.stat().st_size != entry.bytes:
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256

    return [name for name, entry in manifest().items() if not same(folder / name, entry)]


def _list(folder: Path) -> list[str]:
    """The names in a folder; none where there is no folder."""
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {_reason(error)}") from error


def _names(folder: Folder) -> list[str]:
    """The names of the files in a folder or behind a URI; none where there is no folder."""
    try:
        return folder.files()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {_reason(error)}") from error


def _few(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _reason(error: Exception) -> str:
    """What went wrong, in one line, without error numbers and what urllib wraps it in."""
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
