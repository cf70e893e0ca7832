# SPDX-License-Identifier: Apache-2.0
"""What every entry of the table owes: shapes, gradients, determinism, copies, save and load."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from model_cases import (
    CLASSES,
    HEAVY,
    OPTIONS,
    TWO_MODALITIES,
    WITHOUT_NORMS,
    assert_near,
    evaluating,
    make,
    random_images,
    settle,
)
from torch import nn

from fastreid_ops.layers.freeze import freeze_batch_norm
from fastreid_ops.models import MODELS, TrainOutput, create_model, list_models, model_options


@pytest.fixture(scope="module", params=sorted(set(MODELS) - HEAVY))
def name(request, need_timm):
    need_timm(request.param)
    return request.param


@pytest.fixture
def images(name):
    return random_images(name)


@pytest.fixture(scope="module", params=sorted(MODELS))
def settled(request, need_timm):
    """Name, model in evaluation mode, images, the output of a training forward."""
    need_timm(request.param)
    model, images = make(request.param), random_images(request.param)
    output = settle(model, images)
    return request.param, model.eval(), images, output


def test_evaluation_gives_one_feature_tensor(settled):
    _, model, images, _ = settled
    with torch.no_grad():
        feature = model(images)
    assert isinstance(feature, torch.Tensor)
    assert feature.shape == (4, model.feature_dim)
    assert feature.dtype == torch.float32
    assert feature.isfinite().all()
    assert not torch.allclose(feature[0], feature[1])


def test_training_gives_tuples(settled):
    _, _, _, output = settled
    assert isinstance(output, TrainOutput)
    assert output.logits
    assert output.features
    for logits in output.logits:
        assert logits.shape == (4, CLASSES)
    for feature in (*output.features, *output.parts):
        assert feature.shape[0] == 4
        assert feature.dim() == 2


def test_save_and_load_round_trip(settled):
    name, model, images, _ = settled
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    with torch.device("meta"):  # no values of its own
        other = create_model(name, CLASSES, **OPTIONS.get(name, {})).eval()
    other.load_state_dict(torch.load(file, weights_only=True), assign=True)
    with torch.no_grad():
        assert torch.equal(other(images), model(images))


def test_evaluation_of_an_image_does_not_depend_on_its_batch(name, images):
    model = evaluating(name)
    mode = {"mode": 1} if name in TWO_MODALITIES else {}
    with torch.no_grad():
        assert_near(model(images[2:3], **mode), model(images, **mode)[2:3], 1e-4)


def test_frozen_statistics_stay_while_weights_train(name, images):
    model = make(name).train()
    assert freeze_batch_norm(model) == sum(
        isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()
    )
    before = copy.deepcopy(model.state_dict())
    output = model(images)
    assert isinstance(output, TrainOutput)
    sum(x.square().sum() for x in (*output.logits, *output.auxiliary.values())).backward()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert bool(norms) == (name not in WITHOUT_NORMS)
    assert all(m.weight is None or m.weight.grad is not None for m in norms)
    for key, tensor in model.state_dict().items():
        if "running_" in key or "num_batches" in key:
            assert torch.equal(tensor, before[key]), key
    model.train()
    model(images)
    for key in [k for k in before if k.endswith("running_mean")][:1]:
        assert not torch.equal(model.state_dict()[key], before[key])


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


def test_channels_last_gives_the_same_numbers(name, images):
    model = evaluating(name)
    with torch.no_grad():
        want = model(images)
        got = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    assert_near(got, want, 1e-4)


def test_bf16_autocast_runs_and_is_near(name, images):
    model = evaluating(name)
    with torch.no_grad():
        want = model(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = model(images).float()
    assert nn.functional.cosine_similarity(got, want).min() > 0.99


def test_list_and_options():
    assert list_models() == sorted(MODELS)
    want = {"neck_feature": "after", "last_stride": 1, "ceil_pool": False}
    assert model_options("resnet50_bnneck") == want


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
