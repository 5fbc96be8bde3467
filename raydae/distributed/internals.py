"""All uses of Ray's private parts. Each has a reason, a contract, and stock Ray to fall back on.

A patch is a function under `@_patch`. It checks its contract with this version of Ray (attributes
and signatures) and returns what replaces a part of Ray. If the contract is broken, the patch
returns None, its caller uses stock Ray, and one line says so. RAYDAE_STOCK_RAY=1 turns all patches
off. `tests/distributed/test_internals.py` fails by the name of the patch whose contract a new
version of Ray breaks.

A patch is worth its upkeep if it saves 1 s of start-up or 3 % of throughput, or prevents a fault
that users would meet. docs/performance.md has the measurements.
"""

import functools
import inspect
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psutil
import ray

from raydae.distributed import agent

R = TypeVar("R")

PATCHES: dict[str, Callable[[], object]] = {}
"""The patches by name, without their fall-backs, for the contract tests."""

AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")

_warned: set[str] = set()


def _patch(make: Callable[[], R]) -> Callable[[], R | None]:
    """Make a patch return None with RAYDAE_STOCK_RAY=1, or, after a warning, if Ray has changed."""
    name = make.__name__
    PATCHES[name] = make

    @functools.wraps(make)
    def guarded() -> R | None:
        if os.environ.get("RAYDAE_STOCK_RAY", "0") not in ("", "0"):
            return None
        try:
            return make()
        except (AttributeError, ImportError, TypeError) as error:
            if name not in _warned:
                _warned.add(name)
                logging.getLogger(__name__).warning(
                    "Ray %s does not fit raydae's patch %s (%s); running without it",
                    ray.__version__,
                    name,
                    error,
                )
            return None

    return guarded


def _expect(function: Callable[..., object], *parameters: str) -> None:
    """Raise TypeError if a function does not have these parameters, in this order."""
    found = tuple(inspect.signature(function).parameters)
    if found != parameters:
        raise TypeError(f"{function.__qualname__} takes {found}, not {parameters}")


@contextmanager
def bare_node(verbose: bool, on_started: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let `ray.init` start a node without its dashboard, monitor, log monitor and agent.

    Args:
        verbose: start the stock node, whose log monitor brings all output to the driver.
        on_started: called when the node's processes have started, before Ray connects to them.
    """
    bare = None if verbose else bare_node_class()
    if bare is None:
        yield
        return
    bare.on_started = staticmethod(on_started)
    stock = ray._private.node.Node
    ray._private.node.Node = bare
    try:
        yield
    finally:
        ray._private.node.Node = stock


@contextmanager
def utf8_command_line() -> Iterator[None]:
    """Let Ray start if a word of the command line is not UTF-8, such as the name of a file.

    Public interface: none; `ray.init` asks psutil for this process's command line, stores it, and
    fails at such a word. Nothing is changed if all words are UTF-8.
    Gain: such files can be named.
    """
    try:
        " ".join(sys.argv).encode()
    except UnicodeEncodeError:
        read = psutil.Process.cmdline

        def cmdline(self: psutil.Process) -> list[str]:
            return [word.encode(errors="backslashreplace").decode() for word in read(self)]

        psutil.Process.cmdline = cmdline  # type: ignore[method-assign]
        try:
            yield
        finally:
            psutil.Process.cmdline = read  # type: ignore[method-assign]
    else:
        yield


@_patch
def bare_node_class() -> Any:
    """Return a class for the node of one job on one machine, without four processes.

    Public interface: with `include_dashboard=False`, Ray still starts the dashboard's process and
    waits for it, and nothing turns off the monitor (which starts and ends nodes), the log monitor
    (which brings output to the driver) or the agent (metrics and submitted jobs). The raylet ends
    without an agent, so `agent.py` takes its place.
    Gain: 4 s of start-up on two cores; no port tells metrics to those who have no token.
    Without it: the job starts later.
    """
    stock: Any = ray._private.node.Node
    services = ray._private.services
    persist_port = ray._raylet.persist_port
    _expect(stock.start_api_server, "self", "include_dashboard", "raise_on_failure")
    _expect(stock.start_monitor, "self")
    _expect(stock.start_log_monitor, "self")
    _expect(
        stock.start_raylet,
        *("self", "plasma_directory", "fallback_directory", "object_store_memory"),
        *("use_valgrind", "use_profiler"),
    )
    if next(iter(inspect.signature(services.start_ray_process).parameters)) != "command":
        raise TypeError("start_ray_process does not begin with the parameter command")

    class BareNode(stock):  # type: ignore[misc]  # Ray ships no types
        on_started: Callable[[], None]

        def start_api_server(self, *, include_dashboard: bool, raise_on_failure: bool) -> None:
            self._webui_url = ""

        def start_monitor(self) -> None: ...

        def start_log_monitor(self) -> None: ...

        def start_raylet(self, *args: Any, **settings: Any) -> None:
            for port in AGENT_PORTS:  # as Ray notes that an agent has no such port
                persist_port(self._session_dir, self._node_id, port, -1)
            start_process = services.start_ray_process
            stand_in = subprocess.list2cmdline([sys.executable, "-I", "-S", agent.__file__])

            def start(command: list[str], *words: Any, **more: Any) -> Any:
                flag = "--dashboard_agent_command="
                command = [flag + stand_in if word.startswith(flag) else word for word in command]
                return start_process(command, *words, **more)

            services.start_ray_process = start
            try:
                super().start_raylet(*args, **settings)
            finally:
                services.start_ray_process = start_process
            self.on_started()  # the raylet is the last process

    return BareNode


@_patch
def lean_trainer() -> type:
    """Return a trainer without two of Ray Train's actors.

    Public interface: none; Ray Train always adds the callbacks that start them.
    The placement group cleaner removes the workers of a run whose controller has died. It asks the
    first Ray that it finds on the machine, and if that is another one, which does not know the
    controller, it takes the workers away from a healthy run. raydae does not need the cleaner: the
    workers end with the driver.
    The data set manager hands out data sets; raydae's workers have streams of their own.
    Gain: the fault; 3 s of start-up on two cores.
    Without it: a second Ray on the machine can end a run.
    """
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import (
        PlacementGroupCleanerCallback,
    )
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    _expect(DataParallelTrainer._create_default_callbacks, "self")

    class Trainer(DataParallelTrainer):  # type: ignore[misc]  # Ray ships no types
        def _create_default_callbacks(self) -> list[Any]:
            left_out = (PlacementGroupCleanerCallback, DatasetsCallback)
            callbacks = super()._create_default_callbacks()
            return [callback for callback in callbacks if not isinstance(callback, left_out)]

    return Trainer


@_patch
def local_trainer() -> type:
    """Return a trainer for a fixed number of workers and a Ray that this process has started.

    Public interface: none. Ray Train passes environment variables to its controller and workers,
    although they have them from the driver already, so Ray starts new processes for them instead of
    using those that wait. Ray Train also starts an actor that divides an autoscaling cluster, and
    waits for it.
    Gain: 4 s of start-up on two cores.
    Without it: the first step is later.
    """
    from ray.train.v2._internal.execution.controller import TrainController as Stock
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
    from ray.train.v2._internal.execution.worker_group import WorkerGroup

    base: Any = PATCHES["lean_trainer"]()
    _expect(WorkerGroup._get_worker_runtime_env, "custom_runtime_env")
    _expect(base._initialize_and_run_controller, "self", "controller_init_kwargs")
    _expect(FixedScalingPolicy.__init__, "self", "scaling_config")
    for method in ("_send_resource_request", "_maybe_send_resource_request"):
        _expect(getattr(FixedScalingPolicy, method), "self")
    _expect(FixedScalingPolicy._cancel_resource_request, "self")
    if Stock.worker_group_cls is not WorkerGroup:
        raise TypeError("TrainController.worker_group_cls is not WorkerGroup")

    class Workers(WorkerGroup):  # type: ignore[misc]  # Ray ships no types
        @staticmethod
        def _get_worker_runtime_env(custom_runtime_env: dict[str, Any]) -> dict[str, Any]:
            return {}

    class TrainController(Stock):  # type: ignore[misc]  # Ray ships no types
        worker_group_cls = Workers

    class FixedNumber(FixedScalingPolicy):  # type: ignore[misc]  # Ray ships no types
        def _send_resource_request(self) -> None: ...

        def _maybe_send_resource_request(self) -> None: ...

        def _cancel_resource_request(self) -> None: ...

    class Trainer(base):  # type: ignore[misc]  # Ray ships no types
        def _initialize_and_run_controller(self, **controller_init_kwargs: Any) -> Any:
            controller_init_kwargs["scaling_policy"] = FixedNumber(self.scaling_config)
            controller = ray.remote(num_cpus=0)(TrainController).remote(**controller_init_kwargs)
            ray.get(controller.run.remote())
            return ray.get(controller.get_result.remote())

    return Trainer
