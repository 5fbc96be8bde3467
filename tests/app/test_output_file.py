from pathlib import Path

import pytest

from raydae.app.output_file import OutputFile
from raydae.core.errors import UserError


def test_a_file_is_checked_first_and_nothing_is_left(tmp_path: Path) -> None:
    out = OutputFile.of(str(tmp_path / "new" / "deep" / "a.json"), ".json")
    assert list(tmp_path.iterdir()) == []
    out.write("{}")
    assert (tmp_path / "new" / "deep" / "a.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("{here}/a.txt", "must end in .json or .csv"),
        ("{here}/folder.json", "is a folder"),
        ("{here}/file/a.json", "cannot be written"),
        ("/proc/none/a.json", "cannot be written"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(path: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=says):
        OutputFile.of(path.format(here=tmp_path), ".json", ".csv")
