# SPDX-License-Identifier: Apache-2.0
"""The networks of deep-person-reid that timm (Wightman, Apache-2.0) has with the same weights and the same results:
densenets, inceptions, xception. timm is imported when such a model is made and at no other time.

Huang et al., "Densely connected convolutional networks", CVPR 2017; Szegedy et al., "Inception-v4, Inception-ResNet and
the impact of residual connections on learning", AAAI 2017; Chollet, "Xception", CVPR 2017. Parameters without the
classifier: 6.95 M (densenet121), 26.5 M (161), 12.5 M (169), 18.1 M (201), 41.1 M (inceptionv4), 54.3 M
(inceptionresnetv2), 20.8 M (xception).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from torch import Tensor, nn

from fastreid_ops.layers.fully_connected import fully_connected
from fastreid_ops.models.classifier import FeatureClassifier
from fastreid_ops.models.initialise import initialise

# What stands behind the feature map in timm's modules; pooling and classifier are ours.
_HEAD = ("global_pool", "head_drop", "classifier", "last_linear", "classif", "fc")


def _timm(name: str) -> ModuleType:
    try:
        import timm
    # Beside ImportError: RuntimeError and AttributeError of a torchvision whose operators did not load, OSError of a
    # library that is missing.
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise ImportError(
            f"create_model: name: got {name!r}, which needs timm, and importing timm failed with "
            f"{type(error).__name__}: {error}. Expected timm and a torchvision that belongs to the installed torch: "
            "pip install 'fastreid-ops[zoo]'. Where the message is about torchvision, its build is of another torch "
            "version or for CUDA beside a CPU torch: install torchvision from the same place as torch"
        ) from error
    return timm


class TimmClassifier(FeatureClassifier):
    """Feature map of a timm network, global average pooling, perhaps fully connected layers, a linear classifier.

    Evaluation: (B, 3, H, W) -> (B, ``feature_dim``), not normalised. Training: one head of logits and the same feature.
    The children of timm's module are children of this one, so that the names in the state dict are those of
    deep-person-reid.

    Args:
        name: in our table, for the error message.
        timm_name: in timm's.
        num_classes: number of training identities.
        widths, dropout: of fully connected layers between pooling and classifier; no widths for none.
        he_values: He et al. in the convolutions and N(0, 0.01) in linear layers; False leaves torch's own values.

    Raises:
        ImportError: timm cannot be imported; the message says why and what to install.
    """

    def __init__(
        self,
        name: str,
        timm_name: str,
        num_classes: int,
        *,
        widths: Sequence[int] = (),
        dropout: float | None = None,
        he_values: bool = True,
    ) -> None:
        network = _timm(name).create_model(timm_name, pretrained=False, num_classes=0)
        super().__init__()
        # timm's function runs on this module, which has all attributes of its own: there is no second module that
        # could fall behind when a child is replaced.
        self.__dict__.update(network.__dict__)
        self._feature_map = type(network).forward_features
        for child in _HEAD:
            if child in self._modules:
                delattr(self, child)
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = fully_connected(network.num_features, widths, dropout=dropout) if widths else None
        self.feature_dim = widths[-1] if widths else network.num_features
        self.classifier = nn.Linear(self.feature_dim, num_classes)
        if he_values:
            initialise(self)

    def embed(self, images: Tensor) -> Tensor:
        pooled = self.global_avgpool(self._feature_map(self, images)).flatten(1)
        return pooled if self.fc is None else self.fc(pooled)


def _densenet(
    name: str, depth: int, num_classes: int, final_relu: bool, **head: Sequence[int] | float | None
) -> TimmClassifier:
    model = TimmClassifier(name, f"densenet{depth}", num_classes, **head)
    if not final_relu:
        model.features.norm5.act = nn.Identity()
    return model


def densenet121(num_classes: int, *, final_relu: bool = True) -> TimmClassifier:
    """DenseNet-121, feature of 1024. ``final_relu`` False leaves out the ReLU before the pooling, as deep-person-reid's
    first versions did: other features from the same weights."""
    return _densenet("densenet121", 121, num_classes, final_relu)


def densenet121_fc512(
    num_classes: int, *, final_relu: bool = True, feature_dim: int = 512, dropout: float | None = None
) -> TimmClassifier:
    """DenseNet-121 with a fully connected layer of ``feature_dim``; the feature is non-negative."""
    return _densenet(
        "densenet121_fc512", 121, num_classes, final_relu, widths=(feature_dim,), dropout=dropout
    )


def densenet161(num_classes: int, *, final_relu: bool = True) -> TimmClassifier:
    """DenseNet-161, feature of 2208; ``final_relu`` as in `densenet121`."""
    return _densenet("densenet161", 161, num_classes, final_relu)


def densenet169(num_classes: int, *, final_relu: bool = True) -> TimmClassifier:
    """DenseNet-169, feature of 1664; ``final_relu`` as in `densenet121`."""
    return _densenet("densenet169", 169, num_classes, final_relu)


def densenet201(num_classes: int, *, final_relu: bool = True) -> TimmClassifier:
    """DenseNet-201, feature of 1920; ``final_relu`` as in `densenet121`."""
    return _densenet("densenet201", 201, num_classes, final_relu)


def inceptionv4(num_classes: int) -> TimmClassifier:
    """Inception-v4, feature of 1536, H and W from 75 up; torch's own initial values."""
    return TimmClassifier("inceptionv4", "inception_v4", num_classes, he_values=False)


def inceptionresnetv2(num_classes: int) -> TimmClassifier:
    """Inception-ResNet-v2, feature of 1536, H and W from 75 up; torch's own initial values."""
    return TimmClassifier("inceptionresnetv2", "inception_resnet_v2", num_classes, he_values=False)


def xception(num_classes: int) -> TimmClassifier:
    """Xception, feature of 2048."""
    return TimmClassifier("xception", "legacy_xception", num_classes)
