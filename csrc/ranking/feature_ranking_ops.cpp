// SPDX-License-Identifier: Apache-2.0
// Schema, and the CPU side. The Python function has inverted the labels and checked the arguments in its own
// words; the checks here are a backstop that keeps a direct call inside its memory.
#include "ranking/feature_ranking_ops.h"

#include <torch/csrc/stable/library.h>

#include "common/items.h"

namespace fastreid {
namespace {

// Measuring a pair exactly costs about as much as 40 products of float32 pairs do beyond those of bfloat16: above this
// fraction float32 is the faster screen.
constexpr double kTooMany = 0.025;

// Everything up to the ranking, with its state.
class Screen {
 public:
  Screen(const FeatureRankingProblem& problem, const RankingRows& rows)
      : problem_(problem), rows_(rows), state_(kernels_.state_bytes(&problem)) {
    for (int i = 0; i < kFeatureRankingPhases - 1; ++i) {
      const FeatureRankingPhase phase = static_cast<FeatureRankingPhase>(i);
      run(phase, 0, kernels_.items(&problem_, phase));
    }
  }

  int64_t items() const { return kernels_.items(&problem_, FeatureRankingPhase::rank); }
  void rank(int64_t first, int64_t last) { run(FeatureRankingPhase::rank, first, last); }
  int64_t measured() { return kernels_.measured(&problem_, state_.data()); }

 private:
  void run(FeatureRankingPhase phase, int64_t first, int64_t last) {
    for_items(first, last, kernels_.workspace_bytes(&problem_), [&](int64_t item, void* memory) {
      kernels_.run(&problem_, &rows_, phase, item, item + 1, state_.data(), memory);
    });
  }

  const FeatureRankingKernels& kernels_ = FASTREID_KERNELS(feature_ranking_kernels);
  const FeatureRankingProblem& problem_;
  const RankingRows& rows_;
  Workspace state_;
};

std::tuple<Tensor, Tensor, Tensor> run(const Tensor& x, const Tensor& y, bool angular,
                                       const RankingArguments& arguments) {
  check_features(x, y);
  const RankingCall call(arguments, x.size(0), y.size(0));
  FeatureRankingProblem p = feature_ranking_problem(x, y, angular, has_pairs(), call);
  p.largest_group = check_labels(call);
  if (p.queries == 0) return {call.reals, call.counts, call.shares};
  int64_t done = 0;
  if (p.pairs) {
    Screen pairs(p, call.rows);
    const int64_t all = pairs.items(), tried = smaller(all, torch::stable::get_num_threads());
    pairs.rank(0, tried);
    const double seen = static_cast<double>(p.queries) * static_cast<double>(p.gallery) *
                        static_cast<double>(tried) / static_cast<double>(all);
    done = tried;
    if (static_cast<double>(pairs.measured()) < kTooMany * seen) pairs.rank(done, all), done = all;
    if (done == all) return {call.reals, call.counts, call.shares};
    p.pairs = false;
  }
  Screen singles(p, call.rows);
  singles.rank(done, singles.items());
  return {call.reals, call.counts, call.shares};
}

FASTREID_RANK_FEATURES(run)

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_FRAGMENT(fastreid, m) {
  // angular: directions are compared (cosine, arccos). The rest as in rank_metrics; ranking_summary makes
  // means of the results.
  m.def(
      "rank_features(Tensor query, Tensor gallery, bool angular, Tensor members, Tensor begin, Tensor end, "
      "Tensor? query_camids, Tensor? gallery_camids, Tensor? query_clothes, Tensor? gallery_clothes, "
      "Tensor? query_class, Tensor? excluded, Tensor? gallery_identity, int camera_rule, int clothes_rule, "
      "int ap, int cmc, int invalid, int max_rank, int repeats, int seed) -> "
      "(Tensor reals, Tensor counts, Tensor shares)");
}

STABLE_TORCH_LIBRARY_IMPL(fastreid, CPU, m) { m.impl("rank_features", TORCH_BOX(&fastreid::rank_features)); }
