# SPDX-License-Identifier: Apache-2.0
"""Layers on tokens. What the description of the expansions gets wrong has a test that its code would fail."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastreid_ops.layers.token_aggregation import TokenCNL, TokenMFA, TokenPNL
from fastreid_ops.layers.token_expansion import CM_ATM, SS_DEC, T_MHEE, TokenDEE
from fastreid_ops.layers.transformer import Attention, EncoderLayer, PatchEmbedding, resize_positions
from fastreid_ops.losses.deen import OrthogonalityLoss

REPLACEMENTS = {"T_MHEE": lambda: T_MHEE(48), "CM_ATM": lambda: CM_ATM(48), "SS_DEC": lambda: SS_DEC(48)}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(make, seed=0):
    torch.manual_seed(seed)
    layer = make().eval()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return layer


@pytest.fixture(params=list(REPLACEMENTS))
def name(request):
    return request.param


def test_attention_is_that_of_torch():
    layer, want = seeded(lambda: Attention(24, 4)), nn.MultiheadAttention(24, 4, batch_first=True)
    want.load_state_dict(layer.state_dict())
    x, memory = random(2, 5, 24), random(2, 7, 24, seed=1)
    torch.testing.assert_close(layer(x), want(x, x, x)[0])
    torch.testing.assert_close(layer(x, memory), want(x, memory, memory)[0])


def test_encoder_layer_formula():
    layer = seeded(lambda: EncoderLayer(24, 4, mlp_ratio=2.0))
    x = random(2, 5, 24)
    y = x + layer.attn(F.layer_norm(x, (24,), layer.norm1.weight, layer.norm1.bias, 1e-6))
    z = F.layer_norm(y, (24,), layer.norm2.weight, layer.norm2.bias, 1e-6)
    torch.testing.assert_close(layer(x), y + layer.mlp[2](F.gelu(layer.mlp[0](z))))
    assert layer.mlp[0].out_features == 48


def test_patches_stand_row_by_row():
    layer = PatchEmbedding(8, 4)
    images = random(2, 3, 8, 12)
    tokens = layer(images)
    assert layer.grid(images) == (2, 3)
    for row in range(2):
        for column in range(3):
            patch = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            torch.testing.assert_close(tokens[:, 3 * row + column], layer.proj(patch).flatten(1))


def test_positions_of_another_grid():
    positions = random(1, 1 + 8, 6)
    assert resize_positions(positions, (4, 2), (4, 2), prefix=1) is positions
    other = resize_positions(positions, (4, 2), (8, 4), prefix=1)
    assert other.shape == (1, 33, 6)
    assert torch.equal(other[:, 0], positions[:, 0])
    constant = torch.cat((positions[:, :1], torch.full((1, 8, 6), 2.0)), 1)
    torch.testing.assert_close(
        resize_positions(constant, (4, 2), (6, 3), prefix=1)[:, 1:], torch.full((1, 18, 6), 2.0)
    )
    assert resize_positions(positions.bfloat16(), (4, 2), (2, 2), prefix=1).dtype == torch.bfloat16


# --- aggregation


def test_channel_weights_one_by_one():
    layer = seeded(lambda: TokenCNL(6)).double()
    x, low = random(2, 5, 6).double(), random(2, 5, 6, seed=1).double()
    weights = torch.einsum("bna,bnc->bac", layer.theta(x), layer.phi(low)) / 6
    mixed = torch.einsum("bac,bnc->bna", weights, layer.g(low))
    norm = layer.W[1].bn
    want = layer.W[0](mixed) / (1 + norm.eps) ** 0.5 * norm.weight + norm.bias + x
    torch.testing.assert_close(layer(x, low), want)


def test_position_weights_one_by_one():
    layer = seeded(lambda: TokenPNL(6)).double()
    x, low = random(2, 5, 6).double(), random(2, 5, 6, seed=1).double()
    weights = layer.theta(x) @ layer.phi(low).transpose(1, 2) / 5
    norm = layer.W[1].bn
    want = layer.W[0](weights @ layer.g(low)) / (1 + norm.eps) ** 0.5 * norm.weight + norm.bias + x
    torch.testing.assert_close(layer(x, low), want)


@pytest.mark.parametrize("flag", [0, 1, 2])
def test_flags_keep_the_tokens_and_start_as_the_identity(flag):
    """A stride of 2, as the flags have it for maps, would not fit the sum with the later tokens."""
    x, low = random(2, 6, 8), random(2, 6, 8, seed=1)
    assert torch.equal(TokenMFA(8, flag)(x, low), x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TokenMFA(8, 3), "TokenMFA: flag: got 3, expected 0, 1 or 2"),
        (lambda: TokenPNL(7), "TokenPNL: dim: got 7, expected an even number"),
        (lambda: TokenCNL(8)(random(2, 4, 8), random(2, 5, 8)), "TokenCNL: low: got"),
        (lambda: TokenCNL(8)(random(2, 4, 6), random(2, 4, 6)), "TokenCNL: x: got shape"),
        (lambda: Attention(10, 4), "Attention: dim: got 10, expected a multiple of the 4 heads"),
        (lambda: TokenDEE(8, form="both"), "TokenDEE: form: got 'both'"),
        (lambda: SS_DEC(8, 3), "SS_DEC: dim: got 8, expected a multiple of the 3 branches"),
        (lambda: CM_ATM(8)(random(3, 4, 8)), "CM_ATM: x: got batch 3, expected an even batch"),
        (lambda: PatchEmbedding(8)(random(1, 3, 20, 16)), "PatchEmbedding: images: got 20 x 16"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- expansion


def test_expansion_formula():
    layer = seeded(lambda: TokenDEE(8))
    x = random(2, 6, 8)
    out, branches = layer(x)
    assert branches == ()
    want = [x]
    for branch in layer.branches:
        y = x.transpose(1, 2)
        parts = [F.conv1d(y, getattr(branch, f"fc{k}").weight, padding=k, dilation=k) for k in (1, 2, 3)]
        made = branch.scale * branch.fc_out(torch.relu(sum(parts) / 3))
        want.append(made.transpose(1, 2))
    torch.testing.assert_close(out, torch.cat(want))
    fused = seeded(lambda: TokenDEE(8, form="fuse"))
    assert fused(x)[0].shape == x.shape
    fused.train().dropout.p = 0.5
    assert 0.2 < (fused(x)[0] == 0).float().mean() < 0.8


@pytest.mark.parametrize("grid", [False, True])
def test_rows_are_neighbours_in_the_sequence_only(grid):
    """Patch 5 ends the first row of 6, patch 6 starts the second: far apart in the image."""
    layer = seeded(lambda: TokenDEE(8, grid=grid))
    x = random(1, 12, 8)
    other = x.clone()
    other[0, 5] += 1
    change = (layer(other, 0, (2, 6))[0] - layer(x, 0, (2, 6))[0])[1:].abs().amax((0, 2))
    assert change[5] > 1e-3
    assert change[11] > 1e-3 if grid else change[11] == 0  # right below
    assert change[6] == 0 if grid else change[6] > 1e-3


def test_every_replacement_returns_tokens_and_branches(name):
    layer = seeded(REPLACEMENTS[name])
    out, branches = layer(random(4, 5, 48))
    assert out.shape == (4, 5, 48)
    assert {tuple(b.shape) for b in branches} == {
        "T_MHEE": {(4, 5, 12)},
        "CM_ATM": {(4, 1, 48)},
        "SS_DEC": {(4, 5, 16)},
    }[name]
    assert len(branches) == {"T_MHEE": 4, "CM_ATM": 3, "SS_DEC": 3}[name]


def test_orthogonality_is_between_branches_and_does_not_grow_with_the_batch(name):
    """As described it compares the tokens of one image, and grows with the batch."""
    layer = seeded(REPLACEMENTS[name])
    loss = OrthogonalityLoss(form="cosine")
    x = random(2, 5, 48)
    doubled = torch.cat((x[:1], x[:1], x[1:], x[1:]))
    _, branches = layer(x)
    torch.testing.assert_close(loss(layer(doubled)[1]), loss(branches))
    assert loss((branches[0], branches[0])).item() == pytest.approx(1.0, abs=1e-5)
    cosine = [
        F.cosine_similarity(first, second, dim=-1).abs().mean() for first, second in combinations(branches, 2)
    ]
    torch.testing.assert_close(loss(branches), torch.stack(cosine).mean())
    loss(branches).backward()
    assert any(p.grad is not None and p.grad.any() for p in layer.parameters())


def test_heads_attend_to_the_tokens_of_their_image():
    """With the sequence first, as described, a token would see the same token of the other images and nothing else."""
    layer = seeded(REPLACEMENTS["T_MHEE"])
    x = random(2, 5, 48)
    out, _ = layer(x)
    image, token = x.clone(), x.clone()
    image[1] += 1
    token[0, 1] += random(48, seed=3)
    assert torch.equal(layer(image)[0][0], out[0])
    assert (layer(token)[0][0, 0] - out[0, 0]).abs().max() > 1e-3


def test_heads_are_the_branches():
    layer = seeded(REPLACEMENTS["T_MHEE"])
    x = random(2, 5, 48)
    out, branches = layer(x)
    q, k, v = F.linear(x, layer.mha.in_proj_weight, layer.mha.in_proj_bias).chunk(3, 2)
    for head, branch in enumerate(branches):
        part = slice(12 * head, 12 * head + 12)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 12**0.5).softmax(2)
        torch.testing.assert_close(branch, weights @ v[..., part])
    want = layer.norm(layer.mha.out_proj(torch.cat(branches, 2)) + x) * layer.scale
    torch.testing.assert_close(out, want)


def test_tokens_of_a_modality_read_the_other_one():
    layer = seeded(REPLACEMENTS["CM_ATM"])
    x = random(4, 5, 48)
    out, branches = layer(x)
    want = []
    for number in range(4):
        token = layer.vis_token if number < 2 else layer.ir_token
        partner = x[[(number + 2) % 4]]
        want.append([attention(token, partner) for attention in layer.attn])
    for k, branch in enumerate(branches):
        torch.testing.assert_close(branch, torch.cat([one[k] for one in want]))
    torch.testing.assert_close(out, layer.scale * sum(layer.norm(x + b) for b in branches) / 3)
    own = x.clone()
    own[0] += 1
    assert torch.equal(layer(own)[1][0][0], branches[0][0])
    assert not torch.allclose(layer(own)[1][0][2], branches[0][2])


def test_branches_of_the_tokens_differ():
    """One common attention, as described, gives three times the same in evaluation."""
    _, (a, b, c) = seeded(REPLACEMENTS["CM_ATM"])(random(4, 5, 48))
    for first, second in ((a, b), (a, c), (b, c)):
        assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize(("mode", "token"), [(1, "vis_token"), (2, "ir_token")])
def test_one_modality_alone_reads_itself(mode, token):
    layer = seeded(REPLACEMENTS["CM_ATM"])
    x = random(3, 5, 48)
    _, branches = layer(x, mode)
    query = getattr(layer, token).expand(3, -1, -1)
    torch.testing.assert_close(branches[1], layer.attn[1](query, x))


def test_augmented_branches_formula():
    layer = seeded(REPLACEMENTS["SS_DEC"])
    x = random(2, 5, 48)
    out, branches = layer(x)
    for k, branch in enumerate(branches):
        torch.testing.assert_close(branch, layer.proj[k](layer.transformers[k](x)))
    torch.testing.assert_close(out, layer.scale * layer.norm(torch.cat(branches, 2)))
    assert torch.equal(layer(x)[0], out)  # nothing random in evaluation


def test_augmentation_keeps_the_mean_while_training():
    layer = SS_DEC(48).train()
    x = torch.ones(8, 200, 48, dtype=torch.float64)
    torch.manual_seed(0)
    seen = []
    for encoder in layer.transformers:
        encoder.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
        encoder.forward = lambda value: value.float()
    layer(x)
    assert len(seen) == 3
    for value in seen:
        assert value.dtype == torch.float64
        assert (value == 0).double().mean().item() == pytest.approx(0.3, abs=0.01)
        assert value.mean().item() == pytest.approx(1.0, abs=0.01)
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("make", [*REPLACEMENTS.values(), lambda: TokenDEE(48)])
def test_gradients(make):
    layer = seeded(make).double()
    x = random(4, 3, 48).double().requires_grad_()
    parameters = [p for p in layer.parameters() if p.numel() <= 48]
    assert torch.autograd.gradcheck(
        lambda x, *_: (lambda out, branches: (out, *branches))(*layer(x)), (x, *parameters), fast_mode=True
    )
