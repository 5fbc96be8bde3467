"""The training loop under Ray Train.

Checkpoints are the loop's own, not Ray Train's: they survive a kill at any byte, a plain process
writes the same ones, and Ray's run state, which is not written atomically, is never needed. Ray
Train starts the workers, shares out the samples, and starts anew when a worker dies.
"""

import os
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
import ray.train
import ray.train.torch

from raydae.channel import Channel
from raydae.config import Config
from raydae.errors import UserError
from raydae.images import ImageSets
from raydae.loop import Context, train
from raydae.runs import Outcome, Run, Status
from raydae.samples import Samples, Schedule
from raydae.storage import Folder, first_line
from raydae.stream import SampleStream, shares

DATA_CPUS = 2  # logical CPUs beside the workers', for the tasks that make samples
COLLECTIVE_TIMEOUT_S = 300  # after which a hung worker counts as dead
LOOK_S = 0.2  # between two looks of the driver at how far the workers are


@dataclass(frozen=True)
class Workers:
    """What a run is trained on; elastic where `least` and `most` differ."""

    least: int
    most: int
    gpu: bool
    threads: int
    """CPUs of a worker."""

    def __str__(self) -> str:
        number = str(self.most) if self.least == self.most else f"{self.least} to {self.most}"
        kind = "GPU worker" if self.gpu else f"CPU worker of {_plural(self.threads, 'thread')}"
        return f"{number} {kind}{'s' if self.most > 1 and self.gpu else ''}"


def start_ray(asked: tuple[int, int] | None, threads: int | None, verbose: bool) -> None:
    """Connects to the cluster that RAY_ADDRESS names, or starts Ray on this machine alone.

    Args:
        asked: least and most workers, or none.
        threads: CPUs of a worker, or none.
        verbose: lets Ray speak.
    """
    for name, value in {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # at the default of 2 s all is 2 s late
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # importing torch can take a minute
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }.items():
        os.environ.setdefault(name, value)
    ray.data.DataContext.get_current().enable_progress_bars = verbose
    quiet: dict[str, Any] = {} if verbose else {"log_to_driver": False, "logging_level": "ERROR"}
    if "RAY_ADDRESS" in os.environ:
        ray.init(**quiet)
        return
    # Ray Data takes the CPUs that Ray Train leaves, and waits for ever where it leaves none. These
    # are logical: the samples for one worker need a few hundredths of a core.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = asked[1] if asked else 1
    training = max(cores or 1, workers * (threads or 1))
    ray.init(address="local", num_cpus=training + DATA_CPUS, include_dashboard=False, **quiet)


def choose_workers(
    asked: tuple[int, int] | None, use_gpu: str, config: Config
) -> tuple[Workers, str]:
    """What the cluster gives a run, and a word on what is left idle. Ray must be running.

    Args:
        asked: least and most workers; none: every GPU the batch can be shared among, or one CPU
            worker.
        use_gpu: `auto`, `yes` or `no`.
        config: what is trained.

    Raises:
        UserError: the cluster cannot give it.
    """
    have = ray.cluster_resources()
    gpus, cpus = int(have.get("GPU", 0)), int(have.get("CPU", 0))
    if use_gpu == "yes" and gpus == 0:
        raise UserError("--use-gpu yes, but there is no GPU here; use --use-gpu auto or no")
    gpu = gpus > 0 and use_gpu != "no"
    most_useful = config.optim.batch_size // config.optim.micro_batch
    word = ""
    if asked is None:
        number = min(gpus, most_useful) if gpu else 1
        asked = (number, number)
        if gpu and gpus > number:
            word = (
                f"{gpus - number} of {gpus} GPUs stay idle: a batch of {config.optim.batch_size} "
                f"is shared among {number} at most; raise --batch-size to use them"
            )
    if gpu:
        if asked[0] > gpus:
            raise UserError(
                f"--num-workers {asked[0]} needs {asked[0]} GPUs and there are {gpus}; "
                f"ask for {gpus}, or use --use-gpu no"
            )
        return Workers(asked[0], asked[1], gpu, config.threads or 1), word
    spare = max(cpus - DATA_CPUS, 1)
    threads = config.threads or max(spare // asked[1], 1)
    if asked[0] * threads > spare:
        raise UserError(
            f"{_plural(asked[0], 'worker')} of {_plural(threads, 'CPU')} and {DATA_CPUS} CPUs to "
            f"make samples are more than the {cpus} there are; lower --num-workers or --threads"
        )
    return Workers(asked[0], min(asked[1], spare // threads), gpu, threads), word


def train_on_ray(
    run: Run,
    workers: Workers,
    on_status: Callable[[Status], None],
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
    channel = Channel.remote()
    number = workers.least if workers.least == workers.most else (workers.least, workers.most)
    trainer = ray.train.torch.TorchTrainer(
        _train_worker,
        train_loop_config={
            "config": run.config,
            "sets": run.sets,
            "folder": run.folder,
            "threads": workers.threads,
            "channel": channel,
            "checkpoint_minutes": checkpoint_minutes,
        },
        torch_config=ray.train.torch.TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ray.train.ScalingConfig(
            num_workers=number,
            use_gpu=workers.gpu,
            resources_per_worker={"CPU": workers.threads, **({"GPU": 1} if workers.gpu else {})},
        ),
        run_config=ray.train.RunConfig(
            # Ray Train keeps nothing here but a marker that tells whether all nodes see the place.
            name=".ray",
            storage_path=run.folder.uri,
            failure_config=ray.train.FailureConfig(max_failures=-1),
        ),
        datasets={"train": lambda: ray.data.range(1)},  # the true ones come from SampleStream
        dataset_config=SampleStream(samples, run.schedule, run.folder),
    )
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001  told to the thread that waits
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
        begin=lambda step: ray.get(channel.begin.remote(step)),
    )
    rows = Schedule.of(config, len(sets.train)).share_rows(context.workers)
    try:
        outcome = train(
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


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
