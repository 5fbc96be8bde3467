"""The logs of a job's processes, kept in the run's folder: it outlives the cluster."""

import json
import os
from contextlib import suppress
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydae.core.storage import Folder

MOST_BYTES = 2**20  # of one file, its end
ANSWER_S = 30.0  # a node that is about to go gets no longer


def keep(run: Folder) -> None:
    """Copies this job's logs, of all nodes that are still there, into `logs/` of a run's folder.

    A log that cannot be read or written is left out: what it tells of matters more.
    """
    job = ray.get_runtime_context().get_job_id()
    # Where `ray job submit` started this process, the job's driver.
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    driver = submitted.get("metadata", {}).get("job_submission_id", "")
    here = ray.get_runtime_context().get_node_id()
    others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    read = ray.remote(num_cpus=0)(_read)
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in others]
    answers = [read.options(scheduling_strategy=place).remote(job, driver) for place in places]
    with suppress(OSError):
        _write(run, *_read(job, driver))
    done, _ = ray.wait(answers, num_returns=len(answers), timeout=ANSWER_S) if answers else ([], [])
    for answer in done:
        with suppress(OSError, ray.exceptions.RayError):
            _write(run, *ray.get(answer))


def _write(run: Folder, node: str, logs: list[tuple[str, bytes]]) -> None:
    for name, data in logs:
        run.write(f"logs/{node}/{name}", data)


def _read(job: str, driver: str) -> tuple[str, list[tuple[str, bytes]]]:
    """This node's address, and its logs of a job that say anything, by name."""
    folder = Path(ray._private.worker._global_node.get_logs_dir_path())
    outputs = sorted(folder.glob(f"worker-*-{job}-*"))
    of_driver = sorted(folder.glob(f"job-driver-{driver}.log")) if driver else []
    workers = {path.name.split("-")[1] for path in outputs}
    of_train = [path for path in sorted(folder.glob("train/*.log")) if path.stem[-56:] in workers]
    logs = []
    for path in [*of_driver, *outputs, *of_train]:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - MOST_BYTES, 0))
            data = file.read()
        # Ray begins each with lines of its own, as :job_id:01000000.
        if any(line and not line.startswith(b":") for line in data.splitlines()):
            logs.append((path.name, data))
    return ray.util.get_node_ip_address(), logs
