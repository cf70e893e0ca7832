# SPDX-License-Identifier: Apache-2.0
"""Drives CMake, which holds the list of native sources: finds torch, nvcc and the build tools, decides about CUDA, and
puts the libraries where setuptools expects them. Everything else stands in pyproject.toml. Every failure is one
sentence (``Refused``).

Environment: FASTREID_CUDA=1 (CUDA or an error) or 0 (never); TORCH_CUDA_ARCH_LIST; MAX_JOBS; CXX; CUDACXX, CUDA_HOME;
FASTREID_TORCH (the torch package to build against, where it is not the one installed).
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))
torch_location = importlib.import_module("torch_location")

OLDEST_TORCH = (2, 11)
TOOLS = "'setuptools>=77' 'pybind11>=3.0' 'cmake>=3.26' ninja 'Cython>=3.0'"


class Refused(SystemExit):
    """The build stops here: one sentence saying what to do, no traceback."""

    def __init__(self, sentence: str) -> None:
        super().__init__(f"fastreid-ops: {sentence}")


class Nvcc(NamedTuple):
    path: str
    major: int
    minor: int


def checked_torch(torch: torch_location.Torch | None) -> torch_location.Torch:
    if torch is None:
        raise Refused(
            "no torch to build against: run `pip install 'torch>=2.11,<2.14'` first, or leave out --no-build-isolation."
        )
    if torch.release < OLDEST_TORCH:
        raise Refused(
            f"torch {torch.version} in {Path(torch.root).parent} is too old: "
            "run `pip install 'torch>=2.11,<2.14'` and install again."
        )
    return torch


def find_nvcc() -> Nvcc | None:
    """The nvcc that CUDACXX or CUDA_HOME names, and then no other; else that of PATH or of the standard place."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if os.environ.get("CUDACXX"):
        candidates = [os.environ["CUDACXX"]]
    elif home:
        candidates = [os.path.join(home, "bin", "nvcc")]
    else:
        candidates = ["nvcc", "/usr/local/cuda/bin/nvcc"]
    path = next(filter(None, map(shutil.which, candidates)), None)
    if path is None:
        return None
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release (\d+)\.(\d+)", text)
    return Nvcc(path, int(release[1]), int(release[2])) if release else None


def cuda_choice(wanted: str, torch: torch_location.Torch, nvcc: Nvcc | None) -> tuple[bool, str | None]:
    """Whether to build _cuda.so, and what to warn of. ``wanted`` is FASTREID_CUDA: "1", "0", or "" (as torch)."""
    if wanted not in ("", "0", "1"):
        raise Refused(
            f"FASTREID_CUDA: got {wanted!r}, expected 1 (with CUDA), 0 (without) or nothing (as torch)."
        )
    if wanted == "0" or (wanted == "" and torch.cuda is None):
        return False, None
    if nvcc is None:
        problem = "nvcc was not found: install the CUDA toolkit" + (f" {torch.cuda}" if torch.cuda else "")
        problem += " or point CUDA_HOME at it"
    elif torch.cuda is not None and nvcc.major != int(torch.cuda.split(".")[0]):
        problem = (
            f"{nvcc.path} is CUDA {nvcc.major}.{nvcc.minor} but torch {torch.version} was built with "
            f"CUDA {torch.cuda}: point CUDA_HOME at a CUDA {torch.cuda.split('.')[0]} toolkit"
        )
    else:
        return True, None
    if wanted == "1":
        raise Refused(f"{problem}, or set FASTREID_CUDA=0 to build for the CPU only.")
    return False, f"fastreid-ops: warning: building for the CPU only, because {problem}."


def cuda_architectures(text: str, supported: set[str] | None = None) -> str:
    """TORCH_CUDA_ARCH_LIST ("8.0;9.0 10.0+PTX") in CMake's words ("80-real;90-real;100"); "" as it is."""
    entries = [entry for entry in re.split(r"[;,\s]+", text.strip()) if entry]
    found = []
    for entry in entries:
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)
        number = match[1] + match[2] + match[3] if match else ""
        # nvcc lists the architectures without their variants: 90, not 90a.
        known = supported is None or (match is not None and {number, match[1] + match[2]} & supported)
        if not match or not known:
            hint = (
                f" (this nvcc knows {', '.join(sorted(supported, key=_arch_key))})"
                if match and supported
                else ""
            )
            raise Refused(
                f"TORCH_CUDA_ARCH_LIST: got {entry!r}, expected compute capabilities "
                f"such as '8.0;9.0;10.0+PTX'{hint}."
            )
        found.append(number if match[4] else f"{number}-real")
    return ";".join(found)


def _arch_key(number: str) -> tuple[int, str]:
    digits = re.match(r"\d+", number)
    return (int(digits[0]) if digits else 0, number)


def nvcc_architectures(nvcc: Nvcc) -> set[str] | None:
    text = subprocess.run([nvcc.path, "--list-gpu-code"], capture_output=True, text=True, check=False).stdout
    return set(re.findall(r"sm_(\w+)", text)) or None


def checked_compiler() -> None:
    named = shlex.split(os.environ.get("CXX", ""))
    candidates = named[:1] or ["c++", "g++", "clang++"]
    if not any(shutil.which(name) for name in candidates):
        got = f"CXX={named[0]} is not there" if named else "no C++ compiler was found"
        raise Refused(f"{got}: install one (Debian, Ubuntu: `apt-get install g++`) or set CXX.")
    include = sysconfig.get_paths()["include"]
    if not (Path(include) / "Python.h").is_file():
        raise Refused(
            f"Python's headers are not in {include}: install them (Debian, Ubuntu: `apt-get install python3-dev`)."
        )


def build_tool(name: str, directory: str) -> str:
    """The tool from its Python package (not on PATH where the virtual environment is not active), else from PATH."""
    try:
        package = __import__(name)
    except ImportError:
        path = shutil.which(name)
    else:
        path = shutil.which(name, path=getattr(package, directory)) or shutil.which(name)
    if path is None:
        raise Refused(f"{name} was not found: run `pip install {TOOLS}`, or leave out --no-build-isolation.")
    return path


def cmake_tools() -> dict[str, str]:
    for name in ("pybind11", "Cython"):
        try:
            __import__(name)
        except ImportError:
            raise Refused(
                f"{name} was not found: run `pip install {TOOLS}`, or leave out --no-build-isolation."
            ) from None
    import pybind11

    return {
        "cmake": build_tool("cmake", "CMAKE_BIN_DIR"),
        "ninja": build_tool("ninja", "BIN_DIR"),
        "pybind11": pybind11.get_cmake_dir(),
    }


def run(step: str, command: list[str]) -> None:
    print("+", shlex.join(command), flush=True)
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise Refused(
            f"{step} failed; the first error above says why, and `pip install -v` shows everything."
        )


class FreshBuild(build):
    """Starts from an empty build_lib, so that a wheel holds nothing of earlier builds: a _cuda.so, a deleted module."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class CMakeBuild(build_ext):
    def get_ext_filename(self, fullname: str) -> str:
        # _cuda is a torch operator library, not a Python module: one file for every Python.
        if fullname.endswith("_cuda"):
            return fullname.replace(".", os.sep) + ".so"
        return super().get_ext_filename(fullname)

    def run(self) -> None:
        self.torch = checked_torch(torch_location.find())
        checked_compiler()
        nvcc = find_nvcc()
        self.cuda, warning = cuda_choice(os.environ.get("FASTREID_CUDA", ""), self.torch, nvcc)
        self.nvcc = nvcc if self.cuda else None
        if warning:
            print(warning, file=sys.stderr, flush=True)
        if not self.cuda:
            self.extensions = [e for e in self.extensions if e.name != "fastreid_ops._cuda"]
            # An older one would be loaded beside the new _C.
            for folder in (ROOT, Path(self.build_lib)):
                (folder / "fastreid_ops" / "_cuda.so").unlink(missing_ok=True)
        print(f"building against torch {self.torch.version} in {self.torch.root}", flush=True)
        super().run()

    def build_extensions(self) -> None:
        tools = cmake_tools()
        # A folder of its own: setuptools' build_temp is new for every editable install, hence never incremental.
        name = f"{sys.implementation.cache_tag}-torch{self.torch.version}{'-cuda' if self.cuda else ''}"
        folder = ROOT / "build" / name
        configure = [
            tools["cmake"],
            f"-S{ROOT}",
            f"-B{folder}",
            "-GNinja",
            # Always passed: the cached one may point into an isolated environment that is gone.
            f"-DCMAKE_MAKE_PROGRAM={tools['ninja']}",
            f"-Dpybind11_DIR={tools['pybind11']}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DFASTREID_TORCH_ROOT={self.torch.root}",
            f"-DFASTREID_TORCH_VERSION={self.torch.version}",
            f"-DFASTREID_VERSION={self.distribution.get_version()}",
            f"-DFASTREID_CUDA={'ON' if self.cuda else 'OFF'}",
        ]
        if self.nvcc is not None:
            wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
            architectures = cuda_architectures(wanted, nvcc_architectures(self.nvcc))
            configure += [
                f"-DCMAKE_CUDA_COMPILER={self.nvcc.path}",
                f"-DCMAKE_CUDA_ARCHITECTURES={architectures}",
            ]
        compile_ = [tools["cmake"], "--build", str(folder)]
        if os.environ.get("MAX_JOBS"):
            compile_ += ["-j", os.environ["MAX_JOBS"]]
        run("configuring with CMake", configure)
        run("compiling", compile_)
        run(
            "installing",
            [tools["cmake"], "--install", str(folder), "--prefix", str(Path(self.build_lib).resolve())],
        )


def extension(name: str) -> Extension:
    return Extension(f"fastreid_ops.{name}", sources=[])  # CMake knows the sources


if __name__ == "__main__":
    setup(
        ext_modules=[extension(name) for name in ("_C", "_cuda", "numpy", "data._pixels")],
        cmdclass={"build": FreshBuild, "build_ext": CMakeBuild},
    )
