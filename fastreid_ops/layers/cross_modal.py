# SPDX-License-Identifier: Apache-2.0
"""Modality interaction of WRIM-Net (arXiv 2408.10624): a gate a value, made by self-attention on a compressed map.

Names, order and shapes of the layers are those of the network's printed tree; the tree does not fix how they are
joined. Where the algebra below is a choice it is a named argument: ``attn_residual`` and ``mdi_form``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastreid_ops.layers._network import first_map
from fastreid_ops.ops import _checks as check
from fastreid_ops.ops.attention import attention_gate

FORMS = ("residual", "serial", "parallel")


class SpatialChannelCompress(nn.Module):
    """A convolution of stride x stride, without overlap: (B, C, H, W) -> (B, out_channels, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class MHSA(nn.Module):
    """Multi-head self-attention on tokens: z + proj(softmax(q k' / sqrt(d)) v), q, k, v from LayerNorm(z).

    (B, N, dim) -> the same.

    Args:
        attn_residual: add z. The printed tree does not tell; default True.

    Raises:
        ValueError: a width that the heads do not divide.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        attn_residual: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        check.positive_int("MHSA", "num_heads", num_heads)
        if dim % num_heads:
            raise ValueError(check.message("MHSA", "dim", dim, f"a multiple of the {num_heads} heads"))
        self.num_heads = num_heads
        self.attn_residual = attn_residual
        self.norm = nn.LayerNorm((dim,))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, z: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(z)).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        drop = self.attn_drop.p if self.attn_drop.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=drop)
        out = self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return z + out if self.attn_residual else out


class SCI(nn.Module):
    """BN(relu(u * G)), G = sigmoid of a linear layer on `MHSA` of the compressed map, up-sampled to the nearest entry.

    (B, channel, H, W), H and W multiples of ``stride`` -> the same. The normalisation has no parameters. The gate is
    read at (H / stride, W / stride) and never laid out larger.

    Args:
        num_heads: heads of the self-attention.
        channel: channels of the map.
        reduction: channels for each compressed one.
        stride: positions for each compressed one, in both directions.
        attn_residual: as in `MHSA`.

    Raises:
        ValueError: another number of channels than the layer's; a map that the stride does not divide; channels that
            the reduction, or compressed channels that the heads do not divide.
    """

    def __init__(
        self, num_heads: int, channel: int, reduction: int, stride: int, *, attn_residual: bool = True
    ) -> None:
        super().__init__()
        for name, value in (("channel", channel), ("reduction", reduction), ("stride", stride)):
            check.positive_int("SCI", name, value)
        if channel % reduction:
            raise ValueError(
                check.message("SCI", "channel", channel, f"a multiple of the reduction, {reduction}")
            )
        compressed = channel // reduction
        self.scc = SpatialChannelCompress(channel, compressed, stride)
        self.mhsa = MHSA(compressed, num_heads, attn_residual=attn_residual)
        self.fc = nn.Linear(compressed, channel)
        # The next three are steps of `attention_gate`; they stand here for the printed tree.
        self.sigmoid = nn.Sigmoid()
        self.upsample = nn.Upsample(scale_factor=float(stride), mode="nearest")
        self.relu = nn.ReLU(inplace=True)
        self.si = nn.BatchNorm2d(channel, affine=False)

    def logits(self, u: Tensor) -> Tensor:
        """What stands under the sigmoid, (B, channel, H / stride, W / stride)."""
        channel, stride = self.scc.proj.in_channels, self.scc.proj.stride[0]
        first_map("SCI", u, channel)
        height, width = u.shape[2:]
        if height % stride or width % stride:
            raise ValueError(
                check.message("SCI", "x", f"{height} x {width}", f"multiples of {stride}, the stride")
            )
        z = self.scc(u)
        tokens = self.fc(self.mhsa(z.flatten(2).transpose(1, 2)))
        return tokens.transpose(1, 2).unflatten(2, z.shape[2:])

    def forward(self, u: Tensor) -> Tensor:
        return self.si(attention_gate(u, full=self.logits(u), relu=True))


def _join(form: str, x: Tensor, si: nn.Module, sci: SCI) -> Tensor:
    normalised = si(x)
    if form == "residual":
        return x + sci(normalised)
    return sci(normalised) if form == "serial" else normalised + sci(x)


class MDI(nn.Module):
    """One interaction for both modalities. (B, channel, H, W) -> the same.

    Arguments and errors as `SCI`; besides:

    Args:
        mdi_form: how `si`, a normalisation without parameters, and `sci` are joined: ``residual`` x + sci(si(x)),
            ``serial`` sci(si(x)), ``parallel`` si(x) + sci(x). No source fixes it; with residual the map that is gated
            is not the output of a ReLU, so that the ReLU of `SCI` has something to cut.
    """

    def __init__(
        self,
        num_heads: int,
        channel: int,
        reduction: int,
        stride: int,
        *,
        mdi_form: str = "residual",
        attn_residual: bool = True,
    ) -> None:
        super().__init__()
        check.choice("MDI", "mdi_form", mdi_form, FORMS)
        self.mdi_form = mdi_form
        self.si = nn.BatchNorm2d(channel, affine=False)
        self.sci = SCI(num_heads, channel, reduction, stride, attn_residual=attn_residual)

    def forward(self, x: Tensor) -> Tensor:
        return _join(self.mdi_form, x, self.si, self.sci)


class MDI_sep(nn.Module):
    """An interaction for each modality. (B, channel, H, W) -> the same.

    ``mode`` 0: the first half of the batch is visible, the second infrared; 1: all visible; 2: all infrared. Weights
    and running statistics of a modality that is not there stay untouched. Arguments and errors as `MDI`; besides:

    Raises:
        ValueError: another mode; an odd batch with mode 0.
    """

    def __init__(
        self,
        num_heads: int,
        channel: int,
        reduction: int,
        stride: int,
        *,
        mdi_form: str = "residual",
        attn_residual: bool = True,
    ) -> None:
        super().__init__()
        check.choice("MDI_sep", "mdi_form", mdi_form, FORMS)
        self.mdi_form = mdi_form
        self.si_v = nn.BatchNorm2d(channel, affine=False)
        self.si_i = nn.BatchNorm2d(channel, affine=False)
        self.sci_v = SCI(num_heads, channel, reduction, stride, attn_residual=attn_residual)
        self.sci_i = SCI(num_heads, channel, reduction, stride, attn_residual=attn_residual)

    def forward(self, x: Tensor, mode: int = 0) -> Tensor:
        if mode not in (0, 1, 2):
            raise ValueError(
                check.message("MDI_sep", "mode", repr(mode), "0 (both), 1 (visible) or 2 (infrared)")
            )
        if mode == 1:
            return _join(self.mdi_form, x, self.si_v, self.sci_v)
        if mode == 2:
            return _join(self.mdi_form, x, self.si_i, self.sci_i)
        if first_map("MDI_sep", x).shape[0] % 2:
            expected = "an even batch with mode 0, half of it infrared"
            raise ValueError(check.message("MDI_sep", "x", f"batch {x.shape[0]}", expected))
        visible, infrared = x.chunk(2)
        return torch.cat(
            (
                _join(self.mdi_form, visible, self.si_v, self.sci_v),
                _join(self.mdi_form, infrared, self.si_i, self.sci_i),
            )
        )
