"""A search with Ray Tune: each trial is a run of the ordinary loop, judged like all the others.

    FOLDER/RUN/config.json, images.json, search.json    what all trials share
    FOLDER/RUN/trials/007.json, trials/007/             a trial: its settings and end; its run
    FOLDER/RUN/trials.csv, best.json, model.safetensors, search.png

Every trial is validated on the same images at the same noise levels, whatever it is trained with.
What is known of a search lies in these files, written whole or not at all. Ray Tune's own state is
never read again: a search that goes on tells a new scheduler what the finished trials reached, and
the others go on from their checkpoints.

A trial of one CPU worker runs the loop in its own process; others start Ray Train.
"""

import csv
import dataclasses
import io
import json
import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import ray.tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raydae.core.config import Config, check_workers
from raydae.core.errors import UserError
from raydae.core.storage import Folder, first_line
from raydae.distributed.resources import Workers
from raydae.distributed.start import set_environment
from raydae.images.image_sets import ImageSets
from raydae.search.space import ATTEMPTS, Fixed, Space, Value
from raydae.training.runs import Checkpoints, Outcome, Status, open_run
from raydae.training.samples import Samples, shares
from raydae.training.schedule import Schedule

REDUCTION = 3  # of the trials that reach a rung of ASHA, the best third goes on
GRACE_STEPS = 32  # before the first rung: BatchNorm's running statistics are 3 % off by then
MOST_FAILURES = 3  # of a trial's process, after which the trial has failed
STOP_S = 9.0  # for a stopped trial to write a checkpoint and end its workers
CHECKPOINT_MINUTES = 2.0

Method = Literal["random", "optuna"]


@dataclass
class Trial:
    """What is known of a trial."""

    number: int
    changes: dict[str, Value]
    """The settings it was given, by dotted name."""
    drawn: dict[str, Any]
    """What they were made of, by the names the sampler knows."""
    status: Literal["waiting", "running", "finished", "stopped", "failed"] = "waiting"
    message: str = ""
    heals: bool = False
    """Whether what it failed of may be gone another time."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """A record for each epoch, as in `history.jsonl`."""

    @property
    def over(self) -> bool:
        """Whether it is never to be run again."""
        return self.status in ("finished", "stopped", "failed")

    @property
    def best(self) -> dict[str, Any] | None:
        """The epoch of the highest validation PSNR."""
        judged = [record for record in self.history if record["val_psnr"] is not None]
        return max(judged, key=lambda record: record["val_psnr"], default=None)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is searched and how, beside what all trials share."""

    space: tuple[str, ...]
    method: Method
    early_stopping: bool


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
        """Reads what is there of the trials; writes nothing.

        Args:
            folder: the search's own; the caller holds it with `runs.claim`.
            config: what all trials share, epochs and levels of validation among it.
            sets: the images.
            settings: what is searched.
            samples: how many trials there shall be.
            workers: of each trial.
            restart: begin anew, whatever is there.

        Raises:
            UserError: the space does not go with the images or the workers, or Optuna is asked for
                and not here.
        """
        self.folder, self.config, self.sets, self.settings = folder, config, sets, settings
        self.samples, self.workers = samples, workers
        self.problem: UserError | None = None
        self.space = Space.parse(settings.space, config)
        self.space.corners(self._check)
        self.trials = [] if restart else _read_trials(folder)
        self._sampler = _Sampler(settings.method, self.space, config, self.trials)

    def config_of(self, trial: Trial) -> Config:
        """The whole configuration of a trial."""
        return self.config.override(trial.changes)

    def run(
        self, workers: Workers, concurrent: int, on_change: Callable[[list[Trial]], None]
    ) -> None:
        """Runs the trials that are not over; Ray must run.

        Args:
            workers: each trial's.
            concurrent: how many trials run at once, at most.
            on_change: called with all trials whenever one of them has changed.

        Raises:
            UserError: a trial's state cannot be written, or no values go together in the space.
            OSError: something else cannot be written.
        """
        to_do = [trial for trial in self.trials if not trial.over]
        missing = max(self.samples - len(self.trials), 0)
        if not to_do and not missing:
            return
        for name in (
            "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS",
            "TUNE_DISABLE_SIGINT_HANDLER",
            "TUNE_DISABLE_STRICT_METRIC_CHECKING",  # the last word of a failed trial has no score
        ):
            os.environ[name] = "1"
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one speaks even where it is told not to
        self.folder.delete(".tune")
        plan = _Plan(self.config, self.sets, self.folder, workers)
        trainable = ray.tune.with_parameters(_TrialRun, plan=plan)
        # Where Ray Train asks for the CPUs, Tune must ask for something: a byte.
        needs = {"cpu": workers.threads} if plan.in_process else {"cpu": 0, "memory": 1}
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(trainable, needs),
            tune_config=ray.tune.TuneConfig(
                num_samples=len(to_do) + missing,
                max_concurrent_trials=concurrent,
                search_alg=_Suggestions(self, to_do),
                scheduler=self._scheduler(),
            ),
            run_config=ray.tune.RunConfig(
                name=".tune",
                storage_path=self.folder.uri,
                verbose=0,
                callbacks=[_Scribe(self, on_change)],
                failure_config=ray.tune.FailureConfig(max_failures=MOST_FAILURES),
                checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=False),
                stop=_Stopper(self),
            ),
        )
        # A line in the table says what a trial failed of.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        tuner.fit()
        self.folder.delete(".tune")
        if self.problem is not None:
            raise self.problem
        # A trial that is stopped may have done another epoch before it heard of that.
        for trial in self.trials:
            trial.history = _history(self.folder, trial.number)
        self.folder.write("trials.csv", self.table().encode())

    def _scheduler(self) -> TrialScheduler:
        """ASHA (Li et al. 2020), told what the trials that are over reached."""
        if not self.settings.early_stopping:
            return FIFOScheduler()
        epochs = self.config.optim.epochs
        steps = min(
            Schedule.of(self.config.override(changes), len(self.sets.train)).steps
            for changes in self.space.corners(self._check)
        )
        scheduler = _Asha(
            {trial.number: list(trial.history) for trial in self.trials},
            time_attr="epoch",
            metric="score",
            mode="max",
            max_t=epochs,
            grace_period=min(-(-GRACE_STEPS * epochs // steps), epochs),
            reduction_factor=REDUCTION,
        )
        for trial in self.trials:
            if trial.over:
                known = {"number": trial.number}
                scheduler.on_trial_add(
                    None, SimpleNamespace(trial_id=f"before-{trial.number}", config=known)
                )
        return scheduler

    def next_trial(self) -> Trial:
        """A new trial.

        Raises:
            UserError: no values were found that go together.
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
        raise UserError(f"--space: no values in it go together, the last drawn: {reason}")

    def _check(self, changes: dict[str, Value]) -> None:
        """Refuses settings that no trial could train with.

        Raises:
            UserError: they are out of bounds, or do not go with the images or the workers.
        """
        config = self.config.override(changes)
        Schedule.of(config, len(self.sets.train))
        check_workers((self.workers, self.workers), config)
        smallest = min(min(file.height, file.width) for file in self.sets.train)
        if config.data.patch_size > smallest:
            raise UserError(
                f"--space: patches of {config.data.patch_size} pixels are larger than the smallest "
                f"training image, {smallest} pixels"
            )

    def give_up(self, error: OSError | UserError) -> None:
        """Notes why the search cannot go on."""
        if isinstance(error, OSError):
            error = UserError(
                f"{self.folder} cannot be written ({first_line(error)}); make room or give access, "
                "and run the same command again"
            )
        self.problem = self.problem or error

    def end(self, trial: Trial) -> None:
        """Records that a trial is over."""
        self._sampler.tell(trial)
        self.save(trial)

    def save(self, trial: Trial) -> None:
        """Writes what cannot be read from the trial's run, and the table of all trials."""
        values = dataclasses.asdict(trial)
        del values["history"]
        text = json.dumps(values, indent=1)
        (self.folder / "trials").write(f"{trial.number:03}.json", text.encode())
        self.folder.write("trials.csv", self.table().encode())

    @property
    def best(self) -> Trial | None:
        """The trial of the highest validation PSNR among those that did not fail, or none."""
        judged = [
            (best["val_psnr"], trial)
            for trial in self.trials
            if trial.status != "failed" and (best := trial.best) is not None
        ]
        return max(judged, key=lambda pair: pair[0], default=(0, None))[1]

    def write_best(self) -> Trial:
        """Writes the best trial's configuration, threads and precision resolved, and its model.

        Raises:
            UserError: no trial went well.
            OSError: the folder cannot be written.
        """
        from raydae.models.model_file import model_of, unpack

        if self.best is None:
            said = next((trial.message for trial in self.trials if trial.message), "nothing said")
            raise UserError(f"no trial of {self.folder.name} went well: {said}")
        found = Checkpoints(_run_folder(self.folder, self.best.number)).latest()
        if found is None:
            raise UserError(f"the checkpoints of trial {self.best.number} are gone; use --restart")
        progress, files = found
        model = model_of(
            progress, self.sets, unpack(files["best.safetensors"]), progress.best_epoch
        )
        self.folder.write("model.safetensors", model)
        self.folder.write("best.json", (json.dumps(progress.config, indent=2) + "\n").encode())
        return self.best

    def table(self) -> str:
        """All trials as CSV: the usual columns, the settings that were searched, the rest."""
        text = io.StringIO()
        names = [d.name for d in self.space.dimensions if d.name not in ("noise.sigma", "optim.lr")]
        usual = ["trial", "status", "sigma", "lr", "epochs", "val_psnr"]
        writer = csv.writer(text)
        writer.writerow([*usual, *names, "best_epoch", "seconds", "message"])
        for trial in self.trials:
            config, best = self.config_of(trial), trial.best or {"val_psnr": "", "epoch": ""}
            seconds = sum(record["seconds"] for record in trial.history)
            writer.writerow(
                [
                    *(trial.number, trial.status, config.noise.sigma, config.optim.lr),
                    *(len(trial.history), best["val_psnr"]),
                    *(trial.changes[name] for name in names),
                    *(best["epoch"], round(seconds, 1), trial.message),
                ]
            )
        return text.getvalue()


def check_settings(folder: Folder, config: Config, settings: Settings) -> None:
    """Refuses to go on with a search as another one than it was; needs no images.

    Raises:
        UserError: the folder holds a search of other settings.
    """
    ours = _search_json(config, settings)
    try:
        if "config.json" not in folder.files():
            return  # it was not begun
        theirs = json.loads(folder.read("search.json"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no search that can be read: {first_line(error)}") from None
    if changed := [f"{name}: {theirs.get(name)}, now {ours[name]}" for name in ours
                   if ours[name] != theirs.get(name)]:  # fmt: skip
        raise UserError(
            f"{folder.name} was begun as another search ({'; '.join(changed)}); leave these as "
            "they were, choose another --name, or begin anew with --restart"
        )


def write_settings(folder: Folder, config: Config, settings: Settings) -> None:
    """Records a new search's settings."""
    folder.write("search.json", json.dumps(_search_json(config, settings), indent=1).encode())


def _search_json(config: Config, settings: Settings) -> dict[str, Any]:
    values = {**dataclasses.asdict(settings), "epochs": config.optim.epochs}
    return {**values, "space": list(settings.space)}


def _run_folder(folder: Folder, number: int) -> Folder:
    return folder / "trials" / f"{number:03}"


def _read_trials(folder: Folder) -> list[Trial]:
    """The trials that a search has begun, in order."""
    trials = []
    try:
        for name in (folder / "trials").files():
            if name.startswith(".") or not name.endswith(".json"):
                continue
            trial = Trial(**json.loads((folder / "trials").read(name)))
            trial.history = _history(folder, trial.number)
            if trial.status == "running" or trial.heals:
                trial.status, trial.message, trial.heals = "waiting", "", False
            trials.append(trial)
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{folder} holds no search that can be read: {first_line(error)}") from None
    trials.sort(key=lambda trial: trial.number)
    if [trial.number for trial in trials] != list(range(len(trials))):
        raise UserError(f"{folder} has lost some of its trials; choose another --name")
    return trials


def _history(folder: Folder, number: int) -> list[dict[str, Any]]:
    found = Checkpoints(_run_folder(folder, number)).latest()
    return found[0].history if found else []


class _Asha(AsyncHyperBandScheduler):  # type: ignore[misc]  # Ray ships no types
    """ASHA that knows what trials reached before this process: they are not judged again."""

    def __init__(self, histories: dict[int, list[dict[str, Any]]], **settings: Any) -> None:
        super().__init__(**settings)
        self._histories = histories

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Tells the rungs what the trial reached; a rung judges a trial once."""
        super().on_trial_add(tune_controller, trial)
        history = self._histories.get(trial.config["number"], [])
        for end in range(1, len(history) + 1):
            self.on_trial_result(tune_controller, trial, _result(history[:end]))


class _Sampler:
    """Draws settings: at random, each a function of its number, or by Optuna's TPE.

    The first trial is the configuration as it was given, where the space holds it: a search is
    there to find something better.
    """

    def __init__(self, method: Method, space: Space, config: Config, known: list[Trial]) -> None:
        self.space, self.seed = space, config.seed
        self._given = space.parameters(config)
        self._asked: dict[int, Any] = {}
        self._study: Any = None
        if method == "random":
            return
        try:
            import optuna
        except ImportError:
            raise UserError("--search optuna needs Optuna: pip install 'raydae[optuna]'") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self.seed + len(known), n_startup_trials=5)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        for trial in known:
            self._study.enqueue_trial(trial.drawn)
            self._asked[trial.number] = self._study.ask()
            space.draw(self._asked[trial.number])
            if trial.over:
                self.tell(trial)

    def draw(self, number: int, attempt: int) -> tuple[dict[str, Value], dict[str, Any]]:
        """The settings of a new trial, and what brings them back."""
        given = self._given if (number, attempt) == (0, 0) else None
        if self._study is None:
            if given is not None:
                return self.space.draw(Fixed(given)), {}
            return self.space.sample(self.seed, number, attempt), {}
        if given is not None:
            self._study.enqueue_trial(given)
        asked = self._asked[number] = self._study.ask()
        return self.space.draw(asked), asked.params

    def tell(self, trial: Trial) -> None:
        """What a trial that is over reached."""
        if self._study is not None:
            from optuna.trial import TrialState

            best = trial.best
            if best is None or trial.status == "failed":
                self._study.tell(self._asked[trial.number], state=TrialState.FAIL)
            else:
                self._study.tell(self._asked[trial.number], best["val_psnr"])


@dataclass(frozen=True)
class _Plan:
    """What every trial is told."""

    config: Config
    sets: ImageSets
    folder: Folder
    workers: Workers

    @property
    def in_process(self) -> bool:
        """Whether a trial is a process of its own, without Ray Train."""
        return self.workers.max_workers == 1 and not self.workers.gpus


class _TrialRun(ray.tune.Trainable):  # type: ignore[misc]  # Ray ships no types
    """A trial as Ray Tune sees it: each step waits for the end of the next epoch."""

    def setup(self, config: dict[str, Any], *, plan: _Plan) -> None:
        """Starts the run, or goes on with it, in a thread."""
        set_environment()
        self._results: queue.SimpleQueue[dict[str, Any] | Exception] = queue.SimpleQueue()
        self._stopping = False
        self._told = 0
        self._thread = threading.Thread(target=self._work, args=(config, plan), daemon=True)
        self._thread.start()

    def step(self) -> dict[str, Any]:
        """The next epoch's result; those before a restart come again, which does no harm."""
        result = self._results.get()
        if isinstance(result, Exception):
            raise result
        return result

    def cleanup(self) -> None:
        """Ends the run with a checkpoint, and with it whatever it has started."""
        self._stopping = True
        self._thread.join(STOP_S)

    def _work(self, trial: dict[str, Any], plan: _Plan) -> None:
        try:
            if "search.json" not in plan.folder.files():
                raise UserError(f"{plan.folder} is not seen by all nodes; choose another --storage")
            config = plan.config.override(trial["changes"])
            run = open_run(_run_folder(plan.folder, trial["number"]), config)
            run = run.begin(plan.sets) if run.sets is None else run
            epochs = config.optim.epochs

            def tell(status: Status) -> bool:
                # The last epoch's result waits for the end of the run: Tune stops a trial at it.
                for epoch in range(self._told + 1, min(len(status.history), epochs - 1) + 1):
                    self._results.put(_result(status.history[:epoch]))
                    self._told = epoch
                return self._stopping

            if run.trained:
                outcome = Outcome("finished")
            elif plan.in_process:
                from raydae.training.loop import Context, train

                samples = Samples.of(config, plan.sets.train)
                # As it was begun, so that best.json tells how all of it was made.
                threads = run.progress.config.get("threads", plan.workers.threads)
                outcome = train(
                    config,
                    plan.sets,
                    run.folder,
                    Context(threads=threads, tell=tell),
                    lambda start: shares(samples, run.schedule, start),
                    CHECKPOINT_MINUTES,
                )
            else:
                from raydae.distributed.trainer import train_on_ray

                outcome = train_on_ray(
                    run, plan.workers, tell, lambda: self._stopping, CHECKPOINT_MINUTES
                )
            if outcome.status == "diverged":
                self._results.put({"failed": outcome.message, "done": True})
            elif outcome.status == "failed":
                raise RuntimeError(outcome.message)
            elif outcome.status == "finished":
                history = _history(plan.folder, trial["number"])
                if len(history) < epochs:
                    raise RuntimeError(f"the checkpoints in {run.folder} are gone")
                for epoch in range(self._told + 1, epochs + 1):
                    self._results.put({**_result(history[:epoch]), "done": epoch == epochs})
        except Exception as error:  # for Tune, in another thread, which tries the trial again
            self._results.put(error)


def _result(history: list[dict[str, Any]]) -> dict[str, Any]:
    """What Tune is told after an epoch. The score is the best so far: those weights are kept."""
    scores = [record["val_psnr"] for record in history if record["val_psnr"] is not None]
    score = {"score": max(scores)} if scores else {}
    return {"epoch": len(history), "record": history[-1], "done": False, **score}


class _Suggestions(Searcher):  # type: ignore[misc]  # Ray ships no types
    """Gives Tune the trials to run: those that were interrupted, then new ones."""

    def __init__(self, search: Search, first: list[Trial]) -> None:
        super().__init__(metric="score", mode="max")
        self._search, self._first = search, list(first)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """What the next trial's process is given."""
        finished: str = Searcher.FINISHED
        if self._search.problem is not None:
            return finished
        try:
            trial = self._first.pop(0) if self._first else self._search.next_trial()
        except (UserError, OSError) as error:
            self._search.give_up(error)
            return finished
        return {"number": trial.number, "changes": trial.changes}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The scribe tells the sampler."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune writes it down; nothing of that is ever read again

    def save(self, checkpoint_path: str) -> None:
        """Likewise."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called."""


class _Scribe(ray.tune.Callback):  # type: ignore[misc]  # Ray ships no types
    """Writes down what Tune sees of the trials; called in the driver's process."""

    def __init__(self, search: Search, on_change: Callable[[list[Trial]], None]) -> None:
        self._search, self._on_change = search, on_change

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A process of its own is there for the trial."""
        self._note(trial, status="running")

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch is done, or the trial cannot go on."""
        if "failed" in result:
            self._note(trial, status="failed", message=result["failed"])
            return
        known = self._trial(trial)
        epoch = result["epoch"]  # after a restart, those before it come again
        known.history[epoch - 1 : epoch] = [result["record"]]
        self._note(trial)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """The trial has ended well, or ASHA has stopped it."""
        known = self._trial(trial)
        if self._search.problem is not None:
            return  # nothing was wrong with the trial: it goes on another time
        if known.status != "failed":
            done = len(known.history) == self._search.config.optim.epochs
            known.status = "finished" if done else "stopped"
        self._note(trial, over=True)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Its process has failed too often."""
        known = self._trial(trial)
        known.status, known.heals = "failed", True
        known.message = f"its process failed {MOST_FAILURES + 1} times"
        if trial.error_file:
            text = Path(trial.error_file).read_text(encoding="utf-8")
            lines = [line for line in text.splitlines() if line.strip()]
            known.message += f"; the last time: {lines[-1].strip()}" if lines else ""
        self._note(trial, over=True)

    def _trial(self, trial: Any) -> Trial:
        known: Trial = self._search.trials[trial.config["number"]]
        return known

    def _note(self, trial: Any, over: bool = False, **changes: Any) -> None:
        known = self._trial(trial)
        for name, value in changes.items():
            setattr(known, name, value)
        try:
            (self._search.end if over else self._search.save)(known)
        except OSError as error:
            self._search.give_up(error)
        self._on_change(self._search.trials)


class _Stopper(ray.tune.Stopper):  # type: ignore[misc]  # Ray ships no types
    """Ends the search once it cannot be written down."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._search.problem is not None

    def stop_all(self) -> bool:
        return self._search.problem is not None
