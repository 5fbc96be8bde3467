"""Names of runs, and where runs and their models are."""

import json
import os
import secrets
import time
import unicodedata
from contextlib import suppress
from pathlib import Path

from raydae.core.errors import UserError
from raydae.core.lock import unusable
from raydae.core.storage import Folder
from raydae.models.released import RELEASED
from raydae.training.run_folder import MODEL

NAME_RULE = (
    "a name has letters of any script, digits, spaces and . _ -, begins with a letter, a digit or "
    "_, and has at most 200 bytes"
)


def check_name(name: str) -> str:
    """Return a run's name if it is valid.

    Raises:
        UserError: it is not `NAME_RULE`.
    """
    known = all(unicodedata.category(sign)[0] in "LMN" or sign in " ._-" for sign in name)
    if not known or name[:1] in ("", ".", "-", " ") or name[-1] == " " or len(name.encode()) > 200:
        raise UserError(f"--name {name!r}: {NAME_RULE}")
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
        model: the path or URI of a model file or of a run; the name of a run; `last`, for the model
            of the newest finished run; or a key of `RELEASED`, which is returned as it is, because
            the package may lie elsewhere on other nodes.

    Raises:
        UserError: no run has finished.
    """
    if model in RELEASED:
        return model
    if model != "last":
        return _model_file(model)
    runs = Folder.of(default_storage())
    try:
        finished = {
            name: when
            for name in runs.folders()
            if (when := (runs / name).written("results.json")) and _is_finished(runs / name)
        }
    except OSError as error:
        raise unusable(runs, error) from None
    if not finished:
        raise UserError(f"no run has finished in {runs}; give --model FILE")
    return (runs / max(finished, key=lambda name: finished[name])).path_of(MODEL)


def _is_finished(run: Folder) -> bool:
    """Return whether the results of a run are of all of its epochs, which may have grown."""
    try:
        epochs = json.loads(run.read("config.json"))["optim"]["epochs"]
        return bool(json.loads(run.read("results.json"))["epochs"] == epochs)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _model_file(model: str) -> str:
    """Return the model file at a path or URI, or of the run there or of that name."""
    if model.endswith(".safetensors"):
        return model if "://" in model else str(Path(model).expanduser().absolute())
    folders = [Folder.of(model)]
    if "/" not in model:
        folders.append(Folder.of(default_storage()) / model)
    for folder in folders:
        with suppress(OSError):
            if MODEL in folder.files():
                return folder.path_of(MODEL)
    return model if "://" in model else str(Path(model).expanduser().absolute())
