"""The samples as Ray Data streams: one for each worker, of its shares of the steps.

One execution serves a worker for the whole run: epochs are data. A block holds the worker's shares
of several consecutive steps, and blocks come in order. Which samples a share has follows from the
step, the rank and the number of workers alone, so that nobody has to deal them out.
"""

import functools
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.train
from numpy.typing import NDArray
from ray.data import DataContext, ExecutionOptions, ExecutionResources
from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
from ray.data._internal.execution import streaming_executor
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.interfaces import RefBundle
from ray.data._internal.execution.interfaces.ref_bundle import BlockEntry, BlockSlice
from ray.data._internal.execution.operators.input_data_buffer import InputDataBuffer
from ray.data._internal.logical.interfaces import LogicalPlan
from ray.data._internal.logical.operators import InputData
from ray.data._internal.stats import DatasetStats
from ray.data.block import BlockMetadata

from raydae.core.storage import Folder
from raydae.training.checkpoints import Checkpoints, TrainState
from raydae.training.samples import Samples
from raydae.training.schedule import Schedule

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.3
BLOCK_ROWS = 1024  # enough work beside the cost of a task
BLOCK_BYTES = 36 * 2**20  # of that many 64x64 patches; of larger ones a block has fewer
BUFFERED_BLOCKS = 4  # made ahead of training
LOOK_S = 10.0  # between two looks at how many CPUs there are

begun = threading.Event()
"""Set once an execution in this process has given out its first tasks."""


def begin_stream(
    samples: "ray.ObjectRef[Samples]",
    schedule: Schedule,
    run: Folder,
    rank: int = 0,
    workers: int = 1,
    taken: int = 0,
) -> ray.data.DataIterator:
    """The stream of a worker's shares of the steps that a run still has to do.

    Args:
        samples: what the stream is made of, as `ray.put` has it: each process takes it once, for
            the list of images is long (20 ms for 5,000, where a block takes 150).
        schedule: which sample belongs to which step.
        run: the run's folder; its latest checkpoint says where the stream starts.
        rank: the worker's.
        workers: how many share each step.
        taken: the CPUs that all of them train on.

    Raises:
        OSError: the storage cannot be read.
    """
    # Of all executions of this process: this one.
    streaming_executor.create_cluster_autoscaler = lambda *_, **__: _Share(workers, taken)
    progress, _ = Checkpoints(run).latest() or (TrainState(), {})
    return sample_stream(samples, schedule, progress.step, rank, workers).iterator()


def sample_stream(
    samples: "ray.ObjectRef[Samples]", schedule: Schedule, start: int, rank: int, workers: int
) -> ray.data.Dataset:
    """A worker's shares of every step from `start` on.

    Rows are as `Samples.block` makes them, share after share, each padded to the same rows.
    """
    rows = schedule.shard_rows(workers)
    steps_per_block = _steps_per_block(_fetched(samples), rows)
    blocks = -(-(schedule.steps - start) // steps_per_block)

    def block(batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        first = start + int(batch["number"][0]) * steps_per_block
        steps = range(first, min(first + steps_per_block, schedule.steps))
        return _fetched(samples).block(
            [schedule.shard(step, rank, workers) for step in steps], rows
        )

    # Batches are whole blocks: else Ray Data makes two tasks of one.
    stream = _numbers(blocks).map_batches(block, batch_size=None, zero_copy_batch=True)
    context = stream.context
    context.target_max_block_size = None  # blocks are never to be cut or joined
    context.execution_options = ExecutionOptions(preserve_order=True)
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # else what was raised in a task is not told
    context.custom_execution_callback_classes = [_Pause]
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [_Ahead])
    return stream


@functools.lru_cache(maxsize=1)
def _fetched(samples: "ray.ObjectRef[Samples]") -> Samples:
    fetched: Samples = ray.get(samples)
    return fetched


def _steps_per_block(samples: Samples, rows: int) -> int:
    """How many shares of so many rows a block holds."""
    return max(min(BLOCK_ROWS, BLOCK_BYTES // samples.row_bytes) // rows, 1)


def _numbers(count: int) -> ray.data.Dataset:
    """The numbers 0, 1 … below `count`, a block each.

    They are slices of one table. `ray.data.range` would make a reader of every block and write it
    to the object store before the first is asked for its number: a second for a thousand.
    """
    table = pa.table({"number": pa.array(range(count), pa.int64())})
    size = BlockMetadata(num_rows=count, size_bytes=table.nbytes, exec_stats=None)
    whole = BlockEntry(ray.put(table), size)
    bundles = [
        RefBundle((whole,), table.schema, owns_blocks=False, slices=(BlockSlice(i, i + 1),))
        for i in range(count)
    ]
    context = DataContext.get_current().copy()
    stats = DatasetStats(metadata={}, parent=None)
    return ray.data.Dataset(LogicalPlan(InputData(bundles), context), context, stats)


class _Ahead(BackpressurePolicy):  # type: ignore[misc]  # Ray ships no types
    """Keeps every CPU at work until enough blocks lie ready.

    Ray Data's own policies go by bytes, of which they set aside so much that of 8 blocks allowed
    one or two were in the making.
    """

    def can_add_input(self, op: Any) -> bool:
        """Whether another task may be started."""
        blocks = sum(
            operator.num_active_tasks() + state.total_enqueued_output_blocks()
            for operator, state in self._topology.items()
            if not isinstance(operator, InputDataBuffer)
        )
        cpus = self._resource_manager.get_global_limits().cpu
        return bool(blocks < BUFFERED_BLOCKS + cpus)


class _Share(ClusterAutoscaler):  # type: ignore[misc]  # Ray ships no types
    """A worker's share of the CPUs that training leaves; its tasks wait where others have them.

    Ray Data's own asks a process that shares out a cluster, which takes a second and a half to
    start and a hundredth of a core while it lives. A cluster that can grow does so for tasks that
    wait.
    """

    def __init__(self, workers: int, taken: int) -> None:
        self._workers, self._taken = workers, taken
        self._looked_at = -math.inf
        self._total = ExecutionResources()

    def try_trigger_scaling(self) -> None:
        """Nothing is asked for but by tasks."""

    def on_executor_shutdown(self) -> None:
        """Nothing was asked for."""

    def get_total_resources(self) -> ExecutionResources:
        """What the executor may use."""
        if time.monotonic() > self._looked_at + LOOK_S:
            there = ray.cluster_resources()
            cpus = max((there.get("CPU", 0) - self._taken) // self._workers, 1)
            store = there.get("object_store_memory", 0) / self._workers
            self._total = ExecutionResources(cpu=cpus, object_store_memory=store)
            self._looked_at = time.monotonic()
        return self._total


class _Pause(ExecutionCallback):  # type: ignore[misc]  # Ray ships no types
    """Lets Ray Data's executor rest between two steps of its loop, longer while nothing is made.

    While finished blocks wait to be taken, which is nearly always, the loop turns without a pause.
    On two cores that took half of one, and training ran at a third of its speed.
    """

    def __init__(self) -> None:
        self._made, self._since = 0, time.monotonic()

    def on_execution_step(self, executor: Any) -> None:
        """Called by the executor after each step."""
        begun.set()
        made = sum(operator.metrics.num_task_outputs_generated for operator in executor._topology)
        if made > self._made:
            self._made, self._since = made, time.monotonic()
        idle = time.monotonic() - self._since  # of which to be late by a quarter costs little
        time.sleep(min(max(idle / 4, SHORTEST_PAUSE_S), LONGEST_PAUSE_S))


def shares(iterator: ray.data.DataIterator, rows: int) -> Iterator[dict[str, NDArray[Any]]]:
    """A worker's shares step by step, from its blocks; nothing is copied."""
    for block in iterator.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2):
        for first in range(0, len(block["index"]), rows):
            yield {name: column[first : first + rows] for name, column in block.items()}
