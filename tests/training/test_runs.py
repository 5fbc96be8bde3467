import csv
import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raydae.core.errors import UserError
from raydae.core.lock import lock
from raydae.core.pixel_hashes import PixelHashes
from raydae.core.storage import Folder
from raydae.images.image_sets import ImageSets
from raydae.models.weights import pack
from raydae.training.checkpoints import Checkpoints, TrainState, hash_of_values
from raydae.training.config import Config
from raydae.training.run_folder import hash_of, open_run, read_history
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
    found = Checkpoints(folder).latest() or pytest.fail("none")
    assert found.state == TrainState(step=2, loss_sum=0.2, history=[{"epoch": 1, "loss": 0.1}])
    assert found.files == {"a": b"abcabc", "b": b"x"}


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


def test_a_changed_byte_is_found_and_what_it_costs_is_told(folder: Folder) -> None:
    save(folder, 1)
    (save(folder, 4) / "a").write_bytes(b"abcabd")
    found = Checkpoints(folder).latest() or pytest.fail("none")
    assert (found.state.step, found.lost_steps) == (1, 3)
    assert found.skipped == ("step-00000004: a is damaged",)


def test_every_byte_of_the_state_counts(folder: Folder) -> None:
    save(folder, 1)
    path = save(folder, 2) / "checkpoint.json"
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        if whole[position - 10 : position] == b'"format": ':
            continue  # of another version, which is refused
        found = Checkpoints(folder).latest() or pytest.fail("none")
        assert found.state.step == 1 or found.state == TrainState(
            step=2, loss_sum=0.2, history=[{"epoch": 1, "loss": 0.1}]
        )


def test_a_checkpoint_with_a_list_of_hashes_is_read_as_before(folder: Folder) -> None:
    path = save(folder, 1) / "checkpoint.json"
    info = json.loads(path.read_text())
    info["format"] = 4
    info["state"]["inherited_hashes"] = ["ab" * 16, "cd" * 16]
    path.write_text(json.dumps(info | {"state_sha256": hash_of_values(info["state"])}))
    state = (Checkpoints(folder).latest() or pytest.fail("none")).state
    hashes = PixelHashes.from_text(state.inherited_hashes)
    assert hashes == PixelHashes.of(["cd" * 16, "ab" * 16])


def test_damaged_checkpoints_do_not_count_as_kept_and_stay(folder: Folder) -> None:
    for step in (384, 535):
        (save(folder, step) / "a").write_bytes(b"damaged")
    for step in (100, 200, 300, 384):
        save(folder, step)
        assert (Checkpoints(folder).latest() or pytest.fail("none")).state.step == step
    names = ["step-00000300", "step-00000384", "step-00000384.1", "step-00000535"]
    assert (folder / "checkpoints").folders() == names
    assert folder.read("checkpoints/step-00000384.1/a") == b"damaged"


def test_copies_of_a_run_continue_from_the_most_steps(folder: Folder) -> None:
    paths = [save(folder, step) for step in (100, 200)]
    for path, age in zip(paths, (0, 1000), strict=True):
        os.utime(path / "checkpoint.json", (1e9 - age, 1e9 - age))
    assert (Checkpoints(folder).latest() or pytest.fail("none")).state.step == 200
    save(folder, 300)
    assert (folder / "checkpoints").folders() == ["step-00000200", "step-00000300"]


def test_what_a_kill_in_mid_write_left_is_cleared_away(folder: Folder) -> None:
    save(folder, 1)
    draft = Path(folder.uri) / "checkpoints" / ".new-step-00000002"
    draft.mkdir()
    (draft / "a").write_bytes(b"half")
    found = Checkpoints(folder).latest() or pytest.fail("none")
    assert (found.state.step, found.skipped) == (1, ())
    save(folder, 3)
    assert (folder / "checkpoints").folders() == ["step-00000001", "step-00000003"]


def test_an_object_store_has_no_half_checkpoint_either(s3: Callable[[str], str]) -> None:
    folder = Folder.of(s3("half"))
    (folder / "checkpoints").write("step-00000001/a", b"half")
    assert Checkpoints(folder).latest() is None
    for step in (2, 3, 4):
        Checkpoints(folder).save(TrainState(step=step), {"a": b"x"})
    assert (folder / "checkpoints").folders() == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("damage", ["truncated", "without its state", "gone"])
def test_without_an_intact_checkpoint_a_run_is_refused(
    folder: Folder, config: Config, sets: ImageSets, damage: str
) -> None:
    open_run(folder, config).begin(sets)
    paths = [save(folder, step) for step in (1, 2)]
    folder.write("history.jsonl", b'{"epoch": 1}\n')
    model = pack({"x": torch.zeros(3)}, {"raydae": "{}"})
    folder.write("model.safetensors", model[:-1])
    folder.write("last.safetensors", model)
    for path in paths:
        if damage == "gone":
            shutil.rmtree(path)
        elif damage == "truncated":
            (path / "a").write_bytes(b"")
        else:
            (path / "checkpoint.json").unlink()
    before = everything(folder)
    with pytest.raises(UserError) as refusal:
        open_run(folder, config)
    said = str(refusal.value)
    assert {
        "truncated": "step-00000002: a is damaged; step-00000001: a is damaged",
        "without its state": "checkpoint.json is missing",
        "gone": "its checkpoints are gone",
    }[damage] in said
    assert f"--init {folder.path_of('last.safetensors')}" in said, "the other one is damaged"
    assert "--restart" in said
    assert everything(folder) == before
    run = open_run(folder, config, restart=True).begin(sets)
    assert run.state == TrainState()
    assert everything(Folder(f"{folder.uri}.1")) == before


def everything(folder: Folder) -> dict[str, bytes]:
    return {name: folder.read(name) for name in folder.files(recursive=True) if name != ".lock"}


def test_a_finished_run_needs_no_checkpoints(
    folder: Folder, config: Config, sets: ImageSets
) -> None:
    open_run(folder, config).begin(sets)
    shutil.rmtree(save(folder, 8))
    folder.write("history.jsonl", b'{"epoch": 1}\n')
    folder.write("model.safetensors", b"weights")
    results = {"results": [{}], "epochs": 2, "model_sha256": hash_of(b"weights")}
    folder.write("results.json", json.dumps(results).encode())
    assert open_run(folder, config).results == results
    folder.write("model.safetensors", b"weighty")
    with pytest.raises(UserError, match="its checkpoints are gone"):
        open_run(folder, config)


def test_the_history_of_a_run_up_to_a_damaged_line(folder: Folder) -> None:
    assert read_history(folder) == []
    folder.write("history.jsonl", b'{"epoch": 1}\n{"epoch": 2}\n{"epo\n{"epoch": 4}\n')
    assert read_history(folder) == [{"epoch": 1}, {"epoch": 2}]


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
    faster = config.override({"threads": 8})
    assert open_run(folder, faster).config == faster
    assert json.loads(folder.read("config.json"))["threads"] == 8
    assert open_run(folder, config).config == config


def test_epochs_may_grow_but_not_shrink(folder: Folder, config: Config, sets: ImageSets) -> None:
    open_run(folder, config).begin(sets)
    save(folder, 8)
    longer = config.override({"optim.epochs": 5})
    folder.write("model.safetensors", b"")
    results = {"results": [{}], "epochs": 2, "model_sha256": hash_of(b"")}
    folder.write("results.json", json.dumps(results).encode())
    assert open_run(folder, config).results is not None
    assert open_run(folder, longer).config == longer
    assert open_run(folder, longer).results is None
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


@pytest.mark.parametrize("storage", ["path", "s3"])
def test_restart_moves_the_run_aside_but_not_before_the_new_one_begins(
    tmp_path: Path, config: Config, sets: ImageSets, storage: str, s3: Callable[[str], str]
) -> None:
    folder = Folder.of(s3("restarted") if storage == "s3" else tmp_path) / "my run"
    for seed in (0, 1, 2):
        config = config.override({"seed": seed})
        with lock(folder):
            run = open_run(folder, config, restart=True)
            assert run.sets is None
            run = run.begin(sets)
            state = TrainState(step=seed + 1)
            Checkpoints(folder).save(state, {"a": b"abc"})
            if storage == "path":
                with pytest.raises(UserError, match="in use by process"), lock(folder):
                    pass
            assert open_run(folder, config).state == state
        other = folder.sibling(f"my run.{seed}")
        if seed:
            assert run.notes == (f"the earlier run is in {other} now",)
            found = Checkpoints(other).latest() or pytest.fail("none")
            assert found.state.step == seed
            assert json.loads(other.read("config.json"))["seed"] == seed - 1
            assert ".lock" not in other.files()
        else:
            assert not run.notes


@pytest.mark.parametrize("restart", [True, False])
def test_a_folder_that_is_no_run_is_left_alone(
    folder: Folder, config: Config, restart: bool
) -> None:
    folder.write("thesis.tex", b"years of work")
    with pytest.raises(UserError, match=r"other files \(thesis\.tex\) and no run"):
        open_run(folder, config, restart)
    assert folder.read("thesis.tex") == b"years of work"


def test_a_claim_without_a_run_leaves_nothing(folder: Folder) -> None:
    with lock(folder):
        pass
    assert not Path(folder.uri).exists()


def test_a_run_that_cannot_be_read(folder: Folder, config: Config) -> None:
    folder.write("config.json", b"{")  # the words of a file that was written by hand
    folder.write("images.parquet", b"{}")
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


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "-x", ".lock", " a", "a\n", "x" * 201])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UserError, match="--name"):
        check_name(name)


@pytest.mark.parametrize("name", ["my run", "Läufe 2", "運行", "चलना", "_a.b-c", "x" * 200])
def test_names(name: str) -> None:
    assert check_name(name) == name


def test_the_model_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDAE_STORAGE", str(tmp_path / "runs"))
    model = tmp_path / "runs" / "mine" / "model.safetensors"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    for spelling in ("mine", "runs/mine", "runs/mine/", str(model.parent), str(model)):
        assert find_model(spelling) == str(model)
    assert find_model(model.parent.as_uri()) == str(model)
    assert find_model("other") == str(tmp_path / "other")


def test_the_newest_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDAE_STORAGE", str(tmp_path))
    assert find_model("x.safetensors") == str(Path.cwd() / "x.safetensors")
    assert find_model("~/x.safetensors") == str(Path.home() / "x.safetensors")
    assert find_model("gaussian") == "gaussian"
    assert find_model("s3://x/m.safetensors") == "s3://x/m.safetensors"
    with pytest.raises(UserError, match="no run has finished"):
        find_model("last")
    for age, name in enumerate(("grown", "new", "old", "unfinished")):
        (tmp_path / name).mkdir()
        if name != "unfinished":
            (tmp_path / name / "results.json").write_text('{"epochs": 3}')
            epochs = 5 if name == "grown" else 3
            (tmp_path / name / "config.json").write_text(f'{{"optim": {{"epochs": {epochs}}}}}')
            os.utime(tmp_path / name / "results.json", (1000 - age, 1000 - age))
    assert find_model("last") == str(tmp_path / "new" / "model.safetensors")


def test_what_a_killed_process_left_is_no_obstacle(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    folder = Folder.of(tmp_path)
    (tmp_path / ".config.json.1234.tmp").write_text("{")
    (tmp_path / ".tune").mkdir()
    folder.write("search.json", b"{}")
    folder.write("images.parquet", b"{")
    assert open_run(folder, config, kind="search").sets is None
    run = open_run(folder, config, kind="search").begin(sets)
    assert open_run(folder, config, kind="search").sets == sets
    with pytest.raises(UserError, match="is not a run"):
        open_run(folder, config)
    (tmp_path / "trials").mkdir()
    restarted = open_run(folder, config, restart=True, kind="search")

    moved: list[Path] = []
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        moved.append(self)
        if len(moved) == 2:
            raise OSError("killed")
        return rename(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(UserError):
            restarted.begin(sets)
    with pytest.raises(UserError, match=r"cannot be resumed, because config\.json is missing"):
        open_run(folder, config, kind="search")
    assert open_run(folder, config, restart=True, kind="search").begin(sets).sets == run.sets


def test_all_images_that_are_left_out_are_in_a_table(
    folder: Folder, config: Config, sets: ImageSets
) -> None:
    lines = tuple(f"{i}.png: it has, as they say, no picture" for i in range(100))
    open_run(folder, config).begin(dataclasses.replace(sets, left_out=lines))
    rows = list(csv.reader(folder.read("left_out.csv").decode().splitlines()))
    assert rows == [["left out"], *([line] for line in lines)]
