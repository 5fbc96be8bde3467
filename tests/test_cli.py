import dataclasses

import pytest

from jobs import denoise, evaluate, tune
from jobs.train import Launch
from raydae import cli
from raydae.config import Config, flatten
from raydae.errors import UserError


def help_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: type
) -> list[str]:
    monkeypatch.setenv("COLUMNS", "100")
    parse = cli.parse_with_config if kind in (Launch, tune.Launch) else cli.parse
    with pytest.raises(SystemExit) as ended:
        parse(kind, "What it does.", ["--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out.splitlines()


def test_help_has_a_line_for_each_setting_with_its_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_of(capsys, monkeypatch, Launch)
    for name, value in flatten(Config().to_dict()):
        (line,) = [line for line in lines if f"--{name.replace('_', '-')} " in line]
        assert line.split()[-1] == ("none" if value is None else str(value))
        assert line.startswith("  --")
    assert sum(line.startswith("  ") for line in lines) == len(
        [*flatten(Config().to_dict()), *dataclasses.fields(Launch)]
    ), "a line each, none of them broken"


def test_help_of_a_search_is_a_line_each_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_of(capsys, monkeypatch, tune.Launch)
    settings = [*flatten(Config().to_dict()), *dataclasses.fields(tune.Launch)]
    assert sum(line.startswith("  --") for line in lines) == len(settings)
    assert sum(line.startswith("  ") for line in lines) == len(settings)


@pytest.mark.parametrize("kind", [evaluate.Arguments, denoise.Arguments])
def test_help_of_the_other_jobs(
    kind: type, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_of(capsys, monkeypatch, kind)
    assert sum(line.startswith("  ") for line in lines) == len(dataclasses.fields(kind))
    assert ("required" in "".join(lines)) == (kind is denoise.Arguments)


def test_a_flag_that_does_not_exist_names_the_closest() -> None:
    with pytest.raises(UserError, match=r"no flag --batchsize; did you mean --batch-size"):
        cli.parse_with_config(Launch, "", ["--batchsize", "3"])
    with pytest.raises(UserError, match=r"no flag --foce; did you mean --force"):
        cli.parse(evaluate.Arguments, "", ["--foce"])


def test_short_and_dotted_flags_and_underscores_are_one() -> None:
    for flag in ("--lr", "--optim.lr"):
        assert cli.parse_with_config(Launch, "", [flag, "0.5"])[0].optim.lr == 0.5
    assert cli.parse_with_config(Launch, "", ["--batch_size=8"])[0].optim.batch_size == 8
