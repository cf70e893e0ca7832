// SPDX-License-Identifier: Apache-2.0
// From torch's tensors to the problem of ranking.h, for both registration files.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <tuple>
#include <vector>

#include "common/check.h"
#include "common/sizes.h"
#include "common/tensors.h"
#include "ranking/ranking.h"

namespace fastreid {

using torch::stable::Tensor;

inline constexpr const char* kRankingOp = "rank_metrics";

using Optional = std::optional<Tensor>;

// The op's arguments, in the order of its schema. rank_features passes its query features as `distance`, of which it
// uses the device alone.
struct RankingArguments {
  const Tensor& distance;
  const Tensor& members;
  const Tensor& begin;
  const Tensor& end;
  const Optional& query_camids;
  const Optional& gallery_camids;
  const Optional& query_clothes;
  const Optional& gallery_clothes;
  const Optional& query_class;
  const Optional& excluded;
  const Optional& gallery_identity;
  int64_t camera_rule;
  int64_t clothes_rule;
  int64_t ap;
  int64_t cmc;
  int64_t invalid;
  int64_t max_rank;
  int64_t repeats;
  int64_t seed;
  int64_t first_query;
};

// One call: its problem, and the results it fills, on the device of distance.
class RankingCall {
 public:
  static RankingCall of_matrix(const RankingArguments& a) {
    FASTREID_CHECK(a.distance.dim() == 2, kRankingOp, "distance", shown(a.distance.dim()) + " dimensions",
                   "2");
    RankingCall call(a, a.distance.size(0), a.distance.size(1));
    call.problem.distance = a.distance.const_data_ptr();
    call.problem.dtype = dtype_of(kRankingOp, "distance", a.distance);
    call.problem.row_stride = a.distance.stride(0);
    call.problem.column_stride = a.distance.stride(1);
    return call;
  }

  // All of the problem but the matrix.
  RankingCall(const RankingArguments& a, int64_t queries, int64_t gallery) : max_rank(a.max_rank) {
    code("camera_rule", a.camera_rule, 1);
    code("clothes_rule", a.clothes_rule, 2);
    code("ap", a.ap, 1);
    code("cmc", a.cmc, 3);
    code("invalid", a.invalid, 1);
    FASTREID_CHECK(max_rank >= 1, kRankingOp, "max_rank", shown(max_rank), "at least 1");
    FASTREID_CHECK(a.repeats >= 0, kRankingOp, "repeats", shown(a.repeats), "at least 0");
    problem.queries = queries;
    problem.gallery = gallery;
    problem.max_rank = max_rank;
    problem.ap_rule = static_cast<ApRule>(a.ap);
    problem.cmc_rule = static_cast<CmcRule>(a.cmc);
    problem.invalid_rule = static_cast<InvalidRule>(a.invalid);
    problem.repeats = a.repeats;
    problem.seed = static_cast<uint64_t>(a.seed);
    problem.first_query = a.first_query;
    read_rules(a);
    cmc = empty_on(a.distance, {max_rank}, aoti_torch_dtype_float64());
    means = empty_on(a.distance, {2}, aoti_torch_dtype_float64());
    reals = empty_on(a.distance, {2, queries}, aoti_torch_dtype_float64());
    counts = empty_on(a.distance, {5, queries}, aoti_torch_dtype_int64());
    double* real = reals.mutable_data_ptr<double>();
    int64_t* count = counts.mutable_data_ptr<int64_t>();
    rows = {real,
            real + queries,
            count,
            count + queries,
            count + 2 * queries,
            count + 3 * queries,
            count + 4 * queries,
            nullptr};
    const bool by_query = cmc_by_query(problem.cmc_rule);
    shares = empty_on(a.distance, {by_query ? queries : 0, max_rank}, aoti_torch_dtype_float64());
    if (by_query) rows.cmc = shares.mutable_data_ptr<double>();
  }

  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> results() const {
    return {cmc, means, reals, counts, shares};
  }

  RankingProblem problem{};
  RankingRows rows{};
  int64_t classes = 0;  // rows of excluded
  int64_t max_rank;
  Tensor cmc;     // (max_rank,) float64
  Tensor means;   // (2,) float64: mAP, mINP
  Tensor reals;   // (2, Q) float64: AP, INP
  Tensor counts;  // (5, Q) int64: first rank, rank in the CMC, relevant entries, status, non-finite entries
  Tensor shares;  // (Q, max_rank) float64 where the CMC is kept by query, else (0, max_rank)

 private:
  static void code(const char* argument, int64_t value, int64_t last) {
    FASTREID_CHECK(0 <= value && value <= last, kRankingOp, argument, shown(value),
                   "an int from 0 to " + shown(last));
  }

  void read_rules(const RankingArguments& a) {
    Relevance& rules = problem.relevance;
    const int64_t queries = problem.queries, gallery = problem.gallery;
    rules.members = integers("members", a.members, gallery, a);
    rules.begin = integers("begin", a.begin, queries, a);
    rules.end = integers("end", a.end, queries, a);
    rules.camera_rule = static_cast<CameraRule>(a.camera_rule);
    rules.clothes_rule = static_cast<ClothesRule>(a.clothes_rule);
    if (rules.camera_rule == CameraRule::same_pid) {
      rules.query_camids = integers("query_camids", a.query_camids, queries, a);
      rules.gallery_camids = integers("gallery_camids", a.gallery_camids, gallery, a);
    }
    if (rules.clothes_rule != ClothesRule::any) {
      rules.query_clothes = integers("query_clothes", a.query_clothes, queries, a);
      rules.gallery_clothes = integers("gallery_clothes", a.gallery_clothes, gallery, a);
    }
    if (problem.cmc_rule == CmcRule::unique_pid || problem.cmc_rule == CmcRule::single_gallery_shot) {
      rules.gallery_identity = integers("gallery_identity", a.gallery_identity, gallery, a);
    }
    if (a.excluded) {
      rules.query_class = integers("query_class", a.query_class, queries, a);
      rules.excluded_words = ceil_div(gallery, 64);
      FASTREID_CHECK(a.excluded->dim() == 2, kRankingOp, "excluded", shown(a.excluded->dim()) + " dimensions",
                     "2");
      classes = a.excluded->size(0);
      rules.excluded = reinterpret_cast<const uint64_t*>(
          integers("excluded", *a.excluded, {classes, rules.excluded_words}, a));
    }
  }

  static const int64_t* integers(const char* argument, const Optional& tensor, int64_t size,
                                 const RankingArguments& a) {
    FASTREID_CHECK(tensor.has_value(), kRankingOp, argument, "none", "a tensor");
    return integers(argument, *tensor, {size}, a);
  }

  static const int64_t* integers(const char* argument, const Tensor& tensor,
                                 std::initializer_list<int64_t> shape, const RankingArguments& a) {
    bool right = tensor.is_cpu() == a.distance.is_cpu() &&
                 tensor.get_device_index() == a.distance.get_device_index() &&
                 tensor.scalar_type() == torch::headeronly::ScalarType::Long &&
                 tensor.dim() == static_cast<int64_t>(shape.size()) && tensor.is_contiguous();
    int64_t dim = 0;
    for (const int64_t size : shape) right = right && tensor.size(dim++) == size;
    FASTREID_CHECK(right, kRankingOp, argument, "another tensor",
                   "a contiguous int64 tensor of shape " + shown(shape) + " on the device of distance");
    return tensor.const_data_ptr<int64_t>();
  }
};

// Every index that kernels on the CPU follow lies inside its array. Returns the size of the largest group of members.
inline int64_t check_labels(const RankingCall& call) {
  const RankingProblem& p = call.problem;
  const Relevance& rules = p.relevance;
  const auto in_range = [](const char* argument, const int64_t* values, int64_t n, int64_t limit) {
    for (int64_t i = 0; i < n; ++i) {
      FASTREID_CHECK(values[i] >= 0 && values[i] < limit, kRankingOp, argument, shown(values[i]),
                     "indices below " + shown(limit));
    }
  };
  in_range("members", rules.members, p.gallery, p.gallery);
  if (rules.gallery_identity) in_range("gallery_identity", rules.gallery_identity, p.gallery, p.gallery);
  if (rules.excluded) {
    in_range("query_class", rules.query_class, p.queries, call.classes);
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

// The per-query results of ranking_summary as kernels take them.
inline RankingRows summary_rows(const Tensor& reals, const Tensor& counts, const Tensor& shares,
                                int64_t invalid, int64_t max_rank) {
  using torch::headeronly::ScalarType;
  constexpr const char* kOp = "ranking_summary";
  FASTREID_CHECK(reals.dim() == 2 && reals.size(0) == 2 && reals.is_contiguous() &&
                     reals.scalar_type() == ScalarType::Double,
                 kOp, "reals", "another tensor", "a contiguous float64 tensor (2, Q)");
  const int64_t queries = reals.size(1);
  FASTREID_CHECK(counts.dim() == 2 && counts.size(0) == 5 && counts.size(1) == queries &&
                     counts.is_contiguous() && counts.scalar_type() == ScalarType::Long,
                 kOp, "counts", "another tensor", "a contiguous int64 tensor " + shown({5, queries}));
  FASTREID_CHECK(max_rank >= 1, kOp, "max_rank", shown(max_rank), "at least 1");
  FASTREID_CHECK(invalid == 0 || invalid == 1, kOp, "invalid", shown(invalid), "0 or 1");
  FASTREID_CHECK(shares.dim() == 2 && (shares.size(0) == 0 || shares.size(0) == queries) &&
                     shares.size(1) == max_rank && shares.is_contiguous() &&
                     shares.scalar_type() == ScalarType::Double,
                 kOp, "shares", "another tensor",
                 "a contiguous float64 tensor " + shown({queries, max_rank}) + " or " + shown({0, max_rank}));
  double* const real = reals.mutable_data_ptr<double>();
  int64_t* const count = counts.mutable_data_ptr<int64_t>();
  return {real,
          real + queries,
          count,
          count + queries,
          count + 2 * queries,
          count + 3 * queries,
          count + 4 * queries,
          shares.size(0) > 0 ? shares.mutable_data_ptr<double>() : nullptr};
}

// The function that both registrations make from a run(const RankingArguments&).
#define FASTREID_RANK_METRICS(run)                                                                          \
  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> rank_metrics(                                          \
      const Tensor& distance, const Tensor& members, const Tensor& begin, const Tensor& end,                \
      const Optional& query_camids, const Optional& gallery_camids, const Optional& query_clothes,          \
      const Optional& gallery_clothes, const Optional& query_class, const Optional& excluded,               \
      const Optional& gallery_identity, int64_t camera_rule, int64_t clothes_rule, int64_t ap, int64_t cmc, \
      int64_t invalid, int64_t max_rank, int64_t repeats, int64_t seed, int64_t first_query) {              \
    return run({distance,         members,       begin,           end,         query_camids,                \
                gallery_camids,   query_clothes, gallery_clothes, query_class, excluded,                    \
                gallery_identity, camera_rule,   clothes_rule,    ap,          cmc,                         \
                invalid,          max_rank,      repeats,         seed,        first_query});               \
  }

}  // namespace fastreid
