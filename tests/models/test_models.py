# SPDX-License-Identifier: Apache-2.0
"""What every entry of the table owes: shapes, gradients, determinism, copies, save and load."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fastreid_ops.layers.freeze import freeze_batch_norm
from fastreid_ops.models import MODELS, TrainOutput, create_model, list_models, model_options

CLASSES = 5


@pytest.fixture(scope="module", params=sorted(MODELS))
def name(request):
    return request.param


def make(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create_model(name, CLASSES)


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 64, 32, generator=torch.Generator().manual_seed(1))


def test_evaluation_gives_one_feature_tensor(name, images):
    model = make(name).eval()
    with torch.no_grad():
        feature = model(images)
    assert isinstance(feature, torch.Tensor)
    assert feature.shape == (4, model.feature_dim)
    assert feature.dtype == torch.float32
    assert feature.isfinite().all()
    assert not torch.allclose(feature[0], feature[1])


def test_evaluation_of_an_image_does_not_depend_on_its_batch(name, images):
    model = make(name).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images)[2:3], model(images[2:3]), rtol=1e-4, atol=1e-5)


def test_training_gives_tuples(name, images):
    model = make(name).train()
    output = model(images)
    assert isinstance(output, TrainOutput)
    assert len(output.logits) == len(output.features) >= 1
    for logits, feature in zip(output.logits, output.features, strict=True):
        assert logits.shape == (4, CLASSES)
        assert feature.shape[0] == 4
        assert feature.dim() == 2


def test_every_trainable_parameter_gets_a_finite_gradient(name, images):
    model = make(name).train()
    output = model(images)
    logits = sum(nn.functional.cross_entropy(x, torch.tensor([0, 1, 2, 3])) for x in output.logits)
    (logits + sum(f.square().mean() for f in output.features)).backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key
        else:
            assert parameter.grad is None, key


def test_frozen_statistics_stay_while_weights_train(name, images):
    model = make(name).train()
    assert freeze_batch_norm(model) == sum(
        isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()
    )
    before = copy.deepcopy(model.state_dict())
    output = model(images)
    assert isinstance(output, TrainOutput)
    output.logits[0].square().sum().backward()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(m.weight.grad is not None for m in norms)
    for key, tensor in model.state_dict().items():
        if "running_" in key or "num_batches" in key:
            assert torch.equal(tensor, before[key]), key
    model.train()
    model(images)
    assert not torch.equal(
        norms[0].running_mean, before[next(k for k in before if k.endswith("running_mean"))]
    )


def test_same_seed_same_bits(name, images):
    outputs = []
    for _ in range(2):
        model = make(name, seed=3).train()
        output = model(images)
        output.logits[0].logsumexp(1).sum().backward()
        outputs.append(
            [output.features[0].detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
        )
    for a, b in zip(*outputs, strict=True):
        assert torch.equal(a, b)
    other = make(name, seed=4).state_dict()
    assert any(not torch.equal(v, other[k]) for k, v in make(name, seed=3).state_dict().items())


def test_deep_copy_is_equal_and_separate(name, images):
    model = make(name).eval()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        want = model(images)
        assert torch.equal(twin(images), want)
        for parameter in twin.parameters():
            parameter.add_(1.0)
        assert torch.equal(model(images), want)


def test_save_and_load_round_trip(name, images, tmp_path):
    model = make(name).train()
    model(images)  # running statistics away from their initial values
    model.eval()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = make(name, seed=9).eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(other(images), model(images))


def test_channels_last_gives_the_same_numbers(name, images):
    model = make(name).eval()
    with torch.no_grad():
        want = model(images)
        got = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_bf16_autocast_runs_and_is_near(name, images):
    model = make(name).eval()
    with torch.no_grad():
        want = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = model(images).float()
    assert nn.functional.cosine_similarity(got, want).min() > 0.99


def test_list_and_options():
    assert list_models() == sorted(MODELS)
    assert model_options("resnet50_bnneck") == {"neck_feature": "after", "last_stride": 1}


def test_unknown_name_says_the_nearest():
    with pytest.raises(ValueError, match=r"create_model: name: got 'osnet_x1', .*did you mean 'osnet_x1_0'"):
        create_model("osnet_x1", 5)


def test_unknown_option_says_the_nearest():
    with pytest.raises(
        TypeError, match=r"got 'neck_features' for resnet50_bnneck.*did you mean 'neck_feature'"
    ):
        create_model("resnet50_bnneck", 5, neck_features="after")


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_bad_num_classes(value, error):
    with pytest.raises(error, match="create_model: num_classes: got"):
        create_model("osnet_x0_25", value)
