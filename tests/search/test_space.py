import itertools
import math
from typing import Any

import pytest
from scipy import stats

from raydae.core.errors import UserError
from raydae.search.space import Fixed, Space, spell
from raydae.training.config import Config


def parse(*texts: str) -> Space:
    return Space.parse(texts, Config())


def test_draws_depend_on_seed_and_number_alone() -> None:
    space = parse("noise.options.sigma=log:5:75", "optim.lr=log:1e-4:1e-2")
    draws = [space.sample(3, number) for number in range(20)]
    assert draws == [space.sample(3, number) for number in range(20)]
    assert len({draw["optim.lr"] for draw in draws}) == 20
    assert draws[0] != space.sample(4, 0)


@pytest.mark.parametrize(
    ("text", "low", "high", "log"),
    [
        ("optim.lr=log:1e-4:1e-2", 1e-4, 1e-2, True),
        ("noise.options.sigma=uniform:5:75", 5, 75, False),
    ],
)
def test_numbers_are_spread_as_asked(text: str, low: float, high: float, log: bool) -> None:
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
    space = parse("noise.options.sigma=log:5:75", "optim.lr=log:1e-4:1e-2")
    draws = [space.sample(seed, number) for number in range(8)]
    for name, low, high in (("noise.options.sigma", 5, 75), ("optim.lr", 1e-4, 1e-2)):
        parts = sorted(math.log(float(draw[name]) / low, high / low) for draw in draws)
        gaps = [after - before for before, after in itertools.pairwise([0, *parts, 1])]
        assert max(gaps) < 0.3, name


@pytest.mark.parametrize(
    ("text", "changes", "drawn"),
    [
        ("optim.lr=log:1e-4:1e-2", {}, 1e-3),
        ("optim.lr=log:1e-2:1e-1", {}, None),
        ("optim.warmup=int:0:9", {"optim.warmup": 3}, 3),
        ("optim.batch_size=16,32", {}, 32),
        ("optim.batch_size=16,64", {}, None),
        ("noise.options.sigma=15,25", {}, 25),
        ("noise.options.sigma=log:5:75", {"noise.options.sigma": "5:55"}, None),
        ("noise.options.sigma=range:0:75", {"noise.options.sigma": "5:55"}, "5:55"),
        ("noise.options.sigma=range:0:75", {}, "25:25"),
        ("optim.clip=log:0.1:1", {}, None),
    ],
)
def test_a_configuration_is_found_in_the_space(
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


def test_ends_that_go_together_with_some_of_the_others_are_a_space() -> None:
    texts = ["optim.optimizer=adam,adamw", "optim.weight_decay=0,0.01"]
    assert parse(*texts).corners(Config().override)[-1] == {
        "optim.optimizer": "adamw",
        "optim.optimizer_options.weight_decay": 0.01,
    }
    with pytest.raises(UserError, match="is for --optim"):
        parse(texts[1])
    with pytest.raises(UserError, match="is for --optim"):
        parse(texts[1], "optim.lr=1e-3,1e-4")


def test_integers_choices_and_ranges() -> None:
    texts = [
        "data.patches_per_image=int:1:3",
        "optim.batch_size=16,32,64",
        "noise.options.sigma=range:0:75",
    ]
    config = Config().override({"data.crops_per_visit": 1})
    space = Space.parse(texts, config)
    draws = [space.sample(0, number) for number in range(60)]
    assert {draw["data.patches_per_image"] for draw in draws} == {1, 2, 3}
    assert {draw["optim.batch_size"] for draw in draws} == {16, 32, 64}
    for draw in draws:
        low, high = config.override(draw).noise.sigma_range or (0, 0)
        assert 0 <= low <= high <= 75
    space = parse("noise.options.sigma=0:55,25")
    assert {space.sample(0, number)["noise.options.sigma"] for number in range(20)} == {"0:55", 25}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("optim.lrr=log:1e-4:1e-2", "did you mean optim.lr"),
        ("optim.lr=log:1e-2:1e-4", "lower end comes first"),
        ("optim.lr=log:0:1", "begins above 0"),
        ("optim.lr=1e-4:1e-2", "there are log, uniform, int and range"),
        ("optim.lr=log:1e-4", "optim.lr=log:LOW:HIGH"),
        ("optim.lr=log:a:b", "optim.lr=log:LOW:HIGH"),
        ("optim.lr", "write NAME=RANGE"),
        ("optim.lr=fast,slow", "optim.lr must be"),
        ("optim.batch_size=16,30", "multiple of"),
        ("optim.batch_size=uniform:16:32", "optim.batch_size must be int"),
        ("data.patches_per_image=int:1.5:3", "whole numbers"),
        ("noise.options.sigma=log:5:500", "0-255 scale"),
        ("optim.lr=range:1e-4:1e-2", "only noise.options.sigma"),
        ("validation.sigma=15,25", "the same for every trial"),
        ("optim.epochs=1,2", "the same for every trial"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        parse(text)


def test_the_network_of_given_weights_is_not_searched() -> None:
    config = Config().override({"model.name": "unet", "init": "released"})
    with pytest.raises(UserError, match=r"model\.width is that of the weights"):
        Space.parse(["model.options.width=16,32"], config)


def test_a_name_twice_and_no_name() -> None:
    with pytest.raises(UserError, match="given twice"):
        parse("optim.lr=1e-3", "optim.lr=log:1e-4:1e-2")
    with pytest.raises(UserError, match="at least one"):
        parse()


def test_changes_as_flags() -> None:
    changes = {"noise.options.sigma": 31.2, "optim.batch_size": 16}
    assert spell(changes) == "--noise.options.sigma 31.2 --optim.batch-size 16"
