"""The trials of a search and their files.

trials/007.json       a trial's settings, and how it ended
trials/007/           its run: a folder as `training/run_folder.py` describes it
trials.csv            all trials as a table
"""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from raydae.core.errors import UserError, first_line
from raydae.core.settings import flatten
from raydae.core.storage import Folder
from raydae.search.space import LEARNING_RATE, NOISE_LEVEL, Space
from raydae.search.suggesters import Value
from raydae.training import run_folder
from raydae.training.checkpoints import Checkpoints
from raydae.training.config import Config

COLUMNS = {"sigma": NOISE_LEVEL, "lr": LEARNING_RATE}
"""The settings that the table always shows, by their columns."""


@dataclass
class Trial:
    """What is known of a trial. The fields, but for the history, are those of its JSON file."""

    number: int
    """Its place in the search, from 0."""
    changes: dict[str, Value]
    """The settings that were drawn for it, by dotted name."""
    drawn: dict[str, Any]
    """The suggestions that Optuna made the settings from; empty in a random search."""
    status: Literal["waiting", "running", "finished", "stopped", "failed"] = "waiting"
    """`stopped` by early stopping; `finished` after the last epoch."""
    message: str = ""
    """Why it failed."""
    heals: bool = False
    """Whether it failed for a reason outside itself, so that a rerun of the search tries again."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """A record for each epoch, as in `history.jsonl`."""

    @property
    def over(self) -> bool:
        """Whether the trial has ended for good."""
        return self.status in ("finished", "stopped", "failed")

    @property
    def best(self) -> dict[str, Any] | None:
        """The record of the epoch with the highest validation PSNR, or None without one."""
        validated = [record for record in self.history if record["val_psnr"] is not None]
        return max(validated, key=lambda record: record["val_psnr"], default=None)


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial with the highest validation PSNR that did not fail, or None."""
    scores = [
        (best["val_psnr"], trial)
        for trial in trials
        if trial.status != "failed" and (best := trial.best) is not None
    ]
    return max(scores, key=lambda pair: pair[0], default=(0, None))[1]


def trial_folder(search: Folder, number: int) -> Folder:
    """Return the run folder of a trial."""
    return search / "trials" / f"{number:03}"


def read_history(search: Folder, number: int) -> list[dict[str, Any]]:
    """Return a record for each epoch of a trial, from its latest checkpoint.

    If no checkpoint is intact, the records are those of `history.jsonl`.
    """
    folder = trial_folder(search, number)
    try:
        found = Checkpoints(folder).latest()
    except UserError:
        return run_folder.read_history(folder)
    return found.state.history if found else []


def read_trials(search: Folder) -> list[Trial]:
    """Return the trials that a search has begun, in order.

    Trials that were interrupted, or failed for a reason outside themselves, are `waiting` again.

    Raises:
        UserError: a file cannot be read, or one is missing.
    """
    trials = []
    try:
        for name in (search / "trials").files():
            if name.startswith(".") or not name.endswith(".json"):
                continue
            trial = Trial(**json.loads((search / "trials").read(name)))
            trial.history = read_history(search, trial.number)
            if trial.status == "running" or trial.heals:
                trial.status, trial.message, trial.heals = "waiting", "", False
            trials.append(trial)
    except (ValueError, TypeError, OSError) as error:
        raise UserError(
            f"{search} holds no search that can be read ({first_line(error)}); choose another "
            "--name, or begin again with --restart"
        ) from None
    trials.sort(key=lambda trial: trial.number)
    if [trial.number for trial in trials] != list(range(len(trials))):
        raise UserError(
            f"{search} has lost some of its trials; choose another --name, or begin again with "
            "--restart"
        )
    return trials


def write_trial(search: Folder, trial: Trial) -> None:
    """Write a trial's JSON file. The history is left out: it is in the trial's checkpoints.

    Raises:
        OSError: the file cannot be written.
    """
    values = dataclasses.asdict(trial)
    del values["history"]
    text = json.dumps(values, indent=1)
    (search / "trials").write(f"{trial.number:03}.json", text.encode())


def format_table(trials: Sequence[Trial], config: Config, space: Space) -> str:
    """Return all trials as CSV.

    Args:
        trials: all of them.
        config: the settings that they share.
        space: its settings have columns of their own; noise level and learning rate always have.
    """
    names = [dim.name for dim in space.dimensions if dim.name not in COLUMNS.values()]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        [
            *("trial", "status", *COLUMNS, "epochs", "val_psnr"),
            *(*names, "best_epoch", "seconds", "message"),
        ]
    )
    for trial in trials:
        values = dict(flatten(config.override(trial.changes).to_dict()))
        best = trial.best or {"val_psnr": "", "epoch": ""}
        seconds = sum(record["seconds"] for record in trial.history)
        writer.writerow(
            [
                *(trial.number, trial.status, *(values.get(name, "") for name in COLUMNS.values())),
                *(len(trial.history), best["val_psnr"]),
                *(trial.changes[name] for name in names),
                *(best["epoch"], round(seconds, 1), trial.message),
            ]
        )
    return text.getvalue()
