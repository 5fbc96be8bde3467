"""Copy the logs of a job's processes into the folder of the run, which outlives the cluster."""

import json
import os
from contextlib import suppress

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydae.core.storage import Folder
from raydae.distributed.start import session_folder

MAX_BYTES = 2**20  # of one file; the end is kept
TIMEOUT_S = 30.0  # a node that is being shut down may not answer


def keep(run: Folder) -> None:
    """Copy this job's logs from all live nodes into `logs/` of a run's folder.

    A log that cannot be read or written is left out, so that the run's own result or error is
    reported.
    """
    job = ray.get_runtime_context().get_job_id()
    # Set by `ray job submit`; the driver of such a job has a log of its own.
    submitted = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    driver = submitted.get("metadata", {}).get("job_submission_id", "")
    here = ray.get_runtime_context().get_node_id()
    others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    read = ray.remote(num_cpus=0)(_read)
    placements = [NodeAffinitySchedulingStrategy(node, soft=False) for node in others]
    answers = [read.options(scheduling_strategy=where).remote(job, driver) for where in placements]
    with suppress(OSError):
        _write(run, *_read(job, driver))
    done, _ = ray.wait(answers, num_returns=len(answers), timeout=TIMEOUT_S) if answers else ([], 0)
    for answer in done:
        with suppress(OSError, ray.exceptions.RayError):
            _write(run, *ray.get(answer))


def _write(run: Folder, node: str, logs: list[tuple[str, bytes]]) -> None:
    for name, data in logs:
        run.write(f"logs/{node}/{name}", data)


def _read(job: str, driver: str) -> tuple[str, list[tuple[str, bytes]]]:
    """Return this node's address, and the names and contents of a job's logs that hold text."""
    folder = session_folder() / "logs"
    outputs = sorted(folder.glob(f"worker-*-{job}-*"))
    of_driver = sorted(folder.glob(f"job-driver-{driver}.log")) if driver else []
    workers = {path.name.split("-")[1] for path in outputs}
    of_train = [path for path in sorted(folder.glob("train/*.log")) if path.stem[-56:] in workers]
    logs = []
    for path in [*of_driver, *outputs, *of_train]:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - MAX_BYTES, 0))
            data = file.read()
        # Ray begins each log with lines such as :job_id:01000000.
        if any(line and not line.startswith(b":") for line in data.splitlines()):
            logs.append((path.name, data))
    return ray.util.get_node_ip_address(), logs
