# SPDX-License-Identifier: Apache-2.0
"""HACNN: harmonious attention network (Li et al., CVPR 2018), names as in deep-person-reid (torchreid, MIT). 2.93 M
parameters without the classifiers, 544 M multiply-adds."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.layers.conv import ConvNorm
from fastreid_ops.layers.fully_connected import fully_connected
from fastreid_ops.layers.harmonious_attention import REGIONS, HarmAttn
from fastreid_ops.models.output import TrainOutput

SIZE = (160, 64)
# Height and width of a region at the input of each of the three local blocks.
REGION_SIZES = ((24, 28), (12, 14), (6, 7))
# A region has the image's width and a quarter of its height; only its place is learned.
SCALE = (1.0, 0.25)

_conv = partial(ConvNorm, bias=True)


class InceptionA(nn.Module):
    """Four streams of the same width beside each other. (B, in_channels, H, W) -> (B, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        middle = out_channels // 4

        def stream() -> nn.Sequential:
            return nn.Sequential(_conv(in_channels, middle), _conv(middle, middle, 3, padding=1))

        self.stream1 = stream()
        self.stream2 = stream()
        self.stream3 = stream()
        self.stream4 = nn.Sequential(nn.AvgPool2d(3, 1, 1), _conv(in_channels, middle))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.stream1(x), self.stream2(x), self.stream3(x), self.stream4(x)], 1)


class InceptionB(nn.Module):
    """Three streams beside each other that halve the map, sizes rounded up.

    (B, in_channels, H, W) -> (B, out_channels, H / 2, W / 2).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        middle = out_channels // 4
        self.stream1 = nn.Sequential(
            _conv(in_channels, middle), _conv(middle, middle, 3, stride=2, padding=1)
        )
        self.stream2 = nn.Sequential(
            _conv(in_channels, middle),
            _conv(middle, middle, 3, padding=1),
            _conv(middle, middle, 3, stride=2, padding=1),
        )
        self.stream3 = nn.Sequential(nn.MaxPool2d(3, 2, 1), _conv(in_channels, 2 * middle))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.stream1(x), self.stream2(x), self.stream3(x)], 1)


def _positions(count: int, align_corners: bool, like: Tensor) -> Tensor:
    """Places of ``count`` pixels on an axis from -1 to 1: their centres, or the first and the last at the ends."""
    steps = torch.arange(count, dtype=like.dtype, device=like.device)
    return 2 * steps / (count - 1) - 1 if align_corners else (2 * steps + 1) / count - 1


def _reading(size: int, scale: float, move: Tensor, out: int, align_corners: bool) -> Tensor:
    """Weights (..., out, size) that read ``out`` values of a region off an axis of ``size`` pixels.

    Linear sampling with zeros outside at ``size`` places that are scaled and moved by ``move`` (...), then a linear
    resize with aligned corners.
    """
    place = scale * _positions(size, align_corners, move) + move[..., None]
    pixel = (place + 1) * ((size - 1) / 2) if align_corners else ((place + 1) * size - 1) / 2
    left = pixel.detach().floor()
    share = pixel - left
    pixels = torch.arange(size, dtype=move.dtype, device=move.device)
    is_left, is_right = (pixels == (left + side)[..., None] for side in (0, 1))
    sampled = torch.where(is_left, (1 - share)[..., None], torch.where(is_right, share[..., None], 0.0))
    resize = torch.arange(out, dtype=move.dtype, device=move.device) * ((size - 1) / max(out - 1, 1))
    resize = (1 - (resize[:, None] - pixels).abs()).clamp_min(0)
    return resize @ sampled


def cut_regions(x: Tensor, places: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Spatial transformer of R regions: (B, C, H, W), H and W at least 2 -> (B, R, C, *size), float32 at least.

    Bilinear sampling with zeros outside the map, on a grid of the map's own size that is scaled by `SCALE` and moved by
    ``places`` (B, R, 2), (x, y) in [-1, 1]; then a bilinear resize with aligned corners. As such a grid does not turn,
    both are a product of matrices on each axis, and the sampled map is never laid out.
    """
    # float32 under autocast too: bfloat16 cannot tell neighbouring positions apart.
    kind = torch.promote_types(x.dtype, torch.float32)
    batch, channels, height, width = x.shape
    regions = places.shape[1]
    # "meta" has no autocast, not even to switch off.
    whole = nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
    with whole:
        x, places = x.to(kind), places.to(kind)
        rows = _reading(height, SCALE[1], places[..., 1], size[0], align_corners)
        columns = _reading(width, SCALE[0], places[..., 0], size[1], align_corners)
        # The rows of all channels and regions in one product for a sample; the columns of a region in another.
        lines = x.transpose(1, 2).reshape(batch, height, channels * width)
        read = rows.flatten(1, 2).bmm(lines).view(batch, regions, size[0] * channels, width)
        read = read @ columns.mT
    return read.view(batch, regions, size[0], channels, size[1]).transpose(2, 3)


class HACNN(nn.Module):
    """Harmonious attention network for images of 160 x 64.

    Three stages of inception blocks, each followed by soft attention on its output and by a guess where four regions
    are. A local branch sees the regions, cut out of the stages' inputs by a spatial transformer.

    Evaluation: (B, 3, 160, 64) -> (B, 2 * branch_dim), the feature of the global and that of the local branch, each
    divided by its L2 norm (norm sqrt(2); a branch of zeros stays zero where the original gives NaN). Without regions
    (B, branch_dim), not normalised. Training: a head and a feature for each branch, global first, features not
    normalised. All layers but the places of the regions start from torch's own initial values.

    Args:
        num_classes: number of training identities.
        learn_region: the local branch. Without it the places of the regions have weights but no use.
        align_corners: of the spatial transformer. False is what deep-person-reid does on torch 1.3 and later; True is
            what it did before, and what its published weights were trained with. The two differ in the local half of
            the feature only. (The up-sampling in the attention and the resize of the regions always align corners.)
        channels: of the three stages; multiples of 16.
        branch_dim: width of the feature of a branch.

    Raises:
        ValueError: images of another size.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        learn_region: bool = True,
        align_corners: bool = False,
        channels: tuple[int, int, int] = (128, 256, 384),
        branch_dim: int = 512,
    ) -> None:
        super().__init__()
        self.learn_region = learn_region
        self.align_corners = align_corners
        self.feature_dim = 2 * branch_dim if learn_region else branch_dim
        self.conv = _conv(3, 32, 3, stride=2, padding=1)
        widths = (32, *channels)
        for stage in (1, 2, 3):
            before, after = widths[stage - 1], widths[stage]
            inception = nn.Sequential(InceptionA(before, after), InceptionB(after, after))
            self.add_module(f"inception{stage}", inception)
            self.add_module(f"ha{stage}", HarmAttn(after))
            if learn_region:
                self.add_module(f"local_conv{stage}", InceptionB(before, after))
        self.fc_global = fully_connected(channels[-1], (branch_dim,))
        self.classifier_global = nn.Linear(branch_dim, num_classes)
        if learn_region:
            self.fc_local = fully_connected(REGIONS * channels[-1], (branch_dim,))
            self.classifier_local = nn.Linear(branch_dim, num_classes)

    def _branches(self, images: Tensor) -> list[Tensor]:
        """Features (B, branch_dim) of the global and, where there is one, of the local branch."""
        if tuple(images.shape[2:]) != SIZE:
            raise ValueError(
                f"HACNN: images: got height and width {tuple(images.shape[2:])}, expected {SIZE}"
            )
        x = self.conv(images)
        local: list[Tensor] = []
        for stage, size in enumerate(REGION_SIZES, start=1):
            source = x
            x, places = getattr(self, f"ha{stage}")(getattr(self, f"inception{stage}")(source))
            if self.learn_region:
                block = getattr(self, f"local_conv{stage}")
                # One call a region: in training each has batch statistics of its own.
                regions = cut_regions(source, places, size, self.align_corners).unbind(1)
                local = (
                    [block(a + b) for a, b in zip(regions, local, strict=True)]
                    if local
                    else [block(region) for region in regions]
                )
        features = [self.fc_global(x.mean((2, 3)))]
        if self.learn_region:
            features.append(self.fc_local(torch.cat([part.mean((2, 3)) for part in local], 1)))
        return features

    def forward(self, images: Tensor) -> Tensor | TrainOutput:
        features = self._branches(images)
        if self.training:
            heads = [self.classifier_global, *([self.classifier_local] if self.learn_region else [])]
            logits = tuple(head(feature) for head, feature in zip(heads, features, strict=True))
            return TrainOutput(logits, tuple(features))
        if not self.learn_region:
            return features[0]
        return torch.cat([F.normalize(feature) for feature in features], 1)


def hacnn(
    num_classes: int,
    *,
    learn_region: bool = True,
    align_corners: bool = False,
    channels: tuple[int, int, int] = (128, 256, 384),
    branch_dim: int = 512,
) -> HACNN:
    """HACNN, feature of 1024 (512 without regions), images of 160 x 64; published weights want ``align_corners``."""
    return HACNN(
        num_classes,
        learn_region=learn_region,
        align_corners=align_corners,
        channels=channels,
        branch_dim=branch_dim,
    )
