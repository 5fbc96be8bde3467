"""Ray itself: to start it or connect to it, and what it has to give."""

import hashlib
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import ray
import yaml
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydae.core.errors import UserError, first_line
from raydae.core.storage import Folder
from raydae.distributed import agent
from raydae.images.image_sets import ImageSets
from raydae.training.config import Config

HANG_S = 300  # after which a worker that hangs counts as dead
DATA_CPUS = 2  # logical CPUs beside the workers', for the tasks that make samples
# For the processes that Ray starts: memory that a step frees is kept for the next. As glibc has it,
# a step takes thousands of page faults, and training 6 to 10 % longer.
MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**26),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**26),
}
AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
AUTOSCALING = Path("~/ray_bootstrap_config.yaml")  # what `ray up` leaves on the head


class Node(NamedTuple):
    """What a node has, whole ones only."""

    gpus: int
    cpus: int


@dataclass(frozen=True)
class Workers:
    """What a run is trained on; elastic where `least` and `most` differ."""

    least: int
    most: int
    gpus: float
    """GPUs of a worker: 0 for the CPU, 1, or the part of one that it shares with others."""
    threads: int
    """CPUs of a worker."""
    alone: bool = False
    """Whether Ray serves them alone, and never has more than now."""

    def __str__(self) -> str:
        number = str(self.most) if self.least == self.most else f"{self.least} to {self.most}"
        workers = "worker" if self.most == 1 else "workers"
        if self.gpus == 1:
            return f"{number} GPU {workers}"
        if self.gpus:
            return f"{number} {workers} of {self.gpus:.3g} GPU"
        return f"{number} CPU {workers} of {_plural(self.threads, 'thread')}"

    @property
    def resources(self) -> dict[str, float]:
        """Return what Ray sets aside for each worker."""
        return {"CPU": self.threads, **({"GPU": self.gpus} if self.gpus else {})}


def set_environment() -> None:
    """What Ray Train reads in the process that starts it."""
    for name, value in {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # 0.8 % of a core; at 0.2 s it was 1.4
        # For room for the workers: after the loss of a node Ray Train asks for as many as before
        # at first, and for what there is when this is over.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
        # A worker that does not answer, or keeps the others waiting outside a step.
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(HANG_S),
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": str(HANG_S),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",  # Ray Train's controller does
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
    quiet: dict[str, Any] = {} if verbose else {"log_to_driver": False, "logging_level": "ERROR"}
    if "RAY_ADDRESS" in os.environ:
        try:
            ray.init(**quiet)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise UserError(
                f"RAY_ADDRESS={os.environ['RAY_ADDRESS']} is no Ray cluster that answers "
                f"({first_line(error)}); start it, or unset RAY_ADDRESS"
            ) from None
        return
    # Ray Data takes the CPUs that Ray Train leaves, and waits for ever where it leaves none. These
    # are logical: the samples for one worker need a few hundredths of a core.
    workers = asked[1] if asked else 1
    training = max(cores(), workers * (threads or 1))
    hide_token()
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nothing takes this machine
    for name, value in MALLOC.items():
        os.environ.setdefault(name, value)
    # Ray counts the GPU of a Mac too, on which nothing here trains.
    gpus = {"num_gpus": 0} if sys.platform == "darwin" else {}
    whole = ray._private.node.Node
    ray._private.node.Node = whole if verbose else _BareNode
    try:
        ray.init(
            address="local",
            num_cpus=training + DATA_CPUS,
            include_dashboard=False,
            **gpus,
            **quiet,
        )
    except Exception as error:  # Ray raises no kind of its own where it does not start in time
        raise UserError(
            f"Ray did not start ({first_line(error)}); try again when this machine is less busy"
        ) from error
    finally:
        ray._private.node.Node = whole


class _BareNode(ray._private.node.Node):  # type: ignore[misc]  # Ray ships no types
    """Ray for one run on one machine, without four processes that nobody asks anything.

    Ray starts a dashboard where none is to be included too, and waits for it, as for its agent.
    """

    def start_api_server(self, **_: Any) -> None:
        self._webui_url = ""

    def start_monitor(self) -> None:
        """It would start and end nodes."""

    def start_log_monitor(self) -> None:
        """It would bring all processes' output to the driver."""

    def start_raylet(self, *args: Any, **settings: Any) -> None:
        """Starts the node, with a process in the place of its agent that does nothing."""
        for port in AGENT_PORTS:  # that there is none, as a Ray without its dashboard says it
            ray._raylet.persist_port(self._session_dir, self._node_id, port, -1)
        services = ray._private.services
        whole = services.start_ray_process

        def start(command: list[str], *words: Any, **more: Any) -> Any:
            flag = "--dashboard_agent_command="
            stand_in = subprocess.list2cmdline([sys.executable, "-I", "-S", agent.__file__])
            command = [flag + stand_in if word.startswith(flag) else word for word in command]
            return whole(command, *words, **more)

        services.start_ray_process = start
        try:
            super().start_raylet(*args, **settings)
        finally:
            services.start_ray_process = whole


def leave() -> None:
    """Ends the Ray of this machine; this process must end at once, and leaves a cluster by that.

    No `ray.shutdown`: after it, Ray ends the whole process with an exit code of its own where
    another thread so much as drops an ObjectRef.
    """
    if ray.is_initialized() and "RAY_ADDRESS" not in os.environ:
        for started in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                started.kill()


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
    nodes = _nodes(use_gpu)
    gpus, cpus = sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
    gpu = _on_gpus(gpus, use_gpu)
    most_useful = config.optim.batch_size // config.optim.micro_batch
    threads = config.threads or 1
    beside = sum(min(node.gpus, node.cpus // threads) for node in nodes)
    usable = max(min(beside, (cpus - DATA_CPUS) // threads), 0)  # of the GPUs
    word = ""
    if asked is None:
        number = min(max(usable, 1), most_useful) if gpu else 1
        # A cluster that grows begins with the first GPU, and the others join.
        asked = (1 if gpu and _planned(use_gpu) else number, number)
        if gpu and gpus > number:
            few = (
                f"a batch of {config.optim.batch_size} is shared among {number} at most; raise "
                "--batch-size to use them"
            )
            word = (
                f"{gpus - number} of {gpus} GPUs stay idle: "
                f"{few if usable > number else 'there are too few CPUs beside them'}"
            )
    if gpu:
        if asked[0] > gpus:
            raise UserError(
                f"--num-workers {asked[0]} needs {asked[0]} GPUs and there are {gpus}; "
                f"ask for {gpus}, or use --use-gpu no"
            )
        if asked[0] > usable:
            raise UserError(
                f"of {_plural(asked[0], 'worker')} with a GPU and {_plural(threads, 'CPU')} on a "
                f"node, beside {DATA_CPUS} CPUs to make samples, there is room for {usable}; lower "
                "--num-workers or --threads"
            )
        return _perhaps_alone(Workers(asked[0], asked[1], 1, threads)), word
    in_cluster = "RAY_ADDRESS" in os.environ
    beside = 1 if in_cluster else DATA_CPUS
    spare = cpus - beside
    shares = range(max(node.cpus for node in nodes), 1, -1)
    threads = config.threads or next(
        (
            share
            for share in shares
            if min(sum(node.cpus // share for node in nodes), spare // share) >= asked[1]
        ),
        1,
    )
    fitting = min(sum(node.cpus // threads for node in nodes), spare // threads)
    if asked[0] > fitting:
        raise UserError(
            f"{_plural(asked[0], 'worker')} of {_plural(threads, 'CPU')} and "
            f"{_plural(beside, 'CPU')} to make samples are more than the {cpus} there are; lower "
            "--num-workers or --threads"
        )
    # Workers may grow with the cluster, unless they would take the last CPU from the samples.
    may_grow = in_cluster and any(node.cpus % threads for node in nodes)
    most = asked[1] if may_grow else min(asked[1], fitting)
    return _perhaps_alone(Workers(asked[0], most, 0, threads)), word


def _on_gpus(gpus: int, use_gpu: str) -> bool:
    """Return whether to train on the GPUs, of which there are so many.

    Raises:
        UserError: they are asked for and there is none.
    """
    if use_gpu == "yes" and gpus == 0:
        raise UserError("--use-gpu yes, but there is no GPU here; use --use-gpu auto or no")
    return gpus > 0 and use_gpu != "no"


def _perhaps_alone(workers: Workers) -> Workers:
    """The same workers; of a fixed number, they are alone where Ray was started for them."""
    alone = "RAY_ADDRESS" not in os.environ and workers.least == workers.most
    return replace(workers, alone=alone)


def choose_trials(
    workers: int,
    use_gpu: str,
    config: Config,
    trials: int,
    most: int | None,
    gpus_per_trial: float | None = None,
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
        gpus_per_trial: GPUs that the workers of a trial share evenly; none: one for each worker.

    Raises:
        UserError: the cluster cannot give what one trial needs.
    """
    nodes = _nodes(use_gpu)
    gpus, cpus = (sum(kind) for kind in zip(*nodes, strict=True))
    trials = min(trials, most or trials)
    if _on_gpus(gpus, use_gpu):
        # Ray rounds to the nearest 1/10000: seven parts of 0.1429 would not fit into one GPU.
        part = 1.0 if gpus_per_trial is None else int(gpus_per_trial / workers * 10**4) / 10**4
        each = Workers(workers, workers, part, config.threads or 1)
        per_gpu = int(1 / part + 1e-6)  # whole, in spite of rounding: 1 / (1 / 49) is less than 49
        room = sum(min(gpu * per_gpu, cpu // each.threads) for gpu, cpu in nodes)
        fitting = min(room // workers, cpus // (workers * each.threads + 1))
        if fitting < 1:
            raise UserError(
                f"a trial of {each} with {_plural(each.threads, 'CPU')} each, and a CPU to make "
                f"its samples, is more than the {_plural(gpus, 'GPU')} and {_plural(cpus, 'CPU')} "
                "there are; lower --num-workers, --gpus-per-trial or --threads"
            )
    else:
        beside = 0 if workers == 1 else 1  # a CPU for the tasks that make a trial's samples
        slots = max(min(trials, cores() // workers, cpus // (workers + beside)), 1)
        largest = max(cpu for _, cpu in nodes)
        share = min(cores() // (workers * slots), (cpus // slots - beside) // workers, largest)
        threads = config.threads or max(share, 1)
        each = Workers(workers, workers, 0, threads)
        fitting = sum(cpu // threads for _, cpu in nodes) // workers
        fitting = min(fitting, cpus // (workers * threads + beside))
        trials = min(trials, max(cores() // (workers * threads), 1))
    if fitting < 1:
        raise UserError(
            f"a trial of {_plural(workers, 'worker')} of {_plural(each.threads, 'CPU')}, and what "
            f"makes its samples, is more than the {cpus} CPUs there are; lower --num-workers or "
            "--threads"
        )
    return replace(each, alone=False), min(trials, fitting)  # each is one of several


def _nodes(use_gpu: str) -> Sequence[Node]:
    """The nodes there are, or, of a cluster that grows, those there can be."""
    return _planned(use_gpu) or _present()


def _present() -> list[Node]:
    return [_node(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _node(resources: dict[str, float]) -> Node:
    return Node(int(resources.get("GPU", 0)), int(resources.get("CPU", 0)))


def _planned(use_gpu: str) -> list[Node]:
    """The nodes that a cluster of `ray up` can have at most; empty: it tells of none.

    Where there can be more of each kind than in all, those count that are wanted. Machines
    that one has (provider: local) are not described there: each counts as the largest present.

    It tells where this is its head, as for a job that was submitted.
    """
    file = AUTOSCALING.expanduser()
    if "RAY_ADDRESS" not in os.environ or not file.exists():
        return []
    config = yaml.safe_load(file.read_text())
    head = config.get("head_node_type")
    kinds = {
        name: kind
        for name, kind in (config.get("available_node_types") or {}).items()
        if name != head or not kind.get("resources")
    }
    largest = max(_present(), key=lambda node: node.cpus)
    most = [
        _node(kind["resources"]) if kind.get("resources") else largest
        for kind in kinds.values()
        for _ in range(kind.get("max_workers", config.get("max_workers", 0)))
    ]
    most.sort(key=lambda node: (node.gpus if use_gpu != "no" else -node.gpus, node.cpus))
    return [node for node in reversed(most) if node.cpus][: config.get("max_workers")]


def shortage(workers: Workers) -> str:
    """What the cluster is too small for now, in a line; empty: the least of the workers fit."""
    have = _node(ray.cluster_resources())
    if have.cpus >= workers.least * workers.threads and have.gpus >= workers.least * workers.gpus:
        return ""
    return (
        f"waiting for nodes to run {workers}: the cluster has {_plural(have.gpus, 'GPU')} and "
        f"{_plural(have.cpus, 'CPU')} now"
    )


def wait_for_a_node(say: Callable[[str], object]) -> None:
    """Waits until a cluster has a node that works, not its head alone: `ray up` ends before that.

    Args:
        say: called with what is waited for.
    """
    if "RAY_ADDRESS" in os.environ and not any(node.cpus for node in _nodes("auto")):
        _wait_for_room([{"CPU": 1}], lambda: "waiting for a node that works", say)


def wait_for(workers: Workers, say: Callable[[str], object]) -> None:
    """Waits until a cluster has room for the least of the workers, and asks it to grow for them.

    Args:
        workers: what is waited for.
        say: called with what is lacking, when that changes.
    """
    if "RAY_ADDRESS" not in os.environ:
        return
    busy = f"waiting for room to run {workers}: the cluster is busy"
    bundles = [*[workers.resources] * workers.least, {"CPU": 1.0}]
    _wait_for_room(bundles, lambda: shortage(workers) or busy, say)


def _wait_for_room(
    bundles: list[dict[str, float]], lacking: Callable[[], str], say: Callable[[str], object]
) -> None:
    # Asked for like this, nodes are asked for no longer when this process is gone.
    group = placement_group(bundles)
    told = ""
    try:
        while not group.wait(timeout_seconds=5):
            if (word := lacking()) != told:
                say(word)
                told = word
    finally:
        remove_placement_group(group)


def check_shared(storage: Folder, sets: ImageSets) -> None:
    """Makes sure that all nodes see a run's folder and its images as this one does.

    Args:
        storage: the run's folder, claimed.
        sets: the images; the first stands for all.

    Raises:
        UserError: a node sees something else at a local path. URIs are the same everywhere.
    """
    for file, flag in ((storage.path_of(".lock"), "--storage"), (sets.train[0].uri, "--data")):
        if host := _where_unlike(file):
            raise UserError(not_shared(file, host, flag))


def not_shared(place: str, who: str, flag: str) -> str:
    """What to say where not all nodes see the same at a local path, and what to do about it."""
    return (
        f"{place} is not what {who} sees there; give {flag} a folder that all nodes share, or a URI"
    )


def _where_unlike(file: str) -> str:
    """The name of a host where a local file is another than here, or none; empty: nowhere."""
    if "://" in file:
        return ""
    here = ray.get_runtime_context().get_node_id()
    others = [
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here and _node(node["Resources"]).cpus
    ]
    look = ray.remote(num_cpus=0)(_here)
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in others]
    seen = [look.options(scheduling_strategy=place).remote(file) for place in places]
    _, content = _here(file)
    return next((host for host, there in ray.get(seen) if there != content), "")


def _here(file: str) -> tuple[str, str]:
    """This host's name, and the SHA-256 of a local file; empty where it cannot be read."""
    try:
        content = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        content = ""
    return socket.gethostname(), content


def hide_token() -> None:
    """Makes sure that the token which Ray's services ask for is there, for this user's eyes only.

    They run code for anyone who has it. Ray makes it itself, but readable by all.
    """
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    token = Path.home() / ".ray" / "auth_token"
    try:
        token.parent.mkdir(exist_ok=True)
        if not token.exists():
            draft = token.with_name(f".auth_token.{secrets.token_hex(4)}")
            draft.touch(mode=0o600, exist_ok=False)
            draft.write_text(secrets.token_hex(32))
            with suppress(FileExistsError):
                os.link(draft, token)
            draft.unlink()
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)
    except OSError:  # a home that cannot be written: a token for this process and its children
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
