import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from raydae.app.run_test import RunTest, show_results
from raydae.core.storage import Folder
from raydae.training.status import Status


@pytest.mark.parametrize(
    ("psnr", "useful"), [([-18.29], False), ([20.2], False), ([19.0, 25.1], True), ([None], True)]
)
def test_a_model_that_makes_images_worse_is_not_recommended(
    psnr: list[float | None], useful: bool, tmp_path: Path
) -> None:
    rows = [
        {
            **{"set": "test", "method": "dae", "sigma": 25.0, "images": 1, "psnr_noisy": 20.2},
            **{"psnr": value, "ssim_noisy": 0.5, "ssim": 0.5, "seconds": 0.1},
        }
        for value in psnr
    ]
    (tmp_path / "results.json").write_text(json.dumps({"results": rows}))
    text = io.StringIO()
    show_results(Folder.of(tmp_path), Console(file=text, width=120))
    assert (f"--model {tmp_path}/model.safetensors PHOTO.jpg" in text.getvalue()) == useful
    assert ("no better than the noisy input" in text.getvalue()) == any(
        value is not None and value <= 20.2 for value in psnr
    )


@pytest.mark.parametrize(("first", "at"), [(0, 71), (50, 71), (99, 100)])
def test_it_is_prepared_half_a_minute_before_the_training_ends(
    first: int, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes a second here, in a run that begins or resumes."""
    now, prepared = [first], []
    test = RunTest(None, None)  # type: ignore[arg-type]  # only needed to run it
    monkeypatch.setattr(test, "_prepare", lambda: prepared.append(now[0]))
    monkeypatch.setattr("raydae.app.run_test.time.monotonic", lambda: 1000.0 + now[0])
    for now[0] in range(first, 101):
        test.prepare_in_time(Status(1, now[0], 100, 0, None, None, []))
    assert prepared[0] == at
