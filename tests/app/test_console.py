import subprocess
import sys
from pathlib import Path

PRINTS = """
import sys
from pathlib import Path
from raydae.app.console import make_console
console = make_console()
for number in range(10000):
    console.print(f"line {number}")
Path(sys.argv[1]).write_text("worked to the end")
"""


def test_a_reader_that_goes_does_not_end_the_work(tmp_path: Path) -> None:
    done = tmp_path / "done"
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTS, str(done)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0
    assert done.exists()
