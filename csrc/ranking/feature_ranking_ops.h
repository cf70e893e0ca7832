// SPDX-License-Identifier: Apache-2.0
// From torch's tensors to the problem of feature_ranking.h, for both registration files. Labels and results are those
// of rank_metrics.
#pragma once

#include "ranking/feature_ranking.h"
#include "ranking/ranking_ops.h"

namespace fastreid {

inline constexpr const char* kFeatureRankingOp = "rank_features";

inline FeatureRankingProblem feature_ranking_problem(const Tensor& x, const Tensor& y, bool angular,
                                                     bool pairs, const RankingCall& call) {
  const RankingProblem& p = call.problem;
  FASTREID_CHECK(p.cmc_rule != CmcRule::single_gallery_shot, kFeatureRankingOp, "cmc", "single_gallery_shot",
                 "another rule");
  return {{x.const_data_ptr(), x.stride(0), x.stride(1)},
          {y.const_data_ptr(), y.stride(0), y.stride(1)},
          p.queries,
          p.gallery,
          x.size(1),
          p.max_rank,
          0,
          p.relevance.gallery_identity ? p.gallery : 0,
          dtype_of(kFeatureRankingOp, "query", x),
          angular,
          pairs,
          p.relevance,
          p.ap_rule,
          p.cmc_rule};
}

inline void check_features(const Tensor& x, const Tensor& y) {
  FASTREID_CHECK(x.dim() == 2, kFeatureRankingOp, "query", shown(x.dim()) + " dimensions", "2");
  FASTREID_CHECK(y.dim() == 2, kFeatureRankingOp, "gallery", shown(y.dim()) + " dimensions", "2");
  FASTREID_CHECK(x.scalar_type() == y.scalar_type(), kFeatureRankingOp, "gallery", "another dtype",
                 "the dtype of query");
  FASTREID_CHECK(x.is_cpu() == y.is_cpu() && x.get_device_index() == y.get_device_index(), kFeatureRankingOp,
                 "gallery", "another device", "the device of query");
  FASTREID_CHECK(x.size(1) == y.size(1) && x.size(1) >= 1, kFeatureRankingOp, "gallery",
                 shown({y.size(0), y.size(1)}), "rows of length " + shown(x.size(1)) + ", at least 1");
  FASTREID_CHECK(1 <= y.size(0) && y.size(0) < int64_t{1} << 31, kFeatureRankingOp, "gallery",
                 shown(y.size(0)) + " rows", "1 to 2147483647");
}

// As FASTREID_RANK_METRICS, from a run(x, y, angular, const RankingArguments&).
#define FASTREID_RANK_FEATURES(run)                                                                          \
  std::tuple<Tensor, Tensor, Tensor> rank_features(                                                          \
      const Tensor& query, const Tensor& gallery, bool angular, const Tensor& members, const Tensor& begin,  \
      const Tensor& end, const Optional& query_camids, const Optional& gallery_camids,                       \
      const Optional& query_clothes, const Optional& gallery_clothes, const Optional& query_class,           \
      const Optional& excluded, const Optional& gallery_identity, int64_t camera_rule, int64_t clothes_rule, \
      int64_t ap, int64_t cmc, int64_t invalid, int64_t max_rank, int64_t repeats, int64_t seed) {           \
    return run(query, gallery, angular,                                                                      \
               {query,                                                                                       \
                members,                                                                                     \
                begin,                                                                                       \
                end,                                                                                         \
                query_camids,                                                                                \
                gallery_camids,                                                                              \
                query_clothes,                                                                               \
                gallery_clothes,                                                                             \
                query_class,                                                                                 \
                excluded,                                                                                    \
                gallery_identity,                                                                            \
                camera_rule,                                                                                 \
                clothes_rule,                                                                                \
                ap,                                                                                          \
                cmc,                                                                                         \
                invalid,                                                                                     \
                max_rank,                                                                                    \
                repeats,                                                                                     \
                seed,                                                                                        \
                0});                                                                                         \
  }

}  // namespace fastreid
