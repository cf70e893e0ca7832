# SPDX-License-Identifier: Apache-2.0
"""Augmentations of the sources: formulas read again in plain Python, frequencies, and torchreid's own classes."""

from __future__ import annotations

import random
import sys
from collections import Counter
from types import ModuleType
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from rivals.ranking import load_file, package_file

from fastreid_ops.data import augment
from fastreid_ops.data.by_modality import ByModality, without_colours
from fastreid_ops.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    EvalTransform,
    TrainTransform,
)

OFF = {"crop_padding": 0, "flip": 0.0, "erasing": 0.0}
MEAN, STD = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)


def noise(height: int = 16, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def restored(tensor: np.ndarray) -> np.ndarray:
    return (tensor.transpose(1, 2, 0) * STD + MEAN) * 255


def within(count: int, trials: int, probability: float) -> bool:
    return abs(count - trials * probability) <= 4.5 * (trials * probability * (1 - probability)) ** 0.5


@pytest.fixture(scope="module")
def torchreid():
    """Its transforms.py; torchvision, which it names and these classes do not use, is replaced by an empty module."""
    place = package_file("torchreid", "reid/data/transforms.py")
    if place is None:
        pytest.skip("torchreid is not installed")
    stub = ModuleType("torchvision.transforms")
    for name in ("Resize", "Compose", "ToTensor", "Normalize", "ColorJitter", "RandomHorizontalFlip"):
        setattr(stub, name, object)
    with mock.patch.dict(sys.modules, {"torchvision": ModuleType("torchvision"), stub.__name__: stub}):
        module = load_file(place)
    random.seed(0)
    torch.manual_seed(0)
    return module


def test_translation_cuts_where_torchreid_does(torchreid):
    pixels, trials = noise(), 2000
    rng, theirs = np.random.default_rng(0), torchreid.Random2DTranslation(16, 8, p=1.0)
    ours = Counter(augment.translate(pixels, rng).tobytes() for _ in range(trials))
    source = Counter(np.asarray(theirs(Image.fromarray(pixels))).tobytes() for _ in range(trials))
    assert ours.keys() == source.keys()
    large = np.asarray(Image.fromarray(pixels).resize((9, 18), Image.Resampling.BILINEAR))
    for top, chance in ((0, 0.25), (1, 0.5), (2, 0.25)):  # round(U(0, 2))
        for left in (0, 1):
            found = ours[large[top : top + 16, left : left + 8].tobytes()]
            assert within(found, trials, chance / 2), (top, left)


@pytest.mark.parametrize(
    ("option", "chance"), [("translation", 0.3), ("grey", 0.5), ("channel_exchange", 0.7), ("pca", 0.4)]
)
def test_each_happens_as_often_as_it_should(option: str, chance: float):
    pixels = noise()
    plain = EvalTransform(16, 8)(pixels)
    transform = TrainTransform(16, 8, **OFF, **{option: chance})
    rng = np.random.default_rng(1)
    changed = sum(not np.array_equal(transform(pixels, rng), plain) for _ in range(1500))
    assert within(changed, 1500, chance)


def test_colour_offset_is_torchreids_product(torchreid, monkeypatch: pytest.MonkeyPatch):
    theirs, image = torchreid.ColorAugmentation(p=1.0), torch.rand(3, 4, 5)
    for seed in range(5):
        alpha = np.random.default_rng(seed).normal(0.0, 0.1, 3)
        monkeypatch.setattr(torch, "normal", lambda mean, a=alpha: torch.tensor(a / 0.1)[None].float())
        expected = (theirs(image) - image)[:, 0, 0].numpy()
        assert np.allclose(augment.colour_offset(np.random.default_rng(seed), 0.1), expected, atol=1e-6)


def test_colour_offset_has_the_covariance_of_its_formula():
    rng = np.random.default_rng(2)
    offsets = np.array([augment.colour_offset(rng, 0.1) for _ in range(20000)])
    vectors = np.array([[0.4009, 0.7192, -0.5675], [-0.8140, -0.0045, -0.5808], [0.4203, -0.6948, -0.5836]])
    expected = sum(
        (0.1 * v) ** 2 * np.outer(row, row) for v, row in zip((0.2175, 0.0188, 0.0045), vectors, strict=True)
    )
    assert np.abs(np.cov(offsets.T) - expected).max() < 0.04 * np.abs(expected).max()
    transform = TrainTransform(16, 8, **OFF, pca=1.0)
    moved = transform(noise(), np.random.default_rng(4)) - EvalTransform(16, 8)(noise())
    rng = np.random.default_rng(4)
    rng.random(), rng.random()  # flip, then whether
    offset = augment.colour_offset(rng, 0.1)
    assert np.allclose(moved, (offset / STD)[:, None, None], atol=1e-5)


def test_grey_and_channel_exchange_follow_their_formulas():
    pixels = noise()
    grey = restored(TrainTransform(16, 8, **OFF, grey=1.0)(pixels, np.random.default_rng(0)))
    assert np.abs(grey - np.asarray(Image.fromarray(pixels).convert("L"))[..., None]).max() <= 0.51
    candidates = [*(np.repeat(pixels[..., c : c + 1], 3, axis=2) for c in range(3))]
    weighted = sum(weight * pixels[..., c].astype(float) for c, weight in enumerate((0.2989, 0.5870, 0.1140)))
    candidates.append(np.repeat(weighted[..., None], 3, axis=2))
    hits, rng = Counter(), np.random.default_rng(1)
    for _ in range(1200):
        got = augment.exchange_channels(pixels, rng)
        error = [np.abs(got - candidate).max() for candidate in candidates]
        assert min(error) < 1e-3
        hits[int(np.argmin(error))] += 1
    assert all(within(hits[choice], 1200, 0.25) for choice in range(4))


def plain_patch(pixels: np.ndarray, pool: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """RandomPatch read again with Pillow's crop, transpose, rotate and paste."""
    height, width = pixels.shape[:2]
    image, donor = Image.fromarray(pixels), Image.fromarray(pool[rng.integers(len(pool))])
    for _ in range(100):
        area = rng.uniform(0.01, 0.5) * height * width
        ratio = rng.uniform(0.1, 10)
        h, w = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if h < height and w < width:
            break
    y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
    piece = donor.crop((x, y, x + w, y + h))
    y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
    if rng.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        piece = piece.rotate(int(rng.integers(-10, 11)))
    image.paste(piece, (x, y))
    return np.asarray(image)


def test_patch_is_its_plain_reading():
    pixels, pool = noise(48, 24), [noise(48, 24, seed) for seed in (1, 2, 3)]
    before = pixels.copy()
    for seed in range(150):
        got = augment.patch(pixels, pool, np.random.default_rng(seed))
        assert np.array_equal(got, plain_patch(pixels, pool, np.random.default_rng(seed)))
    assert np.array_equal(pixels, before)


def test_patches_are_as_large_as_torchreids(torchreid):
    white, black = np.full((64, 32, 3), 255, dtype=np.uint8), np.zeros((64, 32, 3), dtype=np.uint8)
    rng, theirs = (
        np.random.default_rng(0),
        torchreid.RandomPatch(prob_happen=1.0, min_sample_size=1, pool_capacity=1),
    )
    ours = [1 - augment.patch(white, [black], rng).mean() / 255 for _ in range(1500)]
    source = []
    for _ in range(1500):
        w, h = theirs.generate_wh(32, 64)
        source.append(w * h / 2048)
    assert abs(np.mean(ours) - np.mean(source)) < 0.02
    assert np.abs(np.quantile(ours, [0.1, 0.5, 0.9]) - np.quantile(source, [0.1, 0.5, 0.9])).max() < 0.03


def test_patch_needs_a_pool_and_has_its_probability():
    transform = TrainTransform(16, 8, **OFF, patch=0.6)
    assert transform.needs_pool
    assert not TrainTransform(16, 8).needs_pool
    with pytest.raises(
        ValueError, match="TrainTransform: pool: got none, expected the images that patch cuts"
    ):
        transform(noise(), np.random.default_rng(0))
    plain, rng = EvalTransform(16, 8)(noise()), np.random.default_rng(1)
    changed = sum(not np.array_equal(transform(noise(), rng, [noise(seed=5)]), plain) for _ in range(1500))
    assert within(changed, 1500, 0.6)


@pytest.mark.parametrize("factor", [0.9, 0.95, 1.0, 1.04, 1.1])
def test_rescale_is_pillows_nearest_affine_around_the_centre(factor: float):
    pixels = noise(37, 22)
    step = 1 / factor
    matrix = (step, 0, 11 - 11 * step, 0, step, 18.5 - 18.5 * step)
    expected = Image.fromarray(pixels).transform(
        (22, 37), Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=(128, 128, 128)
    )
    different = (augment.rescale(pixels, factor, 128) != np.asarray(expected)).any(axis=2)
    # Pillow counts in steps of 2 ** -16; a place that falls on the edge of two pixels may go either way.
    for axis, size in ((0, 37), (1, 22)):
        places = (np.arange(size) + 0.5 - size / 2) / factor + size / 2
        edge = np.abs(places - np.round(places)) < 1e-3
        different = np.delete(different, np.flatnonzero(edge), axis)
    assert different.size > 600
    assert not different.any()


def test_scale_is_uniform_in_its_range():
    # The brightness of a white picture tells how much grey border a factor below 1 leaves.
    white = np.full((100, 100, 3), 255, dtype=np.uint8)
    transform = TrainTransform(100, 100, **OFF, scale=(0.5, 1.0), scale_fill=0)
    rng = np.random.default_rng(3)
    sides = [(restored(transform(white, rng)).mean() / 255) ** 0.5 for _ in range(400)]
    assert 0.49 <= min(sides) < 0.53
    assert 0.97 < max(sides) <= 1.0001
    assert abs(np.mean(sides) - 0.75) < 4.5 * 0.5 / 12**0.5 / 20


@pytest.mark.parametrize("fill", ["mean", "mean_in_units", "black", "random"])
def test_erasing_conventions(fill: str):
    white = np.full((64, 32, 3), 255, dtype=np.uint8)
    transform = TrainTransform(64, 32, crop_padding=0, flip=0.0, erasing=1.0, erasing_fill=fill)
    plain, rng, seen = EvalTransform(64, 32)(white), np.random.default_rng(0), []
    for _ in range(60):
        result = transform(white, rng)
        seen.append(result[:, (result != plain).any(axis=0)])
    seen = np.concatenate(seen, axis=1)
    if fill != "random":
        painted = {"mean": np.zeros(3), "mean_in_units": MEAN, "black": -MEAN / STD}[fill]
        assert np.allclose(seen, painted[:, None], atol=1e-6)
        return
    values = seen * STD[:, None] + MEAN[:, None]  # before normalisation, 0 to 1
    assert values.min() > -1e-6
    assert values.max() < 1 + 1e-6
    assert np.abs(values.mean(axis=1) - 0.5).max() < 4.5 / (12 * values.shape[1]) ** 0.5
    assert np.abs(np.corrcoef(values) - np.eye(3)).max() < 5 / values.shape[1] ** 0.5


def test_torchreid_erases_with_the_mean_in_normalised_units(torchreid):
    erased = torchreid.RandomErasing(probability=1.0, mean=list(IMAGENET_MEAN))(torch.full((3, 64, 32), 9.0))
    painted = erased[:, (erased != 9).any(dim=0)]
    transform = TrainTransform(64, 32, crop_padding=0, flip=0.0, erasing=1.0, erasing_fill="mean_in_units")
    plain = EvalTransform(64, 32)(noise(64, 32))
    ours = transform(noise(64, 32), np.random.default_rng(0))
    assert np.allclose(painted[:, 0], ours[:, (ours != plain).any(axis=0)][:, 0])


def test_the_earlier_options_draw_what_they_always_drew():
    """Flip, shift, whether and how to jitter, erase: read again from the generator, so that a recipe keeps its bits."""
    transform = TrainTransform(
        16, 8, crop_padding=2, flip=0.5, erasing=0.6, brightness=0.2, contrast=0.15, erasing_fill=0.5
    )
    for seed in range(60):
        pixels, rng = noise(seed=seed), np.random.default_rng(seed)
        got = transform(pixels, np.random.default_rng(seed))
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        pixels = transform.shift(pixels, rng)
        assert rng.random() < 1
        expected = transform.normalise(transform.recolour(pixels, rng))
        if rng.random() < 0.6:
            while True:
                area, aspect = rng.uniform(0.02, 0.4) * 128, rng.uniform(0.3, 1 / 0.3)
                rows, columns = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
                if rows < 16 and columns < 8:
                    break
            top, left = rng.integers(16 - rows + 1), rng.integers(8 - columns + 1)
            expected[:, top : top + rows, left : left + columns] = 0.5
        assert np.array_equal(got, expected)


def test_infrared_images_get_their_own_transform():
    full = TrainTransform(
        16, 8, brightness=0.2, contrast=0.1, saturation=0.1, hue=0.1, grey=0.3, channel_exchange=0.5, pca=0.2
    )
    both = ByModality(full, without_colours(full))
    assert both.of(0) is full
    assert both.of(1) == TrainTransform(16, 8)
    assert (both.height, both.width) == (16, 8)
    with pytest.raises(ValueError, match=r"ByModality: infrared: got size \(8, 8\), expected \(16, 8\)"):
        ByModality(full, TrainTransform(8, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"translation": 1.1}, "translation: got 1.1, expected a probability"),
        ({"patch": -0.1}, "patch: got -0.1"),
        ({"pca": float("nan")}, "pca: got nan"),
        ({"scale": (1.1, 0.9)}, "scale: got"),
        ({"scale": (0.0, 1.0)}, "scale: got"),
        ({"scale_fill": 256}, "scale_fill: got 256, expected a number from 0 to 255"),
        ({"pca_deviation": float("inf")}, "pca_deviation: got inf"),
        ({"erasing_fill": "white"}, "erasing_fill: got 'white', expected numbers or one of mean, "),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=f"TrainTransform: {message}"):
        TrainTransform(16, 8, **options)
