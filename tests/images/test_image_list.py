from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raydae.core.errors import UserError
from raydae.images.changes import Changes, find_changes
from raydae.images.config import DataConfig
from raydae.images.image_list import is_list, read_list
from raydae.images.image_sets import ImageSets
from raydae.images.sources import evaluation_images, find_images
from tests.conftest import draw


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images, 0.png to 11.png, and six noisy ones."""
    for i in range(12):
        Image.fromarray(draw(i)).save(tmp_path / f"{i}.png")
    (tmp_path / "noisy").mkdir()
    for i in range(6):
        Image.fromarray(255 - draw(i)).save(tmp_path / "noisy" / f"{i}.png")
    return tmp_path


def find(path: Path, **settings: object) -> ImageSets:
    return find_images(DataConfig(path=str(path), patch_size=16, **settings))  # type: ignore[arg-type]


def names(sets: ImageSets) -> list[list[str]]:
    return [[file.name for file in part] for part in (sets.train, sets.val, sets.test)]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


SPLITS = ["train"] * 8 + ["val"] * 2 + ["test"] * 2


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_list_names_the_images_and_their_splits(folder: Path, suffix: str) -> None:
    path = folder / f"list{suffix}"
    # A relative path, an absolute one, and a URI.
    uris = ["0.png", str(folder / "1.png"), f"file://{folder}/2.png"]
    uris += [f"./{i}.png" for i in range(3, 12)]
    rows = list(zip(uris, SPLITS, strict=True))
    if suffix == ".csv":
        write(path, "split,uri\n" + "".join(f"{split}, {uri}\n" for uri, split in rows))
    elif suffix == ".jsonl":
        write(path, "".join(f'{{"uri": "{uri}", "split": "{split}"}}\n' for uri, split in rows))
    else:
        pq.write_table(pa.table({"uri": uris, "split": SPLITS}), path)
    sets = find(path)
    assert names(sets) == [uris[:8], uris[8:10], uris[10:]]
    assert len({file.sha256 for file in (*sets.train, *sets.val, *sets.test)}) == 12
    assert find_changes(sets, DataConfig(path=str(path))) == Changes()
    assert [name for _, name in evaluation_images(str(path), None)[1]] == uris[10:]


def test_metadata_of_hugging_face(folder: Path) -> None:
    for split in ("train", "val", "test"):
        (folder / split).mkdir()
    moved = [(i, split) for i, split in enumerate(SPLITS)]
    for i, split in moved:
        (folder / f"{i}.png").rename(folder / split / f"{i}.png")
    text = "".join(f"{split}/{i}.png,a wave\n" for i, split in moved)
    sets = find(write(folder / "metadata.csv", f"file_name,caption\n{text}"))
    assert list(map(len, names(sets))) == [8, 2, 2]
    assert names(sets)[1] == ["val/8.png", "val/9.png"]


def test_without_splits_names_decide_as_they_do_in_a_folder(folder: Path) -> None:
    table = write(folder / "list.csv", "uri\n" + "".join(f"{i}.png\n" for i in range(12)))
    by_list = find(table)
    (folder / "noisy").rename(folder.with_name("elsewhere"))
    assert names(by_list) == names(find(folder))
    assert len(evaluation_images(str(table), None)[1]) == 12


def test_images_that_are_added_to_the_list_are_noticed(folder: Path) -> None:
    rows = "".join(f"{i}.png\n" for i in range(11))
    table = write(folder / "list.csv", f"uri\n{rows}")
    sets = find(table)
    write(table, f"uri\n{rows}11.png\n")
    changes = find_changes(sets, DataConfig(path=str(table)))
    assert [name for _, name in changes.added] == ["11.png"]


def test_a_file_that_is_missing_is_left_out(folder: Path) -> None:
    table = write(folder / "list.csv", "uri\n" + "".join(f"{i}.png\n" for i in range(13)))
    sets = find(table)
    (line,) = sets.left_out
    assert "12.png" in line


def test_noisy_pictures_of_a_list(folder: Path) -> None:
    text = "".join(f"{i}.png,noisy/{i}.png,{SPLITS[2 * i]}\n" for i in range(6))
    table = write(folder / "list.csv", f"uri,noisy,split\n{text}6.png,,\n")
    sets = find(table, pairs="noisy=uri")
    assert names(sets) == [["0.png", "1.png", "2.png", "3.png"], ["4.png"], ["5.png"]]
    assert [file.noisy[0].name for file in sets.train] == [f"noisy/{i}.png" for i in range(4)]
    with pytest.raises(UserError, match=r"use them with --data\.pairs noisy=uri"):
        find(table)
    with pytest.raises(UserError, match="its pairs are noisy=uri or noisy=file_name"):
        find(table, pairs="noisy/*=*")
    bare = write(folder / "bare.csv", "uri\n0.png\n")
    with pytest.raises(UserError, match="has no column noisy, or it is empty"):
        find(bare, pairs="noisy=uri")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "path\n0.png\n", r"needs a column uri \(or file_name\); it has \['path'\]"),
        ("a.csv", "uri,split\n0.png,dev\n", "row 1: its split is 'dev'; write train, val, test"),
        ("a.csv", "uri,split\n0.png,train\n,val\n", "row 2: its uri is empty"),
        ("a.csv", "uri,split\n0.png,train\n./0.png,val\n", "row 2: ./0.png is in another split"),
        ("a.csv", "uri\n", "lists no images"),
        ("a.csv", "", "is no csv table: Empty CSV file"),
        ("a.csv", "uri,split\n0.png\n", "is no csv table: CSV parse error"),
        ("a.jsonl", '{"uri": "0.png"', "is no jsonl table: "),
        ("a.jsonl", '{"uri": ["0.png"]}\n', "its column uri has no texts"),
        ("a.parquet", "uri\n0.png\n", "is no parquet table: "),
    ],
)
def test_a_wrong_list_is_one_line(tmp_path: Path, name: str, text: str, says: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(UserError, match=says) as caught:
        find(path)
    assert "\n" not in str(caught.value)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"list.csv cannot be read: "):
        read_list(str(tmp_path / "list.csv"))
    with pytest.raises(UserError, match="protocol cbsd68 needs BSDS500"):
        find(write(tmp_path / "list.csv", "uri\n0.png\n"), protocol="cbsd68")


def test_lists_are_known_by_their_suffix() -> None:
    assert is_list("s3://bucket/list.parquet?region=x")
    assert is_list("A.CSV")
    assert not is_list("photos")
    assert not is_list("nets:Wide")
