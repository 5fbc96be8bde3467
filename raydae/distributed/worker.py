"""A worker of Ray Train: it joins the others and runs the training loop."""

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
from raydae.distributed.cluster import not_shared
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
    claim: bytes,
    threads: int,
    gpus: float,
    channel: Any,
    timeout_s: float,
    checkpoint_minutes: float,
) -> None:
    """Trains a run with the other workers of its group, and tells the driver how far it is.

    Args:
        stream: the worker's shares of the steps to do.
        config: what to train.
        sets: the images.
        folder: the run's folder.
        claim: what the driver sees of it.
        threads: CPU threads for torch.
        gpus: GPUs of a worker.
        channel: the actor `channel.Channel`.
        timeout_s: after which a worker that hangs counts as dead.
        checkpoint_minutes: the longest time between two checkpoints.
    """
    place = ray.train.get_context()
    mouth = _Mouth(channel)
    here = f"{ray.util.get_node_ip_address()} (process {os.getpid()})"
    watch = _Watch(timeout_s, lambda said: ray.get(channel.complain.remote(0, f"{here} {said}")))

    def tell(status: Status) -> bool:
        watch.beats += 1
        return mouth(status)

    context = Context(
        rank=place.get_world_rank(),
        workers=place.get_world_size(),
        device=ray.train.torch.get_device(),
        threads=threads,
        tell=tell,
        preempted=lambda: ray.train.get_preemption_info() is not None,
        place=here,
    )
    if context.device.type == "cuda":
        torch.cuda.set_device(context.device)
    if context.workers == 1:  # of several, the others notice
        stream = watch.over(stream)
    try:
        one_node = place.get_local_world_size() == context.workers
        join(context, one_node, gpus, timeout_s)
        places = context.gather(here)
        verdict = ray.get(channel.begin.remote(places)) if context.rank == 0 else None
        outcome: Outcome | None = context.gather(verdict)[0]
        strange = [
            place for place, seen in context.gather((here, lock_text(folder))) if seen != claim
        ]
        if strange:  # a node that joined later: those there at the start have been asked
            outcome = Outcome("failed", not_shared(str(folder), strange[0], "--storage"))
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
        ray.get(channel.complain.remote(context.rank, said))
        raise
    finally:
        watch.working = False
    if context.rank == 0:
        ray.get([mouth.last, channel.end.remote(outcome)])
    if context.workers > 1:
        dist.destroy_process_group()


def join(context: Context, one_node: bool, gpus: float, timeout_s: float) -> None:
    """Joins the process group of the workers of a run; called by all of them.

    On one machine they meet in a file and talk over the loopback device, so that nobody outside
    can reach them. On several they meet at the first worker, where torch listens on all addresses.
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
        "nccl" if gpus == 1 else "gloo",  # NCCL refuses two workers on one GPU
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


class _Watch:
    """Ends a worker that trains alone when it hangs: in a step, an image, or a write."""

    def __init__(self, timeout_s: float, complain: Callable[[str], object]) -> None:
        self.working, self.beats = False, 0
        self.complain = complain
        self._timeout_s = timeout_s
        self._patience_s = 4 * timeout_s  # until the first step has told how long a step takes
        self._watched = threading.get_ident()

    def over(self, stream: Iterator[Batch]) -> Iterator[Batch]:
        """The same stream, beside which it watches; samples may be waited for for any time."""
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
        # It counts looks, not time: a process that was paused is given time when it goes on.
        pause_s, seen, silent_s = self._timeout_s / 10, self.beats, 0.0
        while silent_s < self._patience_s:
            time.sleep(pause_s)
            silent_s = silent_s + pause_s if self.working and self.beats == seen else 0
            seen = self.beats
        where = traceback.extract_stack(sys._current_frames()[self._watched])[-1]
        self.complain(f"hung for {silent_s:.0f} s ({where.name}, line {where.lineno})")
        os._exit(1)
