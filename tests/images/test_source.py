"""A run can use a data source of the user's own like a folder of images."""

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raydae.core.errors import UserError
from raydae.images.config import DataConfig, is_source
from raydae.images.image_file import pixel_hash, read_image
from raydae.images.image_sets import ImageSets
from raydae.images.listed import Listed
from raydae.images.scan import scan
from raydae.images.source import list_source
from raydae.images.sources import evaluation_images, find_images
from raydae.training.config import Config
from raydae.training.samples import Samples
from tests.conftest import draw
from tests.images.example_sources import Waves

HERE = "tests.images.example_sources"


def find(name: str, small: Any = "error", **options: object) -> ImageSets:
    path = f"{HERE}:{name}"
    return find_images(DataConfig(path=path, options=options, patch_size=16, small_images=small))


def keys(sets: ImageSets, split: str) -> list[str]:
    return [file.name for file in getattr(sets, split)]


def test_a_source_is_an_import_path_and_neither_a_path_nor_a_uri(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_source("sources:microscope")
    assert is_source("my.package.sources:Microscope")
    for path in ("photos", "photos/", "s3://bucket/a", "C:/photos", "a:b:c", "a/b:c", ":a", "a:"):
        assert not is_source(path)
    (tmp_path / "sources:microscope").mkdir()
    assert not is_source("sources:microscope")


def test_images_are_split_as_the_source_says() -> None:
    sets = find("Split")
    assert sets.source == f"{HERE}:Split"
    assert keys(sets, "train") == [f"wave/{i}" for i in range(8)]
    assert (keys(sets, "val"), keys(sets, "test")) == (["wave/8"], ["wave/9"])
    assert sets.train[2].sha256 == pixel_hash(draw(2))
    assert (sets.train[2].height, sets.train[2].width) == (48, 64)
    assert sets.left_out == ()


def test_without_splits_keys_decide_and_more_images_move_none() -> None:
    few, many = find("Waves"), find("Waves", number=60)
    assert min(len(few.train), len(few.val), len(few.test)) > 0
    for split in ("train", "val", "test"):
        assert set(keys(few, split)) <= set(keys(many, split))


def test_some_images_may_be_left_to_their_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, str | None]] = [("wave/900", "val"), ("wave/901", "test")]
    free: list[tuple[str, str | None]] = [(f"wave/{i}", None) for i in range(60)]
    monkeypatch.setattr(Waves, "images", lambda self: given + free)
    mixed = find("Waves")
    monkeypatch.setattr(Waves, "images", lambda self: free)
    alone = find("Waves")
    assert keys(mixed, "train") == keys(alone, "train")
    assert set(keys(mixed, "val")) == {*keys(alone, "val"), "wave/900"}
    assert set(keys(mixed, "test")) == {*keys(alone, "test"), "wave/901"}
    # val has an image already, so this one goes where its hash says.
    monkeypatch.setattr(Waves, "images", lambda self: [*given, ("wave/0", None)])
    assert keys(find("Waves"), "train") == ["wave/0"]


def test_a_uri_holds_all_that_reading_needs() -> None:
    sets = find("Waves", height=32, number=40)
    assert ImageSets.from_parquet(sets.to_parquet()) == sets
    file = sets.train[0]
    assert file.uri.startswith(f"source:{HERE}:Waves?")
    assert "://" not in file.uri
    program = f"from raydae.images.image_file import *; print(pixel_hash(read_image({file.uri!r})))"
    fresh = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert fresh.stdout.strip() == file.sha256
    np.testing.assert_array_equal(read_image(file.uri), draw(int(file.name.split("/")[1]), 32))


def test_any_key_and_any_option_survive_a_uri(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "echoing.py").write_text(
        "import numpy as np\n"
        "class Echo:\n"
        "    def __init__(self, *, text='', names=()): self.text, self.names = text, names\n"
        "    def images(self): return [(key, None) for key in self.names]\n"
        "    def read(self, key):\n"
        "        data = (self.text + key).encode() * 3\n"
        "        return np.frombuffer(data, np.uint8).reshape(1, -1, 3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    odd = ["#", "?", "100%25", "s3://bucket/a", "a b\n", "é/ü.png", "{}", "../x"]
    for text in ("", *odd):
        images = list_source("echoing:Echo", {"names": odd, "text": text})
        assert images.names == sorted(odd)
        for uri, key in zip(images.uris, images.names, strict=True):
            assert "://" not in uri
            assert read_image(uri).tobytes() == (text + key).encode() * 3


def test_a_source_is_created_once(monkeypatch: pytest.MonkeyPatch) -> None:
    created = []
    original = Waves.__init__

    def count(self: Waves, **options: Any) -> None:
        created.append(options)
        original(self, **options)

    monkeypatch.setattr(Waves, "__init__", count)
    find("Waves", number=37)
    assert created == [{"number": 37, "height": 48}]


def test_training_samples_come_from_a_source() -> None:
    config = Config().override({"data.patch_size": 16, "optim.batch_size": 8})
    samples = Samples.of(config, find("Split").train)
    block = samples.block([range(8)], 8)
    assert len({patch.tobytes() for patch in block["clean"]}) > 1


def test_unreadable_images_are_left_out_and_named() -> None:
    sets = find("Faulty", fault="unreadable")
    assert keys(sets, "train") == [f"wave/{i}" for i in (0, 1, 2, 4, 5, 6, 7)]
    assert sets.left_out == (f"{HERE}:Faulty: wave/3 cannot be read: a tile is damaged",)


def test_copies_of_test_images_are_not_trained_on() -> None:
    sets = find("Faulty", fault="copy")
    assert "wave/3" not in keys(sets, "train")
    (line,) = sets.left_out
    assert line == "wave/3: not used for training, same pixels as wave/9 in val or test"


def test_small_images_are_refused_or_left_out() -> None:
    with pytest.raises(UserError, match=r"wave/3 is 64x15, smaller than a patch of 16x16"):
        find("Faulty", fault="small")
    sets = find("Faulty", small="skip", fault="small")
    assert sets.left_out == ("wave/3: 64x15, smaller than a patch",)


def test_a_view_is_copied() -> None:
    sets = find("Faulty", fault="view")
    image = read_image(sets.train[3].uri)
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, draw(3)[::-1, ::2])


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("dtype", r"read\('wave/3'\) returned float32 of shape \(48, 64, 3\); it must return RGB"),
        ("grey", r"returned uint8 of shape \(48, 64\); it must"),
        ("alpha", r"returned uint8 of shape \(48, 64, 4\); it must"),
        ("list of lists", r"returned a list; it must"),
        ("open", r"cannot be opened: .*No such file or directory: 'slides\.zarr'"),
        ("list", r"cannot be listed: no connection"),
        ("none", r"images\(\) lists no images"),
        ("twice", r"images\(\) lists 'a' twice"),
        ("split", r"images\(\) lists \('a', 'trian'\); it must list pairs"),
        ("empty key", r"images\(\) lists \('', None\); it must"),
        ("no pair", r"images\(\) lists 'a'; it must"),
    ],
)
def test_a_faulty_source_is_refused_in_one_line(fault: str, says: str) -> None:
    with pytest.raises(UserError, match=f"^{HERE}:Faulty.*{says}") as caught:
        find("Faulty", fault=fault)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("Wave", {}, "tests.images.example_sources has no 'Wave'"),
        ("Waves", {"numbre": 3}, "did you mean data.options.number"),
        ("Waves", {"number": "many"}, "data.options.number must be int"),
        ("no_source", {}, "returns a dict, not a data source"),
        ("no_source", {"a": 1}, "has no options"),
        ("not_callable", {}, "is neither a class nor a function"),
    ],
)
def test_other_objects_are_refused(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        find(name, **options)


def test_a_missing_module_is_refused() -> None:
    with pytest.raises(UserError, match="there is no module 'missing_module'"):
        find_images(DataConfig(path="missing_module:Source"))


def test_evaluation_takes_the_test_images_or_all_where_there_is_no_split() -> None:
    name, images = evaluation_images(f"{HERE}:Split", None)
    assert name == f"{HERE}:Split"
    assert [key for _, key in images] == ["wave/9"]
    _, images = evaluation_images(f"{HERE}:Waves", None, options={"number": 5})
    assert len(images) == 5
    files, unreadable = scan(Listed.of(images))
    assert [asdict(file)["height"] for file in files] == [48] * 5
    assert not unreadable
    for protocol in ("bsds500", "cbsd68"):
        with pytest.raises(UserError, match="needs BSDS500"):
            evaluation_images(f"{HERE}:Waves", protocol)


def test_the_protocol_of_the_literature_needs_bsds500() -> None:
    with pytest.raises(UserError, match=f"needs BSDS500, and {HERE}:Waves is not"):
        find_images(DataConfig(path=f"{HERE}:Waves", protocol="cbsd68"))
