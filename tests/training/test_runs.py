import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from raydae.core.errors import UserError
from raydae.core.lock import lock
from raydae.core.storage import Folder
from raydae.images.image_sets import ImageSets
from raydae.training.checkpoints import Checkpoints, TrainState
from raydae.training.config import Config
from raydae.training.run_folder import open_run
from raydae.training.run_names import check_name, find_model


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.of(tmp_path / "run")


def save(folder: Folder, step: int) -> Path:
    state = TrainState(step=step, loss_sum=0.1 * step, history=[{"epoch": 1, "loss": 0.1}])
    Checkpoints(folder).save(state, {"a": b"abc" * step, "b": b"x"})
    return Path(folder.uri) / "checkpoints" / f"step-{step:08d}"


def test_the_latest_checkpoint_comes_back_whole(folder: Folder) -> None:
    assert Checkpoints(folder).latest() is None
    save(folder, 1)
    save(folder, 2)
    state, files = Checkpoints(folder).latest() or pytest.fail("none")
    assert state == TrainState(step=2, loss_sum=0.2, history=[{"epoch": 1, "loss": 0.1}])
    assert files == {"a": b"abcabc", "b": b"x"}


def test_two_are_kept(folder: Folder) -> None:
    for step in (1, 2, 10, 100):
        save(folder, step)
    assert (folder / "checkpoints").folders() == ["step-00000010", "step-00000100"]


@pytest.mark.parametrize("file", ["a", "b", "checkpoint.json"])
def test_a_checkpoint_cut_off_at_any_byte_is_not_used(folder: Folder, file: str) -> None:
    save(folder, 1)
    path = save(folder, 2) / file
    whole = path.read_bytes()
    for length in range(0, len(whole), max(len(whole) // 40, 1)):
        path.write_bytes(whole[:length])
        found = Checkpoints(folder).latest()
        assert found is not None
        assert found[0].step == 1
    path.unlink()
    assert (Checkpoints(folder).latest() or pytest.fail("none"))[0].step == 1


def test_a_changed_byte_is_found(folder: Folder) -> None:
    save(folder, 1)
    (save(folder, 2) / "a").write_bytes(b"abcabd")
    assert (Checkpoints(folder).latest() or pytest.fail("none"))[0].step == 1


def test_a_full_disk_leaves_the_checkpoint_before_and_no_half_one(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder, 1)
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        save(folder, 2)
    assert (folder / "checkpoints").folders() == ["step-00000001"]


def test_a_run_goes_on_with_the_same_configuration(
    folder: Folder, config: Config, sets: ImageSets
) -> None:
    new = open_run(folder, config)
    assert new.sets is None
    new.begin(sets)
    save(folder, 3)
    run = open_run(folder, config)
    assert run.sets == sets
    assert run.state.step == 3
    assert not run.trained


def test_another_configuration_is_refused_and_named(
    folder: Folder, config: Config, sets: ImageSets
) -> None:
    open_run(folder, config).begin(sets)
    with pytest.raises(UserError, match=r"optim\.lr: 0\.001, now 0\.1; seed: 0, now 1"):
        open_run(folder, config.override({"optim.lr": 0.1, "seed": 1}))
    assert open_run(folder, config).config == config


def test_the_number_of_threads_may_change(folder: Folder, config: Config, sets: ImageSets) -> None:
    open_run(folder, config).begin(sets)
    folder.write("results.json", b"of 2 epochs")
    faster = config.override({"threads": 8})
    assert open_run(folder, faster).config == faster
    assert json.loads(folder.read("config.json"))["threads"] == 8
    assert folder.read("results.json") == b"of 2 epochs"
    assert open_run(folder, config).config == config


def test_epochs_may_grow_but_not_shrink(folder: Folder, config: Config, sets: ImageSets) -> None:
    open_run(folder, config).begin(sets)
    longer = config.override({"optim.epochs": 5})
    folder.write("results.json", b"of 2 epochs")
    assert open_run(folder, longer).config == longer
    assert "results.json" not in folder.files()
    assert json.loads(folder.read("config.json"))["optim"]["epochs"] == 5
    with pytest.raises(UserError, match=r"optim\.epochs: 5, now 2"):
        open_run(folder, config)


def test_a_schedule_that_has_an_end_cannot_grow(
    folder: Folder, config: Config, sets: ImageSets
) -> None:
    config = config.override({"optim.schedule": "cosine"})
    open_run(folder, config).begin(sets)
    with pytest.raises(UserError, match=r"optim\.epochs: 2, now 5"):
        open_run(folder, config.override({"optim.epochs": 5}))


def test_restart_clears_the_folder_but_not_before_the_new_run_begins(
    folder: Folder, config: Config, sets: ImageSets
) -> None:
    open_run(folder, config).begin(sets)
    save(folder, 3)
    run = open_run(folder, config.override({"seed": 1}), restart=True)
    assert run.sets is None
    assert run.state == TrainState()
    assert Checkpoints(folder).latest() is not None
    run.begin(sets)
    assert Checkpoints(folder).latest() is None
    assert open_run(folder, config.override({"seed": 1})).sets == sets


@pytest.mark.parametrize("restart", [True, False])
def test_a_folder_that_is_no_run_is_left_alone(
    folder: Folder, config: Config, restart: bool
) -> None:
    folder.write("thesis.tex", b"years of work")
    with pytest.raises(UserError, match="other files than a run's"):
        open_run(folder, config, restart)
    assert folder.read("thesis.tex") == b"years of work"


def test_a_claim_without_a_run_leaves_nothing(folder: Folder) -> None:
    with lock(folder):
        pass
    assert not Path(folder.uri).exists()


def test_a_run_that_cannot_be_read(folder: Folder, config: Config) -> None:
    folder.write("config.json", b"{")  # the words of a file that was written by hand
    folder.write("images.json", b"{}")
    with pytest.raises(UserError, match="no run that can be read"):
        open_run(folder, config)


def hold(folder: Folder, ready: "multiprocessing.synchronize.Event") -> None:
    with lock(folder):
        ready.set()
        time.sleep(60)


def test_a_live_process_holds_its_run_and_a_dead_one_does_not(folder: Folder) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(folder, ready))
    process.start()
    assert ready.wait(30)
    with pytest.raises(UserError, match=f"process {process.pid} on"), lock(folder):
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with lock(folder):
        pass


def test_a_storage_that_cannot_be_used(tmp_path: Path, config: Config) -> None:
    (tmp_path / "file").write_text("")
    folder = Folder.of(tmp_path / "file" / "run")
    with pytest.raises(UserError, match="choose another --storage"), lock(folder):
        pass


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", ".lock", "a b", "x" * 101])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UserError, match="--name"):
        check_name(name)


def test_the_newest_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDAE_STORAGE", str(tmp_path))
    assert find_model("x.safetensors") == str(Path.cwd() / "x.safetensors")
    assert find_model("~/x.safetensors") == str(Path.home() / "x.safetensors")
    assert find_model("released") == "released"
    assert find_model("s3://x/m.safetensors") == "s3://x/m.safetensors"
    with pytest.raises(UserError, match="no run has finished"):
        find_model("last")
    for age, name in enumerate(("new", "old", "unfinished")):
        (tmp_path / name).mkdir()
        if name != "unfinished":
            (tmp_path / name / "results.json").write_text("")
            os.utime(tmp_path / name / "results.json", (1000 - age, 1000 - age))
    assert find_model("last") == str(tmp_path / "new" / "model.safetensors")


def test_what_a_killed_process_left_is_no_obstacle(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    folder = Folder.of(tmp_path)
    (tmp_path / ".config.json.1234.tmp").write_text("{")
    (tmp_path / ".tune").mkdir()
    folder.write("search.json", b"{}")
    folder.write("images.json", b"{")
    assert open_run(folder, config, kind="search").sets is None
    run = open_run(folder, config, kind="search").begin(sets)
    assert open_run(folder, config, kind="search").sets == sets
    with pytest.raises(UserError, match="is not a run"):
        open_run(folder, config)
    (tmp_path / "trials").mkdir()
    restarted = open_run(folder, config, restart=True, kind="search")
    deleted: list[str] = []
    whole = Folder.delete

    def killed_at_the_third(self: Folder, name: str) -> None:
        deleted.append(name)
        if len(deleted) == 3:
            raise OSError("killed")
        whole(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "delete", killed_at_the_third)
        with pytest.raises(UserError):
            restarted.begin(sets)
    assert "config.json" in {path.name for path in tmp_path.iterdir()}
    assert open_run(folder, config, restart=True, kind="search").begin(sets).sets == run.sets
