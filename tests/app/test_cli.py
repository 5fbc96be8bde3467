import dataclasses
import io
import json
import sys
from pathlib import Path

import pytest

from jobs import denoise, evaluate, tune
from jobs.train import Launch
from raydae.app import cli
from raydae.core.errors import UserError
from raydae.core.settings import flatten
from raydae.core.storage import Folder
from raydae.training.config import Config


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
        spelt = "none" if value is None else "off" if value is False else str(value)
        assert line.split()[-1] == spelt
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


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--lr", "much"], "parsing --lr/--optim.lr: could not convert string to float: 'much'"),
        (["--model", "vdsr"], "invalid choice 'vdsr' for argument '--model/--model.name'"),
        (["photos/"], "Unrecognized options: photos/"),
        (["--epochs"], "Missing value for argument '--epochs/--optim.epochs'"),
        (["--init", "last"], "--init takes a file, a URI, released or large, not last"),
    ],
)
def test_a_value_that_is_none_is_one_line(words: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        cli.parse_with_config(Launch, "", words)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UserError, match=r"^--out is missing: Folder for the results"):
        cli.parse(denoise.Arguments, "", ["a.png"])
    assert cli.parse(denoise.Arguments, "", ["--out=x", "--", "--a.png"]).inputs == ("--a.png",)


def test_in_a_terminal_too_a_value_that_is_none_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(UserError, match=r"^parsing --lr/--optim\.lr: could not convert"):
        cli.parse_with_config(Launch, "", ["--lr", "much"])


def test_a_run_goes_on_without_the_weights_it_began_with(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.safetensors")
    config = Config().override({"model.name": "unet", "model.options.width": 8, "init": gone})
    words = ["--storage", str(tmp_path), "--init", gone]
    Folder.of(tmp_path / "mine").write("config.json", json.dumps(config.to_dict()).encode())
    for more in ([], ["--model", "unet", "--model.options.width", "8"]):
        found, _ = cli.parse_with_config(Launch, "", [*words, "--name", "mine", *more])
        assert found == config
    with pytest.raises(UserError, match="cannot be read"):
        cli.parse_with_config(Launch, "", [*words, "--name", "other"])
    for more in (["--model.options.width", "64"], ["--restart"]):
        with pytest.raises(UserError, match="cannot be read"):
            cli.parse_with_config(Launch, "", [*words, "--name", "mine", *more])
    (tmp_path / "mine" / "config.json").write_text("[]")
    with pytest.raises(UserError, match="cannot be read"):
        cli.parse_with_config(Launch, "", [*words, "--name", "mine"])


def test_where_results_go_is_looked_at_first(tmp_path: Path) -> None:
    out = cli.output_file(str(tmp_path / "new" / "a.json"), ".json")
    assert list((tmp_path / "new").iterdir()) == []
    out.write("{}")
    assert (tmp_path / "new" / "a.json").read_text() == "{}"
    (tmp_path / "b.json").mkdir()
    for path, says in (("a.txt", "must end in .json"), ("b.json", "is a folder")):
        with pytest.raises(UserError, match=says):
            cli.output_file(str(tmp_path / path), ".json")
    with pytest.raises(UserError, match="cannot be written"):
        cli.output_file("/proc/none/a.json", ".json")


def test_short_and_dotted_flags_and_underscores_are_one() -> None:
    for flag in ("--lr", "--optim.lr"):
        assert cli.parse_with_config(Launch, "", [flag, "0.5"])[0].optim.lr == 0.5
    assert cli.parse_with_config(Launch, "", ["--batch_size=8"])[0].optim.batch_size == 8
