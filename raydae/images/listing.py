"""List the images of a folder, and split a list of images into sets."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from raydae.core.errors import UserError, first_line
from raydae.core.storage import Folder
from raydae.images.image_sets import SPLITS
from raydae.images.pictures import suffixes

Listing = list[tuple[str, str]]
"""(URI, name) of images, not decoded yet. Names are relative to the folder or source."""
Row = tuple[str, str, str | None]
"""The same, and the split, if one is given."""


def list_images(path: str) -> Listing:
    """Return (URI, name) of every image in a folder or URI and its sub-folders.

    Raises:
        UserError: There is no such folder, or it has no images.
    """
    folder = Folder.of(path)
    try:
        if folder.local is not None and not folder.local.is_dir():
            raise UserError(f"{path} is not a folder; give a folder or URI of images")
        names = [
            name
            for name in folder.files(recursive=True)
            if Path(name).suffix.lower() in suffixes()
            and not any(part.startswith(".") for part in Path(name).parts)
        ]
    except OSError as error:
        raise UserError(f"{path} cannot be listed: {first_line(error)}") from None
    if not names:
        raise UserError(f"{path} has no images ({' '.join(sorted(suffixes()))})")
    return [_in_utf8(folder.path_of(name), name) for name in names]


def _in_utf8(uri: str, name: str) -> tuple[str, str]:
    """Return a path or URI and a name that tables can hold, whatever the bytes of the file's name.

    A local path that is not UTF-8 becomes a file:// URI.
    """
    if not any("\ud800" <= letter <= "\udfff" for letter in uri):
        return uri, name
    return f"file://{quote(os.fsencode(uri))}", name.encode(errors="backslashreplace").decode()


def by_folder(images: Iterable[tuple[str, str]]) -> dict[str, Listing]:
    """Split images by their first folder: train, val or test."""
    images = list(images)
    return {
        split: [(uri, name) for uri, name in images if name.split("/")[0] == split]
        for split in SPLITS
    }


def by_source(images: Sequence[Row]) -> dict[str, Listing]:
    """Split (URI, key, split) by the split, or by the hash of the key where it is None."""
    unsplit = [(uri, key) for uri, key, split in images if split is None]
    parts = by_hash(unsplit, min_images=1 if len(unsplit) == len(images) else 0)
    return {
        split: parts[split] + [(uri, key) for uri, key, given in images if given == split]
        for split in SPLITS
    }


def by_hash(images: Listing, min_images: int = 1) -> dict[str, Listing]:
    """Split images into about 80 % train, 10 % val and 10 % test by the hashes of their names.

    The split of an image does not change when others are added. An exception is a set so small
    that val or test would have fewer than `min_images`: they get the first in order of hash.
    """
    ranked = sorted((_fraction(name), uri, name) for uri, name in images)
    below = [sum(fraction < bound for fraction, _, _ in ranked) for bound in (0.1, 0.2)]
    val = max(below[0], min_images)
    test = max(below[1], val + min_images)
    parts = {"val": ranked[:val], "test": ranked[val:test], "train": ranked[test:]}
    return {split: sorted((uri, name) for _, uri, name in part) for split, part in parts.items()}


def _fraction(name: str) -> float:
    """Return the hash of a name as a number in [0, 1)."""
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
