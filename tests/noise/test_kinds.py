"""Noise kinds: what each does to a picture, and that each is a pure function of its generator."""

import doctest
import io
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from raydae.core.errors import UserError
from raydae.core.random_numbers import SAMPLE, generator
from raydae.noise import evaluation
from raydae.noise.array_math import blur_matrix, images_of, planes_of, where_rows
from raydae.noise.batch import BatchNoise
from raydae.noise.camera import Camera
from raydae.noise.config import NOISES, NoiseConfig
from raydae.noise.correlated import Correlated
from raydae.noise.demosaicing import bayer_masks, demosaic, mosaic
from raydae.noise.evaluation import EvaluationNoise
from raydae.noise.jpeg import Jpeg
from raydae.noise.jpeg_codec import compress
from raydae.noise.normals import standard_normals
from raydae.noise.poisson_gaussian import PoissonGaussian
from raydae.noise.speckle import Speckle

Kinds = pytest.mark.parametrize("kind", NOISES.builtins)


def scene(size: int = 64, seed: int = 0) -> NDArray[np.uint8]:
    """A picture with edges, ramps and colours, and little else."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    image = np.stack([x, y, 0.5 + 0.3 * np.sin(6 * x * y)], axis=-1)
    for _ in range(6):
        top, left, height, width = rng.integers(0, size // 2, 4)
        image[top : top + height, left : left + width] = rng.random(3)
    picture: NDArray[np.uint8] = np.rint(255 * image).astype(np.uint8)
    return picture


def one(value: float) -> NDArray[np.float32]:
    return np.array([value], np.float32)


def bind(kind: str) -> BatchNoise:
    noise = NOISES.bind(kind, {})
    assert isinstance(noise, BatchNoise)
    return noise


@pytest.mark.parametrize("chosen", [[], [1], [0, 1, 2]])
def test_the_chosen_items_of_a_batch_are_changed_and_the_rest_is_not(chosen: list[int]) -> None:
    planes = np.arange(3 * 4, dtype=np.float32).reshape(3, 1, 2, 2)
    mask, factors = np.isin(np.arange(3), chosen), np.array([2, 3, 4], np.float32)
    before, seen = planes.copy(), []

    def work(part: Any, factor: Any) -> Any:
        seen.append(len(part))
        return part * factor.reshape(-1, 1, 1, 1)

    result = where_rows(mask, work, planes, factors)
    expected = np.where(mask[:, None, None, None], before * factors[:, None, None, None], before)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(planes, before)
    assert seen == [len(chosen)] * bool(chosen), "the rest was computed"
    on_torch = where_rows(
        torch.from_numpy(mask), work, torch.from_numpy(planes), torch.from_numpy(factors)
    )
    np.testing.assert_array_equal(on_torch.numpy(), expected)


@Kinds
def test_the_example_of_a_kind(kind: str) -> None:
    module = sys.modules[type(bind(kind)).__module__]
    names = {"np": np, "generator": generator, "SAMPLE": SAMPLE}
    failed, tried = doctest.testmod(module, extraglobs=names)
    assert (failed, tried > 0) == (0, True)


def test_the_example_of_an_evaluation() -> None:
    assert doctest.testmod(evaluation, extraglobs={"np": np})[:2] == (0, 4)


@Kinds
def test_a_kind_is_a_pure_function_of_its_generator(kind: str) -> None:
    noise, clean = bind(kind), scene()
    first, second = (noise(generator(3, SAMPLE, 9), clean) for _ in range(2))
    for one_time, other_time in zip(first, second, strict=True):
        np.testing.assert_array_equal(one_time, other_time)
    other, _ = noise(generator(3, SAMPLE, 10), clean)
    assert (other != first[0]).any()
    assert first[0].dtype == np.float32
    assert first[1].dtype == np.uint8
    assert -8 < first[0].min() <= first[0].max() < 8, "what fixed point can hold"


@Kinds
def test_a_batch_has_the_bits_of_its_patches(kind: str) -> None:
    noise = bind(kind)
    clean = np.stack([scene(64, seed) for seed in range(8)])
    parameters, normals = [], []
    for number in range(8):
        rng = generator(0, SAMPLE, number)
        parameters.append(noise.draw(rng))
        normals.append(standard_normals(rng, noise.normals_shape(64, 64)))
    drawn = np.array(parameters, np.float32)
    noisy, _ = noise.degrade(clean, drawn, np.array(normals))
    for row in range(8):
        part = slice(row, row + 1)
        alone, _ = noise.degrade(clean[part], drawn[part], np.array(normals[part]))
        np.testing.assert_array_equal(alone[0], noisy[row])


@Kinds
def test_a_kind_takes_pictures_of_any_size(kind: str) -> None:
    for height, width in ((17, 40), (81, 64)):
        noisy, clean = EvaluationNoise(kind=kind, options={})(scene(96)[:height, :width])
        assert noisy.shape == clean.shape == (height, width, 3)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("gaussian", {"sigma": "300"}, "0-255 scale"),
        ("poisson-gaussian", {"a": "0:0.1"}, "begins with 0"),
        ("poisson-gaussian", {"b": "2"}, "from 0 to 1"),
        ("camera", {"jpeg": 1.5}, "a share of the patches"),
        ("camera", {"shot": "much"}, "a range of such numbers"),
        ("camera", {"sigma": 25}, "did you mean"),
        ("jpeg", {"quality": "95:20"}, "write 20:95"),
        ("speckle", {"strength": "nan"}, "from 0 to 1"),
        ("correlated", {"radius": "20"}, "from 0 to 10"),
        ("gausian", {}, "did you mean gaussian"),
    ],
)
def test_options_that_make_no_sense_are_named(
    kind: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        NoiseConfig(kind=kind, options=options)
    assert "noise" in str(error.value)


def test_poisson_gaussian_noise_grows_with_the_light() -> None:
    noise = PoissonGaussian(a="0.01", b="0.001")
    for level in (0, 100, 255):
        clean = np.full((256, 256, 3), level, np.uint8)
        noisy, target = noise(generator(0, SAMPLE, 0), clean)
        assert noisy.var() == pytest.approx(0.01 * level / 255 + 0.001, rel=0.02)
        assert noisy.mean() == pytest.approx(level / 255, abs=1e-3)
        assert target is clean


def test_parameters_are_drawn_log_uniformly() -> None:
    noise = PoissonGaussian(a="0.0001:0.01", b="0.001")
    a = np.array([noise.draw(generator(0, SAMPLE, i))[0] for i in range(2000)])
    assert a.min() < 1.2e-4
    assert a.max() > 8e-3
    assert np.median(a) == pytest.approx(1e-3, rel=0.15)


def test_speckle_is_a_fraction_of_the_value() -> None:
    for level in (0, 60, 240):
        clean = np.full((256, 256, 3), level, np.uint8)
        noisy, _ = Speckle(strength="0.1")(generator(0, SAMPLE, 0), clean)
        assert noisy.std() * 255 == pytest.approx(0.1 * level, rel=0.02)


def test_correlated_noise_has_the_level_and_the_correlation_that_it_says() -> None:
    clean = np.full((256, 256, 3), 128, np.uint8)
    noisy, _ = Correlated(sigma="20", radius="1.5")(generator(0, SAMPLE, 0), clean)
    noise = noisy * 255 - 128
    assert noise.std() == pytest.approx(20, rel=0.05)
    assert noise[[0, -1]].std() == pytest.approx(20, rel=0.15), "at the edges too"
    for distance in (1, 2, 4):
        found = (noise[distance:] * noise[:-distance]).mean() / noise.var()
        assert found == pytest.approx(np.exp(-(distance**2) / (4 * 1.5**2)), abs=0.04)


@pytest.mark.parametrize("subsampled", [0, 1])
@pytest.mark.parametrize("quality", [20, 75, 95])
def test_jpeg_is_libjpeg_s(quality: int, subsampled: int) -> None:
    image = scene(80)
    file = io.BytesIO()
    subsampling = "4:2:0" if subsampled else "4:4:4"
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=subsampling)
    expected = np.asarray(Image.open(file)).astype(float)
    planes = planes_of(image[np.newaxis]).astype(np.float32)
    ours = images_of(compress(planes, one(quality), one(subsampled), one(0), one(0)))[0]
    loss = np.sqrt(np.mean((expected - image) ** 2))
    assert (ours == expected).mean() > 0.93
    assert np.sqrt(np.mean((ours - expected) ** 2)) < max(0.1 * loss, 0.4)


def test_the_grid_of_jpeg_s_blocks_can_begin_anywhere() -> None:
    image = scene(96)
    planes = planes_of(image[np.newaxis]).astype(np.float32)
    whole = compress(planes, one(40), one(1), one(0), one(0))
    part = compress(planes[:, :, 37:69, 21:53], one(40), one(1), one(37 % 16), one(21 % 16))
    # The only whole unit of 16x16 in the part begins at (48, 32). Its outer pixels depend on the
    # colour of the units beside it.
    np.testing.assert_array_equal(part[0, :, 12:26, 12:26], whole[0, :, 49:63, 33:47])


def test_jpeg_of_a_lower_quality_loses_more() -> None:
    image = scene()
    losses = []
    for quality in ("95", "60", "20"):
        noisy, _ = Jpeg(quality=quality)(generator(0, SAMPLE, 0), image)
        losses.append(np.mean((noisy * 255 - image) ** 2))
    assert losses[0] < losses[1] < losses[2]


def test_a_demosaiced_picture_is_nearly_the_picture() -> None:
    planes = planes_of(scene(96)[np.newaxis]).astype(np.float32)
    for top in (0, 1):
        for left in (0, 1):
            masks = bayer_masks(96, 96, one(top), one(left))
            assert sum(mask.mean() for mask in masks) == 1
            assert masks[0][0, top, left]
            colour = demosaic(mosaic(planes, masks), masks)
            assert np.median(np.abs(colour - planes)) < 1
            for channel, mask in enumerate(masks):
                np.testing.assert_array_equal(colour[:, channel][mask], planes[:, channel][mask])


def test_blur_keeps_what_is_constant() -> None:
    for radius in (0, 0.5, 2):
        np.testing.assert_allclose(blur_matrix(20, one(radius)).sum(2), 1, rtol=1e-5)
    np.testing.assert_array_equal(blur_matrix(20, one(0))[0], np.eye(20))


def camera(**options: object) -> Camera:
    plain = {"mosaic": 1.0, "soft": 0.0, "grey": 0.0, "tint": 0.0, "clean": 0.0}
    plain |= {"smooth": 0.0, "sharpen": 0.0, "jpeg": 0.0}
    return Camera(**{**plain, **options})  # type: ignore[arg-type]  # checked by the dataclass


def test_a_camera_without_noise_returns_what_is_to_be_learned() -> None:
    noise = camera(shot="0.000001", soft=1.0, sharpen=1.0)
    off = []
    for number in range(20):
        noisy, target = noise(generator(0, SAMPLE, number), scene(64, number))
        off.append(np.abs(noisy * 255 - target).mean())
    assert max(off) < 1


def test_a_camera_s_picture_is_still_the_picture() -> None:
    noise = camera(shot="0.000001")
    for number in range(10):
        clean = scene(64, number)
        _, target = noise(generator(0, SAMPLE, number), clean)
        off = np.abs(target.astype(float) - clean)
        assert np.median(off) < 6, "tone and colour come back, nearly"


def test_coloured_light_changes_the_colour_but_not_of_black_and_white() -> None:
    grey = np.full((64, 64, 3), 180, np.uint8)
    casts = []
    for number in range(40):
        _, target = camera(tint=1.0, shot="0.000001")(generator(0, SAMPLE, number), grey)
        colour = np.median(target, axis=(0, 1))
        casts.append(colour.max() - colour.min())
        monochrome = camera(tint=1.0, grey=1.0)(generator(0, SAMPLE, number), grey)[1]
        assert np.ptp(monochrome.astype(int), axis=2).max() <= 1, "black and white has no colour"
    assert 25 < np.median(casts) < 100


def noise_of(noise: Camera, number: int, level: int = 110) -> NDArray[np.float64]:
    clean = np.full((128, 128, 3), level, np.uint8)
    noisy, target = noise(generator(0, SAMPLE, number), clean)
    return noisy.astype(np.float64) * 255 - target


def correlation(noise: NDArray[np.float64], distance: int) -> float:
    return float((noise[:, distance:] * noise[:, :-distance]).mean() / noise.var())


def test_a_camera_s_noise_is_correlated_and_its_noise_reduction_spares_luma() -> None:
    luma = np.array([0.299, 0.587, 0.114])
    red_difference = np.array([0.5, -0.4187, -0.0813])
    plain = [noise_of(camera(shot="0.01"), number) for number in range(8)]
    smooth = [noise_of(camera(shot="0.01", smooth=1.0), number) for number in range(8)]
    assert 0.1 < np.mean([correlation(noise @ luma, 1) for noise in plain]) < 0.6
    assert np.mean([correlation(noise @ red_difference, 4) for noise in plain]) < 0.1
    assert np.mean([correlation(noise @ red_difference, 4) for noise in smooth]) > 0.4
    for axis, least in ((luma, 0.25), (red_difference, 0.02)):
        ratio = np.mean(
            [(s @ axis).std() / (p @ axis).std() for s, p in zip(smooth, plain, strict=True)]
        )
        assert least < ratio < 1


def test_a_camera_s_noise_grows_with_its_option_and_is_hardly_biased() -> None:
    levels = []
    for shot in ("0.0001", "0.001", "0.01"):
        noise = np.concatenate([noise_of(camera(shot=shot), number) for number in range(6)])
        levels.append(noise.std())
        assert abs(noise.mean()) < 0.25 * noise.std()  # the tone curve is not straight
    assert levels[0] < levels[1] / 2 < levels[2] / 4


def test_noise_of_an_evaluation_depends_on_the_pixels_alone() -> None:
    noise = EvaluationNoise(kind="poisson-gaussian", options={"a": "0.01", "b": "0"})
    image = scene()
    first, second = noise(image)[0], noise(image.copy())[0]
    np.testing.assert_array_equal(first, second)
    assert (noise(scene(64, 1))[0] - scene(64, 1) / 255 != first - image / 255).any()


def test_a_share_of_camera_patches_has_no_noise() -> None:
    image = scene()
    equal = []
    for number in range(60):
        noisy, learned = Camera(clean=0.5)(generator(0, SAMPLE, number), image)
        equal.append(bool((np.rint(noisy * 255) == learned).all()))
        if equal[-1]:
            plain = Camera(clean=1, grey=0, tint=0, sharpen=0)
            _, rest = plain(generator(0, SAMPLE, number), image)
            assert np.abs(rest.astype(int) - image).mean() < 12, "but for the tone curve"
    assert 15 < sum(equal) < 45
