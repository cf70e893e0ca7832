# SPDX-License-Identifier: Apache-2.0
"""Transforms against formulas computed here, and against the frequencies and ranges they promise."""

from __future__ import annotations

import colorsys
import time
from math import comb

import numpy as np
import pytest
from PIL import Image

from fastreid_ops.data.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, TrainTransform, turn_hue

OFF = {"crop_padding": 0, "flip": 0.0, "erasing": 0.0}
MEAN, STD = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)


def noise(height: int = 128, width: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def restored(tensor: np.ndarray) -> np.ndarray:
    """Normalised (3, H, W) back to (H, W, 3) pixels from 0 to 255."""
    return (tensor.transpose(1, 2, 0) * STD + MEAN) * 255


def between(count: int, trials: int, probability: float) -> bool:
    """Whether a count is within 4.5 standard deviations of its expectation (one miss in 150,000)."""
    return abs(count - trials * probability) <= 4.5 * (trials * probability * (1 - probability)) ** 0.5


def test_evaluation_is_resize_and_normalise():
    image = Image.fromarray(noise(200, 90))
    result = EvalTransform(128, 64)(image)
    assert result.shape == (3, 128, 64)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    small = np.asarray(image.resize((64, 128), Image.Resampling.BILINEAR)).astype(np.float64)
    assert np.abs(result - ((small / 255 - MEAN) / STD).transpose(2, 0, 1)).max() < 1e-5
    own = EvalTransform(128, 64, mean=(0, 0, 0), std=(1, 1, 1))(image)
    assert own.min() >= 0
    assert own.max() <= 1


def test_resizing_averages_instead_of_skipping():
    stripes = np.zeros((256, 64, 3), dtype=np.uint8)
    stripes[::2] = 255
    small = EvalTransform(32, 64).resize(Image.fromarray(stripes))
    assert np.abs(small[2:-2].astype(int) - 127).max() <= 3


def test_arrays_pass_as_images_do():
    pixels = noise()
    for transform in (EvalTransform(128, 64), EvalTransform(64, 32)):
        assert np.array_equal(transform(pixels), transform(Image.fromarray(pixels)))
    train = TrainTransform(128, 64, brightness=0.2, hue=0.1)
    before = pixels.copy()
    by_array = train(pixels, np.random.default_rng(5))
    assert np.array_equal(by_array, train(Image.fromarray(pixels), np.random.default_rng(5)))
    assert np.array_equal(pixels, before)


def test_everything_off_is_evaluation():
    pixels = noise()
    off = TrainTransform(128, 64, **OFF)
    assert np.array_equal(off(pixels, np.random.default_rng(0)), EvalTransform(128, 64)(pixels))


def test_same_generator_same_bits_and_contiguous_float32():
    transform = TrainTransform(128, 64, brightness=0.2, contrast=0.15, saturation=0.1, hue=0.1, erasing=1.0)
    first = transform(noise(), np.random.default_rng([1, 2, 3, 4]))
    assert first.shape == (3, 128, 64)
    assert first.dtype == np.float32
    assert first.flags.c_contiguous
    assert np.array_equal(first, transform(noise(), np.random.default_rng([1, 2, 3, 4])))
    assert not np.array_equal(first, transform(noise(), np.random.default_rng([1, 2, 3, 5])))


def test_flip_has_its_probability_and_is_a_mirror():
    pixels = noise(16, 8)
    transform = TrainTransform(16, 8, crop_padding=0, erasing=0.0, flip=0.3)
    plain = EvalTransform(16, 8)(pixels)
    rng = np.random.default_rng(1)
    flipped = 0
    for _ in range(3000):
        result = transform(pixels, rng)
        if not np.array_equal(result, plain):
            assert np.array_equal(result, plain[:, :, ::-1])
            flipped += 1
    assert between(flipped, 3000, 0.3)


@pytest.mark.parametrize("fill", ["mean", "black"])
def test_crop_shifts_uniformly_over_the_padding(fill: str):
    pixels, most = noise(12, 8), 3
    transform = TrainTransform(12, 8, crop_padding=most, padding_fill=fill, flip=0.0, erasing=0.0)
    border = MEAN * 255 if fill == "mean" else np.zeros(3)
    padded = np.tile(border, (12 + 2 * most, 8 + 2 * most, 1))
    padded[most:-most, most:-most] = pixels
    windows = {}
    for y in range(2 * most + 1):
        for x in range(2 * most + 1):
            windows[(y, x)] = ((padded[y : y + 12, x : x + 8] / 255 - MEAN) / STD).transpose(2, 0, 1)
    stack = np.stack(list(windows.values()))
    hits = np.zeros(len(stack), dtype=int)
    rng = np.random.default_rng(2)
    trials = 4900
    for _ in range(trials):
        error = np.abs(stack - transform(pixels, rng)).max(axis=(1, 2, 3))
        assert error.min() < 1e-5
        hits[error.argmin()] += 1
    # Chi-square with 48 degrees of freedom: mean 48, standard deviation 9.8.
    assert ((hits - trials / 49) ** 2 / (trials / 49)).sum() < 48 + 5 * 9.8


def test_a_crop_may_leave_nothing_of_a_small_image():
    transform = TrainTransform(4, 4, crop_padding=9, flip=0.0, erasing=0.0)
    rng = np.random.default_rng(0)
    results = [transform(noise(4, 4), rng) for _ in range(50)]
    assert any(np.abs(result).max() < 1e-5 for result in results)


def rectangles(transform: TrainTransform, trials: int, seed: int) -> list[tuple[int, int, int, int] | None]:
    """Top, left, rows and columns of what was erased from a white image, None where nothing was."""
    white = np.full((transform.height, transform.width, 3), 255, dtype=np.uint8)
    plain = EvalTransform(transform.height, transform.width)(white)
    rng = np.random.default_rng(seed)
    found: list[tuple[int, int, int, int] | None] = []
    for _ in range(trials):
        changed = (transform(white, rng) != plain).any(axis=0)
        if not changed.any():
            found.append(None)
            continue
        y, x = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        assert changed[y[0] : y[-1] + 1, x[0] : x[-1] + 1].all()
        found.append((y[0], x[0], len(y), len(x)))
    return found


def test_erasing_has_its_probability_area_and_aspect():
    transform = TrainTransform(256, 256, crop_padding=0, flip=0.0, erasing=0.4)
    found = rectangles(transform, 2500, seed=3)
    boxes = np.array([box for box in found if box is not None])
    assert between(len(boxes), len(found), 0.4)
    area, aspect = boxes[:, 2] * boxes[:, 3] / 256**2, boxes[:, 2] / boxes[:, 3]
    assert 0.019 < area.min() < 0.03
    assert 0.38 < area.max() < 0.41
    assert 0.29 < aspect.min() < 0.4
    assert 2.8 < aspect.max() < 3.45
    # An independent simulation of the formulas: area uniform, aspect uniform (not logarithmic), misfits drawn again.
    rng = np.random.default_rng(99)
    areas, ratios = rng.uniform(0.02, 0.4, 400_000) * 256**2, rng.uniform(0.3, 1 / 0.3, 400_000)
    fits = (np.round(np.sqrt(areas * ratios)) < 256) & (np.round(np.sqrt(areas / ratios)) < 256)
    for got, model in ((area, areas[fits] / 256**2), (aspect, ratios[fits])):
        deviation = model.std() / len(got) ** 0.5
        assert abs(got.mean() - model.mean()) < 4.5 * deviation
        assert (
            np.abs(np.quantile(got, [0.25, 0.5, 0.75]) - np.quantile(model, [0.25, 0.5, 0.75])).max()
            < 7 * deviation
        )


def test_erased_places_are_uniform_and_touch_both_borders():
    transform = TrainTransform(
        20, 20, crop_padding=0, flip=0.0, erasing=1.0, erasing_area=(0.25, 0.25), erasing_aspect=1.0
    )
    boxes = np.array(rectangles(transform, 2000, seed=4))
    assert set(boxes[:, 2]) == set(boxes[:, 3]) == {10}
    for start in (boxes[:, 0], boxes[:, 1]):
        hits = np.bincount(start, minlength=11)
        assert len(hits) == 11
        # Chi-square with 10 degrees of freedom: mean 10, standard deviation 4.5.
        assert ((hits - 2000 / 11) ** 2 / (2000 / 11)).sum() < 10 + 5 * 4.5


def test_erasing_gives_up_where_no_rectangle_fits():
    transform = TrainTransform(
        8, 8, crop_padding=0, flip=0.0, erasing=1.0, erasing_area=(1.0, 1.0), erasing_aspect=1.0
    )
    assert rectangles(transform, 20, seed=5) == [None] * 20


@pytest.mark.parametrize(
    ("fill", "painted"), [(0.0, (0, 0, 0)), (IMAGENET_MEAN, IMAGENET_MEAN), ((1, 2, 3), (1, 2, 3))]
)
def test_erasing_paints_in_normalised_units(fill: float | tuple, painted: tuple):
    white = np.full((32, 32, 3), 255, dtype=np.uint8)
    transform = TrainTransform(32, 32, crop_padding=0, flip=0.0, erasing=1.0, erasing_fill=fill)
    result = transform(white, np.random.default_rng(0))
    changed = (result != EvalTransform(32, 32)(white)).any(axis=0)
    assert changed.any()
    assert np.allclose(result[:, changed].T, np.array(painted, dtype=np.float32), atol=0)


def grey(pixels: np.ndarray) -> np.ndarray:
    return pixels @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation"])
def test_each_colour_change_follows_its_formula_and_range(kind: str):
    # Values in the middle, so that nothing is cut off and the factor can be read back.
    pixels = np.random.default_rng(6).integers(90, 150, (16, 8, 3)).astype(np.uint8)
    transform = TrainTransform(16, 8, **OFF, **{kind: 0.4})
    rng = np.random.default_rng(7)
    factors = []
    for _ in range(600):
        result = restored(transform(pixels, rng))
        base = {
            "brightness": np.zeros((16, 8, 1)),
            "contrast": np.full((16, 8, 1), grey(pixels).mean()),
            "saturation": grey(pixels)[..., None],
        }[kind]
        away = pixels - base
        factor = ((result - base) * away).sum() / (away**2).sum()
        assert np.abs(result - (factor * pixels + (1 - factor) * base)).max() < 0.01
        factors.append(factor)
    assert 0.6 <= min(factors) < 0.62
    assert 1.38 < max(factors) <= 1.4
    assert abs(np.mean(factors) - 1) < 4.5 * 0.8 / 12**0.5 / 600**0.5


def test_strong_jitter_never_makes_a_negative_factor_or_leaves_the_range():
    transform = TrainTransform(16, 8, **OFF, brightness=3.0, contrast=3.0, saturation=3.0)
    rng = np.random.default_rng(8)
    for _ in range(200):
        result = restored(transform(noise(16, 8), rng))
        assert result.min() > -0.01
        assert result.max() < 255.01


def test_jitter_has_its_probability_and_its_order_varies():
    pixels = noise(16, 8)
    plain = EvalTransform(16, 8)(pixels)
    transform = TrainTransform(16, 8, **OFF, brightness=0.2, jitter=0.7)
    rng = np.random.default_rng(9)
    changed = sum(not np.array_equal(transform(pixels, rng), plain) for _ in range(2000))
    assert between(changed, 2000, 0.7)
    orders = {tuple(np.random.default_rng(seed).permutation(4)) for seed in range(400)}
    assert len(orders) == 24


@pytest.mark.parametrize("turn", [-0.5, -0.3, -0.1, 0.1, 1 / 3, 0.5])
def test_hue_turns_the_colour_circle(turn: float):
    for colour in ((200, 40, 60), (30, 180, 90), (10, 20, 250), (120, 120, 120)):
        hue, saturation, value = colorsys.rgb_to_hsv(*(band / 255 for band in colour))
        expected = np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)) * 255
        got = turn_hue(np.full((1, 1, 3), colour, dtype=np.float32), turn)[0, 0]
        # Pillow's 8-bit hue has steps of 1.4 degrees, up to 6 grey levels at full saturation.
        assert np.abs(got - expected).max() <= 7, (colour, turn)


def test_a_small_image_takes_less_than_a_millisecond():
    pixels = noise()
    transform = TrainTransform(128, 64, brightness=0.2, contrast=0.15, saturation=0.1)
    rng = np.random.default_rng(0)
    best = np.inf
    # The best of many: other processes may hold the machine at any one of them.
    for _ in range(300):
        start = time.perf_counter()
        transform(pixels, rng)
        best = min(best, time.perf_counter() - start)
    assert best < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 0}, "height: got 0"),
        ({"width": 64.0}, "width: got 64.0"),
        ({"height": True}, "height: got True"),
        ({"mean": (0.5, 0.5)}, "mean: got"),
        ({"std": (0.5, 0.0, 0.5)}, "std: got .* above 0"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean: got"),
        ({"crop_padding": -1}, "crop_padding: got -1"),
        ({"padding_fill": "white"}, "padding_fill: got 'white'"),
        ({"flip": 1.5}, "flip: got 1.5, expected a probability"),
        ({"erasing": float("nan")}, "erasing: got nan"),
        ({"jitter": -0.1}, "jitter: got -0.1"),
        ({"erasing_area": (0.4, 0.02)}, "erasing_area"),
        ({"erasing_area": (0.0, 0.4)}, "erasing_area"),
        ({"erasing_aspect": 0.0}, "erasing_aspect: got 0.0"),
        ({"erasing_aspect": 2.0}, "erasing_aspect: got 2.0"),
        ({"erasing_fill": (1, 2)}, "erasing_fill"),
        ({"brightness": -0.1}, "brightness: got -0.1"),
        ({"contrast": float("inf")}, "contrast: got inf"),
        ({"hue": 0.6}, "hue: got 0.6, expected a number from 0 to 0.5"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=f"TrainTransform: {message}"):
        TrainTransform(**{"height": 128, "width": 64, **options})


def test_inputs_of_another_kind_are_refused():
    transform = TrainTransform(16, 8)
    with pytest.raises(TypeError, match=r"rng: got NoneType, expected numpy\.random\.Generator"):
        transform(noise(16, 8))
    with pytest.raises(TypeError, match="rng: got RandomState"):
        transform(noise(16, 8), np.random.RandomState(0))
    for wrong in (noise().astype(np.float32), noise()[..., 0], np.zeros((0, 8, 3), dtype=np.uint8)):
        with pytest.raises(ValueError, match=r"image: got .*, expected uint8 of shape \(H, W, 3\)"):
            EvalTransform(16, 8)(wrong)
    with pytest.raises(ValueError, match="image: got mode L, expected RGB"):
        EvalTransform(16, 8)(Image.new("L", (8, 16)))
    with pytest.raises(TypeError, match="image: got str"):
        EvalTransform(16, 8)("a.jpg")


def test_the_tolerance_of_these_tests_is_what_they_say():
    tail = sum(comb(100, k) for k in range(101) if not between(k, 100, 0.5)) / 2**100
    assert tail < 1 / 100_000
