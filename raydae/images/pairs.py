"""Match noisy files with clean ones: a user's own pairs, for training and evaluation.

Pairs are named in one of four ways, with names relative to the folder of the images:

    noisy/*=clean/*                each * of CLEAN stands for the text of the same * of NOISY
    scene*/shot*.png=scene*/mean.png    a further * of NOISY matches anything: several shots
    pairs.csv                      a table with the columns noisy, clean and, optionally, split
    noisy=uri                      where the images are a list (`image_list`): two of its columns

Several noisy files may have the same clean one. The clean one may be noisy too (Noise2Noise,
Lehtinen et al. 2018).
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from raydae.core.errors import UserError, first_line
from raydae.core.storage import Folder, split_path
from raydae.images.config import is_table
from raydae.images.image_list import NAMES, is_list, read_list
from raydae.images.image_sets import SPLITS
from raydae.images.listed import Pair
from raydae.images.listing import Say, choose_splits, list_images, silent


def list_pairs(path: str, pairs: str, say: Say = silent) -> tuple[list[Pair], list[str]]:
    """Find the pairs in a folder.

    Args:
        path: Folder or URI of the images.
        pairs: How they are named, as `config.check_pairs` accepts it.
        say: As in `list_folder`.

    Returns:
        The pairs, sorted by the clean name; and one line for each file that lacks its partner.

    Raises:
        UserError: The folder or the table cannot be read, the table is not as it must be, or there
            is no pair.
    """
    if is_list(path):
        return _list_rows(path, pairs), []
    uris = {name: uri for uri, name in list_images(path, say)}
    splits: dict[str, str] = {}
    if is_table(pairs):
        rows, splits = _read_table(Folder.of(path), pairs)
        alone = [
            f"{name}: it is in {pairs}, but not among the images in {path}"
            for name in dict.fromkeys(name for row in rows for name in row)
            if name not in uris
        ]
        rows = [row for row in rows if row[0] in uris and row[1] in uris]
    else:
        rows, alone = _match(uris, pairs)
    if not rows:
        reason = f"; {alone[0]}" if alone else ""
        raise UserError(f"{path} has no pairs {pairs}{reason}")
    return _collect(rows, uris, uris, splits), alone


def _list_rows(path: str, pairs: str) -> list[Pair]:
    """Return the pairs of a list of images with a column `noisy`."""
    if pairs not in (allowed := [f"noisy={name}" for name in NAMES]):
        raise UserError(f"{path} is a list of images: its pairs are {' or '.join(allowed)}")
    found = [
        replace(pair, noisy=tuple(sorted(pair.noisy, key=lambda part: part[1])))
        for pair in read_list(path)
        if pair.noisy
    ]
    if not found:
        raise UserError(f"{path} has no column noisy, or it is empty")
    return sorted(found, key=lambda pair: pair.clean[1])


def match_folders(noisy: str, clean: str, say: Say = silent) -> tuple[list[Pair], list[str]]:
    """Match two folders or URIs by relative names; see `list_pairs`.

    Raises:
        UserError: A folder cannot be read, or no file has a partner.
    """
    noisy_uris, clean_uris = _uris(noisy, say), _uris(clean, say)
    alone = [
        *(
            f"{name}: it is in {noisy}, but not in {clean}"
            for name in noisy_uris.keys() - clean_uris
        ),
        *(
            f"{name}: it is in {clean}, but not in {noisy}"
            for name in clean_uris.keys() - noisy_uris
        ),
    ]
    rows = [(name, name) for name in noisy_uris if name in clean_uris]
    if not rows:
        raise UserError(f"{noisy} and {clean} have no picture of the same name; rename them")
    return _collect(rows, noisy_uris, clean_uris, {}), sorted(alone)


def _uris(path: str, say: Say) -> dict[str, str]:
    """Return the URI of each image in a folder or URI, by name."""
    return {name: uri for uri, name in list_images(path, lambda line: say(f"{path}: {line}"))}


def split_pairs(pairs: Sequence[Pair], path: str) -> tuple[dict[str, list[Pair]], list[str]]:
    """Split pairs into training, validation and test sets.

    Pairs that share a file show the same scene, and stay together. The split is the table's; or
    that of the folders train, val and test, if the clean files have them in their paths; or by the
    hash of the scene's first name.

    Args:
        pairs: The pairs.
        path: Where they are, for messages.

    Returns:
        The pairs of each split, and one line for each that is in none.

    Raises:
        UserError: One of three folders is missing, a scene lies in two splits, or there are fewer
            than three scenes.
    """
    scenes = _scenes(pairs)
    given = {pair.clean[0]: pair.split for pair in pairs}
    by_folders = not any(given.values())
    if by_folders:
        given = {pair.clean[0]: _folder_of(pair.clean[1]) for pair in pairs}
        present = [split for split in SPLITS if split in given.values()]
        if len(present) == 2:
            missing = next(split for split in SPLITS if split not in present)
            raise UserError(
                f"the pairs in {path} have folders {present[0]} and {present[1]} but no {missing}; "
                "add it, or rename them for a split by names"
            )
        by_folders = len(present) == len(SPLITS)
        if not by_folders:
            given = dict.fromkeys(given)
    own: dict[str, str | None] = {}  # by the scene's name
    for name, scene in scenes.items():
        splits = {split: pair.clean[1] for pair in scene if (split := given[pair.clean[0]])}
        if len(splits) > 1:
            (one, first), (other, second) = list(splits.items())[:2]
            raise UserError(
                f"{first} in {one} and {second} in {other} show the same scene; put them into one "
                "split"
            )
        own[name] = next(iter(splits), "" if by_folders else None)
    if not by_folders and len(scenes) < len(SPLITS):
        raise UserError(
            f"{path} has pairs of {len(scenes)} scene{'s' * (len(scenes) > 1)}; it needs "
            f"{len(SPLITS)} at least: one to train on, one for validation and one for testing"
        )
    chosen = dict(zip(own, choose_splits(list(own), list(own.values())), strict=True))
    # Scenes whose split was not known come first.
    names = sorted(own, key=lambda name: (own[name] is not None, name))
    return {
        split: [pair for name in names if chosen[name] == split for pair in scenes[name]]
        for split in SPLITS
    }, [
        f"{pair.clean[1]}: in none of the folders train, val and test"
        for name, scene in scenes.items()
        if not chosen[name]
        for pair in scene
    ]


def _match(names: Iterable[str], pairs: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Return (noisy, clean) of the names that two patterns match, and a line on each other match.

    A name that both patterns match lacks no partner if it is the partner of another.
    """
    names = set(names)
    noisy, _, clean = pairs.partition("=")
    noisy_form, clean_form = (
        re.compile("(.*)".join(map(re.escape, pattern.split("*")))) for pattern in (noisy, clean)
    )
    texts = clean.split("*")
    rows, alone = [], {}
    for name in sorted(names):
        if (found := noisy_form.fullmatch(name)) is None:
            continue
        stars = [*found.groups()[: len(texts) - 1], ""]
        partner = "".join(text + star for text, star in zip(texts, stars, strict=True))
        if partner in names and partner != name:
            rows.append((name, partner))
        else:
            alone[name] = f"{name}: there is no clean {partner}"
    used = {name for row in rows for name in row}
    for name in names - used:
        if clean_form.fullmatch(name) and not noisy_form.fullmatch(name):
            alone[name] = f"{name}: there is no noisy {noisy} for it"
    return rows, [line for name, line in sorted(alone.items()) if name not in used]


def _read_table(folder: Folder, table: str) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return (noisy, clean) of each row of a table, and the splits that it gives, by clean name.

    Raises:
        UserError: There is no such table, or it is not as it must be.
    """
    try:
        try:
            data = folder.read(table)
        except FileNotFoundError:
            place, name = split_path(table)
            data = place.read(name)
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")), restval="")
        lines = list(reader)
    except FileNotFoundError:
        raise UserError(
            f"there is no table {table}, neither in {folder} nor at that path"
        ) from None
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"the table {table} cannot be read: {first_line(error)}") from None
    if not {"noisy", "clean"} <= set(reader.fieldnames or ()):
        raise UserError(f"the table {table}: its first line must name the columns noisy, clean")
    rows: list[tuple[str, str]] = []
    splits: dict[str, str] = {}
    for number, line in enumerate(lines, start=2):
        noisy, clean = (
            PurePosixPath(line[key].strip().removeprefix(f"{folder}/")).as_posix()
            for key in ("noisy", "clean")
        )
        split = (line.get("split") or "").strip()
        if split not in ("", *SPLITS) or splits.setdefault(clean, split) != split:
            raise UserError(
                f"the table {table}: the split of {clean} in row {number} is {split!r}; it must "
                "be train, val, test or empty, and the same in all rows of a clean file"
            )
        if noisy == clean:
            raise UserError(f"the table {table}: row {number} pairs {clean} with itself")
        rows.append((noisy, clean))
    return rows, splits


def _collect(
    rows: Iterable[tuple[str, str]],
    noisy_uris: Mapping[str, str],
    clean_uris: Mapping[str, str],
    splits: Mapping[str, str],
) -> list[Pair]:
    """Return a pair for each clean name of (noisy, clean)."""
    shots: dict[str, set[str]] = {}
    for noisy, clean in rows:
        shots.setdefault(clean, set()).add(noisy)
    return [
        Pair(
            (clean_uris[clean], clean),
            tuple((noisy_uris[noisy], noisy) for noisy in sorted(shots[clean])),
            splits.get(clean) or None,
        )
        for clean in sorted(shots)
    ]


def _scenes(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Return the pairs of each scene, by its first name: those that are linked by shared files."""
    from scipy.cluster.hierarchy import DisjointSet  # takes a moment

    names = DisjointSet()
    for pair in pairs:
        names.add(pair.clean[1])
        for _, noisy in pair.noisy:
            names.add(noisy)
            names.merge(pair.clean[1], noisy)
    scenes: dict[str, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.clean[1]):
        scenes.setdefault(names[pair.clean[1]], []).append(pair)
    return {scene[0].clean[1]: scene for scene in scenes.values()}


def _folder_of(name: str) -> str | None:
    """Return the first of the folders train, val and test in a name's path."""
    return next((part for part in PurePosixPath(name).parts[:-1] if part in SPLITS), None)
