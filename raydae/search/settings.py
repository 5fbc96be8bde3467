"""The settings of a search, which `search.json` records: a search resumes only with the same."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from raydae.core.errors import UserError, first_line
from raydae.core.storage import Folder
from raydae.search.sampler import Method
from raydae.training.config import Config


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is searched and how; all trials share the rest of the configuration."""

    space: tuple[str, ...]
    """A text for each searched setting, as `space.py` describes them."""
    method: Method
    """How settings are drawn."""
    early_stopping: bool
    """Whether ASHA stops trials that fall behind."""


def check_settings(folder: Folder, config: Config, settings: Settings) -> None:
    """Check that the search in a folder, if there is one, has the same settings.

    Raises:
        UserError: the search there has other settings or cannot be read.
    """
    ours = _to_json(config, settings)
    try:
        if "config.json" not in folder.files():
            return  # The search has not begun: `config.json` is written last.
        theirs = json.loads(folder.read("search.json"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} holds no search that can be read ({first_line(error)}); choose another "
            "--name, or begin again with --restart"
        ) from None
    changed = [
        f"{name}: {theirs.get(name)}, now {value}"
        for name, value in ours.items()
        if value != theirs.get(name)
    ]
    if changed:
        raise UserError(
            f"{folder.name} was begun as another search ({'; '.join(changed)}); leave these as "
            "they were, choose another --name, or begin again with --restart"
        )


def write_settings(folder: Folder, config: Config, settings: Settings) -> None:
    """Write `search.json`.

    Raises:
        OSError: the file cannot be written.
    """
    folder.write("search.json", json.dumps(_to_json(config, settings), indent=1).encode())


def _to_json(config: Config, settings: Settings) -> dict[str, Any]:
    values = {**dataclasses.asdict(settings), "epochs": config.optim.epochs}
    return {**values, "space": list(settings.space)}
