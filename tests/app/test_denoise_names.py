"""The command `denoise`: names and places, what is left out, and what fails."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from raydae.app import denoise
from raydae.app.denoise import FAILED, Outcome, main
from raydae.core.errors import UserError
from tests.conftest import draw

Output = pytest.CaptureFixture[str]


def save(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(draw(0)).save(path, "PNG")
    return path


def run(*words: str | Path) -> int:
    return main([*map(str, words), "--model", "gaussian"])


def test_an_empty_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--out is empty: give a folder, such as \. for the current"
    ):
        run(save(tmp_path / "a.png"), "--out", "")


def test_what_a_folder_has_besides_is_counted(tmp_path: Path, capsys: Output) -> None:
    save(tmp_path / "in" / "a.png")
    for name in ("b.psd", "c.PSD", "d.dng"):
        (tmp_path / "in" / name).touch()
    assert run(tmp_path / "in", "--out", tmp_path / "out") == 0
    assert capsys.readouterr().out.endswith(
        f"1 of 1 pictures are in {tmp_path / 'out'}\nleft out: 2 .psd, 1 .dng\n"
    )


def test_all_failures_are_in_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    names = [f"{number:02}.png" for number in range(12)]
    for name in names:
        save(tmp_path / "in" / name)

    def fail(args: Any, model: str, sigma: None, work: list[denoise.Pair]) -> Iterator[Outcome]:
        for source, _ in reversed(work):
            yield Outcome(source, f"because of {source.name}")

    monkeypatch.setattr(denoise, "_denoise_all", fail)
    out = tmp_path / "out"
    assert run(tmp_path / "in", "--out", out) == 1
    shown = capsys.readouterr().out.splitlines()
    lines = [f"  {tmp_path / 'in' / name}: because of {name}" for name in names[:10]]
    assert shown[1:] == [
        "not denoised: 12",
        *lines,
        "  and 2 more",
        f"all of them are in {out / FAILED}",
    ]
    rows = list(csv.DictReader(io.StringIO((out / FAILED).read_text())))
    assert rows == [
        {"picture": str(tmp_path / "in" / name), "reason": f"because of {name}"} for name in names
    ]


def test_the_table_of_an_earlier_run_is_removed_and_no_other_file(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png")
    table = tmp_path / "out" / FAILED
    for text, stays in (("picture,reason\r\na,b\r\n", False), ("my own,table\n", True)):
        table.parent.mkdir(exist_ok=True)
        table.write_text(text)
        assert run(source, "--out", tmp_path / "out") == 0
        assert table.exists() == stays


def test_the_reason_is_whole_whatever_the_name(tmp_path: Path, capsys: Output) -> None:
    for name in ("a\nb.png", os.fsdecode(b"caf\xe9\n.png")):
        try:
            (tmp_path / name).write_text("no picture")
        except OSError:
            pytest.skip("this file system has no such names")
        assert run(tmp_path / name, "--out", tmp_path / "out") == 1
        first, *_ = capsys.readouterr().out.partition("not denoised: 1\n")[2].splitlines()
        shown = name.replace("\n", "\\n").encode(errors="backslashreplace").decode()
        assert first.startswith(f"  {tmp_path}/{shown}: not a picture, or not one of")
        (row,) = csv.DictReader(
            (tmp_path / "out" / FAILED).open(newline="", errors="surrogateescape")
        )
        assert row["picture"] == str(tmp_path / name)
        assert row["reason"].startswith("not a picture")


@pytest.mark.parametrize("end", [".png", "x" * 100])
def test_a_name_as_long_as_the_file_system_permits(tmp_path: Path, end: str) -> None:
    length = os.pathconf(tmp_path, "PC_NAME_MAX") - len(end)
    source = save(tmp_path / ("." * (end != ".png") + "\u00e9" * (length // 2) + end)[-length:])
    out = tmp_path / "out"
    assert run(source, "--out", out, "--add-noise", "25") == 0
    names = [path.name for path in out.iterdir()]
    assert len(names) == 2
    assert source.name in names
    assert any(name.endswith(denoise.PANEL) for name in names)
