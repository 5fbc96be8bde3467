import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from raydae.core.pixel_hashes import PixelHashes
from raydae.core.storage import Folder
from raydae.images.image_file import read_image
from raydae.images.image_sets import ImageSets
from raydae.images.image_table import Images
from raydae.models.model_file import load_model
from raydae.models.weights import unpack
from raydae.noise.config import NOISES
from raydae.training import loop, sync_control, torch_setup
from raydae.training.checkpoints import Checkpoints, TrainState
from raydae.training.config import Config
from raydae.training.context import Context
from raydae.training.learner import Batch
from raydae.training.loop import fit
from raydae.training.samples import Samples, shards
from raydae.training.schedule import Schedule
from raydae.training.status import Outcome, Status
from raydae.training.torch_setup import resolve_compile, resolve_precision


@pytest.fixture(autouse=True)
def _agreements_after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_control, "SYNC_SECONDS", 0)


def run(config: Config, sets: ImageSets, folder: Path, **how: Any) -> Outcome:
    on_gpu = how.get("device", torch.device("cpu")).type == "cuda"
    samples, schedule = Samples.of(config, sets.train, on_gpu), Schedule.of(config, len(sets.train))
    minutes = how.pop("checkpoint_minutes", 10)
    return fit(
        config,
        sets,
        Folder.of(folder),
        Context(**{"threads": 1, **how}),
        lambda start: shards(samples, schedule, start),
        minutes,
    )


def history(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    exact = ("epoch", "step", "loss", "val_psnr", "val_ssim")
    return [{key: line[key] for key in exact} for line in lines]


class StopAfter:
    """Asks for a stop once a step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, status: Status) -> bool:
        return status.step >= self.step


def test_a_run_learns_and_leaves_its_files(config: Config, sets: ImageSets, tmp_path: Path) -> None:
    config = config.override({"optim.epochs": 12})
    assert run(config, sets, tmp_path) == Outcome("finished")
    lines = history(tmp_path)
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert lines[-1]["step"] == 48
    assert lines[-1]["loss"] < lines[0]["loss"] / 1.5
    best = max(lines, key=lambda line: line["val_psnr"])
    _, info = load_model(tmp_path / "model.safetensors")
    assert (info.epoch, info.val_psnr) == (best["epoch"], best["val_psnr"])
    assert info.train_hashes == PixelHashes.of(sets.train.hashes)
    assert info.config["precision"] == "fp32"
    assert info.config["threads"] == 1
    assert load_model(tmp_path / "last.safetensors")[1].epoch == 12


UNET = {
    "model.name": "unet",
    "model.options.width": 4,
    "model.options.levels": 2,
    "noise.options.sigma": "0:55",
    "optim.loss": "l1",
    "optim.optimizer": "adamw",
    "optim.optimizer_options.weight_decay": 0.01,
    "optim.schedule": "cosine",
    "optim.warmup": 3,
    "optim.clip": 0.1,
    "optim.ema": 0.9,
}


MUON = {**UNET, "optim.optimizer": "muon"}
del MUON["optim.optimizer_options.weight_decay"]


@pytest.mark.parametrize(
    "recipe",
    [
        *(UNET, MUON, {"noise.on": "device", "noise.options.sigma": "5:50"}),
        *({"noise.kind": kind} for kind in NOISES.builtins if kind != "gaussian"),
        {"noise.kind": "camera", "noise.on": "device"},
        {"learn": "neighbor2neighbor", "data.patch_size": 32},
    ],
)
def test_every_part_of_a_recipe_resumes_exactly(
    recipe: dict[str, Any], config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    config = config.override(recipe)
    run(config, sets, tmp_path / "whole")
    for step in (3, 5):
        assert run(config, sets, tmp_path / "parts", tell=StopAfter(step)).status == "stopped"
    assert run(config, sets, tmp_path / "parts").status == "finished"
    for name in ("last.safetensors", "model.safetensors"):
        ours, theirs = (unpack((tmp_path / d / name).read_bytes()) for d in ("whole", "parts"))
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert history(tmp_path / "whole") == history(tmp_path / "parts")


def test_where_noise_is_made_changes_nothing(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    config = config.override({"noise.options.sigma": "5:50"})
    run(config, sets, tmp_path / "cpu")
    run(config.override({"noise.on": "device"}), sets, tmp_path / "device")
    assert history(tmp_path / "cpu") == history(tmp_path / "device")
    ours, theirs = (
        unpack((tmp_path / d / "last.safetensors").read_bytes()) for d in ("cpu", "device")
    )
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_the_averaged_weights_are_kept(config: Config, sets: ImageSets, tmp_path: Path) -> None:
    config = config.override(UNET)
    run(config, sets, tmp_path)
    found = Checkpoints(Folder.of(tmp_path)).latest()
    assert found is not None
    raw, averaged = (
        unpack(found[1][f"{name}.safetensors"])["head.weight"] for name in ("model", "averaged")
    )
    last = unpack((tmp_path / "last.safetensors").read_bytes())["head.weight"]
    assert torch.equal(last, averaged)
    assert not torch.equal(raw, averaged)


@pytest.mark.parametrize("stops", [(1,), (3, 5), (4,), (7,)])
def test_resumed_equals_uninterrupted(
    config: Config, sets: ImageSets, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    assert run(config, sets, tmp_path / "whole") == Outcome("finished")
    for stop in stops:
        assert run(config, sets, tmp_path / "parts", tell=StopAfter(stop)) == Outcome("stopped")
        found = Checkpoints(Folder.of(tmp_path / "parts")).latest()
        assert found is not None
        assert stop <= found[0].step < 8
    assert run(config, sets, tmp_path / "parts") == Outcome("finished")
    for name in ("last.safetensors", "model.safetensors"):
        whole = unpack((tmp_path / "whole" / name).read_bytes())
        parts = unpack((tmp_path / "parts" / name).read_bytes())
        assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    assert history(tmp_path / "parts") == history(tmp_path / "whole")


def test_a_finished_run_has_nothing_left_to_do(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    run(config, sets, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    assert run(config, sets, tmp_path) == Outcome("finished")
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_more_epochs_go_on_from_the_last(config: Config, sets: ImageSets, tmp_path: Path) -> None:
    longer = config.override({"optim.epochs": 3})
    run(longer, sets, tmp_path / "whole")
    run(config, sets, tmp_path / "grown")
    run(longer, sets, tmp_path / "grown")
    assert history(tmp_path / "grown") == history(tmp_path / "whole")


def test_checkpoints_come_by_the_clock_too(config: Config, sets: ImageSets, tmp_path: Path) -> None:
    seen: set[Path] = set()

    def look(status: Status) -> bool:
        seen.update((tmp_path / "checkpoints").glob("step-*"))
        return False

    run(config, sets, tmp_path, tell=look, checkpoint_minutes=0)
    steps = {int(path.name.removeprefix("step-")) for path in seen}
    assert steps - {4, 8}  # those of the epochs


def test_a_machine_about_to_go_gets_a_checkpoint_at_once_and_then_often(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = Checkpoints.save

    def note(self: Checkpoints, state: TrainState, files: dict[str, bytes]) -> None:
        saved.append(state.step)
        save(self, state, files)

    monkeypatch.setattr(Checkpoints, "save", note)
    monkeypatch.setattr(sync_control, "POLL_SECONDS", 0)
    answers = iter([False, True, True, True] + [True] * 10)
    config = config.override({"optim.epochs": 1, "data.patches_per_image": 8})  # 8 steps
    run(config, sets, tmp_path / "notice", preempted=lambda: next(answers))
    assert saved == [2, 8]
    monkeypatch.setattr(sync_control, "PREEMPTED_SECONDS", 0)
    saved.clear()
    run(config, sets, tmp_path / "often", preempted=lambda: True)
    assert saved == list(range(1, 9))


def test_the_history_says_where_each_worker_s_time_went(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    config = config.override({"data.patches_per_image": 64})  # milliseconds of waiting, not less
    run(config, sets, tmp_path, place="here")
    for line in (tmp_path / "history.jsonl").read_text().splitlines():
        record = json.loads(line)
        (worker,) = record["by_worker"]
        assert worker["place"] == "here"
        spent = worker["waited_for_data_s"] + worker["computed_s"]
        assert 0 < worker["computed_s"] < spent < record["seconds"]


def test_a_stream_that_brings_other_samples_is_an_error(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    samples, schedule = Samples.of(config, sets.train), Schedule.of(config, len(sets.train))

    def late(start: int) -> Iterator[Batch]:
        return shards(samples, schedule, start + 1)

    with pytest.raises(RuntimeError, match="brought sample 8, not 0"):
        fit(config, sets, Folder.of(tmp_path), Context(), late)


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = functional.mse_loss
    calls = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        factor = float("nan") if len(calls) == 6 else 1.0
        return torch.mul(real(output, target), factor)

    monkeypatch.setattr(functional, "mse_loss", loss)
    outcome = run(config, sets, tmp_path)
    assert outcome.status == "diverged"
    assert "nan at step 6 (epoch 2) with learning rate 0.001" in outcome.message
    assert "the checkpoint of step 4 and its models are kept" in outcome.advice
    assert load_model(tmp_path / "model.safetensors")[1].epoch == 1
    found = Checkpoints(Folder.of(tmp_path)).latest()
    assert found is not None
    assert found[0].step == 4
    assert all(value.isfinite().all() for value in unpack(found[1]["model.safetensors"]).values())


def test_a_full_disk_ends_the_run_with_a_word_and_it_goes_on_once_there_is_room(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config, sets, tmp_path / "whole")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    def look(status: Status) -> bool:
        if status.step > 4:
            monkeypatch.setattr(os, "fsync", full)
        return False

    outcome = run(config, sets, tmp_path / "full", tell=look)
    assert outcome.status == "failed"
    assert "No space left on device" in outcome.message
    assert "\n" not in outcome.message
    monkeypatch.undo()
    assert run(config, sets, tmp_path / "full") == Outcome("finished")
    assert history(tmp_path / "full") == history(tmp_path / "whole")


def test_models_are_there_after_every_checkpoint(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    names = ("model.safetensors", "last.safetensors")
    assert run(config, sets, tmp_path, tell=StopAfter(2)) == Outcome("stopped")
    early = {name: load_model(tmp_path / name) for name in names}
    assert all((info.epoch, info.val_psnr) == (0, None) for _, info in early.values())
    found = Checkpoints(Folder.of(tmp_path)).latest()
    assert found is not None
    parts = unpack(found.files["model.safetensors"])
    for network, _ in early.values():
        for name, value in network.named_parameters():
            assert torch.equal(value, parts[name])
    assert run(config, sets, tmp_path, tell=StopAfter(6)) == Outcome("stopped")
    best, last = (load_model(tmp_path / name)[1] for name in names)
    assert (best.epoch, last.epoch) == (1, 1)
    assert best.val_psnr == history(tmp_path)[0]["val_psnr"]


def test_an_older_checkpoint_keeps_the_history_until_its_epochs_are_done_again(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    config = config.override({"optim.epochs": 4})
    run(config, sets, tmp_path / "whole")
    assert run(config, sets, tmp_path / "parts", tell=StopAfter(12)) == Outcome("stopped")
    whole, before = history(tmp_path / "whole"), history(tmp_path / "parts")
    assert [line["step"] for line in before] == [4, 8, 12]
    newest = tmp_path / "parts" / "checkpoints" / "step-00000012" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert run(config, sets, tmp_path / "parts", tell=StopAfter(9)) == Outcome("stopped")
    assert history(tmp_path / "parts") == before
    assert newest.exists()
    assert run(config, sets, tmp_path / "parts") == Outcome("finished")
    assert history(tmp_path / "parts") == whole


def test_a_run_whose_checkpoints_are_all_damaged_never_begins_again(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    run(config, sets, tmp_path, tell=StopAfter(6))
    for path in tmp_path.glob("checkpoints/*/optimizer.safetensors"):
        path.write_bytes(b"")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    outcome = run(config, sets, tmp_path)
    assert outcome.status == "failed"
    assert "optimizer.safetensors is damaged" in outcome.message
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_checkpoints_of_another_network_are_refused(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config, sets, tmp_path, tell=StopAfter(2))
    monkeypatch.setattr(loop, "build", lambda model: nn.Conv2d(3, 3, 1))
    outcome = run(config, sets, tmp_path)
    assert outcome.status == "failed"
    assert "another network" in outcome.message
    assert "--restart" in outcome.message


def test_unreadable_images_are_named(config: Config, sets: ImageSets, tmp_path: Path) -> None:
    gone = [*sets.train]
    import dataclasses

    gone[2] = dataclasses.replace(gone[2], uri=str(tmp_path / "gone.png"))
    sets = dataclasses.replace(sets, train=Images.of(gone))
    assert run(config, sets, tmp_path) == Outcome("finished")
    found = Checkpoints(Folder.of(tmp_path)).latest()
    assert found is not None
    assert found[0].unreadable == [gone[2].name]


def test_an_epoch_that_nothing_could_judge_is_not_the_best(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def read(uri: str) -> NDArray[np.uint8]:
        asked.append(uri)
        if len(asked) == 1:
            raise OSError("not now")
        return read_image(uri)

    monkeypatch.setattr("raydae.training.noisy_images.read_image", read)
    assert run(config.override({"optim.epochs": 3}), sets, tmp_path) == Outcome("finished")
    lines = history(tmp_path)
    assert lines[0]["val_psnr"] is None
    best = max(lines[1:], key=lambda line: line["val_psnr"])
    _, info = load_model(tmp_path / "model.safetensors")
    assert (info.epoch, info.val_psnr) == (best["epoch"], best["val_psnr"])
    found = Checkpoints(Folder.of(tmp_path)).latest()
    assert found is not None
    assert found[0].unreadable == [sets.val[0].name]


def test_precision_is_bf16_only_where_it_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    assert resolve_precision("fp32", device) == "fp32"
    assert resolve_precision("bf16", device) == "bf16"
    intel = {"cpu_name": "Intel Xeon", "avx512_bf16": True}
    for capability, expected in (
        ({"avx512_bf16": True}, "bf16"),
        ({"avx2": True}, "fp32"),
        (intel, "fp32"),
        ({**intel, "amx_bf16": True}, "bf16"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capability: c)
        assert resolve_precision("auto", device) == expected


def test_a_network_is_compiled_where_that_pays(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Context(device=torch.device("cuda", 0))
    long, short = Schedule(800, 8, 2, 200), Schedule(800, 8, 2, 199)
    monkeypatch.setattr(torch_setup, "can_build_kernels", lambda: True)
    assert resolve_compile(config, long, gpu)
    assert not resolve_compile(config, short, gpu)
    assert not resolve_compile(config, long, Context())
    assert not resolve_compile(config, long, dataclasses.replace(gpu, workers=2))
    for setting in ({"compile": "off"}, {"deterministic": True}):
        assert not resolve_compile(config.override(setting), long, gpu)
    monkeypatch.setattr(torch_setup, "can_build_kernels", lambda: False)
    assert not resolve_compile(config, long, gpu)


def test_a_run_in_bf16_goes_on_in_bf16(config: Config, sets: ImageSets, tmp_path: Path) -> None:
    config = config.override({"precision": "bf16"})
    run(config, sets, tmp_path, tell=StopAfter(2))
    assert run(config, sets, tmp_path) == Outcome("finished")
    assert load_model(tmp_path / "last.safetensors")[1].config["precision"] == "bf16"


def test_fine_tuning_starts_from_weights_and_remembers_their_images(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    run(config, sets, tmp_path / "first")
    start = tmp_path / "first" / "last.safetensors"
    others = dataclasses.replace(sets, train=sets.train[:4])
    gentle = config.override({"init": str(start), "optim.lr": 1e-12, "optim.batch_size": 4})
    assert run(gentle, others, tmp_path / "second").status == "finished"
    before, after = (load_model(path) for path in (start, tmp_path / "second" / start.name))
    for name, value in before[0].named_parameters():
        torch.testing.assert_close(after[0].get_parameter(name), value, atol=1e-6, rtol=0)
    assert after[1].train_hashes == PixelHashes.of(sets.train.hashes)

    other = gentle.override({"model.name": "unet"})
    outcome = run(other, sets, tmp_path / "third")
    assert outcome.status == "failed"
    assert (
        "holds a dae, but this run trains a unet (blocks 2, levels 3, width 32)" in outcome.message
    )


def test_fine_tuning_trains_batch_statistics_too_and_resumes_exactly(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    run(config, sets, tmp_path / "first")
    start = tmp_path / "first" / "last.safetensors"
    config = config.override({"init": str(start), "seed": 1})
    run(config, sets, tmp_path / "whole")
    assert run(config, sets, tmp_path / "parts", tell=StopAfter(3)).status == "stopped"
    assert run(config, sets, tmp_path / "parts").status == "finished"
    before, whole, parts = (
        unpack((tmp_path / name / "last.safetensors").read_bytes())
        for name in ("first", "whole", "parts")
    )
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert not torch.equal(whole["layers.1.running_mean"], before["layers.1.running_mean"])
