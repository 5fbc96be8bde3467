"""Names of runs, and where runs and their models are."""

import os
import re
import secrets
import time
from pathlib import Path

from raydae.core.errors import UserError
from raydae.core.lock import unusable
from raydae.core.storage import Folder
from raydae.models.released import RELEASED


def check_name(name: str) -> str:
    """Return a run's name if it is valid.

    Raises:
        UserError: it is empty, starts with a dot or dash, or holds more than letters, digits, ._-
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
        raise UserError(f"--name {name!r}: a name has letters, digits and ._- only, 100 at most")
    return name


def new_name(kind: str) -> str:
    """Return a name for a new run that no other run has."""
    return f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def default_storage() -> str:
    """Return the folder or URI for runs if no `--storage` is given; a cluster sets one."""
    return os.environ.get("RAYDAE_STORAGE") or "runs"


def find_model(model: str) -> str:
    """Return the absolute path or URI of a model file.

    Args:
        model: a path or URI; `last`, for the model of the newest finished run; or a key of
            `RELEASED`, which is returned as it is, because the package may lie elsewhere on other
            nodes.

    Raises:
        UserError: no run has finished.
    """
    if model in RELEASED:
        return model
    if model != "last":
        return model if "://" in model else str(Path(model).expanduser().absolute())
    runs = Folder.of(default_storage())
    try:
        finished = {
            name: when for name in runs.folders() if (when := (runs / name).written("results.json"))
        }
    except OSError as error:
        raise unusable(runs, error) from None
    if not finished:
        raise UserError(f"no run has finished in {runs}; give --model FILE")
    return (runs / max(finished, key=lambda name: finished[name])).path_of("model.safetensors")
