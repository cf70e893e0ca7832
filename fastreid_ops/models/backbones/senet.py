# SPDX-License-Identifier: Apache-2.0
"""Squeeze-and-excitation networks (Hu et al., CVPR 2018) with the names and shapes of Cadene's pretrained models.

They come from Caffe: the stem's pooling has no padding and rounds its size up, and SE-ResNet keeps the stride of a
block in its first convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from fastreid_ops.layers.squeeze_excitation import SEModule
from fastreid_ops.models.backbones.resnet import BlockPlan, conv3x3, conv_shortcut, residual_stages

SENET154 = (3, 8, 36, 3)


def se_plan(
    groups: int = 1, base_width: int = 64, *, stride_first: bool = False, narrow_first: int = 1
) -> Callable[[int, int, int], BlockPlan]:
    """Plan of a network with one gate, ``se_module``, at the end of every block."""
    plan = BlockPlan(
        groups=groups,
        base_width=base_width,
        stride_first=stride_first,
        narrow_first=narrow_first,
        gate=("se_module", SEModule),
        gate_adds=True,
    )
    return lambda stage, index, blocks: plan


def _conv_norm_relu(number: int, conv: nn.Conv2d) -> list[tuple[str, nn.Module]]:
    return [
        (f"conv{number}", conv),
        (f"bn{number}", nn.BatchNorm2d(conv.out_channels)),
        (f"relu{number}", nn.ReLU(inplace=True)),
    ]


class SENet(nn.Module):
    """Image (B, 3, H, W) -> feature map (B, ``out_channels``, about H / 32, W / 32), or twice that with last_stride 1.

    Args:
        blocks: number of blocks of the four stages.
        plan: see `se_plan`.
        deep_stem: three 3x3 convolutions and 128 channels in place of one 7x7 convolution and 64 (SENet-154), and
            3x3 convolutions in the shortcuts of stages 2 to 4.
        last_stride: stride of the fourth stage, 1 or 2.

    Raises:
        ValueError: last_stride other than 1 or 2.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        plan: Callable[[int, int, int], BlockPlan],
        *,
        deep_stem: bool = False,
        last_stride: int = 2,
    ) -> None:
        super().__init__()
        channels = 128 if deep_stem else 64
        if deep_stem:
            stem = [
                *_conv_norm_relu(1, conv3x3(3, 64, 2)),
                *_conv_norm_relu(2, conv3x3(64, 64)),
                *_conv_norm_relu(3, conv3x3(64, channels)),
            ]
        else:
            stem = _conv_norm_relu(1, nn.Conv2d(3, channels, 7, 2, 3, bias=False))
        self.layer0 = nn.Sequential()
        for name, module in [*stem, ("pool", nn.MaxPool2d(3, 2, ceil_mode=True))]:
            self.layer0.add_module(name, module)

        def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
            if not deep_stem or in_channels == channels:
                return conv_shortcut(in_channels, out_channels, stride)
            return nn.Sequential(conv3x3(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))

        stages = residual_stages(channels, blocks, last_stride=last_stride, plan=plan, shortcut=shortcut)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.out_channels = 2048

    def feature_map(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, ``out_channels``, H', W'), after the last ReLU."""
        return self.layer4(self.layer3(self.layer2(self.layer1(self.layer0(images)))))

    def forward(self, images: Tensor) -> Tensor:
        return self.feature_map(images)
