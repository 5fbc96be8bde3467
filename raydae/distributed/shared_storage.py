"""Check that all nodes see the same files at a local path."""

import hashlib
import socket
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.distributed.resources import node_of
from raydae.images.image_sets import ImageSets


def check_shared(storage: Folder, sets: ImageSets) -> None:
    """Check that all nodes see a run's folder and its images as this node does.

    Args:
        storage: the folder of the run, locked.
        sets: the images; only the first is compared.

    Raises:
        UserError: a node sees something else at a local path. URIs are not compared.
    """
    for file, flag in ((storage.path_of(".lock"), "--storage"), (sets.train[0].uri, "--data")):
        if host := _differing_host(file):
            raise UserError(not_shared(file, host, flag))


def not_shared(path: str, where: str, flag: str) -> str:
    """Return the message for a path that is not the same everywhere."""
    return f"{path} is not the same on {where}; give {flag} a folder that all nodes share, or a URI"


def _differing_host(file: str) -> str:
    """Return the name of a host that does not see the same local file; empty if all see it."""
    if "://" in file:
        return ""
    here = ray.get_runtime_context().get_node_id()
    others = [
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here and node_of(node["Resources"]).cpus
    ]
    look = ray.remote(num_cpus=0)(_look_at)
    placements = [NodeAffinitySchedulingStrategy(node, soft=False) for node in others]
    seen = [look.options(scheduling_strategy=where).remote(file) for where in placements]
    _, expected = _look_at(file)
    return next((host for host, found in ray.get(seen) if found != expected), "")


def _look_at(file: str) -> tuple[str, str]:
    """Return this host's name and the SHA-256 of a local file, empty if it cannot be read."""
    try:
        content = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        content = ""
    return socket.gethostname(), content
