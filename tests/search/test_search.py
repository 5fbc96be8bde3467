"""The parts of a search without Ray Tune around them; test_tune.py runs whole searches."""

import csv
import dataclasses
import io
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import raydae.search.search
from raydae.app import tune
from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.distributed.resources import Workers
from raydae.images.image_sets import ImageSets
from raydae.images.sources import find_images
from raydae.search.sampler import make_sampler
from raydae.search.search import Search
from raydae.search.settings import Settings, check_settings, write_settings
from raydae.search.space import LEARNING_RATE, NOISE_LEVEL, Space
from raydae.search.trial_runner import TrialPlan, TrialRunner
from raydae.search.trials import Trial
from raydae.search.tune_adapters import EarlyEnd
from raydae.training import loop
from raydae.training.checkpoints import TrainState
from raydae.training.config import Config
from raydae.training.context import Context
from raydae.training.loop import fit
from raydae.training.run_folder import Run, open_run
from raydae.training.samples import Samples, shards
from raydae.training.schedule import Schedule
from tests.app.test_jobs import processes_of

SETTINGS = Settings(
    space=(f"{NOISE_LEVEL}=log:5:75", f"{LEARNING_RATE}=log:1e-4:1e-2"),
    method="random",
    early_stopping=True,
)


class Residual(nn.Module):
    """A small network that is soon as good as its noise level allows."""

    multiple, margin = 1, 2

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1)
        )

    def forward(self, noisy: Tensor) -> Tensor:
        noise: Tensor = self.layers(noisy)
        return noisy - noise


def psnr(config: Config, sets: ImageSets, folder: Path) -> float:
    """Train, and return the last validation PSNR in dB."""
    samples, schedule = Samples.of(config, sets.train), Schedule.of(config, len(sets.train))
    fit(config, sets, Folder.of(folder), Context(), lambda at: shards(samples, schedule, at))
    value: float = json.loads((folder / "history.jsonl").read_text().splitlines()[-1])["val_psnr"]
    return value


def test_the_level_nearest_to_validation_wins_not_the_lowest(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(_: Any) -> nn.Module:
        return Residual()

    monkeypatch.setattr(loop, "build", build)
    base = config.override(
        {"validation.sigma": "25", LEARNING_RATE: 0.003, "data.patches_per_image": 256}
    )
    levels = Settings(space=(f"{NOISE_LEVEL}=5,25,75",), method="random", early_stopping=True)
    search = Search(Folder.of(tmp_path), base, sets, levels, 3)
    ours, naive = {}, {}
    for number, sigma in enumerate((5, 25, 75)):
        judged = search.config_of(Trial(number, {NOISE_LEVEL: sigma}, {}))
        ours[sigma] = psnr(judged, sets, tmp_path / f"ours{sigma}")
        own = judged.override({"validation.sigma": None})
        naive[sigma] = psnr(own, sets, tmp_path / f"naive{sigma}")
    assert max(naive, key=lambda sigma: naive[sigma]) == 5
    assert max(ours, key=lambda sigma: ours[sigma]) == 25
    assert ours[25] > max(ours[5], ours[75]) + 0.5


def test_a_search_reads_its_trials_back(config: Config, sets: ImageSets, tmp_path: Path) -> None:
    search = Search(Folder.of(tmp_path), config, sets, SETTINGS, 3)
    first, second = search.next_trial(), search.next_trial()
    first.status, second.status = "failed", "running"
    first.message = "the loss became nan, at once"
    search.save(first)
    search.save(second)
    again = Search(Folder.of(tmp_path), config, sets, SETTINGS, 3)
    assert [trial.changes for trial in again.trials] == [first.changes, second.changes]
    assert [trial.status for trial in again.trials] == ["failed", "waiting"]
    assert again.next_trial().changes == again.space.sample(config.seed, 2)
    lines = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [line["trial"] for line in lines] == ["0", "1", "2"]
    assert float(lines[1]["lr"]) == second.changes[LEARNING_RATE]
    assert lines[0]["message"] == first.message


@pytest.mark.parametrize("method", ["random", "optuna"])
def test_the_first_trial_has_the_given_settings(
    method: Literal["random", "optuna"], config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, method=method)
    search = Search(Folder.of(tmp_path), config, sets, settings, 3)
    first, second = search.next_trial(), search.next_trial()
    assert search.config_of(first).optim.lr == config.optim.lr
    assert search.config_of(first).noise.sigma_range or (config.noise.sigma_range or (0, 0)) == (
        0,
        0,
    )
    assert search.config_of(second).optim.lr != config.optim.lr


def test_optuna_learns_and_a_resumed_search_keeps_its_trials(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    settings = Settings(
        space=(f"{LEARNING_RATE}=log:1e-5:1",), method="optuna", early_stopping=True
    )
    search = Search(Folder.of(tmp_path), config, sets, settings, 30)

    def end(trial: Trial) -> None:  # the best learning rate is 1e-2
        distance = abs(torch.tensor(float(trial.changes[LEARNING_RATE])).log10().item() + 2)
        trial.history = [{"val_psnr": 30 - distance, "epoch": 1, "seconds": 1.0}]
        trial.status = "finished"
        search.save(trial)

    for _ in range(25):
        end(search.next_trial())
    again = Search(Folder.of(tmp_path), config, sets, settings, 30)
    assert [trial.changes for trial in again.trials] == [t.changes for t in search.trials]
    late = [float(trial.changes[LEARNING_RATE]) for trial in search.trials[-8:]]
    assert sum(1e-3 < lr < 1e-1 for lr in late) >= 5


def test_asha_judges_new_trials_by_earlier_ones(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raydae.search.search, "GRACE_STEPS", 4)  # an epoch
    search = Search(Folder.of(tmp_path), config, sets, SETTINGS, 5)
    for score in (20.0, 21.0, 22.0):
        trial = search.next_trial()
        trial.status = "stopped"
        trial.history = [{"val_psnr": score, "epoch": 1, "seconds": 1.0}]
    scheduler = search._scheduler()
    for score, decision in ((19.0, "STOP"), (23.0, "CONTINUE")):
        new = SimpleNamespace(trial_id=str(score), config={"number": 9})
        scheduler.on_trial_add(None, new)
        assert scheduler.on_trial_result(None, new, {"epoch": 1, "score": score}) == decision


def test_asha_judges_no_trial_before_its_grace_steps(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raydae.search.search, "GRACE_STEPS", 4)
    settings = dataclasses.replace(SETTINGS, space=("optim.batch_size=8,16",))
    config = config.override({"optim.epochs": 4})
    search = Search(Folder.of(tmp_path), config, sets, settings, 5)  # 4 or 2 steps an epoch
    for score in (20.0, 21.0, 22.0):
        trial = search.next_trial()
        trial.status = "stopped"
        records = [{"val_psnr": score, "epoch": epoch, "seconds": 1.0} for epoch in (1, 2)]
        trial.history = records
    scheduler = search._scheduler()
    poor = SimpleNamespace(trial_id="poor", config={"number": 9})
    scheduler.on_trial_add(None, poor)
    for epoch, decision in ((1, "CONTINUE"), (2, "STOP")):
        assert scheduler.on_trial_result(None, poor, {"epoch": epoch, "score": 10.0}) == decision


def test_asha_does_not_judge_a_resumed_trial_again(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raydae.search.search, "GRACE_STEPS", 4)  # an epoch
    search = Search(Folder.of(tmp_path), config, sets, SETTINGS, 5)
    for status, score in (("waiting", 10.0), ("stopped", 20.0), ("stopped", 21.0)):
        trial = search.next_trial()
        trial.status = status  # type: ignore[assignment]  # one of those
        trial.history = [{"val_psnr": score, "epoch": 1, "seconds": 1.0}]
    scheduler = search._scheduler()
    for number, decision in ((0, "CONTINUE"), (3, "STOP")):
        as_ray_has_it = SimpleNamespace(trial_id=str(number), config={"number": number})
        scheduler.on_trial_add(None, as_ray_has_it)
        result = {"epoch": 1, "score": 10.0}
        assert scheduler.on_trial_result(None, as_ray_has_it, result) == decision


def test_only_values_that_are_valid_together_are_drawn(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    texts = ("data.patches_per_image=int:8:32", "optim.batch_size=8,16", "optim.micro_batch=2,16")
    settings = Settings(space=texts, method="random", early_stopping=True)
    config = config.override({"optim.batch_size": 16})
    search = Search(Folder.of(tmp_path), config, sets, settings, 30)
    configs = [search.config_of(search.next_trial()).to_dict() for _ in range(30)]
    assert {(c["optim"]["batch_size"], c["optim"]["micro_batch"]) for c in configs} == {
        *((8, 2), (16, 2), (16, 16))
    }
    again = Search(Folder.of(tmp_path / "again"), config, sets, settings, 30)
    assert [search.config_of(again.next_trial()).to_dict() for _ in range(30)] == configs
    few = Settings(space=("optim.batch_size=8,16",), method="random", early_stopping=True)
    with pytest.raises(UserError, match="4 workers at most"):
        Search(Folder.of(tmp_path), config, sets, few, 3, workers=8)


def test_an_unknown_sampler_is_refused(config: Config) -> None:
    space = Space.parse(SETTINGS.space, config)
    with pytest.raises(UserError, match="--search grid must be one of random, optuna"):
        make_sampler("grid", space, config, [])  # type: ignore[arg-type]  # that is the point


def test_the_first_error_ends_the_search(tmp_path: Path) -> None:
    asked = 0
    early_end = EarlyEnd(Folder.of(tmp_path), lambda: asked)
    assert not early_end
    asked = 130
    assert early_end
    asked = 0
    early_end.note(OSError("No space left on device"))
    early_end.note(OSError("and again"))
    assert early_end
    assert "No space left on device" in str(early_end.error)
    assert "same command again" in str(early_end.error)


def test_another_search_is_refused(config: Config, sets: ImageSets, tmp_path: Path) -> None:
    folder = Folder.of(tmp_path)
    check_settings(folder, config, SETTINGS)
    open_run(folder, config, kind="search")
    write_settings(folder, config, SETTINGS)
    other = Settings(space=(f"{LEARNING_RATE}=1e-3",), method="random", early_stopping=True)
    check_settings(folder, config, other)  # killed before it was begun
    Run(folder, config, None, TrainState()).begin(sets)
    check_settings(folder, config, SETTINGS)
    with pytest.raises(UserError, match=r"begun as another search \(space: .*--restart"):
        check_settings(folder, config, other)
    with pytest.raises(UserError, match="epochs: 2, now 3"):
        check_settings(folder, config.override({"optim.epochs": 3}), SETTINGS)


def test_a_space_that_does_not_fit_the_images_is_refused(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    for space, says in (
        (("optim.batch_size=8,1024",), "patches of an epoch"),
        (("data.patch_size=16,128",), "larger than the smallest training image"),
    ):
        settings = Settings(space=space, method="random", early_stopping=True)
        with pytest.raises(UserError, match=says):
            Search(Folder.of(tmp_path), config, sets, settings, 2)


def test_without_a_good_trial_the_reason_is_told(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    search = Search(Folder.of(tmp_path), config, sets, SETTINGS, 1)
    search.next_trial().message = "the loss became nan"
    with pytest.raises(UserError, match=r"went well \(the loss became nan\)"):
        search.write_best()


def test_a_search_in_which_all_diverge_exits_as_training_does(
    config: Config, sets: ImageSets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Folder.of(tmp_path)
    config = config.override({"validation.sigma": "25"})
    launch = tune.Launch(space=SETTINGS.space, num_samples=2)
    asked = Settings(space=SETTINGS.space, method="random", early_stopping=True)
    write_settings(folder, config, asked)
    open_run(folder, config, kind="search").begin(sets)
    search = Search(folder, config, sets, asked, 2)
    for _ in range(2):
        trial = search.next_trial()
        trial.status, trial.message = "failed", "the loss became nan at step 3"
        search.save(trial)
    assert tune.search(folder, config, launch, Console(file=io.StringIO())) == 1
    said = capsys.readouterr().err
    assert "every trial" in said
    assert "the loss became nan at step 3" in said
    assert "lower learning rates" in said
    search.trials[0].heals = True
    search.save(search.trials[0])
    assert not search.diverged


@pytest.mark.usefixtures("ray_cluster")
def test_a_stopped_trial_leaves_nothing_in_ray(pictures: Path, tmp_path: Path) -> None:
    import ray.tune
    from ray.util.placement_group import placement_group_table

    config = Config().override(
        {
            "data.path": str(pictures),
            "data.patch_size": 32,
            "data.patches_per_image": 64,
            "optim.batch_size": 16,
            "optim.epochs": 50,
            "validation.images": 1,
        }
    )
    write_settings(Folder.of(tmp_path), config, SETTINGS)
    plan = TrialPlan(config, find_images(config.data), Folder.of(tmp_path), Workers(2, 2, 0, 1))
    assert not plan.in_process

    def busy() -> set[str]:
        processes = processes_of(os.getpid(), "Train")
        groups: dict[str, Any] = placement_group_table()
        return {f"process {process.pid}" for process in processes} | {
            f"group {number}" for number, group in groups.items() if group["state"] != "REMOVED"
        }

    before = busy()
    kind = ray.tune.with_parameters(TrialRunner, plan=plan)
    trial: Any = ray.remote(num_cpus=0)(kind).remote({"number": 0, "changes": {}})
    assert ray.get(trial.train.remote())["epoch"] == 1
    assert busy() - before
    began = time.monotonic()
    ray.get(trial.stop.remote())
    ray.kill(trial)
    while busy() - before:
        assert time.monotonic() - began < 10, busy() - before
        time.sleep(0.1)
    assert list(tmp_path.glob("trials/000/checkpoints/*/checkpoint.json"))
