"""Noisy and clean files are matched, checked against each other, and split by scenes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.images.changes import find_changes
from raydae.images.config import DataConfig
from raydae.images.image_file import ImageFile, pixel_hash
from raydae.images.image_sets import ImageSets
from raydae.images.listed import Listed, Pair
from raydae.images.pair_checks import find_shift
from raydae.images.pairs import list_pairs, match_folders, split_pairs
from raydae.images.scan import scan
from raydae.images.sources import find_images
from tests.conftest import draw, draw_noisy, draw_pairs


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def matched(pairs: list[Pair]) -> dict[str, list[str]]:
    return {pair.clean[1]: [name for _, name in pair.noisy] for pair in pairs}


def find(path: Path, pairs: str = "noisy/*=clean/*", **settings: object) -> ImageSets:
    return find_images(DataConfig(path=str(path), patch_size=16, pairs=pairs, **settings))  # type: ignore[arg-type]


def every(sets: ImageSets) -> list[ImageFile]:
    return [*sets.train, *sets.val, *sets.test]


def test_folders_match_by_relative_names(tmp_path: Path) -> None:
    touch(tmp_path, "noisy/a.png", "noisy/b/c.jpg", "noisy/alone.png")
    touch(tmp_path, "clean/a.png", "clean/b/c.jpg", "clean/d.png", "clean/text.txt", "other.png")
    pairs, alone = list_pairs(str(tmp_path), "noisy/*=clean/*")
    assert matched(pairs) == {"clean/a.png": ["noisy/a.png"], "clean/b/c.jpg": ["noisy/b/c.jpg"]}
    assert pairs[0].clean[0] == str(tmp_path / "clean" / "a.png")
    assert alone == [
        "clean/d.png: there is no noisy noisy/* for it",
        "noisy/alone.png: there is no clean clean/alone.png",
    ]
    pairs, alone = match_folders(str(tmp_path / "noisy"), str(tmp_path / "clean"))
    assert matched(pairs) == {"a.png": ["a.png"], "b/c.jpg": ["b/c.jpg"]}
    assert pairs[0].noisy[0][0] == str(tmp_path / "noisy" / "a.png")
    assert [line.partition(":")[0] for line in alone] == ["alone.png", "d.png"]


def test_patterns_match_beside_each_other(tmp_path: Path) -> None:
    touch(tmp_path, "x_real.JPG", "x_mean.JPG", "sub/y_real.JPG", "sub/y_mean.JPG", "z_real.JPG")
    pairs, alone = list_pairs(str(tmp_path), "*_real.JPG=*_mean.JPG")
    assert matched(pairs) == {"x_mean.JPG": ["x_real.JPG"], "sub/y_mean.JPG": ["sub/y_real.JPG"]}
    assert alone == ["z_real.JPG: there is no clean z_mean.JPG"]


def test_a_clean_file_that_the_noisy_pattern_matches_too_is_not_alone(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a_mean.png", "b.png")
    pairs, alone = list_pairs(str(tmp_path), "*.png=*_mean.png")
    assert matched(pairs) == {"a_mean.png": ["a.png"]}
    assert alone == ["b.png: there is no clean b_mean.png"]


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (("s1/shot1.png", "s1/shot2.png", "s1/mean.png"), "*/shot*.png=*/mean.png"),
        (("s1_1.png", "s1_2.png", "s1_mean.png"), "*_*.png=*_mean.png"),
        (("shots/1.png", "shots/2.png", "mean.png"), "shots/*=mean.png"),
    ],
)
def test_several_shots_have_one_clean_file(
    tmp_path: Path, names: tuple[str, ...], pairs: str
) -> None:
    found, alone = list_pairs(str(touch(tmp_path, *names)), pairs)
    assert matched(found) == {names[2]: list(names[:2])}
    assert not alone


def test_a_table_names_pairs_and_their_split(tmp_path: Path) -> None:
    touch(tmp_path, "n1.png", "n2.png", "sub/n3.png", "c1.png", "c2.png")
    table = (
        "split,noisy,clean\ntrain,n1.png,c1.png\ntrain,./n2.png,c1.png\ntrain,n2.png,c1.png\n"
        f"val,{tmp_path}/sub/n3.png,c2.png\n,gone.png,c2.png\n"
    )
    (tmp_path / "pairs.csv").write_text(table.replace("\n,gone", "\nval,gone"))
    pairs, alone = list_pairs(str(tmp_path), "pairs.csv")
    assert matched(pairs) == {"c1.png": ["n1.png", "n2.png"], "c2.png": ["sub/n3.png"]}
    assert [pair.split for pair in pairs] == ["train", "val"]
    assert alone == [f"gone.png: it is in pairs.csv, but not among the images in {tmp_path}"]

    other = tmp_path / "other"
    other.mkdir()
    shutil.move(tmp_path / "pairs.csv", other / "pairs.csv")
    assert list_pairs(str(tmp_path), str(other / "pairs.csv"))[0] == pairs
    (other / "pairs.csv").write_text(table)
    with pytest.raises(UserError, match=r"split of c2\.png in row 6 is ''; .* the same in all"):
        list_pairs(str(tmp_path), str(other / "pairs.csv"))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (None, "there is no table pairs.csv, neither in"),
        ("noise,clean\na,b\n", "must name the columns noisy, clean"),
        ("noisy,clean\nb.png,b.png\n", "row 2 pairs b.png with itself"),
        ("noisy,clean,split\na.png,b.png,eval\n", "row 2 is 'eval'; it must be train, val, test"),
        ("noisy,clean\nx.png,y.png\n", r"has no pairs pairs.csv; x.png: it is in pairs.csv, but"),
        (b"\xff\xfe\x00noisy", "pairs.csv cannot be read"),
    ],
)
def test_a_table_that_is_wrong(tmp_path: Path, table: str | bytes | None, says: str) -> None:
    touch(tmp_path, "a.png", "b.png")
    if table is not None:
        data = table if isinstance(table, bytes) else table.encode()
        (tmp_path / "pairs.csv").write_bytes(data)
    with pytest.raises(UserError, match=says):
        list_pairs(str(tmp_path), "pairs.csv")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"pairs": "noisy"}, "write NOISY=CLEAN"),
        ({"pairs": "a=b=c"}, "write NOISY=CLEAN"),
        ({"pairs": "a/*=b/*/*"}, "each [*] of CLEAN stands for"),
        ({"pairs": "a/*=a/*"}, "the two must differ"),
        ({"pairs": "a/*=b/*", "path": "tests.images.example_sources:Good"}, "is a data source"),
        ({"pairs": "a/*=b/*", "protocol": "cbsd68"}, "exclude each other"),
        ({"pairs": "a/*=b/*", "pairs_share": 0.0}, "above 0 and at most 1, not 0"),
        ({"pairs_share": 0.5}, "give that too"),
    ],
)
def test_settings_that_are_wrong(settings: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        DataConfig(**settings)  # type: ignore[arg-type]


def test_pairs_that_cannot_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "noisy/a.png", "clean/b.png")
    with pytest.raises(UserError, match=r"has no pairs noisy/\*=clean/\*; clean/b.png: there is"):
        find(tmp_path)
    with pytest.raises(UserError, match="no picture of the same name"):
        match_folders(str(tmp_path / "noisy"), str(tmp_path / "clean"))
    monkeypatch.delenv("RAYDAE_DATA", raising=False)
    with pytest.raises(UserError, match="pairs need a folder: give --data PATH"):
        find_images(DataConfig(pairs="noisy/*=clean/*"))


def test_what_does_not_fit_is_left_out_and_named(tmp_path: Path) -> None:
    folder = draw_pairs(tmp_path / "pairs", 30)
    Image.fromarray(draw_noisy(0)[:40]).save(folder / "noisy" / "000.png")
    large = textured(1)
    Image.fromarray(large).save(folder / "clean" / "001.png")
    Image.fromarray(np.roll(large, 2, axis=1)).save(folder / "noisy" / "001.png")
    (folder / "noisy" / "002.png").unlink()
    (folder / "clean" / "003.png").unlink()
    (folder / "noisy" / "004.png").write_bytes(b"no picture")
    (folder / "clean" / "005.png").write_bytes(b"no picture")
    sets = find(folder)
    lines = sorted(sets.left_out)
    assert len(lines) == 6
    assert lines[2:] == [
        "clean/002.png: there is no noisy noisy/* for it",
        "noisy/000.png: its size is 64x40, not 64x48 as that of clean/000.png",
        "noisy/001.png: shifted by 2.0 pixels to the right and 0.0 down against clean/001.png",
        "noisy/003.png: there is no clean clean/003.png",
    ]
    for line, name in zip(lines[:2], ("005.png", "004.png"), strict=True):
        assert name in line
    assert {file.name for file in every(sets)} == {f"clean/{i:03}.png" for i in range(6, 30)}
    assert {Path(uri).name for uri in sets.unused} == {"000.png", "001.png", "004.png", "005.png"}


def test_one_bad_shot_does_not_cost_the_others(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(draw(i)).save(tmp_path / f"{i}_mean.png")
        for shot in range(3):
            Image.fromarray(draw_noisy(i)[: 48 - shot // 2]).save(tmp_path / f"{i}_{shot}.png")
    sets = find(tmp_path, "*_*.png=*_mean.png")
    assert len(sets.left_out) == 3
    for file in every(sets):
        assert [noisy.name[1:] for noisy in file.noisy] == ["_0.png", "_1.png"]


def test_the_record_holds_the_noisy_files_and_survives_a_file(tmp_path: Path) -> None:
    sets = find(draw_pairs(tmp_path / "pairs"))
    for file in every(sets):
        number = int(Path(file.name).stem)
        assert file.hashes == (pixel_hash(draw(number)), pixel_hash(draw_noisy(number)))
        assert file.noisy[0].size == Path(file.noisy[0].uri).stat().st_size > 0
    assert ImageSets.from_parquet(sets.to_parquet()) == sets


def test_folders_of_splits_are_found_on_either_side_of_noisy_and_clean(tmp_path: Path) -> None:
    for form in ("{kind}/{split}", "{split}/{kind}"):
        folder = tmp_path / form[1]
        for i, split in enumerate(("train", "train", "val", "test", "more")):
            for kind, picture in (("noisy", draw_noisy), ("clean", draw)):
                where = folder / form.format(kind=kind, split=split)
                where.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture(i)).save(where / f"{i}.png")
        sets = find(folder, "*noisy/*=*clean/*")
        assert [len(part) for part in (sets.train, sets.val, sets.test)] == [2, 1, 1]
        (line,) = sets.left_out
        assert line.endswith("4.png: in none of the folders train, val and test")
        shutil.rmtree(folder / form.format(kind="clean", split="test"))
        with pytest.raises(UserError, match="have folders train and val but no test"):
            find(folder, "*noisy/*=*clean/*")


def pair(clean: str, *noisy: str, split: str | None = None) -> Pair:
    return Pair((clean, clean), tuple((name, name) for name in noisy), split)


def test_a_scene_never_lies_in_two_splits() -> None:
    """Noisy and noisy: each shot of a burst is the target of the others."""
    shots = [[f"{scene}/{shot}.png" for shot in range(3)] for scene in range(40)]
    pairs = [pair(a, *(b for b in burst if b != a)) for burst in shots for a in burst]
    parts, unsplit = split_pairs(pairs, "folder")
    assert not unsplit
    scenes = {s: {p.clean[1].split("/")[0] for p in part} for s, part in parts.items()}
    assert sum(map(len, scenes.values())) == 40 == len(set.union(*scenes.values()))
    assert sum(map(len, parts.values())) == 120
    assert split_pairs(pairs[::-1], "folder")[0] == parts
    more = [*pairs, pair("new/0.png", "new/1.png")]
    for split, part in split_pairs(more, "folder")[0].items():
        assert {p.clean for p in parts[split]} <= {p.clean for p in part}

    torn = [pair("a", "b", split="train"), pair("b", "c", split="test"), pair("d", "e")]
    with pytest.raises(UserError, match="a in train and b in test show the same scene"):
        split_pairs(torn, "folder")
    with pytest.raises(UserError, match="has pairs of 2 scenes; it needs 3 at least"):
        split_pairs([pair("a", "b"), pair("b", "c"), pair("d", "e")], "folder")


def test_a_noisy_file_that_tests_is_not_trained_on(tmp_path: Path) -> None:
    folder = draw_pairs(tmp_path / "pairs")
    before = find(folder)
    same = (Path(before.train[0].noisy[0].uri), Path(before.test[0].noisy[0].uri))
    Image.fromarray(np.full((48, 64, 3), 7, np.uint8)).save(same[0])  # too flat for a shift
    shutil.copy(*same)
    sets = find(folder)
    assert before.train[0].name not in {file.name for file in sets.train}
    (line,) = sets.left_out
    assert f"not used for training, same pixels as {before.test[0].name}" in line


def textured(seed: int) -> NDArray[np.uint8]:
    """Waves and edges, larger than what is compared."""
    image = draw(seed, 560, 600).astype(float)
    rng = np.random.default_rng(seed)
    for _ in range(60):
        y, x = rng.integers(0, 520, 2)
        image[y : y + rng.integers(4, 60), x : x + rng.integers(4, 60)] *= rng.uniform(0.5, 1)
    return image.astype(np.uint8)


@pytest.mark.parametrize("sigma", [0, 30])
@pytest.mark.parametrize("both", [False, True], ids=["clean", "noisy and noisy"])
def test_shifts_are_found_and_only_shifts(sigma: float, both: bool) -> None:
    for seed in range(2):
        rng = np.random.default_rng(seed)
        image = textured(seed)

        def noisy(part: NDArray[np.uint8], rng: np.random.Generator = rng) -> NDArray[np.uint8]:
            return np.clip(part + rng.normal(0, sigma, part.shape), 0, 255).astype(np.uint8)

        clean = noisy(image) if both else image
        assert find_shift(noisy(image), clean) == (0, 0)
        for right, down in ((1, 0), (0, -1), (-2, 3)):
            moved = np.roll(image, (down, right), axis=(0, 1))
            assert find_shift(noisy(moved), clean) == pytest.approx((right, down), abs=0.3)


def test_images_without_structure_are_not_shifted() -> None:
    rng = np.random.default_rng(0)
    grey = np.full((100, 100, 3), 128, np.uint8)
    noise = [rng.integers(0, 256, (200, 300, 3)).astype(np.uint8) for _ in range(2)]
    assert find_shift(grey, grey) == (0, 0)
    assert find_shift(*noise) == (0, 0)
    assert find_shift(grey[:5, :5], grey[:5, :5]) == (0, 0)


def test_pairs_in_a_bucket(tmp_path: Path, s3: Callable[[str], str]) -> None:
    folder = Folder.of(s3("shots"))
    for path in sorted(draw_pairs(tmp_path / "pairs", 4).rglob("*.png")):
        folder.write(str(path.relative_to(tmp_path / "pairs")), path.read_bytes())
    folder.write("pairs.csv", b"noisy,clean\nnoisy/000.png,clean/000.png\n")
    (pair,), _ = list_pairs(folder.uri, "pairs.csv")
    ((file,), left_out) = scan(Listed.of([pair]))
    assert not left_out
    assert file.hashes == (pixel_hash(draw(0)), pixel_hash(draw_noisy(0)))
    config = DataConfig(path=folder.uri, pairs="noisy/*=clean/*", patch_size=16)
    assert len(every(find_images(config))) == 4
    assert not find_changes(find_images(config), config)
    assert len(match_folders(s3("shots/noisy"), s3("shots/clean"))[0]) == 4


def test_progress_counts_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydae.images.scan.PART_IMAGES", 1)
    pairs, _ = list_pairs(str(draw_pairs(tmp_path / "pairs", 3)), "noisy/*=clean/*")
    said: list[tuple[int, int]] = []
    scan(Listed.of(pairs), lambda done, total: said.append((done, total)))
    assert said == [(1, 3), (2, 3), (3, 3)]
