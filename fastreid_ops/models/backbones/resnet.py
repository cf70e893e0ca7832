# SPDX-License-Identifier: Apache-2.0
"""Residual networks (He et al., "Deep residual learning for image recognition", CVPR 2016).

Parameter names and numbers are those of torchvision's ``resnet50`` without its ``fc``, so its weight files load as
they are. The stride of a bottleneck sits in its 3x3 convolution, as there.

Relatives of the network (IBN, squeeze and excitation, split attention) change single parts of a block or of the
stem; those parts are fields of `BlockPlan` and arguments of `ResNet`, so a relative is a plan, not a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fastreid_ops.models.initialise import initialise

NormFactory = Callable[[int], nn.Module]


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """3x3 convolution without bias, padding 1."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, 1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """1x1 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


@dataclass(frozen=True)
class BlockPlan:
    """What one residual block is made of.

    Attributes:
        groups, base_width: of the 3x3 convolution (ResNeXt, wide nets); its width is planes * base_width / 64 * groups.
        norm1: factory (channels) of the normalisation after the first convolution (IBN-a).
        conv2: factory (in, out, stride, groups) of the middle convolution (split attention, deformable).
        conv2_normalises: that module normalises and activates by itself: a bottleneck has no ``bn2``.
        stride_first: the stride of a bottleneck sits in its first convolution, as in the networks that come from Caffe,
            and not in the 3x3 one.
        narrow_first: divisor of the first convolution's width (2 in SENet-154).
        gate: attribute name and factory (channels) of a module applied to the branch before the addition (SE, CBAM).
        gate_adds: the gate also adds the shortcut and applies the ReLU, called as gate(branch, residual=shortcut,
            relu=True): one pass over the map instead of three. Not together with norm_out.
        norm_out: attribute name and factory (channels) of a module applied to the sum before its ReLU (IBN-b).
    """

    groups: int = 1
    base_width: int = 64
    norm1: NormFactory = nn.BatchNorm2d
    conv2: Callable[[int, int, int, int], nn.Module] = conv3x3
    conv2_normalises: bool = False
    stride_first: bool = False
    narrow_first: int = 1
    gate: tuple[str, NormFactory] | None = None
    gate_adds: bool = False
    norm_out: tuple[str, NormFactory] | None = None


def plain_plan(stage: int, index: int, blocks: int) -> BlockPlan:
    """Plan of the plain network; ``stage`` 1..4, ``index`` 0..``blocks`` - 1 within the stage."""
    return BlockPlan()


def conv_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Projection shortcut: strided 1x1 convolution and batch normalisation."""
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


class _Block(nn.Module):
    """What the two kinds of blocks share: gate, addition, normalisation of the sum, ReLU."""

    def _finish(self, out_channels: int, shortcut: nn.Module | None, plan: BlockPlan) -> None:
        self.relu = nn.ReLU(inplace=True)
        self._gate, self._norm_out = plan.gate and plan.gate[0], plan.norm_out and plan.norm_out[0]
        self._gate_adds = plan.gate_adds and plan.norm_out is None
        for part in (plan.gate, plan.norm_out):
            if part is not None:
                self.add_module(part[0], part[1](out_channels))
        self.downsample = shortcut  # last, as in the originals: the order of the parameters is theirs

    def _add(self, x: Tensor, branch: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        if self._gate is not None:
            gate = getattr(self, self._gate)
            if self._gate_adds:
                return gate(branch, residual=shortcut, relu=True)
            branch = gate(branch)
        total = branch + shortcut
        if self._norm_out is not None:
            total = getattr(self, self._norm_out)(total)
        return self.relu(total)


class BasicBlock(_Block):
    """3x3 -> 3x3 block with a shortcut. (B, C, H, W) -> (B, planes, H / stride, W / stride).

    Of a `BlockPlan` it takes ``norm1``, ``conv2``, ``gate`` and ``norm_out``.
    """

    expansion = 1

    def __init__(
        self, in_channels: int, planes: int, stride: int, shortcut: nn.Module | None, plan: BlockPlan
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, planes, stride)
        self.bn1 = plan.norm1(planes)
        self.conv2 = plan.conv2(planes, planes, 1, 1)
        self.bn2 = nn.BatchNorm2d(planes)
        self._finish(planes, shortcut, plan)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self._add(x, self.bn2(self.conv2(y)))


class Bottleneck(_Block):
    """1x1 -> 3x3 -> 1x1 block with a shortcut. (B, C, H, W) -> (B, 4 * planes, H / stride, W / stride)."""

    expansion = 4

    def __init__(
        self, in_channels: int, planes: int, stride: int, shortcut: nn.Module | None, plan: BlockPlan
    ) -> None:
        super().__init__()
        width = planes * plan.base_width // 64 * plan.groups
        first = width // plan.narrow_first
        out_channels = planes * self.expansion
        stride1, stride2 = (stride, 1) if plan.stride_first else (1, stride)
        self.conv1 = conv1x1(in_channels, first, stride1)
        self.bn1 = plan.norm1(first)
        self.conv2 = plan.conv2(first, width, stride2, plan.groups)
        self.bn2 = None if plan.conv2_normalises else nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self._finish(out_channels, shortcut, plan)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.conv2(y)
        if self.bn2 is not None:
            y = self.relu(self.bn2(y))
        return self._add(x, self.bn3(self.conv3(y)))


def residual_stages(
    in_channels: int,
    blocks: Sequence[int],
    *,
    block: type[BasicBlock] | type[Bottleneck] = Bottleneck,
    last_stride: int = 2,
    plan: Callable[[int, int, int], BlockPlan] = plain_plan,
    shortcut: Callable[[int, int, int], nn.Module] = conv_shortcut,
) -> list[nn.Sequential]:
    """The four stages after a stem of ``in_channels``, 64, 128, 256 and 512 planes; arguments as in `ResNet`.

    Raises:
        ValueError: last_stride other than 1 or 2.
    """
    if last_stride not in (1, 2):
        raise ValueError(f"ResNet: last_stride: got {last_stride!r}, expected 1 or 2")
    stages, channels = [], in_channels
    for stage, (count, stride) in enumerate(zip(blocks, (1, 2, 2, last_stride), strict=True), start=1):
        planes = 32 * 2**stage
        layer = []
        for index in range(count):
            step, out = (stride if index == 0 else 1), planes * block.expansion
            projection = shortcut(channels, out, step) if step != 1 or channels != out else None
            layer.append(block(channels, planes, step, projection, plan(stage, index, count)))
            channels = out
        stages.append(nn.Sequential(*layer))
    return stages


def check_blocks(model: str, blocks: object) -> None:
    """Refuse anything but the numbers of blocks of four stages, whole numbers from 1."""
    good = isinstance(blocks, Sequence) and len(blocks) == 4
    if not good or any(
        isinstance(count, bool) or not isinstance(count, int) or count < 1 for count in blocks
    ):
        raise ValueError(f"{model}: blocks: got {blocks!r}, expected four whole numbers from 1")


def close_residuals(network: nn.Module) -> None:
    """The last normalisation of every bottleneck in it starts at 0, so that the blocks start as nothing (Goyal et al.,
    "Accurate, large minibatch SGD", 2017, section 5.1). For training from random weights, whose many blocks otherwise
    drown what the first of them saw.
    """
    for block in network.modules():
        if isinstance(block, Bottleneck):
            nn.init.zeros_(block.bn3.weight)


class ResNet(nn.Module):
    """Image (B, 3, H, W) -> feature map (B, ``out_channels``, H / 32, W / 32), or H / 16, W / 16 with last_stride 1.

    Args:
        blocks: number of blocks of the four stages, (3, 4, 6, 3) for ResNet-50.
        block: kind of the blocks; `BasicBlock` in ResNet-18 and 34.
        last_stride: stride of the fourth stage, 1 or 2. Stride 1 keeps a map of twice the height and width for the
            same weights; worth 1-2 % Rank-1 in re-identification (Sun et al., ECCV 2018; Luo et al., CVPRW 2019).
        plan: (stage 1..4, index, blocks of the stage) -> `BlockPlan`.
        stem_conv: factory of ``conv1``, 3 -> ``stem_channels`` channels at half size; default 7x7.
        stem_channels: width of the stem.
        stem_norm: factory (channels) of ``bn1``.
        shortcut: factory (in, out, stride) of the projection shortcuts.

    Raises:
        ValueError: last_stride other than 1 or 2.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        *,
        block: type[BasicBlock] | type[Bottleneck] = Bottleneck,
        last_stride: int = 2,
        plan: Callable[[int, int, int], BlockPlan] = plain_plan,
        stem_conv: Callable[[], nn.Module] | None = None,
        stem_channels: int = 64,
        stem_norm: NormFactory = nn.BatchNorm2d,
        shortcut: Callable[[int, int, int], nn.Module] = conv_shortcut,
    ) -> None:
        super().__init__()
        stages = residual_stages(
            stem_channels, blocks, block=block, last_stride=last_stride, plan=plan, shortcut=shortcut
        )
        self.conv1 = nn.Conv2d(3, stem_channels, 7, 2, 3, bias=False) if stem_conv is None else stem_conv()
        self.bn1 = stem_norm(stem_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for number, stage in enumerate(stages, start=1):
            self.add_module(f"layer{number}", stage)
        self.out_channels = 512 * block.expansion
        # Only gates have linear layers and biases here; the originals leave those at torch's own values.
        initialise(self, linear_std=None, conv_bias=False)

    def feature_map(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, ``out_channels``, H', W'), after the last ReLU."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, images: Tensor) -> Tensor:
        return self.feature_map(images)


RESNET18 = (2, 2, 2, 2)
RESNET34 = RESNET50 = (3, 4, 6, 3)
RESNET101 = (3, 4, 23, 3)
RESNET152 = (3, 8, 36, 3)
