"""Files, folders and patterns name the pictures to denoise."""

from pathlib import Path

import pytest

from raydae.core.errors import UserError
from raydae.images.inputs import expand


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
        assert expand(inputs) == [(Path(key), Path(value)) for key, value in expected.items()]

    def test_results_are_not_taken_for_pictures(self) -> None:
        assert expand(["shots"], Path("shots/day 1")) == [
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
        assert expand([f"{tmp_path}/other/a*"]) == [(tmp_path / "other/a.png", Path("a.png"))]

    @pytest.mark.parametrize(
        ("inputs", "reason"),
        [
            (["missing.png"], "missing.png does not exist"),
            (["other/a.png", "missing"], "missing does not exist"),
            ([""], "an input is empty"),
            (["empty"], "empty has no pictures"),
            (["shots/*.gif"], r"shots/\*.gif has no pictures"),
            (["shots/*.txt"], r"shots/\*.txt has no pictures"),
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
