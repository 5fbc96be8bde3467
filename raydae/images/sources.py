"""Find the images of a run and split them into training, validation and test sets.

Images come from BSDS500 with either of its protocols, from a folder or URI, from a list of images,
from a data source of the user's own, or from the synthetic set.
"""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.images import bsds500, synthetic
from raydae.images.bsds500_download import DownloadError, download
from raydae.images.config import DataConfig, Protocol, is_source
from raydae.images.image_list import is_list, list_table
from raydae.images.image_sets import SPLITS, ImageSets
from raydae.images.image_table import Images
from raydae.images.index import Index
from raydae.images.listed import Listed, Pair
from raydae.images.listing import (
    Listing,
    Say,
    by_folder,
    first_folders,
    list_folder,
    list_images,
    silent,
    split_among,
    split_by_folder,
    split_images,
)
from raydae.images.pairs import list_pairs, split_pairs
from raydae.images.reader import Filler
from raydae.images.scan import Decoder, scan
from raydae.images.source import list_source

SYNTHETIC = "the embedded synthetic set (dead leaves)"


def find_images(
    config: DataConfig,
    synthetic_fallback: Callable[[str], Path] | None = None,
    progress: Callable[[int, int], None] | None = None,
    decoder: Decoder | None = None,
    say: Say = silent,
) -> ImageSets:
    """Find the images of a configuration, make a record of each, and split them.

    Images that cannot be decoded are left out. So are pairs that do not fit (`pair_checks`),
    training images that are too small, if the configuration says so, and training images with the
    same pixels as a validation or test image.

    Args:
        config: The images to use.
        synthetic_fallback: Called with the reason if the configuration names no images and BSDS500
            cannot be downloaded. Returns the folder of the synthetic set. None: raise an error.
        progress: Called with (images decoded, images to decode).
        decoder: Decodes what the index lacks. None: threads of this process.
        say: Is called with a line on pictures that are not listed because they cannot be read.

    Raises:
        UserError: The images cannot be listed, a set is empty, or training images are smaller than
            a patch.
    """
    find = functools.partial(
        scan, progress=progress, keep_for=functools.partial(Filler.of, config), decoder=decoder
    )
    if config.pairs is not None:
        source, listed, alone = _list_pairs(config, config.pairs, say)
        files, left_out = find(listed.where(listed.splits != ""), index=Index(source))
        left_out = [*alone, *left_out]
    else:
        source, listed = _list_images(config, synthetic_fallback, say)
        index = Index(config.path or cluster_uri() or "BSDS500")
        files, left_out = find(split_images(listed), index=index)
        # Split once more, so that a set does not lack its images because they cannot be read.
        listed = split_among(listed, files.uris)
    splits = listed.splits[listed.find(files.uris)]
    sets = {split: files.where(splits == split) for split in SPLITS}
    sets["train"], too_small = _exclude_small(sets["train"], config)
    sets["train"], duplicates = _exclude_duplicates(sets)
    for split, use in (("train", "training"), ("val", "validation"), ("test", "testing")):
        if not sets[split]:
            reasons = [*duplicates, *too_small, *left_out] if split == "train" else left_out
            reason = f"; {reasons[0]}" if reasons else ""
            raise UserError(f"{source} has no usable image for {use}{reason}")
    every = pa.array(listed.all_uris, pa.string())
    used = pa.array([uri for images in sets.values() for uri in images.all_uris], pa.string())
    unused = every.filter(pc.invert(pc.is_in(every, used)))
    return ImageSets(
        source=source,
        left_out=(*left_out, *too_small, *duplicates),
        unused=tuple(unused.to_pylist()),
        train=sets["train"],
        val=sets["val"],
        test=sets["test"],
    )


def pairs_folder(path: str | None) -> str:
    """Return the folder or URI in which pairs are looked for.

    Raises:
        UserError: There is none: BSDS500 has no pairs.
    """
    if (path := path or cluster_uri()) is None:
        raise UserError("pairs need a folder: give --data PATH")
    return path


def _list_pairs(config: DataConfig, pairs: str, say: Say) -> tuple[str, Listed, list[str]]:
    """Return the name of pairs, the pairs with their splits, and a line for each that is unused."""
    path = pairs_folder(config.path)
    listed, alone = list_pairs(path, pairs, say)
    parts, unsplit = split_pairs(listed, path)
    ordered = [replace(pair, split=split) for split in SPLITS for pair in parts[split]]
    used = {pair.clean for pair in ordered}
    others = [replace(pair, split="") for pair in listed if pair.clean not in used]
    return f"{path} ({pairs})", Listed.of([*ordered, *others]), [*alone, *unsplit]


def evaluation_images(
    path: str | None,
    protocol: Protocol | None,
    trained_by: Protocol = "bsds500",
    options: Mapping[str, Any] | None = None,
    say: Say = silent,
) -> tuple[str, Listing]:
    """Return the name of a test set, and (URI, name) of its images.

    Args:
        path: BSDS500, or a folder or URI of images; all of these are used. Or a list of images or
            the import path of a data source; its test images are used, or all if it does not split
            them. None: BSDS500.
        protocol: The protocol that defines the test images of BSDS500. None: `trained_by`.
        trained_by: The protocol that the model was trained by.
        options: The options of a data source.
        say: As in `find_images`.

    Raises:
        UserError: There is no such folder, it has no images, or a protocol is given for images
            that are not BSDS500.
    """
    path = path or cluster_uri()
    root = None
    if path is None:
        try:
            root = _default_bsds500()
        except DownloadError as error:
            raise UserError(str(error)) from None
    elif (
        not (is_source(path) or is_list(path))
        and (copy := bsds500.find_copy(Folder.of(path))) is not None
    ):
        if copy.missing and protocol is not None:
            raise bsds500.incomplete(copy)
        root = None if copy.missing else copy.folder
    if root is not None:
        protocol = protocol or trained_by
        name = "CBSD68" if protocol == "cbsd68" else "BSDS500 test"
        return name, bsds500_splits(root, protocol)["test"]
    assert path is not None
    _refuse_protocol(protocol is not None, protocol, path)
    if not is_source(path) and not is_list(path):
        return Folder.of(path).name, list_images(path, say)
    listed = list_table(path) if is_list(path) else list_source(path, options or {})
    return path, [pair.clean for pair in listed if pair.split == "test" or listed.unsplit]


def cbsd68(root: Folder) -> Listing:
    """Return (URI, name) of the 68 test images of the literature.

    Args:
        root: The folder of BSDS500 that holds train, val and test.
    """
    return [(uri, name) for uri, name in _bsds500(root)["val"] if Path(name).stem in bsds500.CBSD68]


def bsds500_splits(root: Folder, protocol: Protocol) -> dict[str, Listing]:
    """Return (URI, name) of the images of BSDS500, split by a protocol.

    Args:
        root: The folder of BSDS500 that holds train, val and test.
        protocol: `bsds500` uses the splits of the data set. `cbsd68` is the literature's: train on
            train and test (400 images), validate on the 32 images of val that are not in CBSD68,
            and test on CBSD68.
    """
    own = _bsds500(root)
    if protocol == "bsds500":
        return own
    test = cbsd68(root)
    return {
        "train": own["train"] + own["test"],
        "val": [image for image in own["val"] if image not in test],
        "test": test,
    }


def synthetic_set(progress: Callable[[int, int], None] | None = None) -> Path:
    """Return the folder of the synthetic set, in the user's cache. Draw it if necessary.

    Args:
        progress: Called with (images drawn, images to draw).
    """
    return synthetic.ensure(bsds500.cache_folder() / synthetic.NAME, progress)


def _list_images(
    config: DataConfig, synthetic_fallback: Callable[[str], Path] | None, say: Say
) -> tuple[str, Listed]:
    """Return a name for the images of a configuration, and the images, with splits if given."""
    path = config.path or cluster_uri()
    if path is None:
        try:
            root = _default_bsds500()
        except DownloadError as error:
            if synthetic_fallback is None or config.protocol != "bsds500":
                raise UserError(str(error)) from None
            drawn = synthetic_fallback(str(error))
            return SYNTHETIC, split_by_folder(list_folder(str(drawn)))
        return _whole_bsds500(root, config.protocol)
    if is_source(path) or is_list(path):
        _refuse_protocol(config.protocol != "bsds500", config.protocol, path)
        listed = list_table(path) if is_list(path) else list_source(path, config.options)
        unsplit = is_list(path) and listed.unsplit
        return path, split_by_folder(listed) if unsplit else listed
    copy = bsds500.find_copy(Folder.of(path))
    if copy is not None and not copy.missing:
        return _whole_bsds500(copy.folder, config.protocol)
    label = path
    if copy is not None:  # a part of it is a folder like any other, because the user names it
        if config.protocol != "bsds500":
            raise bsds500.incomplete(copy)
        path, label = str(copy.folder), str(copy)
    _refuse_protocol(config.protocol != "bsds500", config.protocol, path)
    listed = list_folder(path, say)
    folders = set(first_folders(listed))
    present = [split for split in SPLITS if split in folders]
    if len(present) == 2:
        missing = next(split for split in SPLITS if split not in folders)
        raise UserError(
            f"{path} has folders {present[0]} and {present[1]} but no {missing}; add it, or "
            "rename them for a split by names"
        )
    if len(listed) < len(SPLITS):
        raise UserError(
            f"{path} has {len(listed)} image{'s' * (len(listed) > 1)}; it needs {len(SPLITS)} at "
            "least: one to train on, one for validation and one for testing"
        )
    return label, split_by_folder(listed)


def _whole_bsds500(root: Folder, protocol: Protocol) -> tuple[str, Listed]:
    parts = bsds500_splits(root, protocol)
    rows = [Pair(image, (), split) for split in SPLITS for image in parts[split]]
    return f"BSDS500, protocol {protocol}", Listed.of(rows)


def _refuse_protocol(given: bool, protocol: Protocol | None, path: str) -> None:
    if given:
        raise UserError(
            f"--protocol {protocol} needs BSDS500, and {path} is not; leave --protocol out, or "
            "give the path to BSDS500"
        )


def cluster_uri() -> str | None:
    """Return the URI in RAYDAE_DATA, which a cluster sets for its jobs.

    A local path in RAYDAE_DATA is not returned: it is a place to look for BSDS500.
    """
    named = os.environ.get("RAYDAE_DATA", "")
    return named if "://" in named else None


def _default_bsds500() -> Folder:
    """Return the folder of BSDS500's splits: found, or else downloaded."""
    return bsds500.locate() or Folder.of(download())


def _bsds500(root: Folder) -> dict[str, Listing]:
    return by_folder([(root.path_of(name), name) for name in bsds500.manifest()])


def _exclude_small(images: Images, config: DataConfig) -> tuple[Images, list[str]]:
    """Return the training images that are at least as large as a patch, and a line on each other.

    Raises:
        UserError: There are smaller ones, and the configuration says that this is an error.
    """
    size = config.patch_size
    fits = images.short_sides >= size
    small = images.where(~fits)
    if len(small) and config.small_images == "error":
        raise UserError(
            f"{small[0].name} is {small[0].width}x{small[0].height}, smaller than a patch of "
            f"{size}x{size}, as are {len(small) - 1} more; lower --data.patch-size, or leave such "
            "images out with --data.small-images skip"
        )
    return images.where(fits), [
        f"{file.name}: {file.width}x{file.height}, smaller than a patch" for file in small
    ]


def _exclude_duplicates(sets: Mapping[str, Images]) -> tuple[Images, list[str]]:
    """Return the training images that are not also in val or test, and a line on each other."""
    train = sets["train"]
    others = Images.concat([sets["val"], sets["test"]])
    again = train.with_pixels_of(others)
    repeated = train.where(again)
    originals = others.where(others.with_pixels_of(repeated))
    name_of = {sha: file.name for file in originals for sha in file.hashes}
    return train.where(~again), [
        f"{file.name}: not used for training, same pixels as "
        f"{next(name_of[sha] for sha in file.hashes if sha in name_of)} in val or test"
        for file in repeated
    ]
