"""Which images of a run have changed since it began, and what to record if the run goes on.

A file counts as unchanged if its size and its time are unchanged. Otherwise its pixels decide.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from raydae.core.errors import UserError, first_line
from raydae.core.storage import Folder
from raydae.images.bsds500 import find_copy
from raydae.images.config import DataConfig, is_source
from raydae.images.image_list import is_list, read_list
from raydae.images.image_sets import SPLITS, ImageFile, ImageSets, stamp_of
from raydae.images.listing import list_images
from raydae.images.pair_checks import scan_pairs
from raydae.images.pairs import Pair, list_pairs
from raydae.images.scan import scan
from raydae.images.source import is_source_uri, list_source
from raydae.images.sources import cluster_uri, pairs_folder

GONE = -1
"""The size that is recorded for an image that was removed."""


@dataclass(frozen=True)
class Changes:
    """What has changed."""

    replaced: tuple[ImageFile, ...] = ()
    """New records of images that have other pixels now."""
    touched: tuple[ImageFile, ...] = ()
    """New records of images whose file is another, but whose pixels are the same."""
    removed: tuple[ImageFile, ...] = ()
    """Records, with the size `GONE`, of images that are not there or cannot be read any more."""
    added: tuple[tuple[str, str], ...] = ()
    """(URI, name) of images that were not there."""

    def __bool__(self) -> bool:
        return bool(self.replaced or self.removed or self.added)


def find_changes(
    sets: ImageSets, config: DataConfig, progress: Callable[[int, int], None] | None = None
) -> Changes:
    """Compare the images of a run with its record of them. Only changed files are decoded.

    The pixels of a data source's image are not compared: its key must always name the same image.

    Args:
        sets: the record.
        config: the images that the run was asked to use.
        progress: called with (images decoded, images to decode).

    Raises:
        UserError: the images cannot be listed.
    """
    files = [file for split in SPLITS for file in getattr(sets, split)]
    listed = _list(config)
    try:
        with ThreadPoolExecutor(16) as pool:  # most of the time is waiting for the storage
            stamps = list(pool.map(lambda file: _stamp(file, listed), files))
    except OSError as error:
        raise UserError(
            f"the images cannot be compared with those that the run began with "
            f"({first_line(error)}); try again when they can be read"
        ) from None
    suspects, removed = [], []
    for file, stamp in zip(files, stamps, strict=True):
        if stamp is None and file.size != GONE:
            removed.append(file)
        elif stamp is not None and stamp != file.stamps:
            suspects.append(file)
    now = _scan_again(suspects, progress)
    found = {file.uri: file for file in now}
    removed += [file for file in suspects if file.uri not in found and file.size != GONE]
    before = {file.uri: file.hashes for file in suspects}
    known = {*(uri for file in files for uri in file.uris), *sets.unused}
    return Changes(
        replaced=tuple(file for file in now if file.hashes != before[file.uri]),
        touched=tuple(file for file in now if file.hashes == before[file.uri]),
        removed=tuple(dataclasses.replace(file, size=GONE, modified=0.0) for file in removed),
        added=tuple((uri, name) for uri, name in listed.items() if uri not in known),
    )


def accept_changes(sets: ImageSets, changes: Changes, patch_size: int) -> ImageSets:
    """Return the record of a run that goes on with changed images.

    Removed images are skipped, and added ones are not used, so that all other samples stay the
    same. The hashes of training images that were replaced are kept, because they were trained on.

    Raises:
        UserError: a validation or test image has the pixels of one that is or was trained on, or a
            training image is smaller than a patch.
    """
    new = {file.uri: file for file in (*changes.replaced, *changes.touched, *changes.removed)}
    parts = {
        split: tuple(new.get(file.uri, file) for file in getattr(sets, split)) for split in SPLITS
    }
    lost = {
        split: [
            sha
            for old in getattr(sets, split)
            if new.get(old.uri, old) != old
            for sha in old.hashes
        ]
        for split in SPLITS
    }
    trained = {sha: file.name for file in (*sets.train, *parts["train"]) for sha in file.hashes}
    trained |= dict.fromkeys(sets.replaced_train_hashes, "a training image")
    for split in ("val", "test"):
        for file in parts[split]:
            for sha in file.hashes:
                if sha in trained:
                    raise UserError(
                        f"{file.name}, which is not for training, and {trained[sha]} have the "
                        "same pixels now; restore the one that changed"
                    )
    for file in parts["train"]:
        if min(file.height, file.width) < patch_size:
            raise UserError(
                f"{file.name} is {file.width}x{file.height} now, smaller than a patch; restore it "
                "or remove it"
            )
    return dataclasses.replace(
        sets,
        train=parts["train"],
        val=parts["val"],
        test=parts["test"],
        left_out=(
            *sets.left_out,
            *(f"{name}: added after the run began" for _, name in changes.added),
        ),
        unused=(*sets.unused, *(uri for uri, _ in changes.added)),
        replaced_train_hashes=_joined(sets.replaced_train_hashes, lost["train"], parts["train"]),
        replaced_val_hashes=_joined(sets.replaced_val_hashes, lost["val"], parts["val"]),
    )


def _joined(
    before: tuple[str, ...], lost: list[str], files: tuple[ImageFile, ...]
) -> tuple[str, ...]:
    """Return all hashes of images that were replaced, without those that are there again."""
    now = {sha for file in files for sha in file.hashes}
    return tuple(sha for sha in dict.fromkeys([*before, *lost]) if sha not in now)


def _list(config: DataConfig) -> dict[str, str]:
    """Return the names of the images that are there now, by URI; empty where none can be added.

    BSDS500 and the synthetic set have a fixed list.
    """
    if config.pairs is not None:
        listed, _ = list_pairs(pairs_folder(config.path), config.pairs)
        return dict(part for pair in listed for part in (pair.clean, *pair.noisy))
    path = config.path or cluster_uri()
    if path is None:
        return {}
    if is_source(path):
        return {uri: key for uri, key, _ in list_source(path, config.options)}
    if is_list(path):
        return {row.uri: row.name for row in read_list(path)}
    copy = find_copy(Folder.of(path))
    if copy is not None and not copy.missing:
        return {}
    return dict(list_images(path if copy is None else str(copy.folder)))


def _scan_again(
    files: list[ImageFile], progress: Callable[[int, int], None] | None
) -> list[ImageFile]:
    """Return new records of the images that can still be used, with all their noisy files."""
    if not any(file.noisy for file in files):
        return scan([(file.uri, file.name) for file in files], progress)[0]
    pairs = [
        Pair((file.uri, file.name), tuple((noisy.uri, noisy.name) for noisy in file.noisy))
        for file in files
    ]
    number = {file.uri: len(file.noisy) for file in files}
    now, _ = scan_pairs(pairs, progress)
    return [file for file in now if len(file.noisy) == number[file.uri]]


def _stamp(file: ImageFile, listed: dict[str, str]) -> tuple[tuple[int, float], ...] | None:
    """Return size and time of an image's files; none if one is not there."""
    if is_source_uri(file.uri):
        return file.stamps if file.uri in listed else None
    try:
        return tuple(map(stamp_of, file.uris))
    except FileNotFoundError:
        return None
