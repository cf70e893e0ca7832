# SPDX-License-Identifier: Apache-2.0
"""One rendered default test split for all tests of this folder."""

from __future__ import annotations

import pytest

from fastreid_ops.data.people import PeopleOptions, render_dataset


@pytest.fixture(scope="session")
def test_split(tmp_path_factory):
    """The default options without their training pictures: (manifest, options)."""
    options = PeopleOptions(train_ids=0)
    return render_dataset(tmp_path_factory.mktemp("people") / "default", options), options
