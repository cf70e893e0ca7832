// SPDX-License-Identifier: Apache-2.0
// Schema, and the CPU side. The Python function has inverted the labels and checked the arguments in its own
// words; the checks here are a backstop that keeps a direct call inside its memory.
#include "ranking/ranking_ops.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

namespace fastreid {
namespace {

// Entries of the matrix for which waking another thread pays.
constexpr int64_t kGrain = 32768;

// Every index that the kernels follow lies inside its array. Returns the size of the largest group of members.
int64_t check_labels(const RankingProblem& problem) {
  for (int64_t i = 0; i < problem.gallery; ++i) {
    const int64_t g = problem.members[i];
    FASTREID_CHECK(g >= 0 && g < problem.gallery, kRankingOp, "members", shown(g), "gallery indices");
  }
  int64_t largest = 0;
  for (int64_t q = 0; q < problem.queries; ++q) {
    const int64_t begin = problem.begin[q], end = problem.end[q];
    FASTREID_CHECK(0 <= begin && begin <= end && end <= problem.gallery, kRankingOp, "begin and end",
                   shown({begin, end}), "ranges of members");
    largest = larger(largest, end - begin);
  }
  return largest;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> rank_metrics(const Tensor& distance, const Tensor& members,
                                                        const Tensor& begin, const Tensor& end,
                                                        const std::optional<Tensor>& query_camids,
                                                        const std::optional<Tensor>& gallery_camids,
                                                        int64_t camera_rule, int64_t ap, int64_t max_rank) {
  const RankingCall call(distance, members, begin, end, query_camids, gallery_camids, camera_rule, ap,
                         max_rank);
  const RankingProblem& p = call.problem;
  const int64_t largest = check_labels(p);
  const RankingKernels& kernels = FASTREID_KERNELS(ranking_kernels);
  const int64_t grain = larger(1, kGrain / larger(p.gallery, 1));
  torch::stable::parallel_for(0, p.queries, grain, [&](int64_t first, int64_t last) {
    std::vector<int64_t> scratch(static_cast<size_t>(ceil_div(kernels.scratch_bytes(largest), 8)));
    kernels.rows(&p, first, last, scratch.data(), &call.rows);
  });
  kernels.summary(p.queries, max_rank, &call.rows, call.cmc.mutable_data_ptr<double>(),
                  call.means.mutable_data_ptr<double>());
  return call.results();
}

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_FRAGMENT(fastreid, m) {
  // members: gallery indices, those of one pid side by side; begin, end: the range of each query's pid in it.
  // camera_rule: 0 same_pid, 1 none; ap: 0 step, 1 trapezoid. Results as in RankingCall.
  m.def(
      "rank_metrics(Tensor distance, Tensor members, Tensor begin, Tensor end, Tensor? query_camids, Tensor? "
      "gallery_camids, "
      "int camera_rule, int ap, int max_rank) -> (Tensor cmc, Tensor means, Tensor reals, Tensor counts)");
}

STABLE_TORCH_LIBRARY_IMPL(fastreid, CPU, m) { m.impl("rank_metrics", TORCH_BOX(&fastreid::rank_metrics)); }
