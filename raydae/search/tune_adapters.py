"""What Ray Tune calls in the driver: the searcher, the scheduler, the logger and the stopper.

Tune's own state is written while a search runs and never read again. A search is resumed from its
own files: the scheduler replays what the trials before reached, because `Tuner.restore` rebuilds
ASHA with empty rungs and lets a trial run that ASHA had stopped.
"""

import logging
import os
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


class Failure:
    """Why a search must end early, if it must.

    The adapters raise no errors inside Tune's loop. They note the first one here. `FailureStopper`
    then stops all trials, which write a checkpoint, and `Search.run` raises the error.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.error: UserError | None = None

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
        self, waiting: Sequence[Trial], next_trial: Callable[[], Trial], failure: Failure
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._waiting, self._next_trial, self._failure = list(waiting), next_trial, failure

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Return the next trial as `TrialRunner.setup` takes it."""
        finished: str = Searcher.FINISHED
        if self._failure.error is not None:
            return finished
        try:
            trial = self._waiting.pop(0) if self._waiting else self._next_trial()
        except (UserError, OSError) as error:
            self._failure.note(error)
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
        save: Callable[[Trial], None],
        on_change: Callable[[list[Trial]], None],
        failure: Failure,
    ) -> None:
        """Take the trials to record in.

        Args:
            trials: all trials by number; new ones may be appended.
            epochs: how many a finished trial has.
            save: writes a trial's files; may raise OSError.
            on_change: called with all trials after each change.
            failure: where an error of `save` is noted.
        """
        self._trials, self._epochs = trials, epochs
        self._write, self._on_change, self._failure = save, on_change, failure

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
        self._save(known)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Record that the trial has ended, by itself or stopped by ASHA."""
        if self._failure.error is not None:
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
            self._write(trial)
        except OSError as error:
            self._failure.note(error)
        self._on_change(self._trials)


class FailureStopper(_NotPickled, ray.tune.Stopper):  # type: ignore[misc]  # Ray ships no types
    """Stops all trials once the search has failed."""

    def __init__(self, failure: Failure) -> None:
        self._failure = failure

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether this trial shall stop."""
        return self._failure.error is not None

    def stop_all(self) -> bool:
        """Return whether all trials shall stop."""
        return self._failure.error is not None


class ResumableAsha(AsyncHyperBandScheduler):  # type: ignore[misc]  # Ray ships no types
    """ASHA (Li et al. 2020) that knows what trials reached before this process began.

    A rung judges a trial once. So a trial that resumes is not judged again where it was before,
    and new trials are judged by the results of all earlier ones.
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
    failure: Failure,
) -> None:
    """Run trials until all of them have ended, or the search has failed.

    Args:
        plan: what the trials share.
        number: how many trials are run.
        concurrent: how many run at once, at most.
        searcher: gives the trials.
        scheduler: decides which are stopped early.
        logger: records what they reach.
        failure: why the search ends early, if it does.

    Raises:
        OSError: the folder cannot be written.
    """
    for name in (
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS",
        "TUNE_DISABLE_SIGINT_HANDLER",
        "TUNE_DISABLE_STRICT_METRIC_CHECKING",  # the last result of a failed trial has no score
    ):
        os.environ[name] = "1"
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
            stop=FailureStopper(failure),
        ),
    )
    tuner.fit()
    plan.folder.delete(TUNE_FOLDER)
