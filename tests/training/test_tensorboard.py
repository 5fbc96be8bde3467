from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from raydae.core.storage import Folder
from raydae.training.tensorboard import TensorBoardWriter


def record(epoch: int) -> dict[str, Any]:
    spent = [{"waited_for_data_s": rank, "computed_s": 10.0 + rank} for rank in range(2)]
    values = {"loss": 0.5 / epoch, "val_psnr": None, "val_ssim": 0.5, "patches_per_s": 9, "lr": 1}
    return {"epoch": epoch, "time": 1000.0 + epoch, "by_worker": spent, **values}


@pytest.fixture(params=["path", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path, s3: Callable[[str], str]) -> Folder:
    return Folder.of(s3(tmp_path.name) if request.param == "s3" else tmp_path / "run")


def read(run: Folder, folder: Path) -> EventAccumulator:
    """What TensorBoard sees of a run."""
    (name,) = run.files()
    (folder / name).write_bytes(run.read(name))
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_a_run_s_history_is_there_while_it_goes_on(run: Folder, tmp_path: Path) -> None:
    with TensorBoardWriter(run) as events:
        events.write([record(1)])
        events.write([record(1), record(2)])
        events.write([record(1), record(2)])
        seen = read(run, tmp_path)
    losses = [(event.step, event.value, event.wall_time) for event in seen.Scalars("loss/train")]
    assert losses == [(1, 0.5, 1001.0), (2, 0.25, 1002.0)]
    assert "validation/psnr_db" not in seen.Tags()["scalars"]
    assert [event.value for event in seen.Scalars("waited_for_data_s/worker_1")] == [1, 1]
    assert [event.value for event in seen.Scalars("computed_s/worker_0")] == [10, 10]


def test_events_of_an_earlier_process_are_replaced(run: Folder, tmp_path: Path) -> None:
    with TensorBoardWriter(run) as events:
        events.write([record(1), record(2)])
    with TensorBoardWriter(run):
        assert len(run.files()) >= 1, "they stay until there is something to replace them"
    with TensorBoardWriter(run) as events:
        events.write([record(1), record(2), record(3)])
        events.write([record(1)])  # an epoch is done again
        events.write([record(1), record(2), record(3), record(4)])
    seen = [event.step for event in read(run, tmp_path).Scalars("loss/train")]
    assert seen == [1, 2, 3, 4]
