"""BSDS500, the Berkeley Segmentation Data Set: the manifest, finding a copy, and verifying it.

The package contains no images, only a manifest of their sizes and SHA-256 hashes
(``bsds500.json``). It defines which files make up BSDS500: 200 images for training, 100 for
validation and 200 for testing, in folders ``train``, ``val`` and ``test``.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from raydae.core.errors import UserError, first_line
from raydae.core.storage import Folder
from raydae.images.image_sets import SPLITS

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
"""File stems of the 68 validation images on which the literature reports colour denoising."""

MIRROR_COMMIT = "a04b7c6c3a9f0ace74bf205c72a43d32e1c72722"
"""Commit of the repository BIDS/BSDS500 on GitHub, a mirror of the data set."""

# Where the split folders may be, relative to a folder that a user names: in the published archive,
# in the mirror's, or in the folder that `bsds500_download` makes.
_LAYOUTS = (
    "",
    "images",
    "data/images",
    "BSDS500",
    "BSDS500/data/images",
    "BSR/BSDS500/data/images",
    f"BSDS500-{MIRROR_COMMIT}/BSDS500/data/images",
    "BSDS500-master/BSDS500/data/images",
)


class Entry(NamedTuple):
    """The size and hash of a file in the manifest."""

    bytes: int
    sha256: str


def manifest() -> dict[str, Entry]:
    """Return the 500 files of BSDS500 by name, such as ``train/100075.jpg``, in sorted order."""
    text = resources.files("raydae.images").joinpath("bsds500.json").read_text("utf-8")
    return {name: Entry(**entry) for name, entry in json.loads(text).items()}


def cache_folder() -> Path:
    """Return the user's folder for data that raydae can create again. It may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "raydae"


class Copy(NamedTuple):
    """A copy of BSDS500, or a part of one."""

    folder: Folder
    """The folder that holds train, val and test."""
    missing: tuple[str, ...]
    """Names of the files that are not there; empty for the whole data set."""

    def __str__(self) -> str:
        files = len(manifest())
        return f"{self.folder}, {files - len(self.missing)} of the {files} files of BSDS500"


def find_copy(folder: Folder) -> Copy | None:
    """Find BSDS500, or a part of it, by the names of its files. Other files are ignored.

    Args:
        folder: The folder that holds the split folders, a folder above it in an unpacked archive,
            or the folder that the archive was unpacked in.

    Returns:
        The copy; None if less than a tenth of the files are there, or no such folder.

    Raises:
        UserError: A folder is unreadable.
    """
    names = tuple(manifest())
    best = Copy(folder, names)
    for layout in _LAYOUTS:
        candidate = folder / layout if layout else folder
        present = {f"{split}/{name}" for split in SPLITS for name in _files(candidate / split)}
        absent = tuple(name for name in names if name not in present)
        if len(absent) < len(best.missing):
            best = Copy(candidate, absent)
        if not absent:
            break
    return best if (len(names) - len(best.missing)) * 10 >= len(names) else None


def find(folder: Folder) -> Folder | None:
    """Find the whole of BSDS500 in a folder; see `find_copy`.

    Returns:
        The folder that holds train, val and test; None if less than a tenth of the files are there.

    Raises:
        UserError: At least a tenth of the files are there, but not all; or a folder is unreadable.
    """
    copy = find_copy(folder)
    if copy is not None and copy.missing:
        raise incomplete(copy)
    return None if copy is None else copy.folder


def incomplete(copy: Copy) -> UserError:
    """Return the error for a copy of which files are missing."""
    return UserError(
        f"{copy.folder} holds {len(manifest()) - len(copy.missing)} of the {len(manifest())} files "
        f"of BSDS500 and lacks {abridged(copy.missing)}: complete this copy, or remove it and "
        "download BSDS500 again"
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


def verify(folder: Path) -> None:
    """Compare every file of BSDS500 with the manifest. This reads 37 MB.

    Args:
        folder: The folder that holds train, val and test.

    Raises:
        UserError: Files are missing, or differ from the published ones.
    """
    if bad := differing_files(folder):
        raise UserError(
            f"{folder} has missing or altered files of BSDS500, {abridged(bad)}: "
            "remove this copy and download BSDS500 again"
        )


def differing_files(folder: Path) -> list[str]:
    """Return the names of the files of BSDS500 that are missing from a folder, or altered."""

    def same(path: Path, entry: Entry) -> bool:
        if not path.is_file() or path.stat().st_size != entry.bytes:
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256

    return [name for name, entry in manifest().items() if not same(folder / name, entry)]


def abridged(names: Sequence[str]) -> str:
    """Return the first three names and the number of the others."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _files(folder: Folder) -> list[str]:
    """Return the names of the files in a folder; none if there is no such folder."""
    try:
        return folder.files()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {first_line(error)}") from error
