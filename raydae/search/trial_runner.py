"""A trial in the process that Ray Tune starts for it: a run of the ordinary training loop.

A trial with one CPU worker runs the loop in this process; other trials start Ray Train. Either way
a trial that is started again continues from its own latest checkpoint.
"""

import queue
import threading
from dataclasses import dataclass
from typing import Any

import ray.tune

from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.distributed.resources import Workers
from raydae.distributed.start import set_environment
from raydae.images.image_sets import ImageSets
from raydae.search.suggesters import Value
from raydae.search.trials import read_history, trial_folder
from raydae.training.config import Config
from raydae.training.run_folder import Run, open_run
from raydae.training.samples import Samples, shards
from raydae.training.status import Outcome, Status

STOP_S = 9.0  # a stopped trial may take this long to write a checkpoint and end its workers
CHECKPOINT_MINUTES = 2.0


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a search share."""

    config: Config
    sets: ImageSets
    folder: Folder
    """The folder of the search."""
    workers: Workers
    """The workers of each trial."""

    @property
    def in_process(self) -> bool:
        """Whether a trial trains in its own process, without Ray Train."""
        return self.workers.max_workers == 1 and not self.workers.gpus


class TrialRunner(ray.tune.Trainable):  # type: ignore[misc]  # Ray ships no types
    """A trial as Ray Tune sees it: each step returns the result of the next epoch.

    The run trains in a thread. Tune does not have to call for an epoch to begin, and can stop the
    trial in the middle of one.
    """

    def setup(self, config: dict[str, Any], *, plan: TrialPlan) -> None:
        """Start the trial's run, or resume it.

        Args:
            config: the `number` of the trial and its `changes` to the configuration.
            plan: what all trials share.
        """
        set_environment()
        self._results: queue.SimpleQueue[dict[str, Any] | Exception] = queue.SimpleQueue()
        self._stopping = False
        self._epochs = plan.config.optim.epochs
        self._reported = 0  # how many of them
        self._note = ""  # on damaged checkpoints, for the user
        self._thread = threading.Thread(
            target=self._work, args=(config["number"], config["changes"], plan), daemon=True
        )
        self._thread.start()

    def step(self) -> dict[str, Any]:
        """Wait for the next epoch and return its result.

        A process that was started again returns the earlier epochs again, which does no harm.
        """
        result = self._results.get()
        if isinstance(result, Exception):
            raise result
        return result

    def cleanup(self) -> None:
        """Stop the run: it writes a checkpoint, and its workers end."""
        self._stopping = True
        self._thread.join(STOP_S)

    def _work(self, number: int, changes: dict[str, Value], plan: TrialPlan) -> None:
        """Train, and queue the results. An error is a result too: Tune starts the trial again."""
        try:
            if "search.json" not in plan.folder.files():
                raise UserError(f"{plan.folder} is not seen by all nodes; choose another --storage")
            run = open_run(trial_folder(plan.folder, number), plan.config.override(changes))
            self._note = "; ".join(run.notes)
            if run.sets != plan.sets:  # new, or the user has accepted changed images
                run = run.begin(plan.sets)
            outcome = Outcome("finished") if run.trained else self._train(run, plan)
            if outcome.status == "diverged":
                self._results.put({"failed": outcome.message, "done": True})
            elif outcome.status == "failed":
                raise RuntimeError(outcome.message)
            elif outcome.status == "finished":
                history = read_history(plan.folder, number)
                if len(history) < self._epochs:
                    raise RuntimeError(f"the checkpoints in {run.folder} are gone")
                self._report(history, self._epochs)
        except Exception as error:
            self._results.put(error)

    def _train(self, run: Run, plan: TrialPlan) -> Outcome:
        def on_status(status: Status) -> bool:
            # The last epoch is reported when the run has ended: Tune stops the trial at it.
            self._report(status.history, self._epochs - 1)
            return self._stopping

        if not plan.in_process:
            from raydae.distributed.trainer import train_on_ray

            return train_on_ray(
                run, plan.workers, on_status, lambda: self._stopping, CHECKPOINT_MINUTES
            )
        from raydae.training.context import Context
        from raydae.training.loop import fit

        samples = Samples.of(run.config, plan.sets.train)
        # A resumed run keeps its threads, so that best.json is true for all of its epochs.
        threads = run.state.config.get("threads", plan.workers.threads)
        return fit(
            run.config,
            plan.sets,
            run.folder,
            Context(threads=threads, tell=on_status),
            lambda start: shards(samples, run.schedule, start),
            CHECKPOINT_MINUTES,
        )

    def _report(self, history: list[dict[str, Any]], last: int) -> None:
        """Queue the results of the epochs up to `last` that were not reported before."""
        for epoch in range(self._reported + 1, min(len(history), last) + 1):
            done = epoch == self._epochs
            note = {"note": self._note} if self._note else {}
            self._results.put({**epoch_result(history[:epoch]), "done": done, **note})
            self._reported = epoch


def epoch_result(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what Tune is told after an epoch.

    The score is the best validation PSNR so far, because the weights of that epoch are kept.

    Args:
        history: a record for each epoch up to this one.
    """
    scores = [record["val_psnr"] for record in history if record["val_psnr"] is not None]
    score = {"score": max(scores)} if scores else {}
    return {"epoch": len(history), "record": history[-1], "done": False, **score}
