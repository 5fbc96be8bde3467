import itertools
import math
from typing import Any

import pytest
from scipy import stats

from raydae.core.errors import UserError
from raydae.search.space import LEARNING_RATE, NOISE_LEVEL, Space, format_flags
from raydae.search.suggesters import Fixed
from raydae.training.config import Config

DEFAULT = (f"{NOISE_LEVEL}=log:5:75", f"{LEARNING_RATE}=log:1e-4:1e-2")


def parse(*texts: str) -> Space:
    return Space.parse(texts, Config())


def test_draws_depend_on_seed_and_number_alone() -> None:
    space = parse(*DEFAULT)
    draws = [space.sample(3, number) for number in range(20)]
    assert draws == [space.sample(3, number) for number in range(20)]
    assert len({draw[LEARNING_RATE] for draw in draws}) == 20
    assert draws[0] != space.sample(4, 0)


def test_draws_are_the_same_with_every_scipy() -> None:
    draws = [list(parse(*DEFAULT).sample(0, *which).values()) for which in ((0,), (1,), (1, 1))]
    assert draws == [[9.728, 0.002021], [37.67, 0.0004355], [9.784, 0.001039]]


@pytest.mark.parametrize(
    ("text", "low", "high", "log"),
    [(DEFAULT[1], 1e-4, 1e-2, True), (f"{NOISE_LEVEL}=uniform:5:75", 5, 75, False)],
)
def test_numbers_are_uniform_on_their_scale(text: str, low: float, high: float, log: bool) -> None:
    (name,) = (dimension.name for dimension in parse(text).dimensions)
    values = [float(parse(text).sample(0, number)[name]) for number in range(400)]
    assert low <= min(values)
    assert max(values) <= high
    scale = math.log if log else float
    unit = [(scale(value) - scale(low)) / (scale(high) - scale(low)) for value in values]
    assert stats.kstest(unit, "uniform").pvalue > 0.01
    assert all(value == float(f"{value:.4g}") for value in values), "printed as it is used"


@pytest.mark.parametrize("seed", range(5))
def test_a_few_trials_cover_the_space(seed: int) -> None:
    space = parse(*DEFAULT)
    draws = [space.sample(seed, number) for number in range(8)]
    for name, low, high in ((NOISE_LEVEL, 5, 75), (LEARNING_RATE, 1e-4, 1e-2)):
        parts = sorted(math.log(float(draw[name]) / low, high / low) for draw in draws)
        gaps = [after - before for before, after in itertools.pairwise([0, *parts, 1])]
        assert max(gaps) < 0.3, name


@pytest.mark.parametrize(
    ("text", "changes", "drawn"),
    [
        (f"{LEARNING_RATE}=log:1e-4:1e-2", {}, 1e-3),
        (f"{LEARNING_RATE}=log:1e-2:1e-1", {}, None),
        ("optim.warmup=int:0:9", {"optim.warmup": 3}, 3),
        ("optim.batch_size=16,32", {}, 32),
        ("optim.batch_size=16,64", {}, None),
        (f"{NOISE_LEVEL}=15,25", {}, 25),
        (f"{NOISE_LEVEL}=log:5:75", {NOISE_LEVEL: "5:55"}, None),
        (f"{NOISE_LEVEL}=range:0:75", {NOISE_LEVEL: "5:55"}, "5:55"),
        (f"{NOISE_LEVEL}=range:0:75", {}, "25:25"),
        ("optim.clip=log:0.1:1", {}, None),
    ],
)
def test_parameters_reproduce_a_configuration(
    text: str, changes: dict[str, Any], drawn: Any
) -> None:
    config = Config().override(changes)
    space = Space.parse([text], config)
    parameters = space.parameters(config)
    if drawn is None:
        assert parameters is None
    else:
        assert parameters is not None
        assert list(space.draw(Fixed(parameters)).values()) == [drawn]


def test_an_end_may_be_valid_with_some_other_values_only() -> None:
    texts = ["optim.optimizer=adam,adamw", "optim.optimizer_options.weight_decay=0,0.01"]
    assert parse(*texts).corners(Config().override)[-1] == {
        "optim.optimizer": "adamw",
        "optim.optimizer_options.weight_decay": 0.01,
    }
    with pytest.raises(UserError, match="adam has no options"):
        parse(texts[1])
    with pytest.raises(UserError, match="adam has no options"):
        parse(texts[1], f"{LEARNING_RATE}=1e-3,1e-4")


def test_integers_choices_and_ranges() -> None:
    texts = [
        "data.patches_per_image=int:1:3",
        "optim.batch_size=16,32,64",
        f"{NOISE_LEVEL}=range:0:75",
    ]
    config = Config().override({"data.crops_per_visit": 1})
    space = Space.parse(texts, config)
    draws = [space.sample(0, number) for number in range(60)]
    assert {draw["data.patches_per_image"] for draw in draws} == {1, 2, 3}
    assert {draw["optim.batch_size"] for draw in draws} == {16, 32, 64}
    for draw in draws:
        low, high = config.override(draw).noise.sigma_range or (0, 0)
        assert 0 <= low <= high <= 75
    space = parse(f"{NOISE_LEVEL}=0:55,25")
    assert {space.sample(0, number)[NOISE_LEVEL] for number in range(20)} == {"0:55", 25}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("optim.lrr=log:1e-4:1e-2", f"did you mean {LEARNING_RATE}"),
        (f"{LEARNING_RATE}=log:1e-2:1e-4", "the lower end first"),
        (f"{LEARNING_RATE}=log:0:1", "must begin above 0"),
        (f"{LEARNING_RATE}=1e-4:1e-2", "must be one of log, uniform, int and range"),
        (f"{LEARNING_RATE}=log:1e-4", f"{LEARNING_RATE}=log:LOW:HIGH"),
        (f"{LEARNING_RATE}=log:a:b", f"{LEARNING_RATE}=log:LOW:HIGH"),
        (LEARNING_RATE, "write NAME=RANGE"),
        (f"{LEARNING_RATE}=fast,slow", f"{LEARNING_RATE} must be"),
        ("optim.batch_size=16,30", "multiple of"),
        ("optim.batch_size=uniform:16:32", "optim.batch_size must be int"),
        ("data.patches_per_image=int:1.5:3", "whole numbers"),
        (f"{NOISE_LEVEL}=log:5:500", "0-255 scale"),
        (f"{LEARNING_RATE}=range:1e-4:1e-2", f"only {NOISE_LEVEL}"),
        ("validation.sigma=15,25", "the same for every trial"),
        ("optim.epochs=1,2", "the same for every trial"),
    ],
)
def test_invalid_spaces_are_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse(text)


def test_the_network_of_given_weights_is_not_searched() -> None:
    config = Config().override({"model.name": "unet", "init": "gaussian"})
    with pytest.raises(UserError, match=r"model\.options\.width is fixed by the weights"):
        Space.parse(["model.options.width=16,32"], config)


def test_repeated_and_missing_names_are_refused() -> None:
    with pytest.raises(UserError, match="given twice"):
        parse(f"{LEARNING_RATE}=1e-3", f"{LEARNING_RATE}=log:1e-4:1e-2")
    with pytest.raises(UserError, match="at least one"):
        parse()


def test_format_flags() -> None:
    changes = {NOISE_LEVEL: 31.2, "optim.batch_size": 16}
    assert format_flags(changes) == f"--{NOISE_LEVEL} 31.2 --optim.batch-size 16"
