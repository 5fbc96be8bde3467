"""The training loop under Ray Train.

Checkpoints are the loop's own, not Ray Train's: they survive a kill at any byte, a plain process
writes the same ones, and Ray's run state, which is not written atomically, is never needed. Ray
Train starts the workers, shares out the samples, and starts anew when a worker dies.
"""

import contextlib
import threading
import traceback
from collections.abc import Callable
from typing import Any

import ray
import ray.data
import ray.train
import ray.train.torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydae.channel import Channel
from raydae.cluster import Workers
from raydae.config import Config
from raydae.images import ImageSets
from raydae.loop import Context, train
from raydae.runs import Outcome, Run, Status
from raydae.samples import Samples, Schedule
from raydae.storage import Folder, first_line
from raydae.stream import SampleStream, shares

COLLECTIVE_TIMEOUT_S = 300  # after which a hung worker counts as dead
LOOK_S = 0.5  # between two looks of the driver at how far the workers are


def train_on_ray(
    run: Run,
    workers: Workers,
    on_status: Callable[[Status], object],
    stop_asked: Callable[[], bool],
    checkpoint_minutes: float,
) -> Outcome:
    """Trains a run to its end under Ray Train.

    Args:
        run: a run that has its images, claimed by this process.
        workers: what it is trained on.
        on_status: called in this thread with every new status.
        stop_asked: once it is true, the run writes a checkpoint and stops.
        checkpoint_minutes: the longest time between two checkpoints.
    """
    assert run.sets is not None
    samples = Samples.of(run.config, run.sets.train)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Where the driver is, so that no other node's loss takes it.
    channel: Any = Channel.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]  # Ray adds it
    fixed = workers.least == workers.most
    trainer = ray.train.torch.TorchTrainer(
        _train_worker,
        train_loop_config={
            "config": run.config,
            "sets": run.sets,
            "folder": run.folder,
            "threads": workers.threads,
            "channel": channel,
            # A resize of an elastic run comes without notice.
            "checkpoint_minutes": checkpoint_minutes if fixed else min(checkpoint_minutes, 1.0),
        },
        torch_config=ray.train.torch.TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.least if fixed else (workers.least, workers.most),
            use_gpu=workers.gpu,
            resources_per_worker={"CPU": workers.threads, **({"GPU": 1} if workers.gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            # Ray Train keeps nothing here but a marker that tells whether all nodes see the place.
            name=".ray",
            storage_path=run.folder.uri,
            # Dying workers are counted by the channel, which knows of checkpoints.
            failure_config=ray.train.FailureConfig(max_failures=-1, controller_failure_limit=3),
        ),
        datasets={"train": lambda: ray.data.range(1)},  # the true ones come from SampleStream
        dataset_config=SampleStream(samples, run.schedule, run.folder),
    )
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # told to the thread that waits
            errors.append(error)

    # Ray Train takes SIGINT for itself in the main thread; there, raydae's driver listens.
    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    told = False
    while thread.is_alive():
        thread.join(LOOK_S)
        status, _, _ = ray.get(channel.look.remote())
        if status is not None:
            on_status(status)
        if stop_asked() and not told:
            channel.stop.remote()
            told = True
    with contextlib.suppress(OSError):
        run.folder.delete(".ray")
    outcome: Outcome | None
    status, outcome, problem = ray.get(channel.look.remote())
    if status is not None:
        on_status(status)
    if outcome is not None:
        return outcome
    reason = problem or (first_line(errors[0]) if errors else "the workers ended without a word")
    return Outcome("failed", f"training ended: {reason}; the same command goes on from there")


def _train_worker(settings: dict[str, Any]) -> None:
    """One worker of Ray Train."""
    config: Config = settings["config"]
    sets: ImageSets = settings["sets"]
    folder: Folder = settings["folder"]
    channel = settings["channel"]
    place = ray.train.get_context()
    mouth = _Mouth(channel)
    context = Context(
        rank=place.get_world_rank(),
        workers=place.get_world_size(),
        device=ray.train.torch.get_device(),
        threads=settings["threads"],
        tell=mouth,
    )
    verdict = ray.get(channel.begin.remote()) if context.rank == 0 else None
    outcome: Outcome | None = context.gather(verdict)[0]
    rows = Schedule.of(config, len(sets.train)).share_rows(context.workers)
    try:
        outcome = outcome or train(
            config,
            sets,
            folder,
            context,
            lambda _: shares(ray.train.get_dataset_shard("train"), rows),
            settings["checkpoint_minutes"],
        )
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {first_line(error)} ({where.name}, line {where.lineno})"
        ray.get(channel.complain.remote(f"worker {context.rank}: {said}"))
        raise
    if context.rank == 0:
        ray.get([mouth.last, channel.end.remote(outcome)])


class _Mouth:
    """Tells the driver where a run is without waiting for the answer to the word before."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.last: Any = ray.put(False)

    def __call__(self, status: Status) -> bool:
        answered, _ = ray.wait([self.last], timeout=0)
        stop = bool(ray.get(self.last)) if answered else False
        self.last = self.channel.tell.remote(status)
        return stop
