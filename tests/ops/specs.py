# SPDX-License-Identifier: Apache-2.0
"""The ops under contract: one OpSpec each."""

from importlib.util import find_spec

import spec_distance

SPECS = [spec_distance.SPEC]
if find_spec("spec_ranking"):
    import spec_ranking

    SPECS.append(spec_ranking.SPEC)
