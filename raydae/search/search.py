"""A search with Ray Tune: each trial is a run of the ordinary training loop.

    FOLDER/RUN/config.json, images.parquet, search.json    what all trials share
    FOLDER/RUN/trials/007.json, trials/007/             a trial: its settings and end; its run
    FOLDER/RUN/trials.csv, best.json, model.safetensors, search.png

Every trial is validated on the same images at the same noise levels, whatever it is trained with.
These files hold everything that is known of a search, and each is written whole or not at all. A
search that was killed is resumed from them: trials that are over stay as they are, and the others
continue from their checkpoints.
"""

import json
from collections.abc import Callable

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.distributed.resources import Workers
from raydae.images.image_sets import ImageSets
from raydae.search.best import read_best
from raydae.search.sampler import make_sampler
from raydae.search.settings import Settings
from raydae.search.space import Space
from raydae.search.suggesters import ATTEMPTS, Value
from raydae.search.trial_runner import TrialPlan
from raydae.search.trials import (
    Trial,
    best_trial,
    format_table,
    read_history,
    read_trials,
    trial_folder,
    write_trial,
)
from raydae.search.tune_adapters import (
    EarlyEnd,
    ResumableAsha,
    TrialLogger,
    TrialSearcher,
    run_tune,
)
from raydae.training.config import Config, check_workers
from raydae.training.run_folder import MODEL
from raydae.training.schedule import Schedule

GRACE_STEPS = 32  # before the first rung: BatchNorm's running statistics are 3 % off by then


class Search:
    """A search in its folder."""

    def __init__(
        self,
        folder: Folder,
        config: Config,
        sets: ImageSets,
        settings: Settings,
        samples: int,
        workers: int = 1,
        restart: bool = False,
    ) -> None:
        """Read the trials that there are. Write nothing.

        Args:
            folder: the search's own; the caller holds its lock.
            config: what all trials share, including epochs and validation levels.
            sets: the images.
            settings: what is searched, and how.
            samples: how many trials the search shall have.
            workers: how many each trial has.
            restart: ignore the trials that there are.

        Raises:
            UserError: the space does not fit the images or the workers, the trials cannot be
                read, or Optuna is not installed.
        """
        self.folder, self.config, self.sets, self.settings = folder, config, sets, settings
        self._samples, self._workers = samples, workers
        self.space = Space.parse(settings.space, config)
        self.space.corners(self._check)
        self.trials = [] if restart else read_trials(folder)
        self._sampler = make_sampler(settings.method, self.space, config, self.trials)

    def run(
        self,
        workers: Workers,
        concurrent: int,
        on_change: Callable[[list[Trial]], None],
        stop_asked: Callable[[], int] = lambda: 0,
    ) -> None:
        """Run the trials that are not over, until they are or a stop is asked for.

        Ray must be running.

        Args:
            workers: the workers of each trial.
            concurrent: how many trials run at once, at most.
            on_change: called with all trials whenever one of them has changed.
            stop_asked: returns a number other than 0 once the search shall stop.

        Raises:
            UserError: a trial's files cannot be written, or no valid values are found in the space.
            OSError: another file cannot be written.
        """
        waiting = [trial for trial in self.trials if not trial.over]
        missing = max(self._samples - len(self.trials), 0)
        if not waiting and not missing:
            return
        early_end = EarlyEnd(self.folder, stop_asked)
        epochs = self.config.optim.epochs
        run_tune(
            TrialPlan(self.config, self.sets, self.folder, workers),
            number=len(waiting) + missing,
            concurrent=concurrent,
            searcher=TrialSearcher(waiting, self.next_trial, early_end),
            scheduler=self._scheduler(),
            logger=TrialLogger(self.trials, epochs, self.save, on_change, early_end),
            early_end=early_end,
        )
        if early_end.error is not None:
            raise early_end.error
        if early_end:
            return
        # A trial may have completed one more epoch before it heard that it was stopped.
        for trial in self.trials:
            trial.history = read_history(self.folder, trial.number)
        self._write_table()

    def next_trial(self) -> Trial:
        """Draw a new trial and write its files.

        Raises:
            UserError: no valid values are found in the space.
            OSError: the files cannot be written.
        """
        for attempt in range(ATTEMPTS):
            changes, drawn = self._sampler.draw(len(self.trials), attempt)
            try:
                self._check(changes)
            except UserError as error:
                reason = error
                continue
            trial = Trial(len(self.trials), changes, drawn)
            self.trials.append(trial)
            self.save(trial)
            return trial
        raise UserError(
            f"--space: {ATTEMPTS} draws gave no values that are valid together; the last: {reason}"
        )

    def save(self, trial: Trial) -> None:
        """Write a trial's file and the table, and tell the sampler how a trial ended.

        Raises:
            OSError: the files cannot be written.
        """
        if trial.over:
            self._sampler.tell(trial)
        write_trial(self.folder, trial)
        self._write_table()

    def config_of(self, trial: Trial) -> Config:
        """Return the whole configuration of a trial."""
        return self.config.override(trial.changes)

    @property
    def best(self) -> Trial | None:
        """The trial with the highest validation PSNR that did not fail, or None."""
        return best_trial(self.trials)

    @property
    def diverged(self) -> bool:
        """Whether every trial failed by itself: its loss diverged."""
        return bool(self.trials) and all(
            trial.status == "failed" and not trial.heals for trial in self.trials
        )

    @property
    def complete(self) -> bool:
        """Whether all trials that were asked for are there and over."""
        return len(self.trials) >= self._samples and all(trial.over for trial in self.trials)

    def write_best(self) -> Trial:
        """Write `best.json` and `model.safetensors`: the best trial's configuration and weights.

        The configuration holds the precision and the threads that the trial had, so that training
        with it repeats the trial.

        Returns:
            The best trial.

        Raises:
            UserError: every trial failed, or the best trial's model is gone.
            OSError: the files cannot be written.
        """
        best = self.best
        if best is None:
            reason = next((trial.message for trial in self.trials if trial.message), "no message")
            raise UserError(
                f"no trial of {self.folder.name} went well ({reason}); search other values with "
                "--restart"
            )
        config, model = read_best(trial_folder(self.folder, best.number), self.sets)
        self.folder.write(MODEL, model)
        self.folder.write("best.json", (json.dumps(config, indent=2) + "\n").encode())
        return best

    def _scheduler(self) -> TrialScheduler:
        """Return ASHA with its first rung after `GRACE_STEPS` steps of the shortest trial."""
        if not self.settings.early_stopping:
            return FIFOScheduler()
        epochs = self.config.optim.epochs
        steps = min(
            Schedule.of(self.config.override(changes), len(self.sets.train)).steps
            for changes in self.space.corners(self._check)
        )
        grace_epochs = min(-(-GRACE_STEPS * epochs // steps), epochs)
        return ResumableAsha(self.trials, max_t=epochs, grace_period=grace_epochs)

    def _check(self, changes: dict[str, Value]) -> None:
        """Check that a trial could train with changed settings.

        Raises:
            UserError: they are not valid, or do not fit the images or the workers.
        """
        config = self.config.override(changes)
        Schedule.of(config, len(self.sets.train))
        check_workers((self._workers, self._workers), config)
        smallest = min(min(file.height, file.width) for file in self.sets.train)
        if config.data.patch_size > smallest:
            raise UserError(
                f"--space: patches of {config.data.patch_size} pixels are larger than the smallest "
                f"training image, {smallest} pixels; search smaller patches"
            )

    def _write_table(self) -> None:
        table = format_table(self.trials, self.config, self.space)
        self.folder.write("trials.csv", table.encode())
