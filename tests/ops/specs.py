# SPDX-License-Identifier: Apache-2.0
"""The ops under contract: one OpSpec each."""

import spec_attention
import spec_distance
import spec_feature_ranking
import spec_nearest
import spec_ranking
import spec_rerank

SPECS = [spec_distance.SPEC, spec_nearest.SPEC, spec_ranking.SPEC]
SPECS += [spec_feature_ranking.SPEC, *spec_rerank.SPECS, *spec_attention.SPECS]
