"""What Ray Tune calls in the driver: the searcher, the scheduler, the logger and the stopper.

Tune's own state is written while a search runs and never read again. A search is resumed from its
own files: the scheduler is told what the earlier trials reached, because `Tuner.restore` rebuilds
ASHA with empty rungs and lets a trial run that ASHA had stopped.
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray.tune
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher

from raydae.core.errors import UserError, first_line
from raydae.core.storage import Folder
from raydae.search.trial_runner import TrialPlan, TrialRunner, epoch_result
from raydae.search.trials import Trial

TUNE_FOLDER = ".tune"
"""The folder of Tune's own state, inside the search's folder; deleted before and after."""
REDUCTION = 3
"""Of the trials that reach a rung of ASHA, the best third continues."""
MAX_FAILURES = 3
"""A trial whose process fails more often has failed."""
LOOK_S = 0.2
"""Between two looks at whether a search must end early."""
STOP_S = 20.0
"""A search that must end early ends within this time."""


class EarlyEnd:
    """Whether a search must end early: the user asks for it, or something went wrong.

    The adapters raise no errors inside Tune's loop. They note the first one here. `EarlyStopper`
    then stops all trials, which write a checkpoint, and `Search.run` raises the error.
    """

    def __init__(self, folder: Folder, stop_asked: Callable[[], int] = lambda: 0) -> None:
        """Watch for both.

        Args:
            folder: the search's, for messages.
            stop_asked: returns a number other than 0 once the user has asked for a stop.
        """
        self._folder, self._stop_asked = folder, stop_asked
        self.error: UserError | None = None

    def __bool__(self) -> bool:
        return self.error is not None or self._stop_asked() != 0

    def note(self, error: OSError | UserError) -> None:
        """Note an error, unless there was one before."""
        if isinstance(error, OSError):
            error = UserError(
                f"{self._folder} cannot be written ({first_line(error)}); make room or give "
                "access, and run the same command again"
            )
        self.error = self.error or error


class _NotPickled:
    """An object that Tune pickles into its own state as an empty one."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TrialSearcher(_NotPickled, Searcher):  # type: ignore[misc]  # Ray ships no types
    """Gives Tune the trials to run: first those that were interrupted, then new ones."""

    def __init__(
        self, waiting: Sequence[Trial], next_trial: Callable[[], Trial], early_end: EarlyEnd
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._waiting, self._next_trial, self._early_end = list(waiting), next_trial, early_end

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Return the next trial as `TrialRunner.setup` takes it."""
        finished: str = Searcher.FINISHED
        if self._early_end:
            return finished
        try:
            trial = self._waiting.pop(0) if self._waiting else self._next_trial()
        except (UserError, OSError) as error:
            self._early_end.note(error)
            return finished
        return {"number": trial.number, "changes": trial.changes}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the sampler learns of results when the logger saves the trial."""

    def save(self, checkpoint_path: str) -> None:
        """Write nothing, because it would never be read."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing; Tune calls this only where it resumes from its own state."""


class TrialLogger(_NotPickled, ray.tune.Callback):  # type: ignore[misc]  # Ray ships no types
    """Records in the trials, and in their files, what Tune reports of them."""

    def __init__(
        self,
        trials: list[Trial],
        epochs: int,
        write_trial: Callable[[Trial], None],
        on_change: Callable[[list[Trial]], None],
        early_end: EarlyEnd,
    ) -> None:
        """Take the trials to record in.

        Args:
            trials: all trials by number; new ones may be appended.
            epochs: how many a finished trial has.
            write_trial: writes a trial's files; may raise OSError.
            on_change: called with all trials after each change.
            early_end: where an error of `write_trial` is noted.
        """
        self._trials, self._epochs = trials, epochs
        self._write_trial, self._on_change, self._early_end = write_trial, on_change, early_end

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Record that the trial has a process."""
        known = self._find(trial)
        known.status = "running"
        self._save(known)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record an epoch, or that the trial cannot continue."""
        known = self._find(trial)
        if "failed" in result:
            known.status, known.message = "failed", result["failed"]
        else:
            epoch = result["epoch"]  # A restarted process reports the earlier epochs again.
            known.history[epoch - 1 : epoch] = [result["record"]]
            known.message = result.get("note", known.message)
        self._save(known)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Record that the trial has ended, by itself or stopped by ASHA."""
        if self._early_end:
            return  # Nothing is wrong with this trial: it resumes when the search does.
        known = self._find(trial)
        if known.status != "failed":
            known.status = "finished" if len(known.history) == self._epochs else "stopped"
        self._save(known)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Record that the trial's process has failed too often."""
        known = self._find(trial)
        known.status, known.heals = "failed", True
        known.message = f"its process failed {MAX_FAILURES + 1} times"
        if trial.error_file:
            text = Path(trial.error_file).read_text(encoding="utf-8")
            lines = [line for line in text.splitlines() if line.strip()]
            known.message += f"; the last time: {lines[-1].strip()}" if lines else ""
        self._save(known)

    def _find(self, trial: Any) -> Trial:
        known: Trial = self._trials[trial.config["number"]]
        return known

    def _save(self, trial: Trial) -> None:
        try:
            self._write_trial(trial)
        except OSError as error:
            self._early_end.note(error)
        self._on_change(self._trials)


class EarlyStopper(_NotPickled, ray.tune.Stopper):  # type: ignore[misc]  # Ray ships no types
    """Stops all trials when the search must end early."""

    def __init__(self, early_end: EarlyEnd) -> None:
        self._early_end = early_end

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether this trial shall stop."""
        return bool(self._early_end)

    def stop_all(self) -> bool:
        """Return whether all trials shall stop."""
        return bool(self._early_end)


class ResumableAsha(AsyncHyperBandScheduler):  # type: ignore[misc]  # Ray ships no types
    """ASHA (Li et al. 2020) that knows what trials reached before this process began.

    ASHA compares a trial once at each rung. A trial that resumes skips the rungs it has passed, and
    new trials are compared with all earlier ones.
    """

    def __init__(self, trials: Sequence[Trial], **settings: Any) -> None:
        """Take over the results of earlier trials.

        Args:
            trials: those that the search has begun already.
            settings: of `AsyncHyperBandScheduler`.
        """
        super().__init__(
            time_attr="epoch",
            metric="score",
            mode="max",
            reduction_factor=REDUCTION,
            **settings,
        )
        self._histories = {trial.number: list(trial.history) for trial in trials}
        for trial in trials:
            if trial.over:  # Tune will not add it.
                config = {"number": trial.number}
                tune_trial = SimpleNamespace(trial_id=f"before-{trial.number}", config=config)
                self.on_trial_add(None, tune_trial)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial, with the epochs that it had before."""
        super().on_trial_add(tune_controller, trial)
        history = self._histories.get(trial.config["number"], [])
        for end in range(1, len(history) + 1):
            self.on_trial_result(tune_controller, trial, epoch_result(history[:end]))


def run_tune(
    plan: TrialPlan,
    number: int,
    concurrent: int,
    searcher: TrialSearcher,
    scheduler: TrialScheduler,
    logger: TrialLogger,
    early_end: EarlyEnd,
) -> None:
    """Run trials until all of them have ended, or the search must end early.

    Early, it returns after `STOP_S` at most. A trial that has not ended by then ends with Ray, and
    resumes from its latest checkpoint.

    Args:
        plan: what the trials share.
        number: how many trials are run.
        concurrent: how many run at once, at most.
        searcher: gives the trials.
        scheduler: decides which are stopped early.
        logger: records what they reach.
        early_end: whether the search must end early.

    Raises:
        OSError: the folder cannot be written.
    """
    for name in (
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING",  # the last result of a failed trial has no score
    ):
        os.environ[name] = "1"
    os.environ["TUNE_FORCE_TRIAL_CLEANUP_S"] = "10"  # for trials that do not stop, or never began
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new output ignores verbose=0
    # The table has a line on why a trial failed.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    plan.folder.delete(TUNE_FOLDER)
    # Ray Train asks for the workers' CPUs itself, but Tune must ask for something: a byte.
    needs = {"cpu": plan.workers.threads} if plan.in_process else {"cpu": 0, "memory": 1}
    trainable = ray.tune.with_parameters(TrialRunner, plan=plan)
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(trainable, needs),
        tune_config=ray.tune.TuneConfig(
            num_samples=number,
            max_concurrent_trials=concurrent,
            search_alg=searcher,
            scheduler=scheduler,
        ),
        run_config=ray.tune.RunConfig(
            name=TUNE_FOLDER,
            storage_path=plan.folder.uri,
            verbose=0,
            callbacks=[logger],
            failure_config=ray.tune.FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=False),
            stop=EarlyStopper(early_end),
        ),
    )
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            tuner.fit()
        except BaseException as error:  # raised again below
            errors.append(error)

    # In the main thread, Tune would lose an interrupt that comes while it calls a callback.
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    deadline = math.inf
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(LOOK_S)
        if early_end and deadline == math.inf:
            deadline = time.monotonic() + STOP_S
    if errors:
        raise errors[0]
    if not thread.is_alive():  # else it still writes there; the next start deletes it
        plan.folder.delete(TUNE_FOLDER)
