# SPDX-License-Identifier: Apache-2.0
"""Names in other projects' files, brought to the plain ones: those of torchvision's and timm's networks for a backbone
(``conv1.weight``, ``layer4.2.bn3.bias``, ``blocks.0.attn.qkv.weight``), ``bottleneck`` for a neck, ``classifier``.

Each table is a fact about a public project, seen in its code or its files; nothing is guessed from a file.
"""

from __future__ import annotations

from fastreid_ops.models.weights.keymap import KeyMap, Table

# torchvision's densenets until 0.2: "denselayer1.norm.1"; torch now forbids dots in the name of a module.
DOTTED: Table = ((r"(.*\.denselayer\d+\.(?:norm|conv))\.([12]\..+)", r"\1\2"),)

# A Sequential of ResNet's children: conv1, bn1, relu, maxpool, layer1 to layer4.
CHILDREN: Table = (
    (r"base\.0\.(.+)", r"conv1.\1"),
    (r"base\.1\.(.+)", r"bn1.\1"),
    *((rf"base\.{number + 3}\.(.+)", rf"layer{number}.\1") for number in (1, 2, 3, 4)),
)

# timm's names of EfficientNet for EfficientNet-PyTorch's: stages 0 to 6 of these many blocks are one list there.
_BLOCKS = (1, 2, 2, 3, 3, 4, 1)
_COMMON = (
    (r"conv_dw", "_depthwise_conv"),
    (r"se\.conv_reduce", "_se_reduce"),
    (r"se\.conv_expand", "_se_expand"),
)
EFFICIENTNET: tuple[Table, ...] = (
    (
        # the first block has no expansion: its pointwise convolution is the projection
        *(
            (rf"blocks\.0\.0\.{theirs}\.(.+)", rf"_blocks.0.{ours}.\1")
            for theirs, ours in (*_COMMON, ("bn1", "_bn1"), ("conv_pw", "_project_conv"), ("bn2", "_bn2"))
        ),
        *(
            (rf"(blocks\.\d+\.\d+)\.{theirs}\.(.+)", rf"\1.{ours}.\2")
            for theirs, ours in (
                *_COMMON,
                ("conv_pw", "_expand_conv"),
                ("bn1", "_bn0"),
                ("bn2", "_bn1"),
                ("conv_pwl", "_project_conv"),
                ("bn3", "_bn2"),
            )
        ),
        (r"conv_stem\.(.+)", r"_conv_stem.\1"),
        (r"bn1\.(.+)", r"_bn0.\1"),
        (r"conv_head\.(.+)", r"_conv_head.\1"),
        (r"bn2\.(.+)", r"_bn1.\1"),
        (r"classifier\.(.+)", r"_fc.\1"),
    ),
    tuple(
        (rf"blocks\.{stage}\.{index}\.(.+)", rf"_blocks.{sum(_BLOCKS[:stage]) + index}.\1")
        for stage, count in enumerate(_BLOCKS)
        for index in range(count)
    ),
)

# torchvision's mobilenet_v2: one list of 19 parts, each block a list of its layers, the first without an expansion; for
# deep-person-reid's names, where stages conv2 to conv8 hold these many blocks.
_MOBILE_BLOCKS = (1, 2, 3, 4, 3, 3, 1)
_MOBILE_LAYERS = (
    (r"0\.0", "conv1.conv"),
    (r"0\.1", "conv1.bn"),
    (r"1\.0", "dwconv2.conv"),
    (r"1\.1", "dwconv2.bn"),
    ("2", "conv3.0"),
    ("3", "conv3.1"),
)
_MOBILE_FIRST = ((r"0\.0", "dwconv2.conv"), (r"0\.1", "dwconv2.bn"), ("1", "conv3.0"), ("2", "conv3.1"))
MOBILENETV2: tuple[Table, ...] = (
    (
        *((rf"features\.0\.{n}\.(.+)", rf"conv1.{part}.\1") for n, part in enumerate(("conv", "bn"))),
        *((rf"features\.18\.{n}\.(.+)", rf"conv9.{part}.\1") for n, part in enumerate(("conv", "bn"))),
        *((rf"features\.1\.conv\.{theirs}\.(.+)", rf"conv2.0.{ours}.\1") for theirs, ours in _MOBILE_FIRST),
        *((rf"(features\.\d+)\.conv\.{theirs}\.(.+)", rf"\1.{ours}.\2") for theirs, ours in _MOBILE_LAYERS),
    ),
    tuple(
        (rf"features\.{1 + sum(_MOBILE_BLOCKS[:stage]) + index}\.(.+)", rf"conv{stage + 2}.{index}.\1")
        for stage, count in enumerate(_MOBILE_BLOCKS)
        for index in range(count)
    ),
)

FASTREID = KeyMap(
    "fast-reid",
    (
        (
            (r"backbone\.(NL_\d+\.\d+\.g)\.(weight|bias)", r"\1.0.\2"),
            (r"backbone\.(.+)", r"\1"),
            (r"heads\.bottleneck\.0\.(.+)", r"bottleneck.\1"),
            (r"heads\.(?:classifier\.)?weight", r"classifier.weight"),
        ),
    ),
    mark=r"heads\.",
)
DENSENET_V0 = KeyMap(
    "torchreid of 2018, densenet",
    (((r"base\.(.+)", r"features.\1"),), DOTTED),
    mark=r"base\.denseblock1\.",
)

EFFICIENTNET_TIMM = KeyMap("timm, efficientnet_b0", EFFICIENTNET, mark=r"blocks\.0\.0\.conv_dw\.")
MOBILENETV2_TORCHVISION = KeyMap(
    "torchvision, mobilenet_v2", MOBILENETV2, mark=r"features\.1\.conv\.0\.0\.weight"
)

# The first of those that fit equally well counts.
SOURCES: tuple[KeyMap, ...] = (
    FASTREID,
    KeyMap("as in the file"),
    KeyMap("base.* of NAIC and the bag of tricks", (((r"base\.(.+)", r"\1"),),), mark=r"base\."),
    KeyMap("backbone.*", (((r"backbone\.(.+)", r"\1"),),), mark=r"backbone\."),
    KeyMap("model.*", (((r"model\.(.+)", r"\1"),),), mark=r"model\."),
    KeyMap("encoder.*", (((r"encoder\.(.+)", r"\1"),),), mark=r"encoder\."),
    KeyMap(
        "a list of ResNet's children (torchreid of 2018, Simple-CCReID)",
        (CHILDREN,),
        mark=r"base\.0\.weight",
    ),
    KeyMap(
        "Simple-CCReID",
        (((r"classifier\.classifier\.(.+)", r"classifier.\1"),),),
        mark=r"classifier\.classifier\.",
    ),
    KeyMap(
        "torchreid of 2018, SE networks",
        (tuple((rf"base\.{number}\.(.+)", rf"layer{number}.\1") for number in range(5)),),
        mark=r"base\.0\.conv1\.",
    ),
    DENSENET_V0,
    KeyMap("older torchvision, densenet", (DOTTED,), mark=r"features\.denseblock1\.denselayer1\.norm\."),
    KeyMap(
        "torchreid of 2018, resnet50m",
        (
            (
                # with the stem's pooling in the first list, or at the head of the second
                (r"layers1\.0\.(.+)", r"conv1.\1"),
                (r"layers1\.1\.(.+)", r"bn1.\1"),
                (r"layers2\.1\.(\d+\..+)", r"layer1.\1"),
                *((rf"layers{number + 1}\.(\d+\..+)", rf"layer{number}.\1") for number in (1, 2, 3)),
                *((rf"layers5{letter}\.(.+)", rf"layer4.{index}.\1") for index, letter in enumerate("abc")),
                (r"fc_fuse\.(.+)", r"fc_fusion.\1"),
            ),
        ),
        mark=r"layers5a\.",
    ),
    KeyMap("torchreid of 2018, mobilenetv2", (((r"block([2-8]\..+)", r"conv\1"),),), mark=r"block2\."),
    EFFICIENTNET_TIMM,
    MOBILENETV2_TORCHVISION,
)
