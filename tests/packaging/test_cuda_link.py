# SPDX-License-Identifier: Apache-2.0
"""The CUDA side without a GPU: _cuda.so compiles, links with nothing left undefined, and registers every operator.

One architecture here, to be quick; CI compiles all of them. Where torch is a CPU build, csrc/tests/torch_cuda_stub.cpp
stands in for libtorch_cuda.so.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

LOAD = """
import ctypes, json, sys
library, *preloaded = sys.argv[1:]
for name in preloaded:
    ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
import torch
from fastreid_ops import _C
def ops(key):
    names = torch._C._dispatch_get_registrations_for_dispatch_key(key)
    return sorted(name for name in names if name.startswith("fastreid::"))
before = ops("CUDA")
torch.ops.load_library(library)
print(json.dumps({"before": before, "CPU": ops("CPU"), "CUDA": ops("CUDA")}))
"""


CPU_ONLY = {
    # One call in parts, for progress and Ctrl-C: on a device the call does not wait for its work.
    "fastreid::nearest_part",
    "fastreid::nearest_state",
    # Statistics, network and gate while a sample's map is in a core's cache: on a device the Python function composes
    # pool, network and gate.
    "fastreid::channel_attention",
    "fastreid::channel_attention_backward",
    # A gallery over several ranks: features come to the CPU when they are extracted, and travel from there.
    "fastreid::rank_distances",
    "fastreid::rank_part",
}


@pytest.fixture(scope="module")
def nvcc(setup_module):
    found = setup_module.find_nvcc()
    if found is None:
        pytest.skip("no CUDA toolkit on this machine")
    return found


@pytest.fixture(scope="module")
def folder(root, nvcc, setup_module, torch_location, tmp_path_factory) -> Path:
    build = tmp_path_factory.mktemp("cuda")
    tools, torch = setup_module.cmake_tools(), torch_location.find()
    configure = [
        *(tools["cmake"], f"-S{root}", f"-B{build}", "-GNinja", f"-DCMAKE_MAKE_PROGRAM={tools['ninja']}"),
        *(f"-DFASTREID_TORCH_ROOT={torch.root}", "-DFASTREID_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc.path}"),
        *(f"-Dpybind11_DIR={tools['pybind11']}", f"-DPython_EXECUTABLE={sys.executable}"),
        "-DCMAKE_CUDA_ARCHITECTURES=90-real",
    ]
    for command in (configure, [tools["cmake"], "--build", str(build), "--target", "_cuda"]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stdout + done.stderr
    return build


def undefined(library: Path) -> set[str]:
    done = subprocess.run(
        ["nm", "-DC", "--undefined-only", library], capture_output=True, text=True, check=True
    )
    return {line.split(maxsplit=1)[1].split("@")[0] for line in done.stdout.splitlines() if line}


def test_only_the_stable_interface_of_torch_is_used(folder):
    names = undefined(folder / "_cuda.so")
    assert not [name for name in names if re.search(r"\b(c10|at|torch|caffe2)::", name)]
    assert not [name for name in names if name.startswith("Py")]
    assert "aoti_torch_get_current_cuda_stream" in names


def test_it_wants_the_cuda_half_of_torch_and_the_shared_runtime(folder):
    done = subprocess.run(["readelf", "-d", folder / "_cuda.so"], capture_output=True, text=True, check=True)
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", done.stdout)
    assert {"libtorch_cuda.so", "libtorch_cpu.so"} <= set(needed)
    assert [name for name in needed if name.startswith("libcudart.so.")]


def test_every_operator_is_registered_for_cuda(folder):
    preloaded = []
    if (folder / "libtorch_cuda.so").exists():
        cache = (folder / "CMakeCache.txt").read_text()
        runtime = re.search(r"^CUDA_cudart_LIBRARY:FILEPATH=(.*)$", cache, re.MULTILINE)[1]
        preloaded = [runtime, str(folder / "libtorch_cuda.so")]
    command = [sys.executable, "-c", LOAD, str(folder / "_cuda.so"), *preloaded]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["before"] == []
    assert found["CUDA"] == [name for name in found["CPU"] if name not in CPU_ONLY] != []
