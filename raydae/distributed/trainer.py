"""The training loop under Ray Train: the driver's part. It imports no torch, which takes seconds.

Checkpoints are the loop's own, not Ray Train's: they survive a kill at any byte, a plain process
writes the same ones, and Ray's run state, which is not written atomically, is never needed. Ray
Train starts the workers, shares out the samples, and starts anew when a worker dies.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
import ray.train
from numpy.typing import NDArray
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydae.core.errors import first_line
from raydae.core.lock import lock_text
from raydae.core.storage import Folder
from raydae.distributed.channel import Channel
from raydae.distributed.cluster import HANG_S, Workers, shortage
from raydae.distributed.stream import begin_stream, begun, shares
from raydae.training.run_folder import Run
from raydae.training.samples import Samples
from raydae.training.schedule import Schedule
from raydae.training.status import Outcome, Status

LOOK_S = 0.5  # between two looks of the driver at how far the workers are
SILENCE_S = 30  # of the workers, after which the driver says what they may be waiting for


def train_on_ray(
    run: Run,
    workers: Workers,
    on_status: Callable[[Status], object],
    stop_asked: Callable[[], bool],
    checkpoint_minutes: float,
    say: Callable[[str], object] = lambda line: None,
    until_gone: bool = True,
) -> Outcome:
    """Trains a run to its end under Ray Train.

    Args:
        run: a run that has its images, claimed by this process.
        workers: what it is trained on.
        on_status: called in this thread with every new status.
        stop_asked: once it is true, the run writes a checkpoint and stops.
        checkpoint_minutes: the longest time between two checkpoints.
        say: called with a line on what went wrong and is being mended, or is waited for.
        until_gone: also waits until the workers of a finished run have gone, about a second.
    """
    assert run.sets is not None
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Where the driver is, so that no other node's loss takes it.
    channel: Any = Channel.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]  # Ray adds it
    fixed = workers.least == workers.most
    trainer = _Trainer(
        workers.alone,
        _train_worker,
        train_loop_config={
            "config": run.config,
            "sets": run.sets,
            "samples": ray.put(Samples.of(run.config, run.sets.train, workers.gpus > 0)),
            "folder": run.folder,
            "claim": lock_text(run.folder),
            "threads": workers.threads,
            "gpus": workers.gpus,
            "channel": channel,
            "timeout_s": HANG_S,
            # A resize of an elastic run comes without notice, the first after a minute.
            "checkpoint_minutes": checkpoint_minutes if fixed else min(checkpoint_minutes, 0.5),
        },
        backend_config=_NoGroup(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.least if fixed else (workers.least, workers.most),
            use_gpu=workers.gpus > 0,
            resources_per_worker=workers.resources,
        ),
        run_config=ray.train.RunConfig(
            # Ray Train keeps nothing here but a marker that tells whether all nodes see the place.
            name=".ray",
            storage_path=run.folder.uri,
            # Starts are counted by the channel, which knows of checkpoints. Waiting for a node that
            # is to replace a lost one is a failed start for Ray Train, every 20 s.
            failure_config=ray.train.FailureConfig(max_failures=-1, controller_failure_limit=-1),
            callbacks=[_FailedStarts(channel)],
        ),
    )
    _forget(run.folder)
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # told to the thread that waits
            errors.append(error)

    # Ray Train takes SIGINT for itself in the main thread; there, raydae's driver listens.
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    outcome: Outcome | None
    told, news, last, last_news = False, 0, None, time.monotonic()
    while thread.is_alive():
        thread.join(LOOK_S)
        status, outcome, incidents = ray.get(channel.look.remote())
        if status is not None:
            on_status(status)
        for incident in incidents[news:]:
            say(f"{incident}; started anew from the last checkpoint")
        if outcome is not None and outcome.status == "finished" and not until_gone:
            break
        if status != last or len(incidents) > news:
            last, news, last_news = status, len(incidents), time.monotonic()
        elif time.monotonic() - last_news > SILENCE_S and (lacking := shortage(workers)):
            say(lacking)
            last_news = time.monotonic() + 300  # to say it again seldom
        if stop_asked() and not told:
            channel.stop.remote()
            told = True
    _forget(run.folder)
    status, outcome, _ = ray.get(channel.look.remote())
    if status is not None:
        on_status(status)
    if outcome is not None:
        return outcome
    said = ray.get(channel.last_words.remote()) or (_reason(errors[0]) if errors else "")
    reason = said or "the workers ended without a word"
    return Outcome("failed", f"training ended: {reason}")


def _forget(folder: Folder) -> None:
    """Deletes what Ray Train noted: cut short by a kill, it could keep a run from going on."""
    with contextlib.suppress(OSError):
        folder.delete(".ray")


def _reason(error: BaseException) -> str:
    """What an error of Ray Train's is about, in one line."""
    error = getattr(error, "controller_failure", error)
    for cause in (*getattr(error, "worker_failures", {}).values(), error.__cause__):
        error = cause or error
    return first_line(error)


class _Trainer(DataParallelTrainer):  # type: ignore[misc]  # Ray ships no types
    """Ray Train without some of its processes.

    One takes the workers away where the controller has died. It asks whichever Ray it finds on the
    machine, and where that is another, which knows no such controller, takes them from a healthy
    run. Here the driver ends with the controller, and the workers with the driver.

    One hands out data sets, which the workers see to themselves, and one shares out a cluster,
    which a single worker on a machine of one's own does without. It would wait two seconds for
    each of these.
    """

    def __init__(self, alone: bool, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.alone = alone

    def _create_default_callbacks(self) -> list[Any]:
        left_out = (PlacementGroupCleanerCallback, DatasetsCallback)
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if not isinstance(callback, left_out)]

    def _initialize_and_run_controller(self, **settings: Any) -> ray.train.Result:
        if not self.alone:
            return super()._initialize_and_run_controller(**settings)
        settings["scaling_policy"] = _Settled(self.scaling_config)
        # With the environment of this process, it may be one that Ray has started already.
        controller = ray.remote(num_cpus=0)(_TrainController).remote(**settings)
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())


class _Group(WorkerGroup):  # type: ignore[misc]  # Ray ships no types
    """Workers with the environment that Ray on this machine has from its driver already."""

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: dict[str, Any]) -> dict[str, Any]:
        return {}


class _TrainController(TrainController):  # type: ignore[misc]  # Ray ships no types
    worker_group_cls = _Group


class _Settled(FixedScalingPolicy):  # type: ignore[misc]  # Ray ships no types
    """So many workers, for which no autoscaler is asked where there is none."""

    def _send_resource_request(self) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass

    def _cancel_resource_request(self) -> None:
        pass


class _FailedStarts(ControllerCallback):  # type: ignore[misc]  # Ray ships no types
    """Ends a run whose workers can never start: with no limit set, Ray Train would not."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called by Ray Train's controller at each turn; what is raised here ends the run."""
        error = getattr(current_state, "training_failed_error", None)
        failure = getattr(error, "controller_failure", error)
        no_room = isinstance(failure, WorkerGroupStartupTimeoutError)  # so far
        if error is None or no_room or current_state.is_terminal():
            return
        if ray.get(self.channel.fail.remote(_reason(error))):
            raise RuntimeError("the workers cannot be started")


class _Idle(Backend):  # type: ignore[misc]  # Ray ships no types
    """Leaves it to the workers to meet; each sees all of the group's GPUs on its node, for NCCL.

    Workers that share a GPU see it once: Ray Train takes the union of their GPUs.
    """

    share_cuda_visible_devices = True


@dataclass
class _NoGroup(BackendConfig):  # type: ignore[misc]  # Ray ships no types
    """No process group by Ray, whose rendezvous listens on all addresses, for one worker too."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Idle


def _train_worker(settings: dict[str, Any]) -> None:
    """One worker of Ray Train. Its samples are being made while it imports torch."""
    config, sets, threads = settings["config"], settings["sets"], settings["threads"]
    samples, folder = settings.pop("samples"), settings["folder"]
    place, schedule = ray.train.get_context(), Schedule.of(config, len(sets.train))
    rank, workers = place.get_world_rank(), place.get_world_size()
    blocks = begin_stream(samples, schedule, folder, rank, workers, workers * threads)
    # Not left by `with`, which would wait for samples that may never come.
    first = ThreadPoolExecutor(1).submit(_begin, blocks, schedule.shard_rows(workers))
    # An import beside a thread at work takes many times as long; and beside one that pickles it was
    # seen, once, to make that fail.
    while not (begun.wait(0.1) or first.done()):
        pass
    from raydae.distributed.worker import (
        work,  # with torch, which the driver and Ray's controller lack
    )

    work(_when_begun(first), **settings)


def _begin(blocks: ray.data.DataIterator, rows: int) -> Iterator[dict[str, NDArray[Any]]]:
    """The worker's shares of the steps to do, the first of which is there."""
    stream = shares(blocks, rows)
    first = list(itertools.islice(stream, 1))
    return itertools.chain(first, stream)


def _when_begun(
    stream: Future[Iterator[dict[str, NDArray[Any]]]],
) -> Iterator[dict[str, NDArray[Any]]]:
    """The same; who takes the first waits for it, and counts that as waiting for data."""
    yield from stream.result()
