from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydae.core.errors import UserError
from raydae.distributed import indexing
from raydae.distributed.indexing import decode_on_ray
from raydae.images.image_file import pixel_hash, read_image
from raydae.images.listed import Listed, Pair
from raydae.images.listing import list_images
from raydae.images.pixel_store import PixelStore
from raydae.images.reader import Filler
from raydae.images.scan import scan
from tests.conftest import draw, draw_folder

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "TASK_IMAGES", 3)


def test_tasks_return_what_threads_return(tmp_path: Path) -> None:
    folder = draw_folder(tmp_path)
    for name in ("a", "z"):
        (folder / "train" / f"{name}.png").write_bytes(b"no picture")
    listed = Listed.of(list_images(str(folder)))
    said: list[tuple[int, int]] = []
    found, left_out = scan(listed, lambda *at: said.append(at), decoder=decode_on_ray)
    assert (found, left_out) == scan(listed)
    assert found.names == [name for _, name in list_images(str(folder)) if name[-5] not in "az"]
    assert len(left_out) == 2
    assert said[-1] == (12, 12)
    assert len(said) == 4


def test_pairs_are_checked_in_tasks(tmp_path: Path) -> None:
    for number in range(4):
        Image.fromarray(draw(number)).save(tmp_path / f"{number}.png")
    Image.fromarray(draw(9)[:20]).save(tmp_path / "short.png")
    files = [(str(tmp_path / f"{name}.png"), str(name)) for name in (0, 1, 2, 3, "short")]
    listed = Listed.of([Pair(files[0], (files[1], files[4])), Pair(files[2], (files[3],))])
    found, left_out = scan(listed, decoder=decode_on_ray)
    assert (found, left_out) == scan(listed)
    assert [[noisy.name for noisy in file.noisy] for file in found] == [["1"], ["3"]]
    assert len(left_out) == 1


def test_tasks_put_what_is_to_be_kept_into_the_store(tmp_path: Path) -> None:
    listed = Listed.of(list_images(str(draw_folder(tmp_path / "images"))))
    kept = np.arange(len(listed)) % 2 == 0
    splits = np.where(kept, "train", "val").astype(object)
    folder = tmp_path / "pixels"
    found, _ = scan(
        listed.with_splits(splits),
        keep_for=lambda total, remote: Filler(str(folder), 1),
        decoder=decode_on_ray,
    )
    store = PixelStore(folder, 2**30)
    assert [file.sha256 in store.names() for file in found] == kept.tolist()
    image = store.get(found[0].sha256, found[0].height, found[0].width)
    assert image is not None
    whole = image.region(0, 0, *image.shape[:2])
    np.testing.assert_array_equal(whole, read_image(found[0].uri))
    assert pixel_hash(whole) == found[0].sha256


def test_a_data_source_that_fails_is_reported() -> None:
    listed = Listed.of([("source:tests.images.example_sources:Missing#a", "a")])
    with pytest.raises(UserError, match="Missing"):
        scan(listed, decoder=decode_on_ray)
