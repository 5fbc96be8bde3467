import os
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


def test_names_that_the_encoding_lacks_are_printed_escaped() -> None:
    name = os.fsdecode(b"caf\xe9 \xc3\xa9.png")
    program = (
        "import sys; from raydae.app.console import make_console, print_some; "
        "print_some(make_console(), 'failed', sys.argv[1:])"
    )
    for encoding, shown in (("ascii", "caf\\udce9 \\xe9.png"), ("utf-8", "caf\\udce9 é.png")):
        run = subprocess.run(
            [sys.executable, "-c", program, name],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=True,
        )
        assert run.stdout.decode() == f"failed: 1\n  {shown}\n"
