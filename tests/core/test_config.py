import json
from pathlib import Path
from typing import Any

import pytest

from raydae.core.errors import UserError
from raydae.noise.config import NoiseConfig
from raydae.noise.levels import parse_sigma
from raydae.training.config import (
    RECIPES,
    Config,
    check_workers,
    differences,
    load_config,
    parse_workers,
)


def test_a_configuration_survives_json() -> None:
    config = Config().override({"optim.lr": 3e-4, "noise.options.sigma": "5:55", "data.path": "x"})
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.json")), ids=lambda path: path.stem)
def test_a_recipe_goes_by_its_name(recipe: Path) -> None:
    assert load_config(recipe.stem) == load_config(recipe) != Config()


def test_absent_settings_have_their_defaults() -> None:
    assert Config.from_dict({"optim": {"lr": 0.5}}) == Config().override({"optim.lr": 0.5})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"optim": {"learning_rate": 1}}, "did you mean optim"),
        ({"optim": {"batchsize": 1}}, "did you mean optim.batch_size"),
        ({"optims": {}}, "did you mean optim or"),
        ({"optim": 3}, "optim must be a group"),
        ({"optim": {"batch_size": "many"}}, "optim.batch_size must be int"),
        ({"optim": {"batch_size": 1.5}}, "optim.batch_size must be int"),
        ({"optim": {"batch_size": True}}, "optim.batch_size must be int"),
        ({"precision": "fp8"}, "auto, fp32, bf16"),
        ({"seed": None}, "seed must be int"),
        ({"seed": -1}, "at least 0"),
        ({"optim": {"lr": 0.0}}, "optim.lr"),
        ({"optim": {"lr": float("nan")}}, "optim.lr"),
        ({"optim": {"epochs": 0}}, "optim.epochs"),
        ({"optim": {"batch_size": 30}}, "multiple of optim.micro_batch"),
        ({"data": {"patches_per_image": 15}}, "multiple of data.crops_per_visit"),
        ({"optim": {"micro_batch": 1}}, "multiple of data.crops_per_visit"),
        ({"validation": {"sigma": "5:55"}}, "not the range"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(values: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Config.from_dict(values)


def test_an_override_takes_dotted_names_and_refuses_others() -> None:
    assert Config().override({"optim.lr": 1, "threads": 3}).optim.lr == 1.0
    with pytest.raises(UserError, match=r"optim\.lrr.*optim\.lr"):
        Config().override({"optim.lrr": 1})
    with pytest.raises(UserError, match="'optim'"):
        Config().override({"optim": {"lr": 1}})


def test_sigma_may_be_a_number_in_json_and_in_a_search() -> None:
    assert Config.from_dict({"noise": {"options": {"sigma": 25}}}) == Config()
    assert Config().override({"noise.options.sigma": 12.5}).noise.sigma_range == (12.5, 12.5)


@pytest.mark.parametrize("text", ["-1", "50:5", "five", "", "5:25:50", "nan", "inf", "300", "5:"])
def test_sigmas_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="sigma"):
        NoiseConfig(options={"sigma": text})


def test_sigmas() -> None:
    assert parse_sigma("0") == (0, 0)
    assert parse_sigma("5:55") == (5, 55)


@pytest.mark.parametrize(
    ("sigma", "judged", "levels"),
    [
        ("25", None, (25,)),
        ("0:55", None, (15, 25, 50)),
        ("20:30", None, (25,)),
        ("1:3", None, (2,)),
        ("25", "15,50", (15, 50)),
    ],
)
def test_what_levels_a_run_is_judged_at(
    sigma: str, judged: str | None, levels: tuple[float, ...]
) -> None:
    config = Config().override({"noise.options.sigma": sigma, "validation.sigma": judged})
    assert tuple(noise.sigma for noise in config.evaluation_noises) == levels


def test_a_run_is_judged_with_the_noise_that_it_is_trained_on_unless_another_is_set() -> None:
    config = Config().override({"noise.kind": "camera", "noise.options.jpeg": 0.5})
    (noise,) = config.evaluation_noises
    assert noise.label == "camera jpeg=0.5"
    other = config.override({"validation.noise": "jpeg", "validation.noise_options.quality": "30"})
    (noise,) = other.evaluation_noises
    assert noise.label == "jpeg quality=30"
    assert Config.from_dict(other.to_dict()) == other
    with pytest.raises(UserError, match="not both"):
        other.override({"validation.sigma": "25"})
    with pytest.raises(UserError, match=r"give that too"):
        Config.from_dict({"validation": {"noise_options": {"quality": "30"}}})


def test_without_clean_images_nothing_else_may_add_noise() -> None:
    config = Config().override({"learn": "neighbor2neighbor"})
    (noise,) = config.evaluation_noises
    assert noise.label == "hidden-pixels"
    with pytest.raises(UserError, match="leave out one of the two"):
        config.override({"data.pairs": "noisy/*=clean/*"})
    with pytest.raises(UserError, match="a multiple of 32"):
        config.override({"data.patch_size": 48})
    with pytest.raises(UserError, match="0 or more"):
        config.override({"optim.neighbor_weight": -1.0})


def test_differences_are_named() -> None:
    old, new = Config(), Config().override({"optim.lr": 0.1, "seed": 3})
    assert differences(old, old) == []
    assert differences(old, new) == ["optim.lr: 0.001, now 0.1", "seed: 0, now 3"]


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"seed": 3}))
    assert load_config(path).seed == 3
    path.write_text("{")
    with pytest.raises(UserError, match="not readable JSON"):
        load_config(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="JSON object"):
        load_config(path)
    with pytest.raises(UserError, match="no such file"):
        load_config(tmp_path / "none.json")


def test_numbers_of_workers() -> None:
    assert parse_workers(None) is None
    assert parse_workers("4") == (4, 4)
    assert parse_workers("2:8") == (2, 8)
    for text in ("0", "-1", "0:3", "8:2", "four", "1:2:3", ""):
        with pytest.raises(UserError, match="--num-workers"):
            parse_workers(text)


def test_a_batch_feeds_only_so_many_workers() -> None:
    check_workers((8, 8), Config())
    check_workers(None, Config())
    with pytest.raises(UserError, match="8 workers at most"):
        check_workers((1, 9), Config())


@pytest.mark.parametrize(
    "changes",
    [
        {"data.patch_size": 40},
        {"model.name": "unet", "data.patch_size": 20},
        {"model.name": "unet", "model.options.levels": 5, "data.patch_size": 16},
        {"model.options.width": 256, "model.options.levels": 4},
    ],
)
def test_a_network_that_no_patch_fits_or_no_machine_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        Config().override(changes)


def test_a_run_with_noise_of_another_version_is_not_continued() -> None:
    with pytest.raises(UserError, match="noise of version 3"):
        NoiseConfig(version=1)
