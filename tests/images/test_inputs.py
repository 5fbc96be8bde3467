"""Files, folders and patterns name the pictures to denoise."""

import contextlib
import os
import socket
from pathlib import Path

import pytest

from raydae.core.errors import UserError
from raydae.images.inputs import describe_left_out, expand


class TestExpand:
    @pytest.fixture(autouse=True)
    def shots(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make a folder of empty files; `expand` looks at names only."""
        monkeypatch.chdir(tmp_path)
        for name in (
            *("shots/b.JPG", "shots/a.png", "shots/day 1/a.png", "shots/day 1/c.tiff"),
            *("shots/Thumbs.db", "shots/notes.txt", "shots/.hidden.png", "shots/._a.png"),
            *("shots/.cache/d.png", "other/a.png", "other/x[1].png", "empty/readme.md"),
        ):
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        Path("shots/folder.png").mkdir()

    @pytest.mark.parametrize(
        ("inputs", "expected"),
        [
            (["other/a.png"], {"other/a.png": "a.png"}),
            (["shots/notes.txt"], {"shots/notes.txt": "notes.txt"}),
            (["other/x[1].png"], {"other/x[1].png": "x[1].png"}),
            (["shots/*.png"], {"shots/a.png": "a.png"}),
            (["shots/day*/*"], {"shots/day 1/a.png": "a.png", "shots/day 1/c.tiff": "c.tiff"}),
            (["**/*.tiff"], {"shots/day 1/c.tiff": "c.tiff"}),
            (["shots/b.JPG", "./shots/b.JPG"], {"shots/b.JPG": "b.JPG"}),
            (
                ["shots", "other/x[[]1].png"],
                {
                    "shots/a.png": "a.png",
                    "shots/b.JPG": "b.JPG",
                    "shots/day 1/a.png": "day 1/a.png",
                    "shots/day 1/c.tiff": "day 1/c.tiff",
                    "other/x[1].png": "x[1].png",
                },
            ),
        ],
    )
    def test_finds_the_pictures(self, inputs: list[str], expected: dict[str, str]) -> None:
        found = expand(inputs).pictures
        assert found == [(Path(key), Path(value)) for key, value in expected.items()]

    @pytest.mark.parametrize(
        ("inputs", "line"),
        [
            (["other/a.png"], ""),
            (["other"], ""),
            (["shots"], "left out: 1 .db, 1 .txt"),
            (["shots/*", "shots"], "left out: 2 folders, 1 .db, 1 .txt"),
        ],
    )
    def test_what_is_left_out_is_counted(self, inputs: list[str], line: str) -> None:
        assert describe_left_out(expand(inputs).left_out) == line

    def test_links_pipes_and_raw_files_are_left_out(self) -> None:
        for name in ("a.dng", "b.DNG", "c.psd", "d"):
            Path("other", name).touch()
        for name in ("link", "another"):
            Path("other", name).symlink_to(Path("shots").absolute())
        Path("other/gone.png").symlink_to("nowhere")
        os.mkfifo("other/pipe.png")
        found = expand(["other"])
        assert [str(source) for source, _ in found.pictures] == ["other/a.png", "other/x[1].png"]
        assert describe_left_out(found.left_out) == (
            "left out: 2 .dng, 2 .png that is no file, 2 linked folders, 1 .psd, 1 without a suffix"
        )

    def test_a_result_is_not_left_out(self) -> None:
        Path("shots/out").mkdir()
        Path("shots/out/failed.csv").touch()
        for inputs in ("shots", "shots/[ab].*", "shots/out*"):
            with contextlib.suppress(UserError):
                assert not {"folder", ".csv"} & expand([inputs], Path("shots/out")).left_out.keys()

    @pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
    def test_what_is_no_file_is_refused_at_once(self, kind: str) -> None:
        name = "other/special.png"
        if kind == "pipe":
            os.mkfifo(name)
        elif kind == "socket":
            socket.socket(socket.AF_UNIX).bind(name)
        else:
            name = "/dev/zero"
        with pytest.raises(UserError, match=f"^{name} is a pipe, a socket or a device: give a"):
            expand([name])

    def test_brackets_of_a_folder_with_a_pattern_below_it(self) -> None:
        Path("x[1]/y[a]").mkdir(parents=True)
        Path("x[1]/y[a]/b[2].png").touch()
        Path("x1").mkdir()
        Path("x1/c.png").touch()
        for pattern in ("x[1]/y[a]/*.png", "x*/y[a]/*", "x[1]/**/*.png", "x[1]/y?a]/*"):
            found = expand([pattern]).pictures
            assert found == [(Path("x[1]/y[a]/b[2].png"), Path("b[2].png"))]
        assert expand(["x[12]/*.png"]).pictures == [(Path("x1/c.png"), Path("c.png"))]

    def test_results_are_not_taken_for_pictures(self) -> None:
        assert expand(["shots"], Path("shots/day 1")).pictures == [
            (Path("shots/a.png"), Path("a.png")),
            (Path("shots/b.JPG"), Path("b.JPG")),
        ]
        assert expand(["shots/**/*.tiff"], Path("shots")) == expand(["shots/**/*.tiff"])
        for above in (Path(), Path("shots")):
            assert expand(["shots/day 1"], above) == expand(["shots/day 1"])
        for inputs in ("shots", "shots/*.*"):
            with pytest.raises(UserError, match="would be overwritten"):
                expand([inputs], Path("shots"))

    def test_absolute_pattern(self, tmp_path: Path) -> None:
        found = expand([f"{tmp_path}/other/a*"]).pictures
        assert found == [(tmp_path / "other/a.png", Path("a.png"))]

    @pytest.mark.parametrize(
        ("inputs", "reason"),
        [
            (["missing.png"], "missing.png does not exist"),
            (["other/a.png", "missing"], "missing does not exist"),
            ([""], "an input is empty"),
            (["empty"], "empty has no pictures"),
            (["shots/*.gif"], r"shots/\*.gif has no pictures"),
            (["shots/*.txt"], r"shots/\*.txt has no pictures.* \(left out: 1 .txt\)"),
            (
                ["shots", "other"],
                "shots/a.png and other/a.png would both be written as a.png: denoise them in two",
            ),
            (["shots/**/a.png"], "would both be written as a.png"),
        ],
    )
    def test_says_what_is_wrong(self, inputs: list[str], reason: str) -> None:
        with pytest.raises(UserError, match=reason) as caught:
            expand(inputs)
        assert "\n" not in str(caught.value)
