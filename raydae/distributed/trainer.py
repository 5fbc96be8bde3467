"""Training under Ray Train: the driver's side. It does not import torch, which takes seconds.

Checkpoints are those of the training loop, not Ray Train's: they survive a kill at any byte, a
plain process writes the same ones, and Ray's run state, which is not written atomically, is unused.
Ray Train starts the workers and restarts them when one dies.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydae.core.errors import first_line
from raydae.core.lock import lock_text
from raydae.core.storage import Folder
from raydae.distributed.channel import Channel
from raydae.distributed.internals import lean_trainer, local_trainer
from raydae.distributed.resources import Workers
from raydae.distributed.start import HANG_S
from raydae.distributed.stream import Columns, stream_shards
from raydae.distributed.waiting import shortage
from raydae.training.run_folder import Run
from raydae.training.samples import Samples
from raydae.training.schedule import Schedule
from raydae.training.status import Outcome, Status

LOOK_S = 0.5  # between two looks of the driver at the channel
SILENCE_S = 30  # of the workers, after which the driver looks for a reason
REPEAT_S = 300  # between two messages with the same reason
STUCK_S = 600  # of silence for no known reason; workers that hang are replaced sooner
HEAD_START_S = 1.0  # for the first tasks of the stream, before torch is imported


def train_on_ray(
    run: Run,
    workers: Workers,
    on_status: Callable[[Status], object],
    stop_asked: Callable[[], bool],
    checkpoint_minutes: float,
    say: Callable[[str], object] = lambda line: None,
    until_gone: bool = True,
) -> Outcome:
    """Train a run to its end under Ray Train.

    Args:
        run: a run that has its images and is locked by this process.
        workers: the workers to train on.
        on_status: called in this thread with every new status.
        stop_asked: once it returns True, the run writes a checkpoint and stops.
        checkpoint_minutes: maximum time between two checkpoints.
        say: called with a line about a failure and the recovery from it, or what is waited for.
        until_gone: also wait until the workers of a finished run have exited, about a second.
    """
    # On the driver's node, so that the loss of another node does not end it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    channel: Any = Channel.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]  # Ray adds it
    trainer = _make_trainer(run, workers, channel, checkpoint_minutes)
    _forget(run.folder)
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # reported by the main thread
            errors.append(error)

    # In the main thread, Ray Train would replace the handler of SIGINT, which the driver needs.
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    _follow(thread, channel, workers, on_status, stop_asked, say, until_gone)
    _forget(run.folder)
    outcome: Outcome | None
    status, outcome, _ = ray.get(channel.read.remote())
    if status is not None:
        on_status(status)
    if outcome is not None:
        return outcome
    reason = ray.get(channel.errors.remote()) or (_reason(errors[0]) if errors else "")
    return Outcome("failed", f"training ended: {reason or 'the workers ended without an error'}")


def _make_trainer(
    run: Run, workers: Workers, channel: Any, checkpoint_minutes: float
) -> DataParallelTrainer:
    assert run.sets is not None
    local = local_trainer() if workers.dedicated else None
    trainer_class = local or lean_trainer() or DataParallelTrainer
    return trainer_class(
        _train_worker,
        train_loop_config={
            "config": run.config,
            "sets": run.sets,
            "samples": ray.put(Samples.of(run.config, run.sets.train, workers.gpus > 0)),
            "folder": run.folder,
            "lock": lock_text(run.folder),
            "threads": workers.threads,
            "gpus": workers.gpus,
            "channel": channel,
            "timeout_s": HANG_S,
            # A resize of an elastic run comes without notice, the first after a minute.
            "checkpoint_minutes": (
                min(checkpoint_minutes, 0.5) if workers.elastic else checkpoint_minutes
            ),
        },
        backend_config=_NoGroup(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(
                (workers.min_workers, workers.max_workers)
                if workers.elastic
                else workers.max_workers
            ),
            use_gpu=workers.gpus > 0,
            resources_per_worker=workers.resources,
        ),
        run_config=ray.train.RunConfig(
            # Ray Train writes only a marker here, to test whether all nodes see the folder.
            name=".ray",
            storage_path=run.folder.uri,
            # The channel counts the restarts, because it knows about checkpoints. For Ray Train,
            # waiting for a replacement of a lost node is a failure of the controller every 20 s.
            failure_config=ray.train.FailureConfig(max_failures=-1, controller_failure_limit=-1),
            callbacks=[_FailureCounter(channel)],
        ),
    )


def _follow(
    training: threading.Thread,
    channel: Any,
    workers: Workers,
    on_status: Callable[[Status], object],
    stop_asked: Callable[[], bool],
    say: Callable[[str], object],
    until_gone: bool,
) -> None:
    """Pass on what the channel reports until the training thread ends."""
    stopping, reported, last = False, 0, None
    quiet_since = time.monotonic()
    while training.is_alive():
        training.join(LOOK_S)
        status, outcome, incidents = ray.get(channel.read.remote())
        if status is not None:
            on_status(status)
        for incident in incidents[reported:]:
            say(f"{incident}; restarted from the last checkpoint")
        if outcome is not None and outcome.status == "finished" and not until_gone:
            return
        if status != last or len(incidents) > reported:
            last, reported, quiet_since = status, len(incidents), time.monotonic()
        elif time.monotonic() - quiet_since > SILENCE_S and (missing := shortage(workers)):
            say(missing)
            quiet_since = time.monotonic() + REPEAT_S - SILENCE_S
        elif time.monotonic() - quiet_since > STUCK_S:
            say("the workers have been silent for ten minutes; Ray's logs may say why")
            quiet_since = time.monotonic()
        if stop_asked() and not stopping:
            channel.request_stop.remote()
            stopping = True


def _forget(folder: Folder) -> None:
    """Delete Ray Train's own files: if a kill cut them short, the run could not be resumed."""
    with contextlib.suppress(OSError):
        folder.delete(".ray")


def _reason(error: BaseException) -> str:
    """Return the cause of an error of Ray Train in one line."""
    error = getattr(error, "controller_failure", error)
    for cause in (*getattr(error, "worker_failures", {}).values(), error.__cause__):
        error = cause or error
    return first_line(error)


class _FailureCounter(ray.train.UserCallback):  # type: ignore[misc]  # Ray ships no types
    """End a run whose workers fail again and again before they begin to train.

    Ray Train itself has no limit here, because a long run on spot instances has many failures.
    """

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Count a failure; an exception from here ends the run."""
        if ray.get(self.channel.fail.remote(first_line(next(iter(worker_exceptions.values()))))):
            raise RuntimeError("the workers cannot be started")


class _NoBackend(Backend):  # type: ignore[misc]  # Ray ships no types
    """Form no process group; each worker sees all GPUs of the group on its node, for NCCL.

    Workers that share a GPU see it once: Ray Train takes the union of their GPUs.
    """

    share_cuda_visible_devices = True


@dataclass
class _NoGroup(BackendConfig):  # type: ignore[misc]  # Ray ships no types
    """Select `_NoBackend`: the rendezvous of Ray Train's own backend listens on all addresses."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _NoBackend


def _train_worker(settings: dict[str, Any]) -> None:
    """Run one worker of Ray Train. Its first samples are made while it imports torch."""
    config, sets, threads = settings["config"], settings["sets"], settings["threads"]
    samples, folder = settings.pop("samples"), settings["folder"]
    context, schedule = ray.train.get_context(), Schedule.of(config, len(sets.train))
    rank, workers = context.get_world_rank(), context.get_world_size()
    stream = stream_shards(samples, schedule, folder, rank, workers, workers * threads)
    # Not used in a `with` statement, which would wait for samples that may never come.
    first = ThreadPoolExecutor(1).submit(_start, stream)
    # Importing torch holds the interpreter's lock most of the time and would delay the first tasks.
    wait([first], timeout=HEAD_START_S)
    from raydae.distributed.worker import work

    work(_when_started(first), **settings)


def _start(stream: Iterator[Columns]) -> Iterator[Columns]:
    """Return the same stream once its first item is there."""
    first = list(islice(stream, 1))
    return chain(first, stream)


def _when_started(stream: Future[Iterator[Columns]]) -> Iterator[Columns]:
    """Yield from a stream; waiting for its first item counts as waiting for data."""
    yield from stream.result()
