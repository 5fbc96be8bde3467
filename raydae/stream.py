"""The samples as a Ray Data stream, the same steps for every number of workers.

One execution serves the whole run: epochs are data. A block holds one worker's shares of several
consecutive steps, all blocks of a group have the same rows, and they come in order; so Ray Data's
split, which gives each next block to the worker that has had the fewest rows, deals them out in
turn, and every worker finds its shares of every step.
"""

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

from raydae.runs import Checkpoints, Progress
from raydae.samples import Samples, Schedule
from raydae.storage import Folder

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.3
BLOCK_ROWS = 1024  # 38 MB of 64x64 patches: enough work beside the cost of a task
BUFFERED_BLOCKS = 4  # for each worker, made ahead of training
AHEAD = "raydae.blocks_ahead"  # their number, in the settings of Ray Data

begun = threading.Event()
"""Set once an execution in this process has given out its first tasks."""


def begin_stream(
    samples: Samples, schedule: Schedule, run: Folder, workers: int, cpus: int | None = None
) -> list[ray.data.DataIterator]:
    """The stream of the steps that a run still has to do, an iterator for each worker.

    One worker makes the stream in its own process; for several, a process on this node deals it
    out.

    Args:
        samples: what the stream is made of.
        schedule: which sample belongs to which step.
        run: the run's folder; its latest checkpoint says where the stream starts.
        workers: how many share each step.
        cpus: for making samples, where nothing else makes any; none: as Ray Data shares them out.

    Raises:
        OSError: the storage cannot be read.
    """
    if cpus is not None and workers == 1:  # of all executions of this process: this one
        settled = _Settled(cpus)
        streaming_executor.create_cluster_autoscaler = lambda *_, **__: settled
    progress, _ = Checkpoints(run).latest() or (Progress(), {})
    stream = sample_stream(samples, schedule, progress.step, workers, cpus)
    if workers == 1:
        return [stream.iterator()]
    splits: list[ray.data.DataIterator] = stream.streaming_split(workers, equal=True)
    return splits


def sample_stream(
    samples: Samples, schedule: Schedule, start: int, workers: int, cpus: int | None = None
) -> ray.data.Dataset:
    """The shares of every step from `start` on, for `workers` workers in turn, a block each.

    Rows are as `Samples.block` makes them, share after share, each padded to the same rows.
    """
    rows = schedule.share_rows(workers)
    steps_per_block = max(BLOCK_ROWS // rows, 1)
    blocks = -(-(schedule.steps - start) // steps_per_block) * workers

    def block(batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        group, rank = divmod(int(batch["number"][0]), workers)
        first = start + group * steps_per_block
        steps = range(first, min(first + steps_per_block, schedule.steps))
        return samples.block([schedule.share(step, rank, workers) for step in steps], rows)

    # Batches are whole blocks: else Ray Data makes two tasks of one.
    stream = _numbers(blocks).map_batches(block, batch_size=None, zero_copy_batch=True)
    context = stream.context
    context.target_max_block_size = None  # a block is a share: never to be cut or joined
    limits = ExecutionResources.for_limits(cpu=cpus)
    context.execution_options = ExecutionOptions(preserve_order=True, resource_limits=limits)
    context.enable_progress_bars = False
    context.custom_execution_callback_classes = [_Pause]
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [_Ahead])
    context.set_config(AHEAD, BUFFERED_BLOCKS * workers)
    return stream


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
        if op.throttling_disabled():  # the split, which only passes blocks on
            return True
        blocks = sum(
            operator.num_active_tasks() + state.total_enqueued_output_blocks()
            for operator, state in self._topology.items()
            if not isinstance(operator, InputDataBuffer)
        )
        cpus = self._resource_manager.get_global_limits().cpu
        return bool(blocks < self._data_context.get_config(AHEAD) + cpus)


class _Settled(ClusterAutoscaler):  # type: ignore[misc]  # Ray ships no types
    """So many CPUs, now and for ever: Ray Data's own asks a process that shares out a cluster.

    That takes a second and a half to start, and a hundredth of a core while it lives.
    """

    def __init__(self, cpus: int) -> None:
        store = ray.cluster_resources().get("object_store_memory", 0)
        self._total = ExecutionResources(cpu=cpus, object_store_memory=store)

    def try_trigger_scaling(self) -> None:
        """Nothing can be had."""

    def on_executor_shutdown(self) -> None:
        """Nothing was asked for."""

    def get_total_resources(self) -> ExecutionResources:
        """What the executor may use."""
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
