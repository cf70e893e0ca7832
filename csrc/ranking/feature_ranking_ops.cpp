// SPDX-License-Identifier: Apache-2.0
// Schema, and the CPU side. The Python function has inverted the labels and checked the arguments in its own
// words; the checks here are a backstop that keeps a direct call inside its memory.
#include "ranking/feature_ranking_ops.h"

#include <torch/csrc/stable/library.h>

#include "common/items.h"

namespace fastreid {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> run(const Tensor& x, const Tensor& y, bool angular,
                                               const RankingArguments& arguments) {
  check_features(x, y);
  const RankingCall call(arguments, x.size(0), y.size(0));
  FeatureRankingProblem p = feature_ranking_problem(x, y, angular, has_pairs(), call);
  p.largest_group = check_labels(call);
  const FeatureRankingKernels& kernels = FASTREID_KERNELS(feature_ranking_kernels);
  if (p.queries > 0) {
    Workspace state(kernels.state_bytes(&p));
    const int64_t workspace = kernels.workspace_bytes(&p);
    for (int i = 0; i < kFeatureRankingPhases; ++i) {
      const FeatureRankingPhase phase = static_cast<FeatureRankingPhase>(i);
      for_items(0, kernels.items(&p, phase), workspace, [&](int64_t item, void* memory) {
        kernels.run(&p, &call.rows, phase, item, item + 1, state.data(), memory);
      });
    }
  }
  FASTREID_KERNELS(ranking_kernels)
      .summary(p.queries, call.max_rank, call.problem.invalid_rule, &call.rows,
               call.cmc.mutable_data_ptr<double>(), call.means.mutable_data_ptr<double>());
  return call.results();
}

FASTREID_RANK_FEATURES(run)

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_FRAGMENT(fastreid, m) {
  // angular: directions are compared (cosine, arccos). The rest as in rank_metrics.
  m.def(
      "rank_features(Tensor query, Tensor gallery, bool angular, Tensor members, Tensor begin, Tensor end, "
      "Tensor? query_camids, Tensor? gallery_camids, Tensor? query_clothes, Tensor? gallery_clothes, "
      "Tensor? query_class, Tensor? excluded, Tensor? gallery_identity, int camera_rule, int clothes_rule, "
      "int ap, int cmc, int invalid, int max_rank, int repeats, int seed) -> "
      "(Tensor cmc, Tensor means, Tensor reals, Tensor counts)");
}

STABLE_TORCH_LIBRARY_IMPL(fastreid, CPU, m) { m.impl("rank_features", TORCH_BOX(&fastreid::rank_features)); }
