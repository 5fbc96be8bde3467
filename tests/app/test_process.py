import io
import signal
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from raydae.app import process
from raydae.core.errors import UserError


class ExitedError(Exception):
    pass


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The codes with which the process would have exited."""
    before = {number: signal.getsignal(number) for number in process.SIGNALS}
    codes: list[int] = []

    def leave(code: int) -> None:
        codes.append(code)
        raise ExitedError

    monkeypatch.setattr(process, "_exit", leave)
    monkeypatch.setattr("logging.captureWarnings", lambda capture: None)  # it would outlast a test
    yield codes
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupt() -> int:
    raise KeyboardInterrupt


def raise_signal(number: int) -> int:
    signal.raise_signal(number)
    return 0


def refuse() -> int:
    raise UserError("no [images] here")


@pytest.mark.parametrize(
    ("job", "code", "says"),
    [
        (lambda: 1, 1, ""),
        (refuse, 2, "error: no [images] here\n"),
        (interrupt, 130, "interrupted\n"),
    ],
)
def test_exit_codes(
    job: Callable[[], int],
    code: int,
    says: str,
    exits: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ExitedError):
        process.run_and_exit(job)
    assert exits == [code]
    assert capsys.readouterr().err == says


@pytest.mark.parametrize("number", process.SIGNALS)
def test_a_signal_ends_a_job_with_its_code(number: int, exits: list[int]) -> None:
    with pytest.raises(ExitedError):
        process.run_and_exit(lambda: raise_signal(number))
    assert exits == [128 + number]


def test_a_signal_that_was_ignored_stays_so(exits: list[int]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with pytest.raises(ExitedError):
        process.run_and_exit(lambda: raise_signal(signal.SIGHUP))
    assert exits == [0]


def test_the_first_interrupt_asks_and_the_second_exits(exits: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    text = io.StringIO()
    with process.stop_requests(Console(file=text)) as stop_requested:
        assert not stop_requested()
        signal.raise_signal(signal.SIGTERM)
        assert stop_requested()
        assert text.getvalue() == "stopping after a checkpoint; once more to stop at once\n"
        with pytest.raises(ExitedError):
            signal.raise_signal(signal.SIGINT)
    assert exits == [143], "the code of the first"
    assert signal.getsignal(signal.SIGTERM) is before
