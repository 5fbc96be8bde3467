"""jobs/tune.py as a user runs it, and what it leaves in Ray."""

import csv
import json
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from raydae.core.settings import flatten
from raydae.models.model_file import load_model
from raydae.search.space import LEARNING_RATE, NOISE_LEVEL
from tests.app.test_jobs import SETTINGS, finish, history, job, processes_of, wait_for
from tests.conftest import draw_folder

EPOCHS = 3
SPACE = (f"{NOISE_LEVEL}=log:5:75", f"{LEARNING_RATE}=1e-3,2e-3,1e30")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("photographs"), 10, 80, 96)


def rows(folder: Path) -> list[dict[str, str]]:
    try:
        with (folder / "trials.csv").open() as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def over(folder: Path) -> dict[str, bytes]:
    """What the runs of the trials that are over have written."""
    return {
        row["trial"]: (folder / "trials" / f"{int(row['trial']):03}" / "history.jsonl").read_bytes()
        for row in rows(folder)
        if row["status"] in ("finished", "stopped")
    }


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Path:
    """A search whose driver was killed, and then the process of a trial."""
    storage = tmp_path_factory.mktemp("searches")
    folder = storage / "s"
    words = ["--storage", storage, "--name", "s", "--data", photographs, *SETTINGS]
    words += ["--num-samples", "5", "--max-epochs", EPOCHS]
    words += ["--space", *SPACE]
    process = job("tune", *words)
    wait_for(lambda: over(folder), "a trial that is over")
    process.kill()
    process.communicate()
    before = over(folder)
    kept = len(before) + sum(row["status"] == "failed" for row in rows(folder))

    process = job("tune", *words)
    trials = wait_for(lambda: processes_of(process.pid, "TrialRunner"), "the process of a trial")
    trials.pop().kill()
    output = finish(process)
    assert f"{kept} of 5 trials are over and kept" in output
    assert all(over(folder)[trial] == text for trial, text in before.items()), "none is run again"
    (storage / "s.txt").write_text(output)
    return folder


@pytest.mark.timeout(600)
def test_every_trial_is_accounted_for(search: Path) -> None:
    lines = rows(search)
    assert [line["trial"] for line in lines] == list("01234")
    assert list(lines[0])[:6] == ["trial", "status", "sigma", "lr", "epochs", "val_psnr"]
    for line in lines:
        if float(line["lr"]) == 1e30:
            assert line["status"] == "failed"
            assert "learning rate 1e+30" in line["message"]
        else:
            assert line["status"] in ("finished", "stopped")
            assert 1 <= int(line["epochs"]) <= EPOCHS
            assert float(line["val_psnr"]) > 5
    assert {line["status"] for line in lines} >= {"failed", "finished"}
    assert not (search / ".tune").exists()


@pytest.mark.timeout(600)
def test_the_best_is_written_and_said(search: Path) -> None:
    lines = [line for line in rows(search) if line["val_psnr"] and line["status"] != "failed"]
    best = max(lines, key=lambda line: float(line["val_psnr"]))
    config = json.loads((search / "best.json").read_text())
    settings = dict(flatten(config))
    assert settings[LEARNING_RATE] == float(best["lr"])
    assert settings[NOISE_LEVEL] == best["sigma"]
    assert config["threads"] >= 1
    assert config["precision"] in ("fp32", "bf16")
    _, info = load_model(search / "model.safetensors")
    assert info.val_psnr == float(best["val_psnr"])
    assert info.config == config
    output = (search.parent / "s.txt").read_text()
    assert f"the best, trial {best['trial']}: --{NOISE_LEVEL} {best['sigma']}" in output
    assert "Traceback" not in output
    with Image.open(search / "search.png") as picture:
        assert min(picture.size) > 500


@pytest.mark.timeout(600)
def test_training_with_best_json_repeats_the_best_trial(search: Path, tmp_path: Path) -> None:
    lines = [line for line in rows(search) if line["val_psnr"] and line["status"] != "failed"]
    best = max(lines, key=lambda line: float(line["val_psnr"]))
    words = ["--config", search / "best.json", "--storage", tmp_path, "--name", "again"]
    finish(job("train", *words, "--num-workers", "1"))
    theirs = history(search / "trials" / f"{int(best['trial']):03}")
    assert history(tmp_path / "again")[: len(theirs)] == theirs


@pytest.mark.timeout(600)
def test_a_finished_search_shows_its_table_again(search: Path, photographs: Path) -> None:
    words = ["--storage", search.parent, "--name", "s", "--data", photographs, *SETTINGS]
    words += ["--num-samples", "5", "--max-epochs", EPOCHS]
    output = finish(job("tune", *words), 2)
    assert "begun as another search" in output
    words += ["--space", *SPACE]
    output = finish(job("tune", *words))
    assert "5 of 5 trials are over and kept" in output
    before = (search / "trials.csv").read_bytes()
    output = finish(job("tune", *words, "--restart", "--use-gpu", "yes"), 2)
    assert "no GPU" in output
    assert (search / "trials.csv").read_bytes() == before, "nothing goes before all is well"
    output = finish(job("train", *words[:6], *SETTINGS), 2)
    assert "s is not a run" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_says_how_to_resume(number: int, photographs: Path, tmp_path: Path) -> None:
    words = ["--storage", tmp_path, "--data", photographs, *SETTINGS, "--num-samples", "2"]
    words += ["--max-epochs", "1000"]
    process = job("tune", *words)
    wait_for(lambda: list(tmp_path.glob("*/trials/*/images.parquet")), "a trial")
    process.send_signal(number)
    began = time.monotonic()
    output = finish(process, 128 + number)
    assert time.monotonic() - began < 30
    assert "to resume: python" in output
    assert "--name search-" in output
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trials_of_two_workers_side_by_side_on_three_nodes(
    photographs: Path, tmp_path: Path
) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    try:
        words = ["--storage", tmp_path, "--name", "c", "--data", photographs, *SETTINGS]
        words += ["--num-workers", "2", "--num-samples", "2", "--max-epochs", EPOCHS]
        words += ["--early-stopping", "none"]
        process = job("tune", *words, RAY_ADDRESS=cluster.address)

        def running() -> int:
            return sum(
                row["status"] == "running" and row["epochs"] != "0" for row in rows(tmp_path / "c")
            )

        wait_for(lambda: running() == 2, "two trials at once")
        output = finish(process)
        assert "2 at once, 2 CPU workers of 1 thread each" in output
        assert [row["status"] for row in rows(tmp_path / "c")] == ["finished"] * 2
    finally:
        cluster.shutdown()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--num-samples", "0"], "--num-samples must be at least 1"),
        (["--num-workers", "0"], "--num-workers must be at least 1"),
        (["--num-workers", "9"], "8 workers at most"),
        (["--max-concurrent", "0"], "--max-concurrent must be at least 1"),
        (["--max-epochs", "0"], "optim.epochs must be at least 1"),
        (["--gpus-per-trial", "0"], "a part of 1, such as 0.25, or whole, not 0"),
        (["--gpus-per-trial", "inf"], "a part of 1, such as 0.25, or whole, not inf"),
        (["--gpus-per-trial", "1.5", "--num-workers", "2"], "or whole, not 1.5"),
        (["--gpus-per-trial", "2"], "more than --num-workers 1 can use"),
        (["--eval-sigma", "5:50"], "not the range"),
        (["--space", "optim.lrr=log:1e-4:1e-2"], f"did you mean {LEARNING_RATE}"),
        (["--space", f"{LEARNING_RATE}=log:1e-2:1e-4"], "the lower end first"),
        (["--data", "{here}/none"], "is not a folder"),
        (["--use-gpu", "yes"], "no GPU"),
        (["--storage", "/proc/none"], "choose another --storage"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(
    words: list[str], says: str, photographs: Path, tmp_path: Path
) -> None:
    arguments = [word.format(here=tmp_path) for word in words]
    defaults = {"--data": str(photographs), "--storage": str(tmp_path / "runs")}
    for flag, value in defaults.items():
        if flag not in arguments:
            arguments += [flag, value]
    output = finish(job("tune", *arguments, PYTHONWARNINGS="ignore"), 2)
    assert says in output
    assert len(output.strip().splitlines()) == 1, output
    assert not list(tmp_path.glob("runs/*/trials.csv"))
