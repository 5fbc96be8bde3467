"""Pairs on the command line: train, resume, test and evaluate on them."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import raydae
from raydae.app import evaluate
from raydae.core.errors import UserError
from raydae.training.config import Config
from tests.app.test_jobs import finish, job
from tests.conftest import draw, draw_noisy, draw_pairs

PAIRS = "noisy/*=clean/*"
SMALL_RUN = [
    *("--data.pairs", PAIRS, "--data.patch-size", "16", "--data.patches-per-image", "8"),
    *("--batch-size", "8", "--epochs", "2", "--val-images", "2", "--num-workers", "1"),
]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return draw_pairs(tmp_path / "pairs")


def psnr_by_hand(number: int) -> float:
    difference = draw_noisy(number).astype(float) - draw(number)
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


def test_a_run_on_pairs_and_its_model_on_others(pairs: Path, tmp_path: Path) -> None:
    """Trains, tests with the pairs' own noise, and measures the model on other pairs."""
    shutil.copy(pairs / "noisy" / "000.png", pairs / "noisy" / "alone.png")
    (pairs / "raw.dng").touch()
    words = ["--storage", tmp_path, "--name", "mine", "--data", pairs, *SMALL_RUN]
    output = finish(job("train", *words))
    assert (
        "left out: 1\n  noisy/alone.png: there is no clean clean/alone.png\nleft out: 1 .dng\n"
        in output
    )
    assert f"dae on 8 images of {pairs} ({PAIRS}), pairs, 1 " in output
    results = json.loads((tmp_path / "mine" / "results.json").read_text())
    (row,) = results["results"]
    (score,) = results["images"]
    number = int(Path(score["image"]).stem)
    assert (row["noise"], row["images"]) == ("pairs", 1)
    assert row["psnr_noisy"] == pytest.approx(psnr_by_hand(number), abs=1e-3)
    assert (tmp_path / "mine" / "samples.png").exists()

    Image.fromarray(draw_noisy(2, sigma=13)).save(pairs / "noisy" / "002.png")
    output = finish(job("train", *words, "--epochs", "3"), 2)
    assert "replaced since the run began: 1\n  clean/002.png" in output

    model = str(tmp_path / "mine" / "model.safetensors")
    halves = ["--noisy", pairs / "noisy", "--clean", pairs / "clean"]
    output = finish(job("evaluate", "--model", model, *halves), 2)
    assert "the model was trained on 8 of these 10 images" in output

    others = tmp_path / "others"
    for name, picture in (("real", draw_noisy), ("mean", draw)):
        for number in (20, 21):
            (others / f"{number}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(number)).save(others / f"{number}" / f"{name}.png")
    Image.fromarray(draw_noisy(21)[:, ::-1]).save(others / "21" / "real2.png")
    Image.fromarray(draw_noisy(21)[1:]).save(others / "21" / "real3.png")
    (others / "real.nef").touch()
    output = finish(
        job(
            *("evaluate", "--model", model, "--data", others, "--pairs", "*/real*.png=*/mean.png"),
            *("--out", tmp_path / "scores.csv"),
        ),
        1,
    )
    assert "left out: 1 .nef\n" in output
    assert "not measured: 1\n  21/real3.png: its size is 64x47, not 64x48 as that of" in output
    with (tmp_path / "scores.csv").open() as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["20/real.png", "21/real.png", "21/real2.png"]
    for number in (20, 21):
        row = rows[f"{number}/real.png"]
        assert float(row["psnr_noisy"]) == pytest.approx(psnr_by_hand(number), abs=1e-3)
        assert row["noise"] == "pairs"
        level = 255 / 10 ** (psnr_by_hand(number) / 20)
        assert float(row["sigma"]) == pytest.approx(level, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--noisy", "a"], "--noisy names one half of the pairs; give --clean FOLDER too"),
        (["--clean", "a"], "--clean names one half of the pairs; give --noisy FOLDER too"),
        (["--noisy", "a", "--clean", "b", "--data", "c"], "--noisy measures .* leave --data out"),
        (["--noisy", "a", "--clean", "b", "--pairs", "c"], "leave --pairs out"),
        (["--pairs", "a/*=b/*", "--sigma", "25"], "--pairs measures .* leave --sigma out"),
        (["--pairs", "a/*=b/*", "--noise", "camera"], "leave --noise out"),
        (["--pairs", "a/*=b/*", "--protocol", "cbsd68"], "leave --protocol out"),
        (["--pairs", "a"], "--pairs 'a': write NOISY=CLEAN"),
        (["--pairs", "a/*=b/*", "--data", "some:Source"], "--pairs needs a folder or URI"),
    ],
)
def test_flags_that_exclude_each_other(words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        evaluate.main(words)


def test_bad_input_is_one_line_and_code_2(pairs: Path) -> None:
    (pairs / "none.csv").write_text("noisy,clean\n")
    for command, words, says in (
        ("evaluate", ["--pairs", "x/*=clean/*", "--data", pairs], "has no pairs x/*=clean/*"),
        ("evaluate", ["--pairs", "none.csv", "--data", pairs], "has no pairs none.csv"),
        ("train", ["--data", pairs, "--data.pairs", "noisy"], "write NOISY=CLEAN"),
        (
            "train",
            ["--data", pairs, "--data.pairs", PAIRS, "--noise-on", "device"],
            "data.pairs needs the CPU",
        ),
    ):
        output = finish(job(command, *words), 2)
        assert says in output
        assert len(output.splitlines()) == 1, output


def test_in_python_wrong_pairs_raise(pairs: Path) -> None:
    with pytest.raises(UserError, match="leave --sigma out"):
        raydae.evaluate(noisy=pairs / "noisy", clean=pairs / "clean", sigma=[25])
    with pytest.raises(UserError, match="above 0 and at most 1"):
        Config().override({"data.pairs": PAIRS, "data.pairs_share": 2})


def test_a_search_is_validated_on_the_pairs() -> None:
    from raydae.app.tune import _validation, default_space

    config = Config().override({"data.path": "x", "data.pairs": PAIRS})
    assert _validation(config, []) == {}
    assert _validation(config, ["15"])["validation.sigma"] == "15"
    assert default_space(config) == ("optim.lr=log:1e-4:1e-2",)
    assert len(default_space(config.override({"data.pairs_share": 0.5}))) == 2
