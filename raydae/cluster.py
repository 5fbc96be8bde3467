"""Ray itself: to start it or connect to it, and what it has to give."""

import os
from dataclasses import dataclass
from typing import Any

import ray
import ray.data

from raydae.config import Config
from raydae.errors import UserError
from raydae.storage import first_line

DATA_CPUS = 2  # logical CPUs beside the workers', for the tasks that make samples


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
        workers = "worker" if self.most == 1 else "workers"
        if self.gpu:
            return f"{number} GPU {workers}"
        return f"{number} CPU {workers} of {_plural(self.threads, 'thread')}"


def set_environment() -> None:
    """What Ray Train reads in the process that starts it."""
    for name, value in {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # at the default of 2 s all is 2 s late
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # importing torch can take a minute
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }.items():
        os.environ.setdefault(name, value)


def start_ray(
    asked: tuple[int, int] | None = None, threads: int | None = None, verbose: bool = False
) -> None:
    """Connects to the cluster that RAY_ADDRESS names, or starts Ray on this machine alone.

    Args:
        asked: least and most workers, or none.
        threads: CPUs of a worker, or none.
        verbose: lets Ray speak.
    """
    set_environment()
    ray.data.DataContext.get_current().enable_progress_bars = verbose
    quiet: dict[str, Any] = {} if verbose else {"log_to_driver": False, "logging_level": "ERROR"}
    if "RAY_ADDRESS" in os.environ:
        try:
            ray.init(**quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"RAY_ADDRESS={os.environ['RAY_ADDRESS']} is no Ray cluster that answers "
                f"({first_line(error)}); start it, or unset RAY_ADDRESS"
            ) from None
        return
    # Ray Data takes the CPUs that Ray Train leaves, and waits for ever where it leaves none. These
    # are logical: the samples for one worker need a few hundredths of a core.
    workers = asked[1] if asked else 1
    training = max(cores(), workers * (threads or 1))
    try:
        ray.init(address="local", num_cpus=training + DATA_CPUS, include_dashboard=False, **quiet)
    except Exception as error:  # Ray raises no kind of its own where it does not start in time
        raise UserError(
            f"Ray did not start ({first_line(error)}); try again when this machine is less busy"
        ) from error


def cores() -> int:
    """The CPUs that there really are: the cluster's, or this machine's where Ray is its own."""
    if "RAY_ADDRESS" in os.environ:
        return int(ray.cluster_resources().get("CPU", 1))
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
        threads = config.threads or 1
        if asked[0] * threads + DATA_CPUS > cpus:
            raise UserError(
                f"{_plural(asked[0], 'worker')} of {_plural(threads, 'CPU')} and {DATA_CPUS} CPUs "
                f"to make samples are more than the {cpus} there are; lower --threads"
            )
        if asked[0] > gpus:
            raise UserError(
                f"--num-workers {asked[0]} needs {asked[0]} GPUs and there are {gpus}; "
                f"ask for {gpus}, or use --use-gpu no"
            )
        return Workers(asked[0], asked[1], gpu, threads), word
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    spare = max(cpus - DATA_CPUS, 1)
    threads = config.threads or max(min(spare // asked[1], max(nodes)), 1)
    fitting = min(sum(node // threads for node in nodes), spare // threads)
    if asked[0] > fitting:
        raise UserError(
            f"{_plural(asked[0], 'worker')} of {_plural(threads, 'CPU')} and {DATA_CPUS} CPUs to "
            f"make samples are more than the {cpus} there are; lower --num-workers or --threads"
        )
    return Workers(asked[0], min(asked[1], fitting), gpu, threads), word


def choose_trials(
    workers: int, use_gpu: str, config: Config, trials: int, most: int | None
) -> tuple[Workers, int]:
    """The workers of each trial of a search, and how many trials run at once. Ray must be running.

    Cores are shared out among as many trials as there can be: on few cores, two networks on one
    core each train faster than one network after the other on both.

    Args:
        workers: of each trial.
        use_gpu: `auto`, `yes` or `no`.
        config: what all trials share.
        trials: how many there are to run.
        most: how many may run at once; none: as many as fit.

    Raises:
        UserError: the cluster cannot give what one trial needs.
    """
    nodes = [
        (int(node["Resources"].get("GPU", 0)), int(node["Resources"].get("CPU", 0)))
        for node in ray.nodes()
        if node["Alive"]
    ]
    gpus, cpus = (sum(kind) for kind in zip(*nodes, strict=True))
    trials = min(trials, most or trials)
    if use_gpu == "yes" or (gpus > 0 and use_gpu != "no"):
        each, _ = choose_workers((workers, workers), use_gpu, config)
        fitting = sum(min(gpu, cpu // each.threads) for gpu, cpu in nodes) // workers
        fitting = min(fitting, cpus // (workers * each.threads + 1))
    else:
        beside = 0 if workers == 1 else 1  # a CPU for the tasks that make a trial's samples
        slots = max(min(trials, cores() // workers, cpus // (workers + beside)), 1)
        largest = max(cpu for _, cpu in nodes)
        share = min(cores() // (workers * slots), (cpus // slots - beside) // workers, largest)
        threads = config.threads or max(share, 1)
        each = Workers(workers, workers, False, threads)
        fitting = sum(cpu // threads for _, cpu in nodes) // workers
        fitting = min(fitting, cpus // (workers * threads + beside))
        trials = min(trials, max(cores() // (workers * threads), 1))
    if fitting < 1:
        raise UserError(
            f"a trial of {_plural(workers, 'worker')} of {_plural(each.threads, 'CPU')}, and what "
            f"makes its samples, is more than the {cpus} CPUs there are; lower --num-workers or "
            "--threads"
        )
    return each, min(trials, fitting)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
