// SPDX-License-Identifier: Apache-2.0
// CMC, mAP and mINP from a distance matrix without sorting it. Torch-free: raw pointers, int64 sizes.
//
// Shapes: distance (queries, gallery) of any strides; every per-query result (queries,); cmc (max_rank,);
//     int64 labels.
// NaN: a NaN sorts after +Inf; NaN and +-Inf are counted per row in `nonfinite`, the caller decides what to
//     refuse.
// Ties: entries are ordered by (distance, gallery index); -0.0 equals 0.0.
// Determinism: integer counts, then float64 sums in one fixed order; random galleries come from a counter and
//     not from a state: the same bits for any thread count, instruction set, block size and device.
// Memory: CPU, scratch_bytes() and 64 KiB of stack for each thread. CUDA, the buffer of ranking_scratch().
//
// How: the relevant entries of a query are few. They are sorted; then one read of the row leaves the entries
// not behind the last of them, and these are counted against each, which gives its rank; entries that the
// rules drop are left out or subtracted. Rank r_n of the n-th relevant entry gives everything else: CMC from
// r_1, INP = P / r_P, AP = (1/P) sum_n n/r_n (step) or the trapezoidal form of the Market-1501 and Oxford
// buildings scripts, (1/P) sum_n ((n-1)/(r_n-1) + n/r_n) / 2 with 0/0 = 1.
//
// Single-gallery-shot: a random gallery holds one kept entry of each pid. The match is the n-th relevant
// entry with probability 1/P; another pid's entry lies ahead of it with probability f = (its kept entries
// ahead) / (its kept entries), independently of the others, so the rank is 1 + a sum of Bernoulli variables:
// its distribution up to max_rank is a product of one factor (1-f) + f z per pid, taken in ascending pid
// order. Probabilities below 1e-280 are taken as 0.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"
#include "common/relevance.h"

namespace fastreid {

struct RankingProblem {
  const void* distance;
  Dtype dtype;
  int64_t row_stride;  // in elements; any sign, 0 for an expanded matrix
  int64_t column_stride;
  int64_t queries;
  int64_t gallery;
  int64_t max_rank;
  Relevance relevance;
  ApRule ap_rule;
  CmcRule cmc_rule;
  InvalidRule invalid_rule;
  int64_t repeats;  // single_gallery_shot: random galleries for each query; 0: the mean over all there are
  uint64_t seed;    // of the random galleries
  int64_t first_query;  // row q of the matrix is query first_query + q of the random galleries
};

// Which of `kept` entries of a pid random gallery number `repeat` of a query holds, the pid being the
// identity-th. Multiply-and-shift favours an entry by less than kept / 2^32.
FASTREID_HOST_DEVICE static inline uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
FASTREID_HOST_DEVICE static inline uint64_t gallery_counter(uint64_t seed, int64_t query, int64_t repeat) {
  constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
  return mixed(mixed(mixed(seed + kStep) + kStep * static_cast<uint64_t>(query)) +
               kStep * static_cast<uint64_t>(repeat));
}
FASTREID_HOST_DEVICE static inline int64_t drawn_entry(uint64_t counter, int64_t identity, int64_t kept) {
  const uint64_t random = mixed(counter + 0x9e3779b97f4a7c15u * (static_cast<uint64_t>(identity) + 1));
  return static_cast<int64_t>((random >> 32) * static_cast<uint64_t>(kept) >> 32);
}

// Means are added up in this many interleaved partial sums (query q goes to sum q % kRankingLanes, in
// ascending order), then s[i] += s[i + half] for half = 128, 64, ... 1: an order that a thread, a GPU block
// and a reader can all follow.
constexpr int kRankingLanes = 256;

// What every mean is divided by.
FASTREID_HOST_DEVICE static inline double ranking_divisor(InvalidRule rule, int64_t queries, int64_t valid) {
  const int64_t counted = rule == InvalidRule::zero ? queries : valid;
  return static_cast<double>(counted > 0 ? counted : 1);
}

// Shares of queries may add up to a little more than their number.
FASTREID_HOST_DEVICE static inline double cmc_entry(double matched, double divisor) {
  return matched < divisor ? matched / divisor : 1.0;
}

struct RankingKernels {
  // Bytes that rows() needs at `scratch`, 8-byte aligned, when no query has more than `largest_group`
  // members.
  int64_t (*scratch_bytes)(const RankingProblem* problem, int64_t largest_group);
  // Queries first to last - 1. Calls on disjoint ranges may run at the same time, each with its own scratch.
  void (*rows)(const RankingProblem* problem, int64_t first, int64_t last, void* scratch,
               const RankingRows* result);
  // cmc (max_rank,): mean over the queries of what each adds up to rank k + 1. means: {mAP, mINP}. Over the
  // valid queries, or all of them under InvalidRule::zero. All zero when no query is valid.
  void (*summary)(int64_t queries, int64_t max_rank, InvalidRule invalid_rule, const RankingRows* rows,
                  double* cmc, double* means);
};
FASTREID_DECLARE_KERNELS(RankingKernels, ranking_kernels)

namespace cuda {
// Device bytes that launch_ranking() needs at `scratch`, 8-byte aligned; known without looking at the labels.
int64_t ranking_scratch(const RankingProblem& problem);
// All pointers on the device, `stream` a cudaStream_t. Returns the cudaError_t of the launches, 0 for
// success.
int launch_ranking(const RankingProblem& problem, void* scratch, const RankingRows& result, void* stream);
int launch_ranking_summary(int64_t queries, int64_t max_rank, InvalidRule invalid_rule,
                           const RankingRows& rows, double* cmc, double* means, void* stream);
}  // namespace cuda

}  // namespace fastreid
