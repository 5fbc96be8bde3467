import dataclasses
import pickle
import subprocess
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from raydae.core.errors import UserError
from raydae.images import reader
from raydae.images.image_cache import ImageCache
from raydae.images.image_file import read_image
from raydae.images.image_sets import ImageSets
from raydae.images.image_table import Images
from raydae.images.pixel_store import PixelStore
from raydae.images.sources import find_images
from raydae.noise.config import NOISES
from raydae.noise.fixed_point import SCALE
from raydae.noise.gaussian import Gaussian
from raydae.training.config import Config
from raydae.training.samples import PADDING, Samples, UnreadableError, _rotated, shards
from raydae.training.schedule import Schedule
from raydae.training.visits import Visits
from tests.conftest import draw_folder


@pytest.fixture
def samples(config: Config, sets: ImageSets) -> Samples:
    return Samples.of(config, sets.train)


@pytest.mark.parametrize("kind", NOISES.builtins)
def test_a_sample_does_not_depend_on_what_was_computed_before(
    kind: str, config: Config, sets: ImageSets
) -> None:
    samples = Samples.of(config.override({"noise.kind": kind}), sets.train)
    whole = samples.block([range(64)], 64)
    for start, stop in ((0, 1), (7, 12), (33, 64)):
        part = samples.block([range(start, stop)], stop - start)
        for name, column in part.items():
            np.testing.assert_array_equal(column, whole[name][start:stop])


def test_another_process_makes_the_same_pixels(samples: Samples, tmp_path: Path) -> None:
    (tmp_path / "samples").write_bytes(pickle.dumps(samples))
    program = (
        "import pickle, sys, numpy; from pathlib import Path; folder = Path(sys.argv[1]);"
        "samples = pickle.loads((folder / 'samples').read_bytes());"
        "numpy.savez(folder / 'block', **samples.block([range(5, 25)], 20))"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    ours = samples.block([range(5, 25)], 20)
    with np.load(tmp_path / "block.npz") as theirs:
        for name, column in ours.items():
            np.testing.assert_array_equal(column, theirs[name])


def test_what_a_block_holds(samples: Samples) -> None:
    block = samples.block([range(0, 6), range(8, 12)], 8)
    assert block["index"].tolist() == [*range(6), PADDING, PADDING, *range(8, 12), *[PADDING] * 4]
    assert block["clean"].shape == block["noisy"].shape == (16, 16, 16, 3)
    assert block["clean"].dtype == np.uint8
    assert block["noisy"].dtype == np.int16
    assert not block["clean"][block["index"] == PADDING].any()
    assert (block["unreadable"] == -1).all()


def test_a_patch_is_cut_from_an_image_and_rotated(samples: Samples) -> None:
    images = [read_image(file.uri) for file in samples.images]
    block = samples.block([range(16)], 16)
    for patch in block["clean"]:
        turned = [np.rot90(side, turn) for side in (patch, patch[:, ::-1]) for turn in range(4)]
        assert any(
            (window == version).all(axis=(-3, -2, -1)).any()
            for image in images
            for version in turned
            for window in [np.lib.stride_tricks.sliding_window_view(image, (16, 16, 3))[:, :, 0]]
        )


def test_turns_are_numpy_s() -> None:
    part = np.arange(12).reshape(3, 4)
    for turns in range(4):
        np.testing.assert_array_equal(_rotated(part, turns), np.rot90(part, turns))


def test_noise_has_its_level_and_is_another_for_every_sample(samples: Samples) -> None:
    block = samples.block([range(256)], 256)
    noise = (block["noisy"] / SCALE * 255 - block["clean"]).reshape(256, -1)
    assert noise.std() == pytest.approx(25, rel=0.01)
    assert abs(np.corrcoef(noise[::2].ravel(), noise[1::2].ravel())[0, 1]) < 0.02
    assert len({row.tobytes() for row in block["noisy"]}) == 256


def test_a_range_of_sigma_is_drawn_uniformly_for_each_patch(samples: Samples) -> None:
    noise_5_55 = Gaussian(sigma="5:55")
    block = dataclasses.replace(samples, noise=noise_5_55).block([range(512)], 512)
    noise = block["noisy"] / SCALE * 255 - block["clean"]
    levels = noise.reshape(512, -1).std(axis=1)
    assert levels.min() < 8
    assert levels.max() > 52
    assert levels.mean() == pytest.approx(30, abs=2)


def test_where_the_noise_is_made_elsewhere_its_level_is_the_same(samples: Samples) -> None:
    samples = dataclasses.replace(samples, noise=Gaussian(sigma="5:55"))
    here = samples.block([range(16)], 16)
    left = dataclasses.replace(samples, noise_on_device=True).block([range(16)], 16)
    np.testing.assert_array_equal(left["clean"], here["clean"])
    assert "noisy" not in left
    noise = here["noisy"] / SCALE * 255 - here["clean"]
    assert left["parameters"][:, 0] == pytest.approx(noise.reshape(16, -1).std(axis=1), rel=0.1)


def test_a_pass_visits_every_image_equally_in_an_order_of_its_own(samples: Samples) -> None:
    visits = len(samples.images) * 2
    orders = [
        [np.array(samples._visit(number * visits + i)[0]).tobytes() for i in range(visits)]
        for number in range(2)
    ]
    for order in orders:
        assert set(Counter(order).values()) == {2}
    assert orders[0] != orders[1]


def test_another_seed_is_another_stream(samples: Samples) -> None:
    other = dataclasses.replace(samples, seed=1)
    assert (other.block([range(8)], 8)["clean"] != samples.block([range(8)], 8)["clean"]).any()


def test_an_unreadable_image_is_replaced_and_no_other_sample_changes(tmp_path: Path) -> None:
    config = Config().override({"data.path": str(draw_folder(tmp_path)), "data.patch_size": 16})
    samples = Samples.of(config, find_images(config.data).train)
    before = samples.block([range(256)], 256)
    # Another path to the same images, so that the cache of decoded ones is no help.
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    files = Images.of(
        dataclasses.replace(file, uri=str(moved / file.name)) for file in samples.images
    )
    Path(files[3].uri).write_bytes(Path(files[3].uri).read_bytes()[:200])
    after = dataclasses.replace(samples, images=files).block([range(256)], 256)

    replaced = after["unreadable"] == 3
    assert replaced.sum() == config.data.patches_per_image * 2
    assert set(after["unreadable"].tolist()) == {-1, 3}
    np.testing.assert_array_equal(after["index"], before["index"])
    np.testing.assert_array_equal(after["clean"][~replaced], before["clean"][~replaced])
    np.testing.assert_array_equal(after["noisy"][~replaced], before["noisy"][~replaced])
    assert (after["clean"][replaced] != before["clean"][replaced]).any()


def test_each_unreadable_image_is_reported_where_others_follow_it(
    samples: Samples, tmp_path: Path
) -> None:
    gone = Images.of(
        dataclasses.replace(f, uri=str(tmp_path / f.name)) if number < 7 else f
        for number, f in enumerate(samples.images)
    )
    unreadable = dataclasses.replace(samples, images=gone).block([range(256)], 256)["unreadable"]
    assert set(unreadable.tolist()) == {-1, *range(7)}


def test_no_readable_image_at_all_is_an_error(samples: Samples, tmp_path: Path) -> None:
    gone = Images.of(dataclasses.replace(f, uri=str(tmp_path / f.name)) for f in samples.images)
    with pytest.raises(UnreadableError, match="none of the 8"):
        dataclasses.replace(samples, images=gone).block([range(2)], 2)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5, 8])
def test_shares_are_whole_micro_blocks_and_make_the_batch(workers: int) -> None:
    schedule = Schedule(pass_samples=100, batch_size=32, micro_batch=4, epochs=3)
    for step in range(schedule.steps):
        parts = [schedule.shard(step, rank, workers) for rank in range(workers)]
        assert [index for part in parts for index in part] == list(range(step * 32, step * 32 + 32))
        assert all(part.start % 4 == 0 and len(part) % 4 == 0 for part in parts)
        assert max(map(len, parts)) - min(map(len, parts)) <= 4
        assert max(map(len, parts)) == schedule.shard_rows(workers)


@pytest.mark.parametrize("kind", NOISES.builtins)
def test_any_number_of_workers_makes_the_same_samples(
    kind: str, config: Config, sets: ImageSets
) -> None:
    samples = Samples.of(config.override({"noise.kind": kind}), sets.train)
    schedule = Schedule(pass_samples=32, batch_size=16, micro_batch=4, epochs=1)
    alone = samples.block([schedule.shard(1, 0, 1)], 16)
    for workers in (2, 3, 4):
        rows = schedule.shard_rows(workers)
        parts = [samples.block([schedule.shard(1, rank, workers)], rows) for rank in range(workers)]
        for name, column in alone.items():
            shared = np.concatenate([part[name][part["index"] != PADDING] for part in parts])
            np.testing.assert_array_equal(column, shared)


def test_without_clean_images_a_patch_comes_with_the_choice_of_its_neighbours(
    config: Config, sets: ImageSets
) -> None:
    plain = Samples.of(config.override({"data.patch_size": 32}), sets.train)
    settings = {"learn": "neighbor2neighbor", "data.patch_size": 32}
    samples = Samples.of(config.override(settings), sets.train)
    block = samples.block([range(16)], 18)
    assert set(block) == {"index", "clean", "unreadable", "choices"}
    assert block["choices"].shape == (18, 16, 16)
    np.testing.assert_array_equal(block["clean"][:16], plain.block([range(16)], 16)["clean"])
    part = samples.block([range(5, 11)], 6)
    for name, column in part.items():
        np.testing.assert_array_equal(column, block[name][5:11])


def test_epochs_end_with_the_step_that_ends_a_pass() -> None:
    schedule = Schedule(pass_samples=100, batch_size=32, micro_batch=4, epochs=3)
    assert [schedule.end_of_epoch(epoch) for epoch in range(3)] == [4, 7, 10]
    assert [schedule.epoch_of(step) for step in range(10)] == [0] * 4 + [1] * 3 + [2] * 3
    assert schedule.steps == 10


def test_a_batch_larger_than_an_epoch_is_refused() -> None:
    with pytest.raises(UserError, match="batch of 32 is more than the 16 patches"):
        Schedule(pass_samples=16, batch_size=32, micro_batch=4, epochs=1)


def test_the_stream_in_this_process(samples: Samples, config: Config) -> None:
    schedule = Schedule.of(config, len(samples.images))
    steps = list(shards(samples, schedule, start=2))
    assert [batch["index"].tolist() for batch in steps] == [
        list(range(step * 8, step * 8 + 8)) for step in range(2, schedule.steps)
    ]


def strong(rng: np.random.Generator, clean: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A user's noise that leaves what an int16 pixel can hold."""
    return clean / 255 + 100 * rng.standard_normal(clean.shape)


def forgetful(rng: np.random.Generator, clean: NDArray[np.uint8]) -> NDArray[np.float64]:
    return clean / 255 + np.random.default_rng().standard_normal(clean.shape)


class Darker:
    """A user's noise that changes what is to be learned, too."""

    def __call__(
        self, rng: np.random.Generator, clean: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
        dark = clean // 2
        return dark / 255 + 0.1 * rng.standard_normal(clean.shape), dark


def test_a_users_noise_may_say_what_is_to_be_learned(config: Config, sets: ImageSets) -> None:
    plain = Samples.of(config, sets.train).block([range(8)], 8)
    config = config.override({"noise.kind": "tests.training.test_samples:Darker"})
    block = Samples.of(config, sets.train).block([range(8)], 8)
    np.testing.assert_array_equal(block["clean"], plain["clean"] // 2)
    noise = block["noisy"] / SCALE - block["clean"] / 255
    assert noise.std() == pytest.approx(0.1, rel=0.05)


def test_a_users_noise_is_cut_off_and_does_not_wrap_around(config: Config, sets: ImageSets) -> None:
    config = config.override({"noise.kind": "tests.training.test_samples:strong"})
    noisy = Samples.of(config, sets.train).block([range(8)], 8)["noisy"]
    assert (noisy.min(), noisy.max()) == (-32768, 32767)
    inside = np.abs(noisy.astype(int)) < 32767
    assert inside.mean() < 0.2


def test_a_users_noise_that_no_run_could_repeat_is_refused(config: Config, sets: ImageSets) -> None:
    config = config.override({"noise.kind": "tests.training.test_samples:forgetful"})
    with pytest.raises(UserError, match="draw all random numbers from the generator"):
        Samples.of(config, sets.train)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that keeps one image in memory, and has opened none of a store."""
    monkeypatch.setattr(reader, "_cache", ImageCache(1))
    monkeypatch.setattr(reader, "_opened", OrderedDict())
    reader.store_of.cache_clear()


@pytest.mark.usefixtures("small_memory")
def test_samples_are_the_same_with_the_pixel_store_without_it_and_half_full(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    config = config.override({"data.cache": str(tmp_path / "pixels")})
    plain = Samples.of(config.override({"data.cache_gib": 0}), sets.train).block([range(64)], 64)
    assert not (tmp_path / "pixels").exists()
    half = len(sets.train) * sets.train[0].height * sets.train[0].width * 3 / 2 / 2**30
    for gib in (half, None, None):  # the third time, it is full
        settings = {"data.cache_gib": gib} if gib else {}
        block = Samples.of(config.override(settings), sets.train).block([range(64)], 64)
        for name, column in plain.items():
            np.testing.assert_array_equal(block[name], column)
        kept = len(PixelStore(tmp_path / "pixels", 2**40).names())
        assert (kept == len(sets.train)) if gib is None else (0 < kept < len(sets.train))
        reader._opened.clear()
        reader._cache = ImageCache(1)


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_images_of_the_store_are_not_decoded(
    config: Config,
    sets: ImageSets,
    tmp_path: Path,
    s3: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    plain = Samples.of(config.override({"data.cache_gib": 0}), sets.train).block([range(64)], 64)
    cache = str(tmp_path) if place == "disk" else s3("samples")
    monkeypatch.setattr(reader, "_cache", ImageCache(1))
    samples = Samples.of(config.override({"data.cache": cache}), sets.train)
    assert samples.reader.waits == (place == "bucket")
    before = samples.block([range(64)], 64)
    monkeypatch.setattr(reader, "read_image", lambda uri: pytest.fail(f"{uri} was decoded"))
    monkeypatch.setattr(reader, "_cache", ImageCache(1))
    after = samples.block([range(64)], 64)
    for name, column in plain.items():
        np.testing.assert_array_equal(after[name], column)
        np.testing.assert_array_equal(before[name], column)


@pytest.mark.usefixtures("small_memory")
def test_a_damaged_block_is_made_again(
    config: Config, sets: ImageSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydae.images.pixel_store.SMALL", 0)
    samples = Samples.of(config.override({"data.cache": str(tmp_path)}), sets.train)
    before = samples.block([range(64)], 64)
    files = sorted(tmp_path.glob("??/*.pixels"))
    whole = [path.read_bytes() for path in files]
    files[0].write_bytes(whole[0][:-1] + bytes([whole[0][-1] ^ 1]))
    files[1].write_bytes(whole[1][:100])
    files[2].write_bytes(b"something else")
    reader._opened.clear()
    after = samples.block([range(64)], 64)
    for name, column in before.items():
        np.testing.assert_array_equal(after[name], column)
    assert [path.read_bytes() for path in files] == whole


@pytest.mark.usefixtures("small_memory")
def test_a_damaged_block_of_a_packed_image_is_made_again(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    samples = Samples.of(config.override({"data.cache": str(tmp_path)}), sets.train)
    before = samples.block([range(64)], 64)
    (path,) = tmp_path.glob("packs/*.pack")
    data = bytearray(path.read_bytes())
    for place in range(1000, len(data), len(data) // 4):
        data[place] ^= 1
    path.write_bytes(data)
    for _ in range(2):
        reader._opened.clear()
        reader.store_of.cache_clear()
        after = samples.block([range(64)], 64)
        for name, column in before.items():
            np.testing.assert_array_equal(after[name], column)
    assert path.stat().st_size == len(data)
    assert len(list(tmp_path.glob("packs/*.pack"))) == 2, "others are in a new file"
    assert PixelStore(tmp_path, 2**40).names() == {file.sha256 for file in sets.train}


@pytest.mark.usefixtures("small_memory")
def test_an_image_that_changed_is_not_put_into_the_store_as_the_old_one(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    images = Images.of(dataclasses.replace(file, sha256="00" * 16) for file in sets.train)
    samples = Samples.of(config.override({"data.cache": str(tmp_path)}), images)
    samples.block([range(16)], 16)
    assert not PixelStore(tmp_path, 2**40).names()


def test_images_that_fit_into_the_memory_need_no_store(
    config: Config, sets: ImageSets, tmp_path: Path
) -> None:
    samples = Samples.of(config.override({"data.cache": str(tmp_path)}), sets.train)
    samples.block([range(16)], 16)
    assert not list(tmp_path.iterdir())


def test_by_area_large_images_are_visited_more_often() -> None:
    sizes = [(40, 40), (400, 300), (30, 20), (1000, 500)]
    areas = np.array([float(height * width) for height, width in sizes])
    visits, passes = 16, 2000
    by_area = Visits.by_area(0, areas, visits)
    opened = np.array([by_area.image(visit) for visit in range(passes * visits)])
    counts = np.array([np.bincount(part, minlength=4) for part in opened.reshape(passes, visits)])
    expected = visits * areas / areas.sum()
    assert (np.abs(counts - expected) < 1).all(), "rounded up or down, never more"
    np.testing.assert_allclose(counts.mean(0), expected, atol=2 / passes)


def test_by_area_images_of_one_size_are_visited_equally(config: Config, sets: ImageSets) -> None:
    by_area = Samples.of(config.override({"data.visits": "area"}), sets.train)
    visits = len(sets.train) * 2
    for number in range(3):
        numbers = [by_area._visits.image(number * visits + i) for i in range(visits)]
        assert set(Counter(numbers).values()) == {2}
    assert (by_area.block([range(8)], 8)["index"] == np.arange(8)).all()
