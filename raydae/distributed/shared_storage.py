"""Check that all nodes see the same files at a local path."""

import hashlib
import socket
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydae.core.errors import UserError
from raydae.distributed.resources import node_of


def check_shared(file: str, flag: str) -> None:
    """Check that all nodes see a file as this node does.

    Args:
        file: a local path, or a URI, which is not compared.
        flag: names the folder that the file stands for.

    Raises:
        UserError: a node sees something else there.
    """
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
