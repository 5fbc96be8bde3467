"""The training loop under Ray Train.

Checkpoints are the loop's own, not Ray Train's: they survive a kill at any byte, a plain process
writes the same ones, and Ray's run state, which is not written atomically, is never needed. Ray
Train starts the workers, shares out the samples, and starts anew when a worker dies.
"""

import contextlib
import os
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil
import ray
import ray.data
import ray.train
import ray.train.collective
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train.backend import Backend
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydae.channel import Channel
from raydae.cluster import Workers, shortage
from raydae.config import Config
from raydae.images import ImageSets
from raydae.loop import Context, train
from raydae.runs import Outcome, Run, Status
from raydae.samples import Samples, Schedule
from raydae.storage import Folder, first_line
from raydae.stream import SampleStream, shares

COLLECTIVE_TIMEOUT_S = 300  # after which a hung worker counts as dead
LOOK_S = 0.5  # between two looks of the driver at how far the workers are
SILENCE_S = 30  # of the workers, after which the driver says what they may be waiting for


def train_on_ray(
    run: Run,
    workers: Workers,
    on_status: Callable[[Status], object],
    stop_asked: Callable[[], bool],
    checkpoint_minutes: float,
    say: Callable[[str], object] = lambda line: None,
) -> Outcome:
    """Trains a run to its end under Ray Train.

    Args:
        run: a run that has its images, claimed by this process.
        workers: what it is trained on.
        on_status: called in this thread with every new status.
        stop_asked: once it is true, the run writes a checkpoint and stops.
        checkpoint_minutes: the longest time between two checkpoints.
        say: called with a line on what went wrong and is being mended, or is waited for.
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
            "timeout_s": COLLECTIVE_TIMEOUT_S,
            # A resize of an elastic run comes without notice.
            "checkpoint_minutes": checkpoint_minutes if fixed else min(checkpoint_minutes, 1.0),
        },
        torch_config=_NoGroup(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.least if fixed else (workers.least, workers.most),
            use_gpu=workers.gpu,
            resources_per_worker={"CPU": workers.threads, **({"GPU": 1} if workers.gpu else {})},
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
        datasets={"train": lambda: ray.data.range(1)},  # the true ones come from SampleStream
        dataset_config=SampleStream(samples, run.schedule, run.folder),
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
    told, news, last, last_news = False, 0, None, time.monotonic()
    while thread.is_alive():
        thread.join(LOOK_S)
        status, _, incidents = ray.get(channel.look.remote())
        if status is not None:
            on_status(status)
        for incident in incidents[news:]:
            say(f"{incident}; started anew from the last checkpoint")
        if status != last or len(incidents) > news:
            last, news, last_news = status, len(incidents), time.monotonic()
        elif time.monotonic() - last_news > SILENCE_S and (lacking := shortage(workers)):
            say(lacking)
            last_news = time.monotonic() + 300  # to say it again seldom
        if stop_asked() and not told:
            channel.stop.remote()
            told = True
    _forget(run.folder)
    outcome: Outcome | None
    status, outcome, _ = ray.get(channel.look.remote())
    if status is not None:
        on_status(status)
    if outcome is not None:
        return outcome
    said = ray.get(channel.last_words.remote()) or (first_line(errors[0]) if errors else "")
    reason = said or "the workers ended without a word"
    return Outcome("failed", f"training ended: {reason}; the same command goes on from there")


def _forget(folder: Folder) -> None:
    """Deletes what Ray Train noted: cut short by a kill, it could keep a run from going on."""
    with contextlib.suppress(OSError):
        folder.delete(".ray")


class _FailedStarts(ControllerCallback):  # type: ignore[misc]  # Ray ships no types
    """Ends a run whose workers can never start: with no limit set, Ray Train would not."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called by Ray Train's controller at each turn; what is raised here ends the run."""
        error = getattr(current_state, "training_failed_error", None)
        error = getattr(error, "controller_failure", error)
        if error is None or isinstance(error, WorkerGroupStartupTimeoutError):  # no room so far
            return
        for cause in (*getattr(error, "worker_failures", {}).values(), error.__cause__):
            error = cause or error
        if ray.get(self.channel.fail.remote(first_line(error))):
            raise RuntimeError("the workers cannot be started")


class _Idle(Backend):  # type: ignore[misc]  # Ray ships no types
    """Leaves it to the workers to meet; each sees all GPUs of its node, as NCCL wants."""

    share_cuda_visible_devices = True


@dataclass
class _NoGroup(ray.train.torch.TorchConfig):  # type: ignore[misc]  # Ray ships no types
    """No process group by Ray, whose rendezvous listens on all addresses, for one worker too."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Idle


def _train_worker(settings: dict[str, Any]) -> None:
    """One worker of Ray Train."""
    config: Config = settings["config"]
    sets: ImageSets = settings["sets"]
    folder: Folder = settings["folder"]
    channel = settings["channel"]
    place = ray.train.get_context()
    mouth = _Mouth(channel)
    here = f"{ray.util.get_node_ip_address()} (process {os.getpid()})"
    context = Context(
        rank=place.get_world_rank(),
        workers=place.get_world_size(),
        device=ray.train.torch.get_device(),
        threads=settings["threads"],
        tell=mouth,
        preempted=lambda: ray.train.get_preemption_info() is not None,
        place=here,
    )
    if context.device.type == "cuda":
        torch.cuda.set_device(context.device)
    try:
        one_node = place.get_local_world_size() == context.workers
        join(context, one_node, settings["timeout_s"])
        places = context.gather(here)
        verdict = ray.get(channel.begin.remote(places)) if context.rank == 0 else None
        outcome: Outcome | None = context.gather(verdict)[0]
        rows = Schedule.of(config, len(sets.train)).share_rows(context.workers)
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
        ray.get(channel.complain.remote(context.rank, said))
        raise
    if context.rank == 0:
        ray.get([mouth.last, channel.end.remote(outcome)])
    if context.workers > 1:
        dist.destroy_process_group()


def join(context: Context, one_node: bool, timeout_s: float) -> None:
    """Joins the process group of the workers of a run; called by all of them.

    On one machine they meet in a file and talk over the loopback device, so that nobody outside
    can reach them. On several they meet at the first worker's address, and torch listens on it.
    """
    if context.workers == 1:
        return
    address = ray.util.get_node_ip_address()
    if one_node:
        device = "lo" if sys.platform == "linux" else "lo0"
        # In Ray's own folder: workers that are killed leave the file behind.
        folder = ray._private.worker._global_node.get_session_dir_path()
        meeting = f"file://{folder}/raydae-{uuid.uuid4().hex}"
    else:
        device = _device_of(address)
        with socket.socket() as probe:
            probe.bind((address, 0))
            meeting = f"tcp://{address}:{probe.getsockname()[1]}"
    # Without, gloo takes the device that the host's name leads to, if any.
    os.environ.update(GLOO_SOCKET_IFNAME=device, NCCL_SOCKET_IFNAME=device)
    dist.init_process_group(
        "nccl" if context.device.type == "cuda" else "gloo",
        init_method=ray.train.collective.broadcast_from_rank_zero(meeting),
        rank=context.rank,
        world_size=context.workers,
        timeout=timedelta(seconds=timeout_s),
    )


def _device_of(address: str) -> str:
    """The name of the network device with an address."""
    return next(
        name
        for name, addresses in psutil.net_if_addrs().items()
        if address in {entry.address for entry in addresses}
    )


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
