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

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> run(const RankingArguments& arguments) {
  const RankingCall call = RankingCall::of_matrix(arguments);
  const RankingProblem& p = call.problem;
  const int64_t largest = check_labels(call);
  const RankingKernels& kernels = FASTREID_KERNELS(ranking_kernels);
  const int64_t grain = larger(1, kGrain / larger(p.gallery, 1));
  torch::stable::parallel_for(0, p.queries, grain, [&](int64_t first, int64_t last) {
    std::vector<int64_t> scratch(static_cast<size_t>(ceil_div(kernels.scratch_bytes(&p, largest), 8)));
    kernels.rows(&p, first, last, scratch.data(), &call.rows);
  });
  kernels.summary(p.queries, call.max_rank, p.invalid_rule, &call.rows, call.cmc.mutable_data_ptr<double>(),
                  call.means.mutable_data_ptr<double>());
  return call.results();
}

std::tuple<Tensor, Tensor> summary(const Tensor& reals, const Tensor& counts, const Tensor& shares,
                                   int64_t invalid, int64_t max_rank) {
  const RankingRows rows = summary_rows(reals, counts, shares, invalid, max_rank);
  const Tensor cmc = empty_on(reals, {max_rank}, aoti_torch_dtype_float64());
  const Tensor means = empty_on(reals, {2}, aoti_torch_dtype_float64());
  FASTREID_KERNELS(ranking_kernels)
      .summary(reals.size(1), max_rank, static_cast<InvalidRule>(invalid), &rows,
               cmc.mutable_data_ptr<double>(), means.mutable_data_ptr<double>());
  return {cmc, means};
}

FASTREID_RANK_METRICS(run)

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_FRAGMENT(fastreid, m) {
  // members: gallery indices, those of one pid side by side; begin, end: the range of each query's pid in it;
  // query_class, excluded, gallery_identity: as in relevance.h, null where no rule reads them. The codes
  // are the enumerators of relevance.h; repeats: 0 for the mean over all galleries. Results as in RankingCall.
  m.def(
      "rank_metrics(Tensor distance, Tensor members, Tensor begin, Tensor end, Tensor? query_camids, Tensor? "
      "gallery_camids, Tensor? query_clothes, Tensor? gallery_clothes, Tensor? query_class, Tensor? "
      "excluded, "
      "Tensor? gallery_identity, int camera_rule, int clothes_rule, int ap, int cmc, int invalid, int "
      "max_rank, "
      "int repeats, int seed, int first_query=0) -> (Tensor cmc, Tensor means, Tensor reals, Tensor counts, "
      "Tensor shares)");
  // Of queries that were ranked in parts: reals, counts and shares of RankingCall, side by side.
  m.def(
      "ranking_summary(Tensor reals, Tensor counts, Tensor shares, int invalid, int max_rank) -> "
      "(Tensor cmc, Tensor means)");
}

STABLE_TORCH_LIBRARY_IMPL(fastreid, CPU, m) {
  m.impl("rank_metrics", TORCH_BOX(&fastreid::rank_metrics));
  m.impl("ranking_summary", TORCH_BOX(&fastreid::summary));
}
