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
    """Folder, URI or MODULE:NAME; none: BSDS500."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of a data source MODULE:NAME."""
    protocol: Protocol = "bsds500"
    """Split of BSDS500."""
    patch_size: int = 64
    """Height and width of a patch, pixels."""
    patches_per_image: int = 16
    """Patches cut from an image in an epoch."""
    crops_per_visit: int = 2
    """Patches cut each time an image is opened."""
    small_images: Literal["error", "skip"] = "error"
    """Images smaller than a patch."""
    changed: Literal["refuse", "accept"] = "refuse"
    """Images changed since the start."""

    def __post_init__(self) -> None:
        check_min("data.patch_size", self.patch_size, 16)
        check_min("data.patches_per_image", self.patches_per_image, 1)
        check_min("data.crops_per_visit", self.crops_per_visit, 1)
        if self.patches_per_image % self.crops_per_visit:
            raise UserError(
                f"data.patches_per_image ({self.patches_per_image}) must be a multiple of "
                f"data.crops_per_visit ({self.crops_per_visit}); change one of them"
            )
        if self.path is not None and is_source(self.path):
            options = SOURCES.check(self.path, self.options, "data.options")
            object.__setattr__(self, "options", options)
        elif self.options:
            raise UserError(
                "data.options are those of a data source of your own; give --data MODULE:NAME, or "
                "leave them out"
            )


def is_source(path: str) -> bool:
    """Return whether `--data` names a data source by its import path, not a folder."""
    return IMPORT_PATH.fullmatch(path) is not None and not Path(path).exists()
