"""Which images of a run have changed since it began, and what to record if the run goes on.

A file counts as unchanged if its size and its time are unchanged. Otherwise its pixels decide.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from raydae.core.errors import UserError, first_line
from raydae.core.storage import Folder
from raydae.images.bsds500 import find_copy
from raydae.images.config import DataConfig, is_source
from raydae.images.image_file import MISSING, stamps_of
from raydae.images.image_list import is_list, read_list
from raydae.images.image_sets import SPLITS, ImageSets
from raydae.images.image_table import Images
from raydae.images.listed import Listed, Pair
from raydae.images.listing import list_images
from raydae.images.pairs import list_pairs
from raydae.images.scan import scan
from raydae.images.source import is_source_uri, list_source
from raydae.images.sources import cluster_uri, pairs_folder

NONE = Images.of([])
GONE = MISSING  # the size that is recorded for an image that was removed


@dataclass(frozen=True)
class Changes:
    """What has changed."""

    replaced: Images = NONE
    """New records of images that have other pixels now."""
    touched: Images = NONE
    """New records of images whose file is another, but whose pixels are the same."""
    removed: Images = NONE
    """Records, with the size `GONE`, of images that are not there or cannot be read any more."""
    added: tuple[tuple[str, str], ...] = ()
    """(URI, name) of images that were not there."""

    def __bool__(self) -> bool:
        return bool(len(self.replaced) or len(self.removed) or self.added)


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
    images = Images.concat([getattr(sets, split) for split in SPLITS])
    listed = _list(config)
    uris = images.all_uris
    try:
        size, modified = stamps_of(uris)
    except OSError as error:
        raise UserError(
            f"the images cannot be compared with those that the run began with "
            f"({first_line(error)}); try again when they can be read"
        ) from None
    size[[is_source_uri(uri) and uri not in listed for uri in uris]] = GONE
    old_size, old_modified = images.stamps
    missing = images.any_file(size == GONE)
    differs = images.any_file((size != old_size) | (modified != old_modified)) & ~missing
    present = old_size[: len(images)] != GONE
    suspects = images.where(differs)
    now = _scan_again(suspects, progress)
    unreadable = ~np.isin(suspects.uris, now.uris) & present[differs]
    before = {file.uri: file.hashes for file in suspects}
    same = np.array([file.hashes == before[file.uri] for file in now], bool)
    known = {*uris, *sets.unused}
    return Changes(
        replaced=now.where(~same),
        touched=now.where(same),
        removed=Images.of(
            replace(file, size=GONE, modified=0.0)
            for part in (images.where(missing & present), suspects.where(unreadable))
            for file in part
        ),
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
    new = {
        file.uri: file
        for part in (changes.replaced, changes.touched, changes.removed)
        for file in part
    }
    parts = {
        split: Images.of(new.get(file.uri, file) for file in getattr(sets, split))
        for split in SPLITS
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
    small = parts["train"].where(parts["train"].short_sides < patch_size)
    if len(small):
        raise UserError(
            f"{small[0].name} is {small[0].width}x{small[0].height} now, smaller than a patch; "
            "restore it or remove it"
        )
    return replace(
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


def _joined(before: tuple[str, ...], lost: list[str], images: Images) -> tuple[str, ...]:
    """Return all hashes of images that were replaced, without those that are there again."""
    now = set(images.hashes)
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
        return dict(pair.clean for pair in list_source(path, config.options))
    if is_list(path):
        return dict(pair.clean for pair in read_list(path))
    copy = find_copy(Folder.of(path))
    if copy is not None and not copy.missing:
        return {}
    return dict(list_images(path if copy is None else str(copy.folder)))


def _scan_again(images: Images, progress: Callable[[int, int], None] | None) -> Images:
    """Return new records of the images that can still be used, with all their noisy files."""
    pairs = [
        Pair((file.uri, file.name), tuple((noisy.uri, noisy.name) for noisy in file.noisy))
        for file in images
    ]
    number = {file.uri: len(file.noisy) for file in images}
    now, _ = scan(Listed.of(pairs), progress)
    whole = [len(file.noisy) == number[file.uri] for file in now]
    return now.where(np.array(whole, bool))
