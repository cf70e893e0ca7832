# SPDX-License-Identifier: Apache-2.0
"""How the tests make, feed and shorten the models of the table."""

from __future__ import annotations

import torch
from torch import nn

from fastreid_ops.models import TrainOutput, create_model

CLASSES = 5


# Models whose images have one size, or a smallest one above 64 x 32.
INPUT_SIZE = {
    "hacnn": (160, 64),
    "mudeep": (256, 128),
    "inceptionv4": (96, 80),
    "inceptionresnetv2": (96, 80),
}

# Networks for visible and infrared images: a batch is half and half, unless the modality of all its images is given.
TWO_MODALITIES = {"agw", "deen_regdb", "embednet", "mdinet"}

# Networks that take the images of these tests with other options only, or are much too large for them.
OPTIONS = {"embednet": {"image_size": (64, 32), "dim": 48, "depth": 4, "num_heads": 4}}

# Models of which nothing is left at the end with initial weights and statistics.
FADES = {"squeezenet_v0", "naic_efficientnet_b0"}

WITHOUT_NORMS = {"squeezenet1_0", "squeezenet1_1"}

# Models that only run the tests of shapes, evaluation, saving and loading: large ones, and further sizes of a network
# that runs everything in its smallest.
HEAVY = {
    "deen_llcm",
    "deen_sysu",
    "cc_resnet50_ibn_a",
    "densenet121_fc512",
    "densenet161",
    "densenet169",
    "densenet201",
    "inceptionresnetv2",
    "inceptionv4",
    "mlfn",
    "mobilenetv2_x1_4",
    "mudeep",
    "naic_efficientnet_b7",
    "naic_resnest101",
    "naic_resnest101_ibn",
    "naic_resnest50",
    "naic_resnet101_ibn_a",
    "naic_resnet101_ibn_b",
    "naic_resnet50_ibn_a",
    "naic_resnet50_ibn_b",
    "naic_se_resnet101_ibn_a",
    "naic_se_resnet50_ibn_a",
    "osnet_ain_x0_5",
    "osnet_ain_x0_75",
    "osnet_ain_x1_0",
    "osnet_x0_5",
    "osnet_x0_75",
    "pcb_p6",
    "resnet101",
    "resnet152",
    "resnet34",
    "resnet50_fc512",
    "resnet50_ibn_b",
    "resnet50mid",
    "resnext101_32x8d",
    "resnext101_v0",
    "resnext50_32x4d",
    "se_resnet101",
    "se_resnet152",
    "se_resnet50_fc512",
    "se_resnext101_32x4d",
    "se_resnext50_32x4d",
    "senet154",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "squeezenet1_1",
    "vit_base_patch16_224",
    "xception_v0",
}


def make(name: str, seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    return create_model(name, CLASSES, **{**OPTIONS.get(name, {}), **options})


def random_images(name: str) -> torch.Tensor:
    size = INPUT_SIZE.get(name, (64, 32))
    return torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(1))


def settle(model: nn.Module, images: torch.Tensor) -> TrainOutput:
    """One training forward that leaves the batch's statistics behind. With the initial ones, of mean 0 and variance 1,
    many networks fade."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    usual = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        output = model.train()(images)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    return output


def evaluating(name: str) -> nn.Module:
    model = make(name)
    if name in FADES:
        settle(model, random_images(name))
    return model.eval()


def assert_near(got: torch.Tensor, want: torch.Tensor, tolerance: float) -> None:
    assert (got - want).abs().max() <= tolerance * want.abs().max()
    assert want.any()


def shortened(model: nn.Module) -> nn.Module:
    """The model, changed in place, with two of each row of equal blocks: what a tracer sees of the others is the same.

    Equal are neighbours in an ``nn.Sequential`` of one class with weights of the same names and shapes.
    """
    for parent in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        shapes = [(type(child), [(k, v.shape) for k, v in child.state_dict().items()]) for child in parent]
        for index in reversed(range(2, len(shapes))):
            if shapes[index][1] and shapes[index] == shapes[index - 1] == shapes[index - 2]:
                del parent[index]
    return model
