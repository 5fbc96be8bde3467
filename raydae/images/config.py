"""The settings of the images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from raydae.core.components import IMPORT_PATH, Table
from raydae.core.errors import UserError
from raydae.core.settings import check_min

Protocol = Literal["bsds500", "cbsd68"]
SOURCES = Table("data source", "data.path", {})


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images, and how patches are cut from them."""

    path: str | None = None
    """Folder, URI, list or MODULE:NAME; none: BSDS500."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of a data source MODULE:NAME."""
    pairs: str | None = None
    """NOISY=CLEAN or a .csv (docs/pairs.md); none: off."""
    pairs_share: float = 1.0
    """Patches with the pairs' noise; others: noise.kind."""
    protocol: Protocol = "bsds500"
    """Split of BSDS500."""
    patch_size: int = 64
    """Height and width of a patch, pixels."""
    patches_per_image: int = 16
    """Patches cut from an image in an epoch."""
    crops_per_visit: int = 2
    """Patches cut each time an image is opened."""
    visits: Literal["equal", "area"] = "equal"
    """Visits: each image alike, or by its area."""
    small_images: Literal["error", "skip"] = "error"
    """Images smaller than a patch."""
    changed: Literal["refuse", "accept"] = "refuse"
    """Images changed since the start."""
    cache: str | None = None
    """Folder for decoded pixels; none: the user's."""
    cache_gib: float | None = None
    """Its limit; none: half of the free disk; 0: off."""

    def __post_init__(self) -> None:
        check_min("data.patch_size", self.patch_size, 16)
        check_min("data.patches_per_image", self.patches_per_image, 1)
        check_min("data.crops_per_visit", self.crops_per_visit, 1)
        if self.patches_per_image % self.crops_per_visit:
            raise UserError(
                f"data.patches_per_image ({self.patches_per_image}) must be a multiple of "
                f"data.crops_per_visit ({self.crops_per_visit}); change one of them"
            )
        if self.cache_gib is not None and not self.cache_gib >= 0:
            raise UserError(f"data.cache_gib must be at least 0, not {self.cache_gib:g}")
        if self.pairs is not None:
            check_pairs(self.pairs, "--data.pairs")
            check_no_source(self.path, "--data.pairs")
            if self.protocol != "bsds500":
                raise UserError("--data.pairs and --protocol exclude each other; leave one out")
        if not 0 < self.pairs_share <= 1:
            raise UserError(
                f"data.pairs_share must be above 0 and at most 1, not {self.pairs_share:g}"
            )
        if self.pairs is None and self.pairs_share != 1:
            raise UserError("data.pairs_share is that of data.pairs; give that too")
        if self.path is not None and is_source(self.path):
            options = SOURCES.check(self.path, self.options, "data.options")
            object.__setattr__(self, "options", options)
        elif self.options:
            raise UserError(
                "data.options are those of a data source of your own; give --data MODULE:NAME, or "
                "leave them out"
            )


def is_table(pairs: str) -> bool:
    """Return whether pairs are named by a table, not by patterns."""
    return pairs.partition("?")[0].lower().endswith(".csv") and "*" not in pairs


def check_pairs(pairs: str, flag: str) -> None:
    """Check how pairs are named: `NOISY=CLEAN`, two patterns, or the path of a table.

    Raises:
        UserError: it is neither, or CLEAN has a `*` that NOISY lacks.
    """
    if is_table(pairs):
        return
    noisy, _, clean = pairs.partition("=")
    if not noisy or not clean or "=" in clean:
        raise UserError(
            f"{flag} {pairs!r}: write NOISY=CLEAN, such as 'noisy/*=clean/*', or name a .csv table"
        )
    if noisy == clean or clean.count("*") > noisy.count("*"):
        raise UserError(
            f"{flag} {pairs!r}: each * of CLEAN stands for the text of a * of NOISY, and the two "
            "must differ, as in '*_real.JPG=*_mean.JPG'"
        )


def check_no_source(path: str | None, flag: str) -> None:
    """Refuse pairs in a data source, which has no files to match.

    Raises:
        UserError: the path names a data source.
    """
    if path is not None and is_source(path):
        raise UserError(f"{flag} needs a folder or URI, and --data {path} is a data source")


def is_source(path: str) -> bool:
    """Return whether `--data` names a data source by its import path, not a folder."""
    return IMPORT_PATH.fullmatch(path) is not None and not Path(path).exists()
