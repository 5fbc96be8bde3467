"""The stream as Ray Train's workers get it, for several numbers of them."""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from raydae.core.errors import first_line
from raydae.core.storage import Folder
from raydae.distributed.stream import (
    BLOCK_BYTES,
    BLOCK_ROWS,
    _Share,
    _steps_per_block,
    begin_stream,
    shares,
)
from raydae.images.image_sets import ImageSets
from raydae.training.checkpoints import Checkpoints, TrainState
from raydae.training.config import Config
from raydae.training.samples import Samples
from raydae.training.schedule import Schedule
from tests.app.test_jobs import processes_of

pytestmark = pytest.mark.usefixtures("ray_cluster")


@dataclass(frozen=True)
class Stream:
    """What a stream is begun with."""

    samples: Samples
    schedule: Schedule
    run: Folder

    def begin(self, workers: int) -> list[Any]:
        ranks, samples = range(workers), ray.put(self.samples)
        return [begin_stream(samples, self.schedule, self.run, n, workers) for n in ranks]


def collect(stream: Stream, workers: int) -> list[list[dict[str, np.ndarray]]]:
    """What each worker gets, step by step."""
    rows = stream.schedule.shard_rows(workers)

    def drain(blocks: Any) -> list[dict[str, np.ndarray]]:
        # Blocks live in shared memory as long as the iterator does.
        return [{k: v.copy() for k, v in step.items()} for step in shares(blocks, rows)]

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(drain, stream.begin(workers)))


@pytest.fixture
def stream(config: Config, sets: ImageSets, tmp_path: Any) -> Stream:
    config = config.override({"optim.epochs": 5})
    schedule = Schedule.of(config, len(sets.train))
    return Stream(Samples.of(config, sets.train), schedule, Folder.of(tmp_path))


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_every_step_has_the_same_samples_for_any_number_of_workers(
    stream: Stream, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "raydae.distributed.stream.BLOCK_ROWS", 24
    )  # several blocks, the last one short
    parts = collect(stream, workers)
    assert [len(part) for part in parts] == [stream.schedule.steps] * workers
    for step, shares_of_step in enumerate(zip(*parts, strict=True)):
        indices = [index for share in shares_of_step for index in share["index"] if index >= 0]
        assert indices == list(range(step * 8, step * 8 + 8))
        for share in shares_of_step:
            real = share["index"] >= 0
            first, last = share["index"][real][[0, -1]]
            expected = stream.samples.block([range(first, last + 1)], int(real.sum()))
            for name, column in expected.items():  # made here; the stream's in other processes
                np.testing.assert_array_equal(share[name][real], column)


def test_the_stream_starts_where_the_checkpoint_is(stream: Stream) -> None:
    Checkpoints(stream.run).save(TrainState(step=7), {})
    (part,) = collect(stream, 1)
    assert part[0]["index"].tolist() == list(range(56, 64))
    assert len(part) == stream.schedule.steps - 7


def test_a_worker_takes_its_share_of_the_cpus_that_training_leaves() -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    assert _Share(1, 2).get_total_resources().cpu == cpus - 2
    assert _Share(2, 1).get_total_resources().cpu == (cpus - 1) // 2
    assert _Share(64, cpus).get_total_resources().cpu == 1


def test_larger_patches_make_blocks_of_no_more_bytes(stream: Stream) -> None:
    for size in (16, 64, 128, 256, 512, 1024):
        samples = dataclasses.replace(stream.samples, patch_size=size)
        steps = _steps_per_block(samples, 8)
        assert steps == 1 or steps * 8 * samples.row_bytes <= BLOCK_BYTES
        assert steps * 8 == BLOCK_ROWS or (steps + 1) * 8 * samples.row_bytes > BLOCK_BYTES
    block = stream.samples.block([range(1)], 1)
    assert block["clean"].nbytes + block["noisy"].nbytes == stream.samples.row_bytes


def test_what_goes_wrong_in_a_task_is_told(stream: Stream, tmp_path: Path) -> None:
    gone = tuple(
        dataclasses.replace(file, uri=str(tmp_path / file.name)) for file in stream.samples.images
    )
    lost = dataclasses.replace(stream, samples=dataclasses.replace(stream.samples, images=gone))
    with pytest.raises(OSError, match="training images") as caught:
        collect(lost, 1)
    assert first_line(caught.value) == "none of the 8 training images can be read"


def test_killed_tasks_are_done_again(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydae.distributed.stream.BLOCK_ROWS", 8)
    monkeypatch.setattr("raydae.distributed.stream.BUFFERED_BLOCKS", 1)
    (blocks,) = stream.begin(1)
    indices, killed = [], 0
    for step in shares(blocks, 8):
        indices += step["index"].tolist()
        if killed < 3:  # Ray tries each task again, but not for ever
            tasks = processes_of(os.getpid(), "ray::IDLE", "ray::MapBatches")
            for task in tasks:
                task.kill()
            killed += bool(tasks)
    assert indices == list(range(stream.schedule.steps * 8))
    assert killed == 3
