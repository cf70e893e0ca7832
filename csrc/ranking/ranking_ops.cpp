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

void check_range(const char* argument, const int64_t* values, int64_t n, int64_t limit) {
  for (int64_t i = 0; i < n; ++i) {
    FASTREID_CHECK(values[i] >= 0 && values[i] < limit, kRankingOp, argument, shown(values[i]),
                   "indices below " + shown(limit));
  }
}

// Every index that the kernels follow lies inside its array. Returns the size of the largest group of
// members.
int64_t check_labels(const RankingCall& call) {
  const RankingProblem& p = call.problem;
  const Relevance& rules = p.relevance;
  check_range("members", rules.members, p.gallery, p.gallery);
  if (rules.gallery_identity) check_range("gallery_identity", rules.gallery_identity, p.gallery, p.gallery);
  if (rules.excluded) {
    check_range("query_class", rules.query_class, p.queries, call.classes);
    for (int64_t c = 0; c < call.classes && p.gallery % 64; ++c) {
      const uint64_t last = rules.excluded[(c + 1) * rules.excluded_words - 1];
      FASTREID_CHECK(last >> (p.gallery % 64) == 0, kRankingOp, "excluded", "a bit past the gallery", "none");
    }
  }
  int64_t largest = 0;
  for (int64_t q = 0; q < p.queries; ++q) {
    const int64_t begin = rules.begin[q], end = rules.end[q];
    FASTREID_CHECK(0 <= begin && begin <= end && end <= p.gallery, kRankingOp, "begin and end",
                   shown({begin, end}), "ranges of members");
    largest = larger(largest, end - begin);
  }
  return largest;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> run(const RankingArguments& arguments) {
  const RankingCall call(arguments);
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

FASTREID_RANK_METRICS(run)

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_FRAGMENT(fastreid, m) {
  // members: gallery indices, those of one pid side by side; begin, end: the range of each query's pid in it;
  // query_class, excluded, gallery_identity: as in relevance.h, null where no rule reads them. The codes
  // are the enumerators of relevance.h; repeats: 0 for the mean over all galleries. Results as in
  // RankingCall.
  m.def(
      "rank_metrics(Tensor distance, Tensor members, Tensor begin, Tensor end, Tensor? query_camids, Tensor? "
      "gallery_camids, Tensor? query_clothes, Tensor? gallery_clothes, Tensor? query_class, Tensor? "
      "excluded, "
      "Tensor? gallery_identity, int camera_rule, int clothes_rule, int ap, int cmc, int invalid, int "
      "max_rank, "
      "int repeats, int seed) -> (Tensor cmc, Tensor means, Tensor reals, Tensor counts)");
}

STABLE_TORCH_LIBRARY_IMPL(fastreid, CPU, m) { m.impl("rank_metrics", TORCH_BOX(&fastreid::rank_metrics)); }
