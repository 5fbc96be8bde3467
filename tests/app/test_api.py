"""raydae.load, raydae.train and raydae.evaluate, as their docstrings show them."""

import subprocess
import sys
from pathlib import Path

import pytest

import raydae
from raydae.core.errors import UserError
from tests.conftest import draw_folder

PROGRAM = """
import doctest, numpy, os, sys
import raydae

failed, tried = doctest.testmod(raydae, extraglobs={"raydae": raydae, "np": numpy})
print(failed, "of", tried, flush=True)
os._exit(failed)
"""


def test_the_examples_in_the_docstrings(tmp_path: Path) -> None:
    draw_folder(tmp_path / "photos", 10, 80, 96)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.stdout.splitlines()[-1:] == ["0 of 8"], run.stdout + run.stderr


def test_wrong_settings_raise() -> None:
    with pytest.raises(UserError, match="did you mean optim"):
        raydae.train({"optim.lrr": 1})
    with pytest.raises(UserError, match="no such file; the recipes are"):
        raydae.train("vdsr")
    with pytest.raises(UserError, match="no metric"):
        raydae.evaluate(metrics=["psrn"])
