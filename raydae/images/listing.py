"""List the images of a folder, and split a list of images into sets."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raydae.core.errors import UserError, first_line
from raydae.core.storage import Folder
from raydae.images.image_sets import SPLITS
from raydae.images.inputs import describe_left_out
from raydae.images.listed import Listed
from raydae.images.pictures import suffixes, unreadable_suffixes

Listing = list[tuple[str, str]]
"""(URI, name) of images, not decoded yet. Names are relative to the folder or source."""

Say = Callable[[str], None]
"""Takes a line for the user."""


def silent(line: str) -> None:
    """Say nothing."""


def list_images(path: str, say: Say = silent) -> Listing:
    """Return (URI, name) of every image in a folder or URI and its sub-folders.

    Args:
        path: The folder or URI.
        say: As in `list_folder`.

    Raises:
        UserError: There is no such folder, or it has no images.
    """
    listed = list_folder(path, say)
    return list(zip(listed.uris, listed.names, strict=True))


def list_folder(path: str, say: Say = silent) -> Listed:
    """Return every image in a folder or URI and its sub-folders, with stamps if it is a URI.

    Args:
        path: The folder or URI.
        say: Is called with a line that counts the pictures that cannot be read, by suffix, if there
            are any.

    Raises:
        UserError: There is no such folder, or it has no images.
    """
    folder = Folder.of(path)
    try:
        if folder.local is not None and not folder.local.is_dir():
            raise UserError(f"{path} is not a folder; give a folder or URI of images")
        stamps = None if folder.local is not None else folder.stamps(recursive=True)
        visible = [
            name
            for name in (folder.files(recursive=True) if stamps is None else sorted(stamps))
            if not (name.startswith(".") or "/." in name)
        ]
    except OSError as error:
        raise UserError(f"{path} cannot be listed: {first_line(error)}") from None
    kinds = [os.path.splitext(name)[1].lower() for name in visible]  # noqa: PTH122  # fast
    readable, unreadable = suffixes(), unreadable_suffixes()
    names = [name for name, kind in zip(visible, kinds, strict=True) if kind in readable]
    left_out = describe_left_out(Counter(kind for kind in kinds if kind in unreadable))
    if not names:
        others = f"; {left_out}" if left_out else ""
        raise UserError(f"{path} has no images ({' '.join(sorted(readable))}){others}")
    if left_out:
        say(left_out)
    parts = [_in_utf8(folder.path_of(name), name) for name in names]
    known = None if stamps is None else [stamps[name] for name in names]
    uris, shown = zip(*parts, strict=True)
    return Listed.of_columns(uris, shown, stamps=known)


def _in_utf8(uri: str, name: str) -> tuple[str, str]:
    """Return a path or URI and a name that tables can hold, whatever the bytes of the file's name.

    A local path that is not UTF-8 becomes a file:// URI.
    """
    try:
        uri.encode()
    except UnicodeEncodeError:
        uri = f"file://{quote(os.fsencode(uri))}"
        return uri, name.encode(errors="backslashreplace").decode()
    return uri, name


def by_folder(images: Iterable[tuple[str, str]]) -> dict[str, Listing]:
    """Split images by their first folder: train, val or test."""
    images = list(images)
    return {
        split: [(uri, name) for uri, name in images if name.split("/")[0] == split]
        for split in SPLITS
    }


def split_images(listed: Listed) -> Listed:
    """Return the images with a split for each, in the order train, val, test.

    Within a split, those whose split was not known come first, in the order of their URIs.
    Images whose split is empty are left out.
    """
    splits = choose_splits(listed.names, listed.splits)
    unknown = np.flatnonzero(listed.table["split"].is_null())
    order = np.array(pc.sort_indices(listed.table["uri"].take(pa.array(unknown))), np.int64)
    places = np.concatenate([unknown[order], np.flatnonzero(listed.table["split"].is_valid())])
    parts = [places[splits[places] == split] for split in SPLITS]
    return listed.with_splits(splits).take(np.concatenate(parts))


def split_by_folder(listed: Listed) -> Listed:
    """Return the images split by their first folders, if these include train, val and test.

    Otherwise, return them as they are.
    """
    folders = first_folders(listed)
    if not set(SPLITS) <= set(folders):
        return listed
    return listed.with_splits(np.where(np.isin(folders, SPLITS), folders, ""))


def first_folders(listed: Listed) -> NDArray[np.object_]:
    """Return the first folder in each image's name, empty if it has none, (n,)."""
    folders = [name.partition("/")[0] if "/" in name else "" for name in listed.names]
    return np.array(folders, object)


def split_among(listed: Listed, uris: Sequence[str]) -> Listed:
    """Return the images with a split for those of some URIs, as if there were no others."""
    places = np.sort(listed.find(uris))
    splits = np.full(len(listed), "", object)
    names = np.array(listed.names, object)
    splits[places] = choose_splits(names[places], listed.splits[places])
    return listed.with_splits(splits)


def choose_splits(
    names: Sequence[str] | NDArray[np.object_], given: Sequence[str | None] | NDArray[np.object_]
) -> NDArray[np.object_]:
    """Return the split of each name: the given one, or by the name's hash where it is None.

    The hashes split images into about 80 % train, 10 % val and 10 % test. The split of an image
    does not change when others are added. An exception is a set so small that val or test would be
    empty: they get the first in order of hash, if no split at all is given.
    """
    splits = np.array(given, object)
    unknown: NDArray[np.int64] = np.flatnonzero([split is None for split in splits])
    fractions = np.array([_fraction(names[number]) for number in unknown])
    at_least = 1 if len(unknown) == len(splits) else 0
    val = max(int((fractions < 0.1).sum()), at_least)
    test = max(int((fractions < 0.2).sum()), val + at_least)
    ranked = unknown[np.argsort(fractions, kind="stable")]
    splits[ranked[:val]], splits[ranked[val:test]], splits[ranked[test:]] = "val", "test", "train"
    return splits


def _fraction(name: str) -> float:
    """Return the hash of a name as a number in [0, 1)."""
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
