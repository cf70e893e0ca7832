# SPDX-License-Identifier: Apache-2.0
"""MATLAB files of data sets, through optional packages: `pip install 'fastreid-ops[matlab]'`."""

from __future__ import annotations

from pathlib import Path

from fastreid_ops.data.manifest import ManifestError

INSTALL = "pip install 'fastreid-ops[matlab]'"


def load_mat(file: Path, name: str) -> dict:
    """The variables of a .mat file of version 4 to 7.2, as `scipy.io.loadmat` gives them.

    Args:
        name: of the data set, for messages.

    Raises:
        ManifestError: without SciPy, and for a file that is missing, damaged or of version 7.3.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise ManifestError(f"{name}: {file}: reading it needs SciPy: {INSTALL}") from error
    try:
        return loadmat(file)
    except OSError as error:
        raise ManifestError(f"{name}: {file}: cannot be read: {error.strerror or error}") from error
    except NotImplementedError as error:
        raise ManifestError(
            f"{name}: {file}: got a MATLAB file of version 7.3, expected version 5 to 7.2"
        ) from error
    except (MatReadError, ValueError, TypeError, KeyError, EOFError) as error:
        raise ManifestError(f"{name}: {file}: got no readable MATLAB file: {error}") from error


def open_hdf5(file: Path, name: str):
    """An open `h5py.File` on a .mat file of version 7.3; close it with `with`.

    Raises:
        ManifestError: without h5py, and for a file that is missing or of another format.
    """
    try:
        import h5py
    except ImportError as error:
        raise ManifestError(f"{name}: {file}: reading it needs h5py: {INSTALL}") from error
    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise ManifestError(
            f"{name}: {file}: cannot be read as a MATLAB file of version 7.3: {error.strerror or error}"
        ) from error
