# SPDX-License-Identifier: Apache-2.0
"""From a picture to network input, with NumPy and Pillow; every random number comes from the generator given.

Sources: resizing, padding, cropping, flipping and erasing as in "Bag of Tricks and A Strong Baseline for Deep
    Person
Re-identification" (Luo et al., 2019); erasing from "Random Erasing Data Augmentation" (Zhong et al., 2017)
with the sampling of the deep-person-reid repository; colour jitter with the factors and the random order of
torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from fastreid_ops.data import augment
from fastreid_ops.data import pixels as kernels

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ERASING_FILLS = ("mean", "mean_in_units", "black", "random")


@dataclass(frozen=True)
class EvalTransform:
    """Resize (bilinear, antialiased) and normalise.

    Attributes:
        height, width: size of the result in pixels.
        mean, std: of each RGB channel, for values from 0 to 1; ImageNet's by default.
    """

    height: int
    width: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                self._refuse(name, "a whole number of pixels from 1")
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) != 3 or not np.isfinite(values).all() or (name == "std" and min(values) <= 0):
                self._refuse(name, "three finite numbers" + (" above 0" if name == "std" else ""))

    def _refuse(self, name: str, expected: str) -> None:
        raise ValueError(f"{type(self).__name__}: {name}: got {getattr(self, name)!r}, expected {expected}")

    def resize(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """The part without chance: uint8 array of shape (height, width, 3).

        Args:
            image: PIL image, or an RGB uint8 array of shape (H, W, 3), which is passed through at the right
                size.

        Raises:
            TypeError, ValueError: for anything else.
        """
        picture = self._fitted(image)
        return picture if isinstance(picture, np.ndarray) else kernels.pixels_of(picture)

    def _fitted(self, image: Image.Image | np.ndarray) -> Image.Image | np.ndarray:
        """The image at the right size, in the form that costs nothing."""
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
                got = f"{image.dtype} array of shape {image.shape}"
                raise ValueError(
                    f"{type(self).__name__}: image: got {got}, expected uint8 of shape (H, W, 3)"
                )
            if image.shape[:2] == (self.height, self.width):
                return image
            image = Image.fromarray(image)
        if not isinstance(image, Image.Image):
            got = type(image).__name__
            raise TypeError(f"{type(self).__name__}: image: got {got}, expected a PIL image or a uint8 array")
        if image.mode != "RGB":
            raise ValueError(
                f"{type(self).__name__}: image: got mode {image.mode}, expected RGB as read_image gives"
            )
        if image.size != (self.width, self.height):
            return image.resize((self.width, self.height), Image.Resampling.BILINEAR)
        return image

    @cached_property
    def _scale_and_shift(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        mean, std = np.array(self.mean), np.array(self.std)
        scale, shift = 1.0 / (255.0 * std), -mean / std
        return tuple(scale.astype(np.float32).tolist()), tuple(shift.astype(np.float32).tolist())

    def normalise(self, pixels: np.ndarray, out: np.ndarray | None = None, **place: object) -> np.ndarray:
        """(H, W, 3) pixels from 0 to 255 -> contiguous float32 (3, H, W), (value / 255 - mean) / std.

        Args:
            out: written and returned instead of a new array.
            place: `mirrored`, `down`, `right` and `border` of `pixels.place`, done on the way.
        """
        result = np.empty((3, *pixels.shape[:2]), dtype=np.float32) if out is None else out
        kernels.place(pixels, result, *self._scale_and_shift, **place)
        return result

    def _checked(self, out: np.ndarray | None) -> np.ndarray:
        """Where the result goes."""
        shape = (3, self.height, self.width)
        if out is None:
            return np.empty(shape, dtype=np.float32)
        fits = isinstance(out, np.ndarray) and out.shape == shape and out.dtype == np.float32
        if not (fits and out.flags.c_contiguous and out.flags.writeable):
            got = (
                f"{out.dtype} array of shape {out.shape}"
                if isinstance(out, np.ndarray)
                else type(out).__name__
            )
            expected = f"writable, contiguous float32 of shape {shape}"
            raise ValueError(f"{type(self).__name__}: out: got {got}, expected {expected}")
        return out

    def __call__(
        self,
        image: Image.Image | np.ndarray,
        rng: np.random.Generator | None = None,
        *,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Contiguous float32 (3, height, width); `rng` is not used.

        Args:
            out: such an array, as a place in a batch, written and returned instead of a new one.

        Raises:
            ValueError: for an `out` of another kind.
        """
        return self.normalise(self.resize(image), self._checked(out))


@dataclass(frozen=True)
class TrainTransform(EvalTransform):
    """Resize, flip, translate, pad and crop, patch, colour jitter, rescale, grey, channel exchange, PCA jitter,
    normalise, erase, in this order; what is off draws no random number.

    deep-person-reid: flip, `translation`, `patch`, jitter, erasing. NAIC: flip, padding, jitter, `scale`,
    erasing. DEEN: `grey` beside padding and flip. CAJ and WRIM-Net: `channel_exchange`. Where a source's order
    is another one (DEEN greys between padding and cropping) the two give the same pictures.

    Attributes:
        crop_padding: pixels added on every side before a window of the original size is cut at a random
            place; 0: off.
        padding_fill: "mean" pads with the mean colour (0 after normalisation), "black" as the sources do.
        flip: probability of a horizontal flip.
        erasing: probability of random erasing.
        erasing_area: smallest and largest erased area as a fraction of the image (uniform).
        erasing_aspect: smallest height / width of the erased rectangle; its inverse is the largest (uniform,
            not logarithmic, as in the source). Rectangles as high or as wide as the image are drawn again, up
            to 100 times; then nothing is erased.
        erasing_fill: painted value in normalised units, one number or one for each channel. 0, the default,
            is the mean colour. Or a name: "mean" is 0; "mean_in_units" is `mean` itself in these units, which
            is what deep-person-reid, NAIC and DEEN paint by erasing after normalisation; "black" is 0 before
            normalisation; "random" draws each value of each pixel uniformly from 0 to 255 before normalisation
            (Zhong et al.). Erasing before normalisation with a value v is erasing after it with the normalised v.
        brightness, contrast, saturation: each factor is uniform in [max(0, 1 - x), 1 + x]; 0: off.
        hue: shift uniform in [-x, x] as a fraction of the colour circle, at most 0.5; 0: off.
        jitter: probability that an image is jittered at all.
        translation: probability of deep-person-reid's Random2DTranslation: enlarged by 1.125, then cut at random.
        patch: probability that a piece of another image of the batch is pasted (RandomPatch).
        scale: the image is scaled around its centre by a factor uniform in this range, (1, 1): off.
        scale_fill: what then fills the border, 0 to 255. The DMT system passes the number 128, which
            Pillow reads as the dark red (128, 0, 0) in a colour image; here it is grey.
        grey: probability of greyscale.
        channel_exchange: probability that one channel, or their grey, takes the place of all three.
        pca: probability of a shift along the principal components of ImageNet's colours.
        pca_deviation: standard deviation of its three coefficients.
    """

    crop_padding: int = 10
    padding_fill: str = "mean"
    flip: float = 0.5
    erasing: float = 0.5
    erasing_area: tuple[float, float] = (0.02, 0.4)
    erasing_aspect: float = 0.3
    erasing_fill: float | tuple[float, float, float] | str = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter: float = 1.0
    translation: float = 0.0
    patch: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    scale_fill: float = 128.0
    grey: float = 0.0
    channel_exchange: float = 0.0
    pca: float = 0.0
    pca_deviation: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        padding = self.crop_padding
        if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
            self._refuse("crop_padding", "a whole number of pixels from 0")
        if self.padding_fill not in ("mean", "black"):
            self._refuse("padding_fill", "'mean' or 'black'")
        for name in _PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                self._refuse(name, "a probability from 0 to 1")
        for name, most in (
            ("brightness", np.inf),
            ("contrast", np.inf),
            ("saturation", np.inf),
            ("hue", 0.5),
            ("pca_deviation", np.inf),
            ("scale_fill", 255),
        ):
            if not (0 <= getattr(self, name) <= most and np.isfinite(getattr(self, name))):
                self._refuse(name, "a number from 0" + (f" to {most}" if np.isfinite(most) else ""))
        object.__setattr__(self, "erasing_area", tuple(float(value) for value in self.erasing_area))
        if len(self.erasing_area) != 2 or not 0 < self.erasing_area[0] <= self.erasing_area[1] <= 1:
            self._refuse("erasing_area", "two fractions with 0 < smallest <= largest <= 1")
        if not 0 < self.erasing_aspect <= 1:
            self._refuse("erasing_aspect", "a number above 0, at most 1")
        object.__setattr__(self, "scale", tuple(float(value) for value in self.scale))
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] < np.inf:
            self._refuse("scale", "two factors with 0 < smallest <= largest")
        if isinstance(self.erasing_fill, str):
            if self.erasing_fill not in ERASING_FILLS:
                self._refuse("erasing_fill", f"numbers or one of {', '.join(ERASING_FILLS)}")
            return
        fill = np.asarray(self.erasing_fill, dtype=np.float64)
        if fill.shape not in ((), (3,)) or not np.isfinite(fill).all():
            self._refuse("erasing_fill", "one finite number or three")

    @property
    def needs_pool(self) -> bool:
        """Whether `__call__` must be given the images of the batch."""
        return self.patch > 0

    def __call__(
        self,
        image: Image.Image | np.ndarray,
        rng: np.random.Generator | None = None,
        pool: Sequence[np.ndarray] | None = None,
        *,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Contiguous float32 (3, height, width); the same generator state gives the same array.

        Args:
            pool: uint8 (height, width, 3) images that patches are cut from, such as those of the batch; needed
                only with `patch`.
            out: as in `EvalTransform`.

        Raises:
            TypeError: without a `numpy.random.Generator`. ValueError: with `patch` and without a pool, and for an
            `out` of another kind.
        """
        if not isinstance(rng, np.random.Generator):
            got = type(rng).__name__
            raise TypeError(f"TrainTransform: rng: got {got}, expected numpy.random.Generator")
        if self.patch and not pool:
            raise ValueError(
                "TrainTransform: pool: got none, expected the images that patch cuts its pieces from"
            )
        picture, result = self._fitted(image), self._checked(out)
        # Mirroring and moving wait for the step that reads the pixels next: often that is the last one.
        place: dict[str, object] = {"mirrored": bool(rng.random() < self.flip)}
        if _happens(self.translation, rng):
            pixels = augment.translate(picture, rng, mirrored=place.pop("mirrored"))
        else:
            pixels = picture if isinstance(picture, np.ndarray) else kernels.pixels_of(picture)
        if self.crop_padding:
            place |= self._move(rng)
        if _happens(self.patch, rng):
            pixels, place = augment.patch(kernels.canvas(pixels, **place), pool, rng), {}
        if (self.brightness or self.contrast or self.saturation or self.hue) and rng.random() < self.jitter:
            pixels, place = self._recolour(kernels.canvas(pixels, **place), rng), {}
        if self.scale != (1.0, 1.0):
            factor = rng.uniform(*self.scale)
            pixels, place = augment.rescale(kernels.canvas(pixels, **place), factor, self.scale_fill), {}
        if _happens(self.grey, rng):
            pixels, place = augment.greyscale(kernels.canvas(pixels, **place)), {}
        if _happens(self.channel_exchange, rng):
            pixels, place = augment.exchange_channels(kernels.canvas(pixels, **place), rng), {}
        self.normalise(pixels, result, **place)
        if _happens(self.pca, rng):
            offset = augment.colour_offset(rng, self.pca_deviation) / np.array(self.std)
            result += offset.astype(np.float32)[:, None, None]
        if rng.random() < self.erasing:
            self.erase(result, rng)
        return result

    def _move(self, rng: np.random.Generator) -> dict[str, object]:
        """Padding by `crop_padding` and cutting the original size at a uniformly random place: a shift by up to
        the padding."""
        most = self.crop_padding
        down, right = (int(value) for value in rng.integers(-most, most, size=2, endpoint=True))
        return {"down": down, "right": right, "border": self._border}

    @cached_property
    def _border(self) -> tuple[float, ...]:
        """The colour that padding fills with, 0 to 255."""
        colour = np.array(self.mean if self.padding_fill == "mean" else (0, 0, 0), dtype=np.float32)
        return tuple((colour * np.float32(255)).tolist())

    def shift(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The padding and cutting alone: float32 (H, W, 3)."""
        return kernels.canvas(pixels, **self._move(rng))

    def recolour(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Brightness, contrast, saturation and hue in a random order, values kept within 0 to 255 after
        each."""
        return self._recolour(kernels.canvas(pixels), rng)

    def _recolour(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The same in place."""
        for step in rng.permutation(4):
            strength = (self.brightness, self.contrast, self.saturation, self.hue)[step]
            if not strength:
                continue
            if step == 3:
                kernels.turn_hue(pixels, rng.uniform(-strength, strength))
                continue
            factor = np.float32(rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength))
            if step == 0:
                kernels.blend(pixels, factor, np.float32(0))
                continue
            grey = pixels @ augment.GREY
            if step == 1:
                kernels.blend(pixels, factor, (1 - factor) * grey.mean())
            else:
                kernels.blend(pixels, factor, 1 - factor, grey)
        return pixels

    def erase(self, tensor: np.ndarray, rng: np.random.Generator) -> None:
        """Paint one random rectangle of a (3, H, W) array in place, or none after 100 misses."""
        height, width = tensor.shape[1:]
        size = augment.rectangle(rng, height, width, self.erasing_area, self.erasing_aspect)
        if size is None:
            return
        rows, columns = size
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        tensor[:, top : top + rows, left : left + columns] = self._paint(rows, columns, rng)

    def _paint(self, rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
        """What is painted, in normalised units: broadcasts to (3, rows, columns)."""
        fill = self.erasing_fill
        if isinstance(fill, str):
            if fill == "random":
                return self.normalise(rng.random((rows, columns, 3), dtype=np.float32) * np.float32(255))
            if fill == "black":
                return self.normalise(np.zeros((1, 1, 3), dtype=np.float32))
            fill = self.mean if fill == "mean_in_units" else 0.0
        value = np.asarray(fill, dtype=np.float32)
        return value[..., None, None] if value.ndim else value


_PROBABILITIES = ("flip", "erasing", "jitter", "translation", "patch", "grey", "channel_exchange", "pca")


def _happens(probability: float, rng: np.random.Generator) -> bool:
    """A draw, but only where there is something to decide."""
    return probability > 0 and rng.random() < probability


def turn_hue(pixels: np.ndarray, turn: float) -> np.ndarray:
    """Shift the hue of (H, W, 3) values from 0 to 255 by `turn` of the colour circle, in Pillow's 8-bit
    HSV; float32, whole levels."""
    result = kernels.canvas(pixels)
    kernels.turn_hue(result, turn)
    return result
