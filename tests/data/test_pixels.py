# SPDX-License-Identifier: Apache-2.0
"""The compiled arithmetic of the transforms, and its NumPy twin, against plain NumPy and Pillow: to the last bit."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from fastreid_ops.data import augment, pixels
from fastreid_ops.data.transforms import EvalTransform, TrainTransform

ONE, NOTHING = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)


@pytest.fixture(params=["compiled", "numpy"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of computing, one after the other."""
    if request.param == "numpy":
        monkeypatch.setattr(pixels, "native", None)
    else:
        assert pixels.native is not None, "fastreid_ops.data._pixels is not built"


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def settings(seed: int) -> tuple[int, int, dict]:
    """A size and a random half of all steps, extreme strengths among them."""
    rng = np.random.default_rng(seed)

    def pick(*values):
        return values[int(rng.integers(len(values)))]

    options = {
        "crop_padding": pick(0, 2, 10, 100),
        "padding_fill": pick("mean", "black"),
        "flip": pick(0.0, 0.5, 1.0),
        "erasing": pick(0.0, 1.0),
        "erasing_fill": pick(0.0, (0.1, 0.2, 0.3), "mean", "mean_in_units", "black", "random"),
        "brightness": pick(0.0, 0.2, 2.0),
        "contrast": pick(0.0, 0.15, 2.0),
        "saturation": pick(0.0, 0.1, 2.0),
        "hue": pick(0.0, 0.1, 0.5),
        "jitter": pick(0.5, 1.0),
        "translation": pick(0.0, 0.0, 0.5, 1.0),
        "patch": pick(0.0, 0.0, 1.0),
        "scale": pick((1.0, 1.0), (1.0, 1.0), (0.5, 1.3)),
        "grey": pick(0.0, 0.0, 0.5),
        "channel_exchange": pick(0.0, 0.0, 0.5),
        "pca": pick(0.0, 0.5),
    }
    return int(rng.integers(4, 70)), int(rng.integers(4, 50)), options


def step_by_step(t: TrainTransform, image: Image.Image, rng: np.random.Generator, pool: list) -> np.ndarray:
    """`TrainTransform`, every step on a picture of its own, as its docstring has them."""

    def happens(chance: float) -> bool:
        return chance > 0 and rng.random() < chance

    if image.size != (t.width, t.height):
        image = image.resize((t.width, t.height), Image.Resampling.BILINEAR)
    now = np.array(image)
    height, width = now.shape[:2]
    if rng.random() < t.flip:
        now = now[:, ::-1]
    if happens(t.translation):
        rows, columns = round(height * 1.125), round(width * 1.125)
        left, top = round(rng.uniform(0, columns - width)), round(rng.uniform(0, rows - height))
        large = Image.fromarray(np.ascontiguousarray(now)).resize((columns, rows), Image.Resampling.BILINEAR)
        now = np.array(large.crop((left, top, left + width, top + height)))
    if t.crop_padding:
        most = t.crop_padding
        down, right = rng.integers(-most, most, size=2, endpoint=True)
        fill = np.array(t.mean if t.padding_fill == "mean" else NOTHING, dtype=np.float32) * np.float32(255)
        wide = np.empty((height + 2 * most, width + 2 * most, 3), dtype=np.float32)
        wide[:] = fill
        wide[most : most + height, most : most + width] = now
        now = wide[most - down : most - down + height, most - right : most - right + width]
    if happens(t.patch):
        now = augment.patch(now, pool, rng)
    if (t.brightness or t.contrast or t.saturation or t.hue) and rng.random() < t.jitter:
        now = np.array(now, dtype=np.float32, order="C")
        for step in rng.permutation(4):
            strength = (t.brightness, t.contrast, t.saturation, t.hue)[step]
            if not strength:
                continue
            if step == 3:
                now = hue_by_pillow(now, round(rng.uniform(-strength, strength) * 256))
                continue
            factor = np.float32(rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength))
            grey = now @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
            other = (0, grey.mean(), grey[..., None])[step]
            now = np.clip(now * factor + (1 - factor) * other, 0, 255)
    if t.scale != (1.0, 1.0):
        now = augment.rescale(now, rng.uniform(*t.scale), t.scale_fill)
    if happens(t.grey):
        now = augment.greyscale(np.ascontiguousarray(now))
    if happens(t.channel_exchange):
        now = augment.exchange_channels(np.ascontiguousarray(now), rng)
    mean, std = np.array(t.mean), np.array(t.std)
    result = now.astype(np.float32) * (1 / (255 * std)).astype(np.float32) + (-mean / std).astype(np.float32)
    result = np.ascontiguousarray(result.transpose(2, 0, 1))
    if happens(t.pca):
        result += (augment.colour_offset(rng, t.pca_deviation) / std).astype(np.float32)[:, None, None]
    if rng.random() < t.erasing:
        t.erase(result, rng)
    return result


def hue_by_pillow(values: np.ndarray, steps: int) -> np.ndarray:
    hue, *rest = Image.fromarray(np.rint(values).astype(np.uint8)).convert("HSV").split()
    turned = hue.point([(level + steps) % 256 for level in range(256)])
    return np.array(Image.merge("HSV", (turned, *rest)).convert("RGB")).astype(np.float32)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("form", ["picture", "array"])
def test_transforms_are_their_steps_one_by_one(form: str):
    for seed in range(60):
        height, width, options = settings(seed)
        transform = TrainTransform(height, width, **options)
        size = (height, width) if seed % 2 else (height + 7, width + 3)
        image, pool = Image.fromarray(noise(*size, seed)), [noise(height, width, seed + 1)]
        given = image if form == "picture" else np.array(image)
        out = np.full((3, height, width), np.nan, dtype=np.float32)
        mine, his = np.random.default_rng(seed), np.random.default_rng(seed)
        assert transform(given, mine, pool, out=out) is out
        assert np.array_equal(out, step_by_step(transform, image, his, pool)), options
        assert mine.random() == his.random(), "as many draws"
        assert np.array_equal(transform(given, np.random.default_rng(seed), pool), out)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_place_takes_any_layout(dtype: type):
    base = noise(12, 20).astype(dtype)
    scale, shift = np.float32([0.25, -1.5, 3.1]), np.float32([0.1, 7.0, -2.5])
    padded = np.zeros((12, 20, 4), dtype=dtype)
    padded[..., :3] = base
    planar = np.ascontiguousarray(base.transpose(2, 0, 1)).transpose(1, 2, 0)
    for view in (base, padded[..., :3], planar, base[::-1], base[:, ::-1], base[2:9, 3:8], base[::2, ::3]):
        for mirrored, down, right in (
            (False, 0, 0),
            (True, 0, 0),
            (True, 2, -3),
            (False, -50, 1),
            (True, 1, 99),
        ):
            border = np.float32([9.5, 0.0, 255.0])
            turned = view[:, ::-1] if mirrored else view
            expected = np.empty(view.shape, dtype=np.float32)
            for y in range(view.shape[0]):
                for x in range(view.shape[1]):
                    inside = 0 <= y - down < view.shape[0] and 0 <= x - right < view.shape[1]
                    expected[y, x] = turned[y - down, x - right] if inside else border
            where = {"mirrored": mirrored, "down": down, "right": right, "border": border.tolist()}
            assert np.array_equal(pixels.canvas(view, **where), expected)
            result = np.empty((3, *view.shape[:2]), dtype=np.float32)
            pixels.place(view, result, scale.tolist(), shift.tolist(), **where)
            assert np.array_equal(result, (expected * scale + shift).transpose(2, 0, 1))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("steps", [0, 1, 100, -77])
def test_hue_of_colours_all_over_the_cube(steps: int):
    levels = np.r_[0:256:7, 253:256].astype(np.float32)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(len(levels), -1, 3)
    turned = cube.copy()
    pixels.turn_hue(turned, steps / 256)
    assert np.array_equal(turned, hue_by_pillow(cube, steps))
    halves = np.float32([[[0.5, 1.5, 254.5], [2.5, 2.5, 2.5], [254.6, 0.4, 3.5]]])
    pixels.turn_hue(halves, 0)
    assert np.array_equal(halves, hue_by_pillow(np.float32([[[0, 2, 254], [2, 2, 2], [255, 0, 4]]]), 0))


def test_a_picture_lends_its_memory():
    image = Image.fromarray(noise(30, 17))
    lent = pixels.pixels_of(image)
    assert np.array_equal(lent, noise(30, 17))
    if hasattr(image, "__arrow_c_array__"):
        image.putpixel((3, 5), (1, 2, 3))
        assert tuple(lent[5, 3]) == (1, 2, 3), "a view, not a copy"
    before = lent.copy()
    del image
    for seed in range(50):
        Image.fromarray(noise(30, 17, seed))  # would take the freed memory
    assert np.array_equal(lent, before)
    assert not lent.flags.writeable
    assert np.array_equal(pickle.loads(pickle.dumps(lent)), before)
    with pytest.raises(ValueError, match=r"read-only|not writeable"):
        lent[0, 0, 0] = 1


def test_pictures_that_cannot_lend_are_copied(monkeypatch: pytest.MonkeyPatch):
    image = Image.fromarray(noise(30, 17))
    monkeypatch.setattr(pixels, "_LENT_BYTES", 4 * 30 * 17 - 1)
    assert np.array_equal(pixels.pixels_of(image), noise(30, 17))
    assert pixels.pixels_of(image).strides == (51, 3, 1)
    if hasattr(image, "__arrow_c_array__"):
        capsules = image.convert("L").__arrow_c_array__()
        with pytest.raises(ValueError, match="Lent: capsules: got another layout"):
            pixels.native.Lent(capsules, 30, 17)
        with pytest.raises(ValueError, match="Lent: capsules: got another layout"):
            pixels.native.Lent(image.__arrow_c_array__(), 31, 17)


@pytest.mark.parametrize("transform", [EvalTransform(6, 4), TrainTransform(6, 4)])
@pytest.mark.parametrize(
    ("out", "got"),
    [
        (np.empty((3, 4, 6), np.float32), r"float32 array of shape \(3, 4, 6\)"),
        (np.empty((3, 6, 4), np.float64), r"float64 array of shape \(3, 6, 4\)"),
        (np.empty((6, 4, 3), np.float32).transpose(2, 0, 1), r"float32 array of shape \(3, 6, 4\)"),
        (np.frombuffer(bytes(288), np.float32).reshape(3, 6, 4), r"float32 array of shape \(3, 6, 4\)"),
        ([1.0], "list"),
    ],
)
def test_a_wrong_place_is_refused(transform: EvalTransform, out: object, got: str):
    expected = r"expected writable, contiguous float32 of shape \(3, 6, 4\)"
    with pytest.raises(ValueError, match=f"{type(transform).__name__}: out: got {got}, {expected}"):
        transform(noise(6, 4), np.random.default_rng(0), out=out)


def test_jpeg_to_batch_is_the_long_way_round():
    """What a loader does with a JPEG file, against Pillow's array and NumPy."""
    file = io.BytesIO()
    Image.fromarray(noise(9, 7)).resize((64, 128), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    image = Image.open(file)
    out = np.empty((2, 3, 128, 64), dtype=np.float32)
    EvalTransform(128, 64)(image, out=out[1])
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (np.array(Image.open(file)) / 255 - mean) / std
    np.testing.assert_allclose(out[1], expected.transpose(2, 0, 1), rtol=0, atol=1e-6)
