"""Start Ray on this machine or connect to a cluster, and end it."""

import math
import os
import resource
import secrets
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import ray
from ray.exceptions import AuthenticationError, RayError

from raydae.core.errors import UserError, first_line
from raydae.distributed.internals import bare_node, utf8_command_line
from raydae.distributed.resources import DATA_CPUS, cores, in_cluster

CONNECT_S = 60  # that connecting to a cluster may take
DEFERRED = (signal.SIGTERM, signal.SIGHUP)
ANSWER_S = 20  # a cluster that does not answer for this long is not there
HANG_S = 300  # a worker that hangs for this long counts as dead
MIN_FILES = 1024  # that Ray's processes may open
LIBRARIES = (
    *("grpc", "matplotlib", "numpy", "PIL", "psutil", "pyarrow", "pywt", "ray", "rich"),
    *("safetensors", "scipy", "skimage", "tensorboard", "torch", "tyro", "yaml"),
)
"""What raydae imports, by the names of the modules."""
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
    _check_machine()
    if in_cluster():
        _connect(os.environ["RAY_ADDRESS"], verbose)
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
    # Ray's processes inherit this: when the terminal is closed, they live until a checkpoint.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    try:
        with bare_node(verbose, _defer_signals):
            _init(
                verbose,
                address="local",
                num_cpus=training + DATA_CPUS,
                include_dashboard=False,
                **gpus,
            )
    except Exception as error:  # Ray raises no class of its own if it does not start in time
        advice = (
            "set TMPDIR to a shorter path"
            if "path length" in str(error)
            else "try again when this machine is less busy"
        )
        raise UserError(f"Ray did not start ({first_line(error)}); {advice}") from error


def _connect(address: str, verbose: bool) -> None:
    """Connect to a cluster.

    Raises:
        UserError: it does not answer within `ANSWER_S`, or refuses the token.
    """
    scheme, mark, _ = address.partition("://")
    if mark:
        advice = (
            "run the job on the cluster: ray job submit --address http://HEAD:8265 -- python "
            "jobs/train.py"
            if scheme == "ray"
            else "give HOST:PORT of the cluster, or auto, or unset it; ray job submit takes such "
            "an address as --address"
        )
        raise UserError(f"RAY_ADDRESS={address} cannot be used for training; {advice}")
    host, _, port = address.rpartition(":")
    # Ray itself would try for ten minutes, with messages of its own.
    if host and port.isdecimal() and os.environ.get("RAY_USE_TLS", "0") == "0":
        with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=ANSWER_S)
            except grpc.FutureTimeoutError:
                raise UserError(_no_answer(f"within {ANSWER_S} s")) from None
    try:
        _defer_signals()
        _init(verbose, CONNECT_S)
    except AuthenticationError:
        raise UserError(
            f"the Ray cluster at RAY_ADDRESS={address} refuses the token; set RAY_AUTH_TOKEN to "
            "the cluster's token, or write it to ~/.ray/auth_token"
        ) from None
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise UserError(_no_answer(f"({first_line(error)})")) from None


def _no_answer(detail: str) -> str:
    address = os.environ["RAY_ADDRESS"]
    return (
        f"no Ray cluster answers at RAY_ADDRESS={address} {detail}; start it, or unset RAY_ADDRESS"
    )


def _init(verbose: bool, limit_s: float = math.inf, **settings: Any) -> None:
    """Call `ray.init`, and keep this process's handlers of signals.

    Ray installs two handlers of SIGTERM: one that raises SystemExit, and one in its core that
    prints stacks and aborts. Signals are blocked before the second is installed, and unblocked once
    this process's own handlers are back. A thread that was there before may still take the signal
    and print stacks, so what is printed meanwhile is thrown away.

    Args:
        verbose: print it.
        limit_s: end the process, in one line, if this takes longer.
        settings: of `ray.init`.

    Raises:
        KeyboardInterrupt: SIGTERM came before the second handler.
        AuthenticationError: the cluster refuses the token; Ray only prints this.
    """
    quiet: dict[str, Any] = {} if verbose else {"log_to_driver": False, "logging_level": "ERROR"}
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    errors = os.dup(2)

    def give_up() -> None:
        os.dup2(errors, 2)
        print(f"error: {_no_answer(f'within {limit_s:.0f} s')}", file=sys.stderr, flush=True)
        os._exit(2)

    timer = threading.Timer(limit_s, give_up) if limit_s < math.inf else None
    with tempfile.TemporaryFile() as printed:
        if not verbose:
            os.dup2(printed.fileno(), 2)
        try:
            if timer is not None:
                timer.start()
            with utf8_command_line():
                ray.init(**quiet, **settings)
        except SystemExit:
            raise KeyboardInterrupt(signal.SIGTERM) from None
        except ConnectionError:
            printed.seek(0)
            if b"Unauthenticated" in printed.read():
                raise AuthenticationError("the token is refused") from None
            raise
        finally:
            if timer is not None:
                timer.cancel()
            os.dup2(errors, 2)
            os.close(errors)
            if in_main_thread:  # only it can set handlers
                for number, handler in handlers.items():
                    signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, DEFERRED)


def _defer_signals() -> None:
    """Block `DEFERRED` in this thread; processes that it starts from now on block them too."""
    signal.pthread_sigmask(signal.SIG_BLOCK, DEFERRED)


def _check_machine() -> None:
    """Refuse what would keep Ray's processes from starting, with a word on what to do.

    Raises:
        UserError: a file in the working directory hides a library, or too few files may be open.
    """
    # Ray puts the working directory first on the path of its processes.
    hidden = {"raydae", *LIBRARIES, *sys.stdlib_module_names}
    for path in sorted(Path.cwd().glob("*.py")):
        if path.stem in hidden:
            raise UserError(
                f"{path} hides the library {path.stem} from the workers; rename it, or run the "
                "command elsewhere"
            )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MIN_FILES <= hard or (soft < MIN_FILES and hard == resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_NOFILE, (MIN_FILES, hard))
    elif soft < MIN_FILES:
        raise UserError(
            f"this process may open {hard} files, and Ray needs {MIN_FILES}; raise the limit with "
            f"ulimit -n {MIN_FILES}"
        )


def leave() -> None:
    """End the Ray of this machine. The calling process must exit at once.

    `ray.shutdown` is not used: after it, Ray ends the process with an exit code of its own if
    another thread drops an ObjectRef. A cluster is left by the exit of this process.
    """
    if not in_cluster():  # Ray may still be starting
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
