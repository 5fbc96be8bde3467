"""Where images come from, and which of them train, choose and test.

BSDS500 by either of its two protocols, any folder or URI of images, or the embedded synthetic set.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raydae.core.config import DataConfig, Protocol
from raydae.core.errors import UserError
from raydae.core.storage import Folder, first_line
from raydae.images import bsds500, synthetic
from raydae.images.bsds500_download import DownloadError, download
from raydae.images.image_sets import SPLITS, ImageFile, ImageSets, pixel_hash, read_image
from raydae.images.pictures import suffixes

SYNTHETIC = "the embedded synthetic set (dead leaves)"


def find_images(
    config: DataConfig,
    synthetic_fallback: Callable[[str], Path] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSets:
    """Finds the images of a configuration, decodes each once, and splits them.

    Args:
        config: what is asked for.
        synthetic_fallback: called with the reason where no data was asked for and BSDS500 cannot be
            had; returns the folder of the embedded set. None: that is an error.
        progress: called with (images checked, images in all).

    Raises:
        UserError: no such folder, nothing in it, or images too small for a patch.
    """
    source, names = _listing(config, synthetic_fallback)
    split_of = {uri: split for split in SPLITS for uri, _ in names[split]}
    wanted = [(uri, name) for split in SPLITS for uri, name in names[split]]
    files, left_out = scan(wanted, progress)
    sets = {split: [file for file in files if split_of[file.uri] == split] for split in SPLITS}
    sets["train"], too_small = _large_enough(sets["train"], config)
    sets["train"], repeated = _not_judged_by(sets)
    for split, missing in (("train", "train on"), ("val", "choose by"), ("test", "test with")):
        if not sets[split]:
            said = [*repeated, *too_small, *left_out] if split == "train" else left_out
            reason = f"; {said[0]}" if said else ""
            raise UserError(f"{source} has no usable image to {missing}{reason}")
    return ImageSets(
        source=source,
        left_out=(*left_out, *too_small, *repeated),
        **{split: tuple(sets[split]) for split in SPLITS},
    )


def scan(
    images: Sequence[tuple[str, str]], progress: Callable[[int, int], None] | None = None
) -> tuple[list[ImageFile], list[str]]:
    """Decodes each of (uri, name) once; the readable ones, and a line on each that is not."""
    files: list[ImageFile] = []
    unreadable: list[str] = []
    with ThreadPoolExecutor() as pool:  # decoding and hashing let go of the interpreter's lock
        for done, result in enumerate(pool.map(_inspect, images), start=1):
            if isinstance(result, ImageFile):
                files.append(result)
            else:
                unreadable.append(result)
            if progress is not None:
                progress(done, len(images))
    return files, unreadable


def list_images(path: str) -> list[tuple[str, str]]:
    """(uri, name relative to the folder) of every image in a folder or URI and its sub-folders.

    Raises:
        UserError: no such folder, or no image in it.
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
    return [(folder.path_of(name), name) for name in names]


def evaluation_images(
    path: str | None, protocol: Protocol | None, trained_by: Protocol = "bsds500"
) -> tuple[str, list[tuple[str, str]]]:
    """What to evaluate on: a name for it, and (uri, name) of each image.

    Args:
        path: folder or URI of images, all of which are meant, or of BSDS500; none: BSDS500.
        protocol: whose test images of BSDS500 are meant; none: those of the next.
        trained_by: the protocol that the model was trained by.

    Raises:
        UserError: no such folder, no image in it, or a protocol for images that are not BSDS500.
    """
    path = path or _named_uri()
    try:
        root = _find_bsds500(path)
    except DownloadError as error:
        raise UserError(str(error)) from None
    if root is None:
        assert path is not None
        if protocol is not None:
            raise UserError(f"--protocol {protocol} needs BSDS500, and {path} is not")
        return Folder.of(path).name, list_images(path)
    protocol = protocol or trained_by
    name = "CBSD68" if protocol == "cbsd68" else "BSDS500 test"
    return name, bsds500_splits(root, protocol)["test"]


def cbsd68(root: Folder) -> list[tuple[str, str]]:
    """(uri, name) of the literature's 68 test images; the folder holds train, val and test."""
    return [(uri, name) for uri, name in _bsds500(root)["val"] if Path(name).stem in bsds500.CBSD68]


def bsds500_splits(root: Folder, protocol: Protocol) -> dict[str, list[tuple[str, str]]]:
    """(uri, name) of BSDS500's images by what a protocol uses them for.

    `bsds500`: the data set's own splits. `cbsd68`, the literature's: train on train and test (the
    400 images every paper uses), choose on the 32 of val outside CBSD68, test on CBSD68.
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


def _listing(
    config: DataConfig, synthetic_fallback: Callable[[str], Path] | None
) -> tuple[str, dict[str, list[tuple[str, str]]]]:
    """What the images are, and (uri, name) of each by split."""
    path = config.path or _named_uri()
    try:
        root = _find_bsds500(path)
    except DownloadError as error:
        if synthetic_fallback is None or config.protocol != "bsds500":
            raise UserError(str(error)) from None
        return SYNTHETIC, _by_folder(list_images(str(synthetic_fallback(str(error)))))
    if root is not None:
        return f"BSDS500, protocol {config.protocol}", bsds500_splits(root, config.protocol)
    assert path is not None
    if config.protocol != "bsds500":
        raise UserError(
            f"--protocol {config.protocol} needs BSDS500, and {path} is not; "
            "leave --protocol out, or give the path to BSDS500"
        )
    images = list_images(path)
    folders = {name.split("/")[0] for _, name in images if "/" in name}
    present = [split for split in SPLITS if split in folders]
    if len(present) == len(SPLITS):
        return path, _by_folder(images)
    if len(present) == 2:
        missing = next(split for split in SPLITS if split not in folders)
        raise UserError(
            f"{path} has folders {present[0]} and {present[1]} but no {missing}; add it, or "
            "rename them for a split by names"
        )
    return path, _by_hash(images)


def _named_uri() -> str | None:
    """The URI of images that a cluster sets for all its jobs; a local path is BSDS500's."""
    named = os.environ.get("RAYDAE_DATA", "")
    return named if "://" in named else None


def _find_bsds500(path: str | None) -> Folder | None:
    """The folder of BSDS500's splits: found where no path is given, else if the path is BSDS500."""
    if path is None:
        return bsds500.locate() or Folder.of(download())
    return bsds500.find(Folder.of(path))


def _bsds500(root: Folder) -> dict[str, list[tuple[str, str]]]:
    return _by_folder([(root.path_of(name), name) for name in bsds500.manifest()])


def _by_folder(images: Iterable[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    images = list(images)
    return {
        split: [(uri, name) for uri, name in images if name.split("/")[0] == split]
        for split in SPLITS
    }


def _by_hash(images: list[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """About 80 % train, 10 % val, 10 % test by the names alone: adding images moves no other.

    Only a set so small that val or test would be empty gives them the first in order of hash.
    """
    ranked = sorted((_fraction(name), uri, name) for uri, name in images)
    below = [sum(fraction < bound for fraction, _, _ in ranked) for bound in (0.1, 0.2)]
    val = max(below[0], 1)
    test = max(below[1], val + 1)
    parts = {"val": ranked[:val], "test": ranked[val:test], "train": ranked[test:]}
    return {split: sorted((uri, name) for _, uri, name in part) for split, part in parts.items()}


def _fraction(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32


def _inspect(image: tuple[str, str]) -> ImageFile | str:
    uri, name = image
    try:
        pixels = read_image(uri)
    except OSError as error:
        return str(error)
    return ImageFile(uri, name, pixels.shape[0], pixels.shape[1], pixel_hash(pixels))


def _large_enough(files: list[ImageFile], config: DataConfig) -> tuple[list[ImageFile], list[str]]:
    """The training images a patch fits into, and a line on each of the others."""
    size = config.patch_size
    small = [file for file in files if min(file.height, file.width) < size]
    if small and config.small_images == "error":
        raise UserError(
            f"{small[0].name} is {small[0].width}x{small[0].height}, smaller than a patch of "
            f"{size}x{size}, as are {len(small) - 1} more; lower --data.patch-size, or leave such "
            "images out with --data.small-images skip"
        )
    return [file for file in files if min(file.height, file.width) >= size], [
        f"{file.name}: {file.width}x{file.height}, smaller than a patch" for file in small
    ]


def _not_judged_by(sets: Mapping[str, list[ImageFile]]) -> tuple[list[ImageFile], list[str]]:
    """The training images that neither choose nor test, and a line on each of the others."""
    judges = {file.sha256: file.name for split in ("val", "test") for file in sets[split]}
    return [file for file in sets["train"] if file.sha256 not in judges], [
        f"{file.name}: the same pixels as {judges[file.sha256]}, which chooses or tests"
        for file in sets["train"]
        if file.sha256 in judges
    ]


def synthetic_set(progress: Callable[[int, int], None] | None = None) -> Path:
    """The folder of the embedded synthetic set; drawn once and kept in the user's cache."""
    return synthetic.ensure(bsds500.cache_folder() / synthetic.NAME, progress)
