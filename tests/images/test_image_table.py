import io
import json
import pickle

import numpy as np
import pyarrow.parquet as pq
import pytest

from raydae.images.image_file import ImageFile, NoisyFile
from raydae.images.image_sets import ImageSets
from raydae.images.image_table import Images


def record(number: int, noisy: int = 0) -> ImageFile:
    files = (NoisyFile(f"n{number}-{i}", "n", f"{number}.{i}", 5, 0.5 + i) for i in range(noisy))
    return ImageFile(
        f"/é{number}.png", f"é{number}", 10 + number, 20, f"{number}", number, 1e9 / 7, tuple(files)
    )


FILES = [record(i, noisy=i % 3) for i in range(7)]


def test_records_come_back_as_they_were() -> None:
    images = Images.of(FILES)
    assert list(images) == FILES
    assert [images[i] for i in range(-7, 7)] == FILES + FILES
    assert list(images[2:5]) == FILES[2:5]
    assert list(images[::-1]) == FILES[::-1]
    assert list(images.take([3, 3, 0])) == [FILES[3], FILES[3], FILES[0]]
    assert list(images.where(np.arange(7) > 4)) == FILES[5:]
    assert Images.of(images) is images
    assert Images.concat([images[:3], images[3:]]) == images != images[:3]
    assert hash(Images.of(FILES)) == hash(images)
    for number in (-8, 7):
        with pytest.raises(IndexError):
            images[number]


def test_an_empty_table() -> None:
    none = Images.of([])
    assert len(none) == len(list(none)) == len(none.noisy_files) == len(none.hashes) == 0
    assert Images.concat([]) == none == Images.of(FILES)[:0]
    assert none.with_pixels_of(Images.of(FILES)).shape == (0,)
    assert not Images.of(FILES).with_pixels_of(none).any()
    assert pickle.loads(pickle.dumps(none)) == none


def test_columns() -> None:
    images = Images.of(FILES)
    assert images.areas.tolist() == [20 * (10 + i) for i in range(7)]
    assert images.areas.dtype == np.int64
    assert Images.of([ImageFile("a", "a", 50_000, 60_000, "")]).areas.tolist() == [3_000_000_000]
    assert images.short_sides.tolist() == [10, 11, 12, 13, 14, 15, 16]
    assert images.files.tolist() == [1, 2, 3, 1, 2, 3, 1]
    noisy = [file for image in FILES for file in image.noisy]
    files: list[ImageFile | NoisyFile] = [*FILES, *noisy]
    assert images.all_uris == [file.uri for file in files]
    assert images.hashes == [file.sha256 for file in files]
    size, modified = images.stamps
    assert size.tolist() == [file.size for file in files]
    assert modified.tolist() == [file.modified for file in files]


def test_images_with_the_pixels_of_others() -> None:
    images = Images.of(FILES)
    others = Images.of([ImageFile("x", "x", 1, 1, "3"), ImageFile("y", "y", 1, 1, "2.1")])
    assert np.flatnonzero(images.with_pixels_of(others)).tolist() == [2, 3]
    assert images[2:3].with_pixels_of(others).tolist() == [True], "a part of a table"


def test_a_table_pickles_as_its_buffers() -> None:
    images = Images.of([record(i) for i in range(5000)])
    data = pickle.dumps(images)
    assert pickle.loads(data) == images
    assert len(data) < 100 * len(images)
    assert len(pickle.dumps(images[:10])) < 4000, "a part does not carry the whole"


def sets() -> ImageSets:
    made = ImageSets("somewhere", Images.of(FILES[:4]), Images.of(FILES[4:6]), Images.of(FILES[6:]))
    return ImageSets(
        made.source, made.train, made.val, made.test, ("é: bad", "b"), ("u",), ("1",), ("2", "3")
    )


def test_sets_come_back_from_their_file() -> None:
    assert ImageSets.from_parquet(sets().to_parquet()) == sets()
    bare = ImageSets(
        "somewhere", Images.of(FILES[:1]), Images.of(FILES[1:2]), Images.of(FILES[2:3])
    )
    assert ImageSets.from_parquet(bare.to_parquet()) == bare


def test_a_damaged_file_is_noticed() -> None:
    """One wrong byte is an error, or changes nothing that is read."""
    whole = sets().to_parquet()
    noticed = 0
    for place in range(0, len(whole), 3):
        data = bytearray(whole)
        data[place] ^= 0x15
        try:
            same = ImageSets.from_parquet(bytes(data)) == sets()
        except (ValueError, LookupError, TypeError):
            noticed += 1
        else:
            assert same, f"byte {place} of {len(whole)}"
    assert noticed > len(whole) / 3 / 4
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        with pytest.raises((ValueError, LookupError, TypeError)):
            ImageSets.from_parquet(whole[:length])


def test_the_file_of_another_version_is_refused() -> None:
    table = pq.read_table(io.BytesIO(sets().to_parquet()))
    about = json.loads(table.schema.metadata[b"raydae"]) | {"format": 1}
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"raydae": json.dumps(about)}), file)
    with pytest.raises(ValueError, match="another version"):
        ImageSets.from_parquet(file.getvalue())
