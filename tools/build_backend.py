# SPDX-License-Identifier: Apache-2.0
"""PEP 517 hooks: setuptools', with torch as a build requirement only where there is none to build against."""

from __future__ import annotations

import torch_location
from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

# Any torch in the supported range will do: the stable ABI makes the result run on all of them.
TORCH_REQUIREMENT = "torch>=2.11,<2.14"


def _torch_requirement() -> list[str]:
    return [] if torch_location.find() else [TORCH_REQUIREMENT]


def get_requires_for_build_wheel(config_settings=None):
    return build_meta.get_requires_for_build_wheel(config_settings) + _torch_requirement()


def get_requires_for_build_editable(config_settings=None):
    return build_meta.get_requires_for_build_editable(config_settings) + _torch_requirement()
