"""A worker of Ray Train: it joins the other workers and runs the training loop."""

import os
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psutil
import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch
import torch.distributed as dist

from raydae.core.errors import cause_of, first_line
from raydae.core.lock import lock_text
from raydae.core.storage import Folder
from raydae.distributed.shared_storage import not_shared
from raydae.distributed.start import session_folder
from raydae.images.image_sets import ImageSets
from raydae.training.config import Config
from raydae.training.context import Context
from raydae.training.learner import Batch
from raydae.training.loop import fit
from raydae.training.status import Outcome, Status


def work(
    stream: Iterator[Batch],
    config: Config,
    sets: ImageSets,
    folder: Folder,
    lock: bytes,
    threads: int,
    gpus: float,
    channel: Any,
    timeout_s: float,
    checkpoint_minutes: float,
) -> None:
    """Train a run together with the other workers, and report its progress to the driver.

    Args:
        stream: this worker's shards of the steps that are left.
        config: the configuration to train.
        sets: the images.
        folder: the folder of the run.
        lock: the content of the folder's lock file, as the driver sees it.
        threads: CPU threads for torch.
        gpus: GPUs of each worker.
        channel: the actor `channel.Channel`.
        timeout_s: a worker that hangs for this long counts as dead.
        checkpoint_minutes: maximum time between two checkpoints.
    """
    ray_context = ray.train.get_context()
    reporter = StatusReporter(channel)
    here = f"{ray.util.get_node_ip_address()} (process {os.getpid()})"
    watchdog = Watchdog(
        timeout_s, lambda said: ray.get(channel.report_error.remote(0, f"{here} {said}"))
    )

    def report(status: Status) -> bool:
        watchdog.beats += 1
        return reporter(status)

    context = Context(
        rank=ray_context.get_world_rank(),
        workers=ray_context.get_world_size(),
        device=ray.train.torch.get_device(),
        threads=threads,
        tell=report,
        preempted=lambda: ray.train.get_preemption_info() is not None,
        place=here,
    )
    if context.device.type == "cuda":
        torch.cuda.set_device(context.device)
    if context.workers == 1:  # otherwise the other workers notice, by a timeout
        stream = watchdog.watch(stream)
    try:
        one_node = ray_context.get_local_world_size() == context.workers
        join(context, one_node, gpus, timeout_s)
        places = context.gather(here)
        verdict = ray.get(channel.begin.remote(places)) if context.rank == 0 else None
        outcome: Outcome | None = context.gather(verdict)[0]
        # Nodes that were there at the start have been checked; one that joins later has not.
        differing = [
            place for place, seen in context.gather((here, lock_text(folder))) if seen != lock
        ]
        if differing:
            outcome = Outcome("failed", not_shared(str(folder), differing[0], "--storage"))
        outcome = outcome or fit(
            config,
            sets,
            folder,
            context,
            lambda _: stream,
            checkpoint_minutes,
        )
    except Exception as error:
        said = f"{type(cause_of(error)).__name__}: {first_line(error)}"
        if cause_of(error) is error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            said += f" ({where.name}, line {where.lineno})"
        ray.get(channel.report_error.remote(context.rank, said))
        raise
    finally:
        watchdog.working = False
    if context.rank == 0:
        ray.get([reporter.last, channel.finish.remote(outcome)])
    if context.workers > 1:
        dist.destroy_process_group()


def join(context: Context, one_node: bool, gpus: float, timeout_s: float) -> None:
    """Join the process group of a run's workers; every worker must call this.

    On one machine, workers meet through a file and communicate over the loopback device, so that
    nothing listens for other machines. On several, they meet at the first worker, where torch
    listens on all addresses.
    """
    if context.workers == 1:
        return
    address = ray.util.get_node_ip_address()
    if one_node:
        device = "lo" if sys.platform == "linux" else "lo0"
        # In Ray's own folder, because workers that are killed leave the file behind.
        meeting = f"file://{session_folder()}/raydae-{uuid.uuid4().hex}"
    else:
        device = _device_of(address)
        with socket.socket() as probe:
            probe.bind((address, 0))
            meeting = f"tcp://{address}:{probe.getsockname()[1]}"
    # Otherwise gloo takes the device that the host's name resolves to, if any.
    os.environ.update(GLOO_SOCKET_IFNAME=device, NCCL_SOCKET_IFNAME=device)
    dist.init_process_group(
        "nccl" if gpus == 1 else "gloo",  # NCCL refuses two workers on one GPU
        init_method=ray.train.collective.broadcast_from_rank_zero(meeting),
        rank=context.rank,
        world_size=context.workers,
        timeout=timedelta(seconds=timeout_s),
    )


def _device_of(address: str) -> str:
    """Return the name of the network device that has an address."""
    return next(
        name
        for name, addresses in psutil.net_if_addrs().items()
        if address in {entry.address for entry in addresses}
    )


class StatusReporter:
    """Report the status of a run without waiting for the answer to the previous report."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.last: Any = ray.put(False)

    def __call__(self, status: Status) -> bool:
        """Send a status; return whether the run should stop, as far as is known yet."""
        answered, _ = ray.wait([self.last], timeout=0)
        stop = bool(ray.get(self.last)) if answered else False
        self.last = self.channel.report.remote(status)
        return stop


class Watchdog:
    """End a worker that hangs, in a step, an image or a write, while no other worker waits."""

    def __init__(self, timeout_s: float, report_error: Callable[[str], object]) -> None:
        self.working, self.beats = False, 0
        self.report_error = report_error
        self._timeout_s = timeout_s
        self._patience_s = 4 * timeout_s  # until the first step shows how long a step takes
        self._watched = threading.get_ident()

    def watch(self, stream: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the same stream while watching its consumer; waiting for samples is no hang."""
        threading.Thread(target=self._look, daemon=True).start()
        for number, batch in enumerate(stream):
            began = time.monotonic()
            self.working = True
            self.beats += 1
            yield batch
            self.working = False
            if number == 0:
                self._patience_s = max(self._timeout_s, 4 * (time.monotonic() - began))

    def _look(self) -> None:
        # It counts looks, not time, so that a process that was paused has time after it resumes.
        pause_s, seen, silent_s = self._timeout_s / 10, self.beats, 0.0
        while silent_s < self._patience_s:
            time.sleep(pause_s)
            silent_s = silent_s + pause_s if self.working and self.beats == seen else 0
            seen = self.beats
        where = traceback.extract_stack(sys._current_frames()[self._watched])[-1]
        self.report_error(f"hung for {silent_s:.0f} s ({where.name}, line {where.lineno})")
        os._exit(1)
