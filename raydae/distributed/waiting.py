"""Wait until a cluster has the nodes that a run needs, and say what is missing."""

from collections.abc import Callable

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from raydae.distributed.resources import Workers, in_cluster, node_of, nodes_of_cluster, plural

LOOK_S = 5.0  # between two looks at the cluster


def shortage(workers: Workers) -> str:
    """Return a line that says what is missing for `min_workers`; empty if nothing is."""
    have = node_of(ray.cluster_resources())
    cpus, gpus = workers.min_workers * workers.threads, workers.min_workers * workers.gpus
    if have.cpus >= cpus and have.gpus >= gpus:
        return ""
    return (
        f"waiting for nodes to run {workers}: the cluster has {plural(have.gpus, 'GPU')} and "
        f"{plural(have.cpus, 'CPU')} now"
    )


def wait_for_node(say: Callable[[str], object]) -> None:
    """Wait until the cluster has a node with CPUs: `ray up` returns when only the head is there.

    Args:
        say: called with a line that says what is missing.
    """
    if in_cluster() and not any(node.cpus for node in nodes_of_cluster("auto")):
        _wait_for_room([{"CPU": 1}], lambda: "waiting for the first worker node", say)


def wait_for_workers(workers: Workers, say: Callable[[str], object]) -> None:
    """Wait until the cluster has room for `min_workers`; an autoscaling cluster grows for them.

    Args:
        workers: the workers of the run.
        say: called with a line that says what is missing, whenever that changes.
    """
    if not in_cluster():
        return
    busy = f"waiting for room to run {workers}: the cluster is busy"
    bundles = [*[workers.resources] * workers.min_workers, {"CPU": 1.0}]
    _wait_for_room(bundles, lambda: shortage(workers) or busy, say)


def _wait_for_room(
    bundles: list[dict[str, float]],
    find_missing: Callable[[], str],
    say: Callable[[str], object],
) -> None:
    # The request of a placement group ends with this process, unlike one of the autoscaler's SDK.
    group = placement_group(bundles)
    said = ""
    try:
        while not group.wait(timeout_seconds=LOOK_S):
            if (missing := find_missing()) != said:
                say(missing)
                said = missing
    finally:
        remove_placement_group(group)
