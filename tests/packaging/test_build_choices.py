# SPDX-License-Identifier: Apache-2.0
"""The decisions of setup.py, each alone: torch, nvcc, architectures. Every refusal is one sentence."""

from __future__ import annotations

import stat

import pytest


@pytest.fixture
def nvcc(setup_module):
    return setup_module.Nvcc("/opt/cuda/bin/nvcc", 13, 0)


def torch(torch_location, version="2.13.0", cuda=None):
    return torch_location.Torch("/site/torch", version, cuda)


@pytest.mark.parametrize(
    ("wanted", "torch_cuda", "has_nvcc", "built"),
    [
        ("", None, True, False),  # CPU torch: CUDA only if asked for
        ("", "13.0", True, True),
        ("", "13.2", True, True),  # another minor version is the same ABI
        ("0", "13.0", True, False),
        ("1", "13.0", True, True),
        ("1", None, True, True),  # CPU torch: compiled, linked against the stand-in
        ("0", None, False, False),
    ],
)
def test_cuda_choice(setup_module, torch_location, nvcc, wanted, torch_cuda, has_nvcc, built):
    found = setup_module.cuda_choice(
        wanted, torch(torch_location, cuda=torch_cuda), nvcc if has_nvcc else None
    )
    assert found == (built, None)


@pytest.mark.parametrize(
    ("torch_cuda", "has_nvcc", "says"),
    [
        (
            "12.8",
            True,
            r"nvcc is CUDA 13\.0 but torch 2\.13\.0 was built with CUDA 12\.8: point CUDA_HOME at a CUDA 12 ",
        ),
        ("13.0", False, r"nvcc was not found: install the CUDA toolkit 13\.0 or point CUDA_HOME at it"),
    ],
)
def test_cuda_that_cannot_be_built_is_a_warning_or_an_error_if_asked_for(
    setup_module, torch_location, nvcc, torch_cuda, has_nvcc, says
):
    arguments = (torch(torch_location, cuda=torch_cuda), nvcc if has_nvcc else None)
    built, warning = setup_module.cuda_choice("", *arguments)
    assert not built
    with pytest.raises(setup_module.Refused, match=says) as refused:
        setup_module.cuda_choice("1", *arguments)
    assert str(refused.value).endswith("or set FASTREID_CUDA=0 to build for the CPU only.")
    assert "building for the CPU only, because" in warning


def test_cuda_asked_for_without_nvcc_on_cpu_torch(setup_module, torch_location):
    with pytest.raises(
        setup_module.Refused, match="nvcc was not found: install the CUDA toolkit or point CUDA_HOME"
    ):
        setup_module.cuda_choice("1", torch(torch_location), None)


def test_cuda_choice_refuses_other_words(setup_module, torch_location, nvcc):
    with pytest.raises(setup_module.Refused, match="FASTREID_CUDA: got 'yes', expected 1"):
        setup_module.cuda_choice("yes", torch(torch_location), nvcc)


@pytest.mark.parametrize(
    ("text", "cmake"),
    [
        ("", ""),
        ("9.0", "90-real"),
        ("8.0;9.0 10.0+PTX", "80-real;90-real;100"),
        ("9.0a, 12.1f+PTX", "90a-real;121f"),
    ],
)
def test_architectures(setup_module, text, cmake):
    assert setup_module.cuda_architectures(text) == cmake


@pytest.mark.parametrize("text", ["Hopper", "90", "sm_90", "9.0;x", "9.0+ptx", "9.00"])
def test_bad_architectures(setup_module, text):
    with pytest.raises(
        setup_module.Refused, match=r"TORCH_CUDA_ARCH_LIST: got '\S+', expected compute capabilities"
    ):
        setup_module.cuda_architectures(text)


def test_variant_of_an_architecture_that_nvcc_lists_without_it(setup_module):
    """CUDA 13.0 lists sm_90 and compiles sm_90a."""
    assert setup_module.cuda_architectures("9.0a 10.0", {"90", "100"}) == "90a-real;100-real"
    with pytest.raises(setup_module.Refused, match=r"got '8.0a'"):
        setup_module.cuda_architectures("8.0a", {"90", "100"})


def test_architecture_that_this_nvcc_lacks(setup_module):
    with pytest.raises(setup_module.Refused, match=r"got '6.0', .*\(this nvcc knows 80, 90, 90a, 100\)"):
        setup_module.cuda_architectures("9.0 6.0", {"100", "80", "90a", "90"})


@pytest.mark.parametrize("version", ["2.11.0", "2.13.0+cpu", "2.13.0+cu130", "3.0.0"])
def test_torch_new_enough(setup_module, torch_location, version):
    found = torch(torch_location, version)
    assert setup_module.checked_torch(found) is found


@pytest.mark.parametrize("version", ["2.10.1", "1.13.1+cu117", "2.9.0"])
def test_torch_too_old(setup_module, torch_location, version):
    with pytest.raises(setup_module.Refused, match=r"is too old: run `pip install 'torch>=2\.11"):
        setup_module.checked_torch(torch(torch_location, version))


def test_no_torch(setup_module):
    with pytest.raises(
        setup_module.Refused, match=r"no torch to build against: run `pip install .* first, or leave out"
    ):
        setup_module.checked_torch(None)


def test_nvcc_is_the_one_that_was_named(setup_module, tmp_path, monkeypatch):
    for name, release in (("named", "12.9"), ("home/bin/nvcc", "13.1")):
        script = tmp_path / name
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CUDACXX", raising=False)
    assert setup_module.find_nvcc()[1:] == (13, 1)
    monkeypatch.setenv("CUDACXX", str(tmp_path / "named"))
    assert setup_module.find_nvcc() == (str(tmp_path / "named"), 12, 9)
