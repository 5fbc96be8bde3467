"""The training loop on a GPU, in this process: seconds each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raydae.images.image_sets import ImageSets
from raydae.models.weights import unpack
from raydae.training import learner, loop, sync_control, torch_setup
from raydae.training.config import Config
from raydae.training.context import Context
from raydae.training.schedule import Schedule
from raydae.training.status import Outcome
from raydae.training.torch_setup import resolve_compile
from tests.training.test_loop import MUON, UNET, StopAfter, history, run

pytestmark = pytest.mark.gpu
LONG = {"data.patches_per_image": 16, "deterministic": True}  # 16 steps an epoch, most in a graph
DAE = {"model.name": "dae", "precision": "bf16"}
RECIPES = [
    {**LONG, **DAE},
    {**LONG, **UNET, "precision": "bf16"},
    {**LONG, **MUON, "noise.on": "device"},
]


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sync_control, "SYNC_SECONDS", 0)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


def on_gpu(config: Config, sets: ImageSets, folder: Path, **how: Any) -> Outcome:
    return run(config, sets, folder, device=torch.device("cuda", 0), **how)


def assert_same_weights(ours: Path, theirs: Path) -> None:
    first, second = (unpack((path / "last.safetensors").read_bytes()) for path in (ours, theirs))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_captured_step_computes_what_a_step_does(
    recipe: dict[str, Any],
    config: Config,
    sets: ImageSets,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config.override(recipe)
    assert on_gpu(config, sets, tmp_path / "graph") == Outcome("finished")
    monkeypatch.setattr(learner, "STEPS_BEFORE_CAPTURE", 10**6)
    assert on_gpu(config, sets, tmp_path / "eager") == Outcome("finished")
    assert history(tmp_path / "graph") == history(tmp_path / "eager")
    assert_same_weights(tmp_path / "graph", tmp_path / "eager")


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recipe", RECIPES)
def test_resumed_equals_uninterrupted(
    recipe: dict[str, Any],
    compiled: bool,
    config: Config,
    sets: ImageSets,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config.override(recipe)
    monkeypatch.setattr(loop, "resolve_compile", lambda *_: compiled)
    on_gpu(config, sets, tmp_path / "whole")
    for stop in (2, 9, 21):  # before, in and after the first epoch's graph
        outcome = on_gpu(config, sets, tmp_path / "parts", tell=StopAfter(stop))
        assert outcome == Outcome("stopped")
    assert on_gpu(config, sets, tmp_path / "parts") == Outcome("finished")
    assert history(tmp_path / "whole") == history(tmp_path / "parts")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_where_noise_is_made_changes_nothing(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    config = config.override({**LONG, **MUON})
    on_gpu(config.override({"noise.on": "cpu"}), sets, tmp_path / "cpu")
    on_gpu(config.override({"noise.on": "device"}), sets, tmp_path / "device")
    assert history(tmp_path / "cpu") == history(tmp_path / "device")
    assert_same_weights(tmp_path / "cpu", tmp_path / "device")


@pytest.mark.parametrize("recipe", [DAE, UNET, MUON])
def test_the_losses_are_those_of_the_cpu(
    recipe: dict[str, Any], config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    config = config.override({**recipe, "precision": "fp32", "optim.lr": 1e-4})
    on_gpu(config, sets, tmp_path / "gpu")
    run(config, sets, tmp_path / "cpu")
    ours, theirs = history(tmp_path / "gpu"), history(tmp_path / "cpu")
    assert [line["loss"] for line in ours] == pytest.approx(
        [line["loss"] for line in theirs], rel=2e-3
    )


@pytest.mark.parametrize("name", ["dae", "unet"])
def test_a_compiled_network_trains_as_one_that_is_not(
    name: str, config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_setup, "COMPILE_STEPS", 0)
    assert resolve_compile(config, Schedule.of(config, 8), Context(device=torch.device("cuda", 0)))
    recipe = MUON if name == "unet" else DAE
    config = config.override({**recipe, "precision": "fp32", "optim.lr": 1e-4})
    on_gpu(config, sets, tmp_path / "compiled")
    on_gpu(config.override({"compile": "off"}), sets, tmp_path / "plain")
    ours, theirs = history(tmp_path / "compiled"), history(tmp_path / "plain")
    assert [line["loss"] for line in ours] == pytest.approx(
        [line["loss"] for line in theirs], rel=2e-3
    )


@pytest.mark.parametrize("recipe", [UNET, MUON])
def test_a_run_moves_between_cpu_and_gpu(
    recipe: dict[str, Any], config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    config = config.override({**recipe, "optim.lr": 1e-4})
    run(config, sets, tmp_path / "cpu")
    assert run(config, sets, tmp_path / "moves", tell=StopAfter(2)).status == "stopped"
    assert on_gpu(config, sets, tmp_path / "moves", tell=StopAfter(6)).status == "stopped"
    assert run(config, sets, tmp_path / "moves") == Outcome("finished")
    ours, theirs = history(tmp_path / "moves"), history(tmp_path / "cpu")
    assert [line["loss"] for line in ours] == pytest.approx(
        [line["loss"] for line in theirs], rel=2e-3
    )


def test_gradients_that_are_too_long_are_clipped_in_the_graph(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    config = config.override({**LONG, **UNET})
    on_gpu(config, sets, tmp_path / "clipped")
    on_gpu(config.override({"optim.clip": None}), sets, tmp_path / "free")
    assert history(tmp_path / "clipped") != history(tmp_path / "free")
