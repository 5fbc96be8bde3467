import io

from rich.console import Console

from raydae.app.console import print_some
from raydae.app.displays import TrainingDisplay
from raydae.app.tables import result_table, trial_table
from raydae.training.schedule import Schedule
from raydae.training.status import Status

SCHEDULE = Schedule(pass_samples=64, batch_size=32, micro_batch=4, epochs=3)


def record(epoch: int, psnr: float | None = 20.0) -> dict[str, object]:
    return {
        "epoch": epoch,
        "loss": 0.1,
        "val_psnr": psnr,
        "val_ssim": 0.5,
        "patches_per_s": 100.0,
        "seconds": 10.0,
        "by_worker": [worker()],
    }


def worker(waited: float = 0.0, computed: float = 9.0, place: str = "a") -> dict[str, object]:
    return {"waited_for_data_s": waited, "computed_s": computed, "place": place}


def status(*epochs: int) -> Status:
    return Status(
        epoch=1,
        step=len(epochs) * 2,
        steps=6,
        saved=0,
        loss=0.1,
        patches_per_s=99.0,
        history=[record(epoch) for epoch in epochs],
    )


def shown(terminal: bool, *statuses: Status, done: int = 0) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120)
    with TrainingDisplay(console, SCHEDULE, [record(i + 1) for i in range(done)]) as display:
        for each in statuses:
            display.show(each)
    return text.getvalue()


def test_in_a_file_there_is_a_line_for_each_epoch_and_nothing_else() -> None:
    text = shown(False, status(), status(1), status(1), status(1, 2, 3))
    lines = [
        f"epoch {i}/3  loss 0.100000  val PSNR 20.00 dB  SSIM 0.5000  100 patches/s"
        for i in (1, 2, 3)
    ]
    assert text.splitlines() == lines


def test_what_an_epoch_was_held_up_by_is_said() -> None:
    def line(*workers: dict[str, object]) -> str:
        held = status(1)
        held.history[0]["by_worker"] = list(workers)
        return shown(False, held).strip().partition("patches/s")[2]

    assert line(worker(0.5)) == line(worker(0, 9), worker(0, 8)) == ""
    assert line(worker(3)) == "  waited for data 30%"
    assert line(worker(), worker(3)) == "  waited for data 30% (worker 1)"
    assert line(worker(0, 5, "a"), worker(0, 9, "b")) == "  slowest: worker 1 on b"


def test_epochs_of_an_earlier_process_are_not_shown_again() -> None:
    assert shown(False, status(1, 2), done=1).startswith("epoch 2/3")


def test_in_a_terminal_one_line_is_live() -> None:
    text = shown(True, status(1))
    assert "step 2/6" in text
    assert "99 patches/s" in text


def test_what_has_no_value_is_a_dash() -> None:
    text = io.StringIO()
    row = {
        "set": "test",
        "sigma": 25.0,
        "images": 3,
        "method": "dae",
        "seconds": 0.1,
        "psnr_noisy": 20.17,
        "psnr": None,
        "ssim_noisy": 0.4,
        "ssim": None,
    }
    Console(file=text, width=120).print(result_table([row]))
    assert text.getvalue().split()[-11:] == [
        *("s/image", "test", "dae", "25", "3", "20.17", "-", "-", "0.4000", "-", "0.10"),
    ]


def test_the_best_trial_is_the_one_that_is_said_to_be() -> None:
    text = io.StringIO()
    row = {"sigma": "25", "lr": 1e-3, "others": "", "epochs": 1}
    rows = [
        {**row, "trial": 0, "status": "finished", "val_psnr": 24.0, "best": True},
        {**row, "trial": 1, "status": "failed", "val_psnr": 25.0, "best": False},
    ]
    Console(file=text, width=120).print(trial_table(rows, 1))
    _, first, second = text.getvalue().strip().splitlines()
    assert first.split() == ["0", "finished", "25", "0.001", "1/1", "24.00", "best"]
    assert "best" not in second


def test_long_lists_are_cut() -> None:
    text = io.StringIO()
    print_some(Console(file=text), "left out", [f"{i}.png" for i in range(9)], limit=2)
    assert text.getvalue().splitlines() == ["left out: 9", "  0.png", "  1.png", "  and 7 more"]
    print_some(Console(file=text), "left out", [])
    assert text.getvalue().count("left out") == 1
