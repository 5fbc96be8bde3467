"""Choose the workers of a run, or of each trial of a search, from the resources of the cluster."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import ray
import yaml

from raydae.core.errors import UserError
from raydae.training.config import Config

DATA_CPUS = 2  # logical CPUs, in addition to those of the workers, for the tasks that make samples
AUTOSCALING = Path("~/ray_bootstrap_config.yaml")  # `ray up` writes it on the head


class Node(NamedTuple):
    """The resources of a node, rounded down to whole ones."""

    gpus: int
    cpus: int


@dataclass(frozen=True)
class Workers:
    """The workers of a run; elastic if `min_workers` and `max_workers` differ."""

    min_workers: int
    max_workers: int
    gpus: float
    """GPUs of each worker: 0 for the CPU, 1, or the fraction of one that it shares with others."""
    threads: int
    """CPUs of each worker."""
    dedicated: bool = False
    """Whether Ray was started on this machine for these workers only."""

    def __str__(self) -> str:
        number = str(self.max_workers)
        if self.min_workers != self.max_workers:
            number = f"{self.min_workers} to {number}"
        noun = "worker" if self.max_workers == 1 else "workers"
        if self.gpus == 1:
            return f"{number} GPU {noun}"
        if self.gpus:
            return f"{number} {noun} of {self.gpus:.3g} GPU"
        return f"{number} CPU {noun} of {plural(self.threads, 'thread')}"

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change during the run."""
        return self.min_workers != self.max_workers

    @property
    def resources(self) -> dict[str, float]:
        """The resources that Ray reserves for each worker."""
        return {"CPU": self.threads, **({"GPU": self.gpus} if self.gpus else {})}


def in_cluster() -> bool:
    """Return whether RAY_ADDRESS names a cluster; otherwise Ray runs on this machine only."""
    return "RAY_ADDRESS" in os.environ


def cores() -> int:
    """Return the number of physical CPUs: of the cluster, or of this machine if Ray is local."""
    if in_cluster():
        return int(ray.cluster_resources().get("CPU", 1))
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_crowding(workers: Workers, trials: int, config: Config) -> str:
    """Return a line if the CPU threads of all workers are more than this machine's cores.

    Args:
        workers: of a run, or of each trial.
        trials: how many run at once.
        config: says whether the user chose the number of threads.
    """
    threads, number = trials * workers.max_workers * workers.threads, cores()
    if in_cluster() or threads <= number:
        return ""
    flag = "--num-workers" if config.threads is None else "--threads"
    return f"{threads} threads on {plural(number, 'core')} are slow; lower {flag}"


def choose_workers(
    asked: tuple[int, int] | None, use_gpu: str, config: Config
) -> tuple[Workers, str]:
    """Choose the workers of a run. Ray must be running.

    Args:
        asked: minimum and maximum number of workers. None means one for each GPU that the batch
            can be divided among, or one CPU worker.
        use_gpu: `auto`, `yes` or `no`.
        config: the configuration to train.

    Returns:
        The workers, and a message about idle GPUs (empty if there are none).

    Raises:
        UserError: the cluster is too small.
    """
    nodes = nodes_of_cluster(use_gpu)
    if _uses_gpus(nodes, use_gpu):
        workers, note = _choose_gpu_workers(asked, use_gpu, nodes, config)
    else:
        workers, note = _choose_cpu_workers(asked or (1, 1), nodes, config), ""
    return replace(workers, dedicated=not in_cluster() and not workers.elastic), note


def _choose_gpu_workers(
    asked: tuple[int, int] | None, use_gpu: str, nodes: Sequence[Node], config: Config
) -> tuple[Workers, str]:
    gpus, cpus = _total(nodes)
    threads = config.threads or 1
    with_cpus = sum(min(node.gpus, node.cpus // threads) for node in nodes)
    usable = max(min(with_cpus, (cpus - DATA_CPUS) // threads), 0)
    note = ""
    if asked is None:
        number = min(max(usable, 1), config.optim.batch_size // config.optim.micro_batch)
        # In a cluster that grows, training begins on the first GPU and the others join later.
        asked = (1 if _planned(use_gpu) else number, number)
        if usable > number:
            note = (
                f"{gpus - number} of {gpus} GPUs stay idle: a batch of {config.optim.batch_size} "
                f"can be divided among {number} workers at most; raise --batch-size to use them"
            )
        elif gpus > number:
            note = f"{gpus - number} of {gpus} GPUs stay idle: their nodes have too few CPUs"
    if asked[0] > gpus:
        raise UserError(
            f"--num-workers {asked[0]} needs {asked[0]} GPUs and there are {gpus}; "
            f"ask for {gpus}, or use --use-gpu no"
        )
    if asked[0] > usable:
        raise UserError(
            f"{plural(asked[0], 'worker')} were asked for and there is room for {usable}: each "
            f"needs a GPU and {plural(threads, 'CPU')} on one node, and {DATA_CPUS} CPUs must be "
            "left to make samples; lower --num-workers or --threads"
        )
    return Workers(asked[0], asked[1], 1, threads), note


def _choose_cpu_workers(asked: tuple[int, int], nodes: Sequence[Node], config: Config) -> Workers:
    cpus = _total(nodes).cpus
    data_cpus = 1 if in_cluster() else DATA_CPUS

    def count_fitting(threads: int) -> int:
        on_nodes = sum(node.cpus // threads for node in nodes)
        return min(on_nodes, (cpus - data_cpus) // threads)

    largest = max(node.cpus for node in nodes)
    enough = (n for n in range(largest, 1, -1) if count_fitting(n) >= asked[1])
    threads = config.threads or next(enough, 1)
    fitting = count_fitting(threads)
    if asked[0] > fitting:
        raise UserError(
            f"{plural(asked[0], 'worker')} of {plural(threads, 'CPU')} and "
            f"{plural(data_cpus, 'CPU')} to make samples are more than the {cpus} there are; lower "
            "--num-workers or --threads"
        )
    # Workers may grow with the cluster, unless they would take the last CPU from the samples.
    may_grow = in_cluster() and any(node.cpus % threads for node in nodes)
    return Workers(asked[0], asked[1] if may_grow else min(asked[1], fitting), 0, threads)


def choose_trials(
    workers: int,
    use_gpu: str,
    config: Config,
    trials: int,
    max_concurrent: int | None,
    gpus_per_trial: float | None = None,
) -> tuple[Workers, int]:
    """Choose the workers of each trial and the number of concurrent trials. Ray must be running.

    Cores are divided among as many trials as possible: on few cores, two networks that train on
    one core each finish sooner than one after the other on both.

    Args:
        workers: number of workers of each trial.
        use_gpu: `auto`, `yes` or `no`.
        config: the configuration that all trials have in common.
        trials: number of trials left to run.
        max_concurrent: maximum number of concurrent trials; None means as many as fit.
        gpus_per_trial: GPUs that the workers of a trial share evenly; None means one each.

    Raises:
        UserError: the cluster is too small for one trial.
    """
    nodes = nodes_of_cluster(use_gpu)
    cpus = _total(nodes).cpus
    trials = min(trials, max_concurrent or trials)
    if _uses_gpus(nodes, use_gpu):
        return _choose_gpu_trials(workers, nodes, config, trials, gpus_per_trial)
    data_cpus = 0 if workers == 1 else 1  # one worker alone makes its own samples
    slots = max(min(trials, cores() // workers, cpus // (workers + data_cpus)), 1)
    largest = max(node.cpus for node in nodes)
    even = min(cores() // (workers * slots), (cpus // slots - data_cpus) // workers, largest)
    threads = config.threads or max(even, 1)
    fitting = sum(node.cpus // threads for node in nodes) // workers
    fitting = min(fitting, cpus // (workers * threads + data_cpus))
    if fitting < 1:
        raise UserError(
            f"a trial of {plural(workers, 'worker')} of {plural(threads, 'CPU')}"
            f"{' and a CPU to make samples' if data_cpus else ''} does not fit on the {cpus} CPUs "
            "there are; lower --num-workers or --threads"
        )
    concurrent = min(trials, max(cores() // (workers * threads), 1), fitting)
    return Workers(workers, workers, 0, threads), concurrent


def _choose_gpu_trials(
    workers: int, nodes: Sequence[Node], config: Config, trials: int, gpus_per_trial: float | None
) -> tuple[Workers, int]:
    gpus, cpus = _total(nodes)
    # Ray rounds to the nearest 1/10000: seven times 0.1429 would not fit into one GPU.
    part = 1.0 if gpus_per_trial is None else int(gpus_per_trial / workers * 10**4) / 10**4
    each = Workers(workers, workers, part, config.threads or 1)
    per_gpu = int(1 / part + 1e-6)  # 1 / (1 / 49) is slightly less than 49
    room = sum(min(node.gpus * per_gpu, node.cpus // each.threads) for node in nodes)
    fitting = min(room // workers, cpus // (workers * each.threads + 1))
    if fitting < 1:
        raise UserError(
            f"a trial of {each} with {plural(each.threads, 'CPU')} each, and a CPU to make "
            f"its samples, is more than the {plural(gpus, 'GPU')} and {plural(cpus, 'CPU')} "
            "there are; lower --num-workers, --gpus-per-trial or --threads"
        )
    return each, min(trials, fitting)


def _uses_gpus(nodes: Sequence[Node], use_gpu: str) -> bool:
    """Return whether to train on GPUs.

    Raises:
        UserError: GPUs are asked for and there is none.
    """
    gpus = _total(nodes).gpus
    if use_gpu == "yes" and gpus == 0:
        raise UserError("--use-gpu yes, but there is no GPU here; use --use-gpu auto or no")
    return gpus > 0 and use_gpu != "no"


def nodes_of_cluster(use_gpu: str) -> Sequence[Node]:
    """Return the nodes of the cluster; if it can grow, the nodes that it can have at most."""
    return _planned(use_gpu) or _present()


def node_of(resources: dict[str, float]) -> Node:
    """Return resources as Ray reports them, rounded down."""
    return Node(int(resources.get("GPU", 0)), int(resources.get("CPU", 0)))


def _total(nodes: Sequence[Node]) -> Node:
    return Node(sum(node.gpus for node in nodes), sum(node.cpus for node in nodes))


def _present() -> list[Node]:
    return [node_of(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _planned(use_gpu: str) -> list[Node]:
    """Return the nodes that a cluster of `ray up` can have at most; empty if that is not known.

    It is known on the head of the cluster only, which is where submitted jobs run. If the node
    types together allow more nodes than the cluster, the most useful ones are counted. Machines of
    `provider: local` are not described: each counts as the largest node that is present.
    """
    file = AUTOSCALING.expanduser()
    if not in_cluster() or not file.exists():
        return []
    config = yaml.safe_load(file.read_text())
    head = config.get("head_node_type")
    types = {
        name: node_type
        for name, node_type in (config.get("available_node_types") or {}).items()
        if name != head or not node_type.get("resources")
    }
    largest = max(_present(), key=lambda node: node.cpus)
    nodes = [
        node_of(node_type["resources"]) if node_type.get("resources") else largest
        for node_type in types.values()
        for _ in range(node_type.get("max_workers", config.get("max_workers", 0)))
    ]
    nodes.sort(key=lambda node: (-node.gpus if use_gpu != "no" else node.gpus, -node.cpus))
    return [node for node in nodes if node.cpus][: config.get("max_workers")]


def plural(number: int, noun: str) -> str:
    """Return `1 CPU` or `2 CPUs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
