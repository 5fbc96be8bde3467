"""Start Ray on this machine or connect to a cluster, and end it."""

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import RayError

from raydae.core.errors import UserError, first_line
from raydae.distributed.internals import bare_node
from raydae.distributed.resources import DATA_CPUS, cores, in_cluster

HANG_S = 300  # a worker that hangs for this long counts as dead
# For the processes that Ray starts: memory that a step frees is kept for the next step. With
# glibc's defaults a step takes thousands of page faults, and training takes 6 to 10 % longer.
MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**26),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**26),
}


def set_environment() -> None:
    """Set the variables that Ray Train reads in the process that starts it."""
    for name, value in {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",  # 0.8 % of a core; 0.2 s takes 1.4 %
        # After the loss of a node, Ray Train asks for the same number of workers at first, and
        # for as many as there is room for when this time is over.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
        # For a worker that does not answer, or keeps the others waiting outside a step.
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(HANG_S),
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": str(HANG_S),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",  # Ray Train's own controller does this
        "RAY_USAGE_STATS_ENABLED": "0",
    }.items():
        os.environ.setdefault(name, value)


def start_ray(
    workers: tuple[int, int] | None = None, threads: int | None = None, verbose: bool = False
) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine.

    Args:
        workers: minimum and maximum number of workers, if given by the user.
        threads: CPUs of each worker, if given by the user.
        verbose: show Ray's own output.

    Raises:
        UserError: the cluster does not answer, or Ray does not start.
    """
    if ray.is_initialized():  # by an earlier call from Python
        return
    set_environment()
    quiet: dict[str, Any] = {} if verbose else {"log_to_driver": False, "logging_level": "ERROR"}
    if in_cluster():
        try:
            ray.init(**quiet)
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            raise UserError(
                f"no Ray cluster answers at RAY_ADDRESS={os.environ['RAY_ADDRESS']} "
                f"({first_line(error)}); start it, or unset RAY_ADDRESS"
            ) from None
        return
    # Ray Data uses the CPUs that Ray Train leaves, and waits for ever if none is left. These CPUs
    # are logical: making the samples of one CPU worker takes a few percent of a core.
    training = max(cores(), (workers[1] if workers else 1) * (threads or 1))
    create_token()
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # this machine stays
    for name, value in MALLOC.items():
        os.environ.setdefault(name, value)
    # Ray counts the GPU of a Mac, but training does not support it.
    gpus = {"num_gpus": 0} if sys.platform == "darwin" else {}
    try:
        with bare_node(verbose):
            ray.init(
                address="local",
                num_cpus=training + DATA_CPUS,
                include_dashboard=False,
                **gpus,
                **quiet,
            )
    except Exception as error:  # Ray raises no class of its own if it does not start in time
        raise UserError(
            f"Ray did not start ({first_line(error)}); try again when this machine is less busy"
        ) from error


def leave() -> None:
    """End the Ray of this machine. The calling process must exit at once.

    `ray.shutdown` is not used: after it, Ray ends the process with an exit code of its own if
    another thread drops an ObjectRef. A cluster is left by the exit of this process.
    """
    if ray.is_initialized() and not in_cluster():
        for started in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                started.kill()


def session_folder() -> Path:
    """Return the folder of this node's Ray for logs and temporary files. Ray must be running."""
    context = ray.get_runtime_context()
    return Path(context.get_temp_dir(), context.get_session_name())


def create_token() -> None:
    """Create the token that Ray's services ask for, if there is none, readable by this user only.

    Anyone who has the token can run code. Ray would create the file itself, but readable by all.
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
    except OSError:  # the home folder is not writable: a token for this process and its children
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
