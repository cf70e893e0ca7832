# SPDX-License-Identifier: Apache-2.0
import sys
import types

import numpy as np
import pytest
import torch
from competition_entry import COLOURS, picture, plan, run, tiny

from fastreid_ops import models


@pytest.fixture(scope="session", autouse=True)
def _network():
    """The network under a name, and one thread for it."""
    module = types.ModuleType("competition_tiny")
    module.tiny = tiny
    sys.modules["competition_tiny"] = module
    models.MODELS["naic_tiny"] = "competition_tiny:tiny"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    del models.MODELS["naic_tiny"], sys.modules["competition_tiny"]


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Six people to train on; in each half six queries and as many people in the gallery, three pictures each."""
    folder, rng = tmp_path_factory.mktemp("naic"), np.random.default_rng(0)
    lines = []
    for pid in range(6):
        colour = rng.integers(20, 160, 3)
        for k in range(4):
            picture(folder / f"train_2020_fs/images/{pid}_{k}.png", colour, rng)
            lines.append(f"{pid}_{k}.png:{pid}")
    (folder / "train_2020_fs/train_list.txt").write_text("\n".join(lines))
    test = folder / "image_B_v1_1"
    for half, (low, high) in COLOURS.items():
        query, gallery = [], []
        for pid in range(6):
            colour = rng.integers(low, high, 3)
            picture(test / f"query/{half}{pid}.png", colour, rng)
            query.append(f"{half}{pid}.png")
            for k in range(3):
                picture(test / f"gallery/{half}{pid}_{k}.png", colour, rng)
                gallery.append(f"{half}{pid}_{k}.png")
        (test / f"query_{half}.txt").write_text("\n".join(query) + "\n")
        (test / f"gallery_{half}.txt").write_text("\n".join(gallery) + "\n")
    return folder


@pytest.fixture(scope="session")
def done(root, tmp_path_factory):
    """(folder of an entry that nothing happened to, its plan)."""
    folder = tmp_path_factory.mktemp("done")
    path = plan(root, folder)
    assert run(path) == 0
    return folder / "entry", path
