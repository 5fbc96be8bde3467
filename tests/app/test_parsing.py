import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from raydae.app import denoise, evaluate, parsing, train, tune
from raydae.core.errors import UserError
from raydae.core.settings import flatten
from raydae.core.storage import Folder
from raydae.training.config import Config


def parse_train(*words: str) -> tuple[Config, train.Launch]:
    return parsing.parse_with_config(train.Launch, "", words)


def help_of(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: type,
    *words: str,
    columns: int = 100,
) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    with_config = kind in (train.Launch, tune.Launch)
    parse: Any = parsing.parse_with_config if with_config else parsing.parse
    with pytest.raises(SystemExit) as ended:
        parse(kind, "What it\ndoes.\n\n    raydae train --lr 1\n\nExit\ncodes.", ["--help", *words])
    assert ended.value.code == 0
    return capsys.readouterr().out.splitlines()


def test_help_has_a_line_for_each_setting_with_its_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_of(capsys, monkeypatch, train.Launch)[5:]
    for name, value in flatten(Config().to_dict()):
        (line,) = [line for line in lines if f"--{name.replace('_', '-')} " in line]
        spelt = "none" if value is None else "off" if value is False else str(value)
        spelt = " ".join(value) if isinstance(value, list) else spelt
        assert line.rstrip().endswith(f" {spelt}")
        assert line.startswith("  --")
    assert sum(line.startswith("  ") for line in lines) == len(
        [*flatten(Config().to_dict()), *dataclasses.fields(train.Launch)]
    ), "a line each, none of them broken"


def test_help_of_a_search_is_a_line_each_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_of(capsys, monkeypatch, tune.Launch)[5:]
    settings = [*flatten(Config().to_dict()), *dataclasses.fields(tune.Launch)]
    assert sum(line.startswith("  --") for line in lines) == len(settings)
    assert sum(line.startswith("  ") for line in lines) == len(settings)


@pytest.mark.parametrize("kind", [evaluate.Arguments, denoise.Arguments])
def test_help_of_commands_without_a_configuration(
    kind: type, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_of(capsys, monkeypatch, kind)[5:]
    assert sum(line.startswith("  ") for line in lines) == len(dataclasses.fields(kind))
    assert ("required" in "".join(lines)) == (kind is denoise.Arguments)


def test_help_begins_with_the_description_and_the_example_as_typed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs/tune.py"])
    lines = help_of(capsys, monkeypatch, evaluate.Arguments)
    assert lines[:5] == ["What it does.", "", "    python jobs/train.py --lr 1", "", "Exit codes."]


def test_help_shows_the_defaults_of_the_config_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_of(capsys, monkeypatch, train.Launch, "--config", "unet")
    (line,) = [line for line in lines if "--model.name" in line]
    assert line.split()[-1] == "unet"


def test_a_flag_that_does_not_exist_names_the_closest() -> None:
    with pytest.raises(UserError, match=r"no flag --batchsize; did you mean --batch-size"):
        parse_train("--batchsize", "3")
    with pytest.raises(UserError, match=r"no flag --foce; did you mean --force"):
        parsing.parse(evaluate.Arguments, "", ["--foce"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--lr", "much"], "parsing --lr/--optim.lr: could not convert string to float: 'much'"),
        (["--model", "vdsr"], "model.name: there is no network 'vdsr'; did you mean dae"),
        (["photos/"], "Unrecognized options: photos/"),
        (["--epochs"], "Missing value for argument '--epochs/--optim.epochs'"),
        (["--init", "last"], "--init takes a file, a URI, photo, gaussian, large, not last"),
    ],
)
def test_a_wrong_value_is_one_line(words: list[str], says: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_train(*words)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_a_missing_flag_is_named() -> None:
    with pytest.raises(UserError, match=r"^--out is missing: Folder for the results"):
        parsing.parse(denoise.Arguments, "", ["a.png"])
    args = parsing.parse(denoise.Arguments, "", ["--out=x", "--", "--a.png"])
    assert args.inputs == ("--a.png",)


def test_a_wrong_value_is_one_line_in_a_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(UserError, match=r"^parsing --lr/--optim\.lr: could not convert"):
        parse_train("--lr", "much")


def test_a_run_resumes_without_the_weights_it_began_with(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.safetensors")
    config = Config().override({"model.name": "unet", "model.options.width": 8, "init": gone})
    words = ["--storage", str(tmp_path), "--init", gone]
    Folder.of(tmp_path / "mine").write("config.json", json.dumps(config.to_dict()).encode())
    for more in ([], ["--model", "unet", "--model.options.width", "8"]):
        found, _ = parse_train(*words, "--name", "mine", *more)
        assert found == config
    with pytest.raises(UserError, match="cannot be read"):
        parse_train(*words, "--name", "other")
    for more in (["--model", "unet", "--model.options.width", "64"], ["--restart"]):
        with pytest.raises(UserError, match="cannot be read"):
            parse_train(*words, "--name", "mine", *more)
    (tmp_path / "mine" / "config.json").write_text("[]")
    with pytest.raises(UserError, match="cannot be read"):
        parse_train(*words, "--name", "mine")


def test_short_and_dotted_flags_and_underscores_are_one() -> None:
    for flag in ("--lr", "--optim.lr"):
        assert parse_train(flag, "0.5")[0].optim.lr == 0.5
    assert parse_train("--batch_size=8")[0].optim.batch_size == 8


OWN = """
class Deep:
    \"\"\"A network.

    Args:
        depth: layers.
    \"\"\"

    def __init__(self, depth: int = 4):
        self.depth = depth


def huber(denoised, clean, noisy, *, delta: float = 0.1):
    return 0
"""


def test_flags_come_from_the_components_that_the_command_line_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "own_parts.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    network = ("--model.name=own_parts:Deep", "--optim.loss", "own_parts:huber")
    options = ("--model.options.depth", "7", "--optim.loss-options.delta", "0.5")
    config, _ = parse_train(*network, *options)
    assert config.model.options == {"depth": 7}
    assert config.optim.loss_options == {"delta": 0.5}
    with pytest.raises(UserError, match=r"no flag --model\.options\.dept; did you mean .*depth"):
        parse_train(*network, "--model.options.dept", "7")
    with pytest.raises(UserError, match=r"no flag --model\.options\.depth"):
        parse_train("--model", "dae", "--model.options.depth", "7")
    lines = help_of(capsys, monkeypatch, train.Launch, *network)
    heading = lines.index(next(line for line in lines if line.startswith("Model options")))
    assert lines[heading + 1].split() == ["--model.options.depth", "layers", "4"]


def test_a_configuration_file_decides_the_flags_too(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model": {"name": "unet", "options": {"width": 8}}}))
    config, _ = parse_train("--config", str(file), "--model.options.levels", "2")
    assert config.model.options == {"width": 8, "levels": 2, "blocks": 2}
    config, _ = parse_train("--config", str(file), "--model", "dae")
    assert config.model.options == {}


def test_several_metrics() -> None:
    assert parse_train("--metrics", "ssim", "psnr")[0].validation.metrics == ("ssim", "psnr")
    with pytest.raises(UserError, match="must contain psnr"):
        parse_train("--metrics", "ssim")
