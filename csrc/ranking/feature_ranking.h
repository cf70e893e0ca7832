// SPDX-License-Identifier: Apache-2.0
// CMC, mAP and mINP from features, without a matrix of distances. Torch-free: raw pointers, int64 sizes.
//
// Shapes: x (queries, depth) and y (gallery, depth), any element strides, depth >= 1, gallery < 2^31; labels and
//     results as in common/relevance.h.
// NaN: refused by the caller. With a NaN in the input the results mean nothing, but no memory is touched that is not
//     ours.
// Ties: the gallery of a query is ordered by (d2, index), d2 as in common/exact.h, of rows scaled to length one for
//     the angular metrics.
// Determinism: the same bits on any instruction set, with any threads, any division of the work and any device.
// Memory: CPU, state_bytes(): (2 depth + 28) bytes a row of x and y (4 depth + 28 where the processor has no bfloat16
//     products); workspace_bytes() for each thread: 56 bytes for each image of the largest identity, 96 times.
//
// How: the distances of a query to its matches are computed exactly and sorted. A product of rounded rows bounds every
// score from both sides (common/screen.h), so that it counts most of the gallery as surely ahead of a match or surely
// behind; the few entries between are measured exactly. Matches too close to be told apart by the bound share one
// interval of scores. Rank r_n of the n-th match gives everything else, as in ranking.h.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"
#include "common/relevance.h"

namespace fastreid {

struct FeatureRows {
  const void* data;
  int64_t row_stride;  // in elements
  int64_t column_stride;
};

// Where y is one part of a larger gallery: the matches of the queries, wherever they lie, by their place in the whole.
// Counts of kept entries up to each, added up over the parts, are the ranks.
struct GivenMatches {
  const int64_t* offsets;        // (queries + 1,) those of query q are offsets[q] to offsets[q + 1] - 1
  const int64_t* place;          // (matches,) in the whole gallery; for the phase `distances`, rows of y
  const double* value;           // (matches,) d2; those of a query ascend by (d2, place)
  const int64_t* gallery_place;  // (gallery,) ascending
  double* distance;              // result of `distances`: (matches,) d2
  int64_t* counts;               // result of `rank`: (matches,) kept entries of y up to each match
  // Result of `rank`, or null: (queries, identities / 64) bits of the identities with a kept entry of y ahead of the
  // query's first match, its own with them where one was dropped.
  uint64_t* seen;
};

struct FeatureRankingProblem {
  FeatureRows x;
  FeatureRows y;
  int64_t queries;
  int64_t gallery;
  int64_t depth;
  int64_t max_rank;
  int64_t largest_group;  // members of the query with the most
  int64_t identities;     // gallery_identity is below this; 0 where no rule reads it
  Dtype dtype;
  bool angular;
  bool pairs;  // bfloat16 products: the processor must have them (Isa::avx512_bf16)
  Relevance relevance;
  ApRule ap_rule;
  CmcRule cmc_rule;                     // not single_gallery_shot
  const GivenMatches* given = nullptr;  // CPU only; largest_group is then that of either kind
};

// As NearestPhase: in this order, the items of one in any order and at the same time. Ranking writes the results.
// `distances`, of given matches, needs `measure` only.
enum class FeatureRankingPhase : int {
  measure = 0,
  frame = 1,
  pack = 2,
  limits = 3,
  rank = 4,
  distances = 5
};
constexpr int kFeatureRankingPhases = 5;  // of a ranking

struct FeatureRankingKernels {
  int64_t (*state_bytes)(const FeatureRankingProblem* problem);  // 64-byte aligned, uninitialised
  int64_t (*workspace_bytes)(const FeatureRankingProblem* problem);
  int64_t (*items)(const FeatureRankingProblem* problem, FeatureRankingPhase phase);
  // Distances measured exactly by the ranking items run so far. Rounding to bfloat16 leaves few undecided where a
  // network has learnt to tell people apart, and too many where matches lie among everybody else.
  int64_t (*measured)(const FeatureRankingProblem* problem, void* state);
  void (*run)(const FeatureRankingProblem* problem, const RankingRows* rows, FeatureRankingPhase phase,
              int64_t first, int64_t last, void* state, void* workspace);
};
FASTREID_DECLARE_KERNELS(FeatureRankingKernels, feature_ranking_kernels)

namespace cuda {
// Device bytes for one call, 8-byte aligned.
int64_t feature_ranking_scratch(const FeatureRankingProblem& problem);
// All pointers on the device, `stream` a cudaStream_t. Returns the cudaError_t of the launches, 0 for success.
int launch_feature_ranking(const FeatureRankingProblem& problem, void* scratch, const RankingRows& rows,
                           void* stream);
}  // namespace cuda

}  // namespace fastreid
