# SPDX-License-Identifier: Apache-2.0
"""Ways to make further embeddings of tokens: DEEN's expansion, and three replacements by attention.

Each is called as ``layer(x, mode)``, x (B, N, dim), and returns (out, branches): out (B, N, dim), with `TokenDEE` in
its form ``expand`` (3 B, N, dim), and the tensors of one shape that an orthogonality loss keeps apart, possibly none.
``mode`` is 0 (first half of the batch visible, second infrared), 1 (all visible) or 2 (all infrared). The
replacements come from a description whose code does not run or does not do what it says; what they are meant to do is
done here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid_ops.layers.transformer import Attention, TransformerEncoder
from fastreid_ops.ops import _checks as check

Expanded = tuple[Tensor, tuple[Tensor, ...]]
DEE_FORMS = ("expand", "fuse")


class _Generator(nn.Module):
    """scale * g(x): `DEE`'s generator on tokens; with ``grid`` on the map that they were cut from."""

    def __init__(self, dim: int, reduction: int, grid: bool) -> None:
        super().__init__()
        self.grid = grid
        conv = nn.Conv2d if grid else nn.Conv1d
        hidden = dim // reduction
        self.scale = nn.Parameter(torch.tensor(1.0))
        for rate in (1, 2, 3):
            layer = conv(dim, hidden, 3, padding=rate, dilation=rate, bias=False)
            self.add_module(f"fc{rate}", layer)
        self.fc_out = conv(hidden, dim, 1)

    def forward(self, x: Tensor, size: tuple[int, int] | None) -> Tensor:
        x = x.transpose(1, 2)
        if self.grid:
            x = x.unflatten(2, size)
        hidden = torch.relu((self.fc1(x) + self.fc2(x) + self.fc3(x)) / 3)
        out = self.fc_out(hidden) * self.scale
        return (out.flatten(2) if self.grid else out).transpose(1, 2)


class TokenDEE(nn.Module):
    """DEEN's expansion on tokens.

    Args:
        dim: width of a token.
        form: ``"expand"``: the tokens and those of two generators, (3 B, N, dim), as in DEEN. ``"fuse"``: those of one
            generator only, (B, N, dim), as the description has it; there are no branches then to keep apart.
        grid: dilated convolutions over the rows and columns of patches; without it over the sequence, as described,
            where the end of a row and the start of the next are neighbours.
        reduction: width of a token for each channel between the convolutions.
        dropout: probability.
    """

    def __init__(
        self,
        dim: int,
        *,
        form: str = "expand",
        grid: bool = False,
        reduction: int = 4,
        dropout: float = 0.01,
    ) -> None:
        super().__init__()
        check.choice("TokenDEE", "form", form, DEE_FORMS)
        self.form = form
        count = 2 if form == "expand" else 1
        self.branches = nn.ModuleList(_Generator(dim, reduction, grid) for _ in range(count))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mode: int = 0, size: tuple[int, int] | None = None) -> Expanded:
        """``size``: rows and columns of patches, needed with ``grid``."""
        made = [branch(x, size) for branch in self.branches]
        out = torch.cat((x, *made)) if self.form == "expand" else made[0]
        return self.dropout(out), ()


class _Replacement(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def _finish(self, dim: int, dropout: float) -> None:
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)


class T_MHEE(_Replacement):
    """dropout(scale * norm(attention(x) + x)) over the tokens of an image; branches: heads, (B, N, dim / heads)."""

    def __init__(self, dim: int, num_heads: int = 4, *, dropout: float = 0.1) -> None:
        super().__init__(dim)
        self.mha = Attention(dim, num_heads, dropout=dropout)
        self._finish(dim, dropout)

    def forward(self, x: Tensor, mode: int = 0, size: tuple[int, int] | None = None) -> Expanded:
        heads = self.mha.heads(x)
        out = self.norm(self.mha.mix(heads) + x)
        return self.dropout(out * self.scale), heads.unbind(1)


class CM_ATM(_Replacement):
    """dropout(scale * mean of norm(x + a_k)), a_k = attention_k(token of the image's modality, tokens it reads).

    With mode 0 an image reads the tokens of the image at its place in the other half of the batch, which should show
    the same identity; alone (mode 1 or 2) its own, which no source fixes. Training and test differ in this. Branches:
    the a_k, (B, 1, dim), one summary of an image for all its tokens.

    Raises:
        ValueError: an odd batch with mode 0.
    """

    def __init__(self, dim: int, num_branches: int = 3, *, num_heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__(dim)
        check.positive_int("CM_ATM", "num_branches", num_branches)
        scale = self.scale
        del self.scale
        self.vis_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.ir_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.scale = scale
        self.attn = nn.ModuleList(Attention(dim, num_heads, dropout=dropout) for _ in range(num_branches))
        self._finish(dim, dropout)
        nn.init.trunc_normal_(self.vis_token, std=0.02)
        nn.init.trunc_normal_(self.ir_token, std=0.02)

    def forward(self, x: Tensor, mode: int = 0, size: tuple[int, int] | None = None) -> Expanded:
        batch = x.shape[0]
        if mode == 0:
            if batch % 2:
                expected = "an even batch with mode 0, half of it infrared"
                raise ValueError(check.message("CM_ATM", "x", f"batch {batch}", expected))
            tokens = (self.vis_token, self.ir_token)
            query = torch.cat([token.expand(batch // 2, -1, -1) for token in tokens])
            memory = torch.cat(x.chunk(2)[::-1])
        else:
            query = (self.vis_token if mode == 1 else self.ir_token).expand(batch, -1, -1)
            memory = x
        branches = tuple(attention(query, memory) for attention in self.attn)
        out = sum(self.norm(x + branch) for branch in branches) / len(branches)
        return self.dropout(out * self.scale), branches


class SS_DEC(_Replacement):
    """dropout(scale * norm(b_1 .. b_K side by side)), b_k = linear_k(encoder_k(augmented x)), of dim / K each.

    The augmentation sets entries to zero while training and keeps the mean of the others, as dropout does. Branches:
    the b_k, (B, N, dim / K).

    Raises:
        ValueError: a width that the branches do not divide.
    """

    def __init__(
        self,
        dim: int,
        num_branches: int = 3,
        *,
        num_heads: int = 8,
        dropout: float = 0.1,
        augment: float = 0.3,
    ) -> None:
        super().__init__(dim)
        check.positive_int("SS_DEC", "num_branches", num_branches)
        if dim % num_branches:
            raise ValueError(
                check.message("SS_DEC", "dim", dim, f"a multiple of the {num_branches} branches")
            )
        self.transformers = nn.ModuleList(
            TransformerEncoder(dim, 1, num_heads, dropout=dropout) for _ in range(num_branches)
        )
        self.proj = nn.ModuleList(nn.Linear(dim, dim // num_branches) for _ in range(num_branches))
        self.augment = nn.Dropout(augment)
        self._finish(dim, dropout)

    def forward(self, x: Tensor, mode: int = 0, size: tuple[int, int] | None = None) -> Expanded:
        branches = tuple(
            project(encode(self.augment(x)))
            for encode, project in zip(self.transformers, self.proj, strict=True)
        )
        return self.dropout(self.norm(torch.cat(branches, 2)) * self.scale), branches
