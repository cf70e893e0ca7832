// SPDX-License-Identifier: Apache-2.0
// CMC, mAP and mINP from a distance matrix without sorting it. Torch-free: raw pointers, int64 sizes.
//
// Shapes: distance (queries, gallery) of any strides; every per-query result (queries,); cmc (max_rank,);
//     int64 labels.
// NaN: a NaN sorts after +Inf; NaN and +-Inf are counted per row in `nonfinite`, the caller decides what to
//     refuse.
// Ties: entries are ordered by (distance, gallery index); -0.0 equals 0.0.
// Determinism: integer counts, then float64 sums in one fixed order: the same bits for any thread count,
//     instruction set, block size and device.
// Memory: CPU, 32 bytes per image of the largest identity and 16 KiB of stack, for each thread. CUDA, the
//     buffer of ranking_scratch(): at most max(8 * gallery, 64 MiB) bytes.
//
// How: the relevant entries of a query are few. They are sorted; then one read of the row counts, for each of
// them, the entries not behind it, which is its rank; entries that the camera rule drops are subtracted. Rank
// r_n of the n-th relevant entry gives everything else: CMC from r_1, INP = P / r_P, AP = (1/P) sum_n n/r_n
// (step) or the trapezoidal form of the Market-1501 and Oxford buildings scripts,
// (1/P) sum_n ((n-1)/(r_n-1) + n/r_n) / 2 with 0/0 = 1.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace fastreid {

// same_pid drops gallery entries with the query's pid and camid (Market-1501); none drops nothing.
enum class CameraRule : int { same_pid = 0, none = 1 };
enum class ApRule : int { step = 0, trapezoid = 1 };
// What became of a query: no gallery entry has its pid; or some have, but the camera rule drops them all.
enum RankingStatus : int64_t { kValid = 0, kAbsentPid = 1, kSameCameraOnly = 2 };

struct RankingProblem {
  const void* distance;
  Dtype dtype;
  int64_t row_stride;  // in elements; any sign, 0 for an expanded matrix
  int64_t column_stride;
  int64_t queries;
  int64_t gallery;
  const int64_t* members;  // (gallery,) gallery indices, those of one pid side by side
  const int64_t* begin;    // (queries,) members[begin[q]] to members[end[q] - 1] have the pid of query q
  const int64_t* end;
  const int64_t* query_camids;  // (queries,) and (gallery,); not read for CameraRule::none
  const int64_t* gallery_camids;
  CameraRule camera_rule;
  ApRule ap_rule;
};

struct RankingRows {
  double* ap;             // 0 for an invalid query
  double* inp;            // 0 for an invalid query
  int64_t* first_rank;    // 1-based, of the first relevant entry among the kept ones; 0 for an invalid query
  int64_t* num_relevant;  // relevant entries that the camera rule keeps
  int64_t* status;        // RankingStatus
  int64_t* nonfinite;     // NaN and +-Inf in the row, dropped entries included
};

// Means are added up in this many interleaved partial sums (query q goes to sum q % kRankingLanes, in
// ascending order), then s[i] += s[i + half] for half = 128, 64, ... 1: an order that a thread, a GPU block
// and a reader can all follow.
constexpr int kRankingLanes = 256;

struct RankingKernels {
  // Bytes that rows() needs at `scratch`, 8-byte aligned, when no query has more than `largest_group` members.
  int64_t (*scratch_bytes)(int64_t largest_group);
  // Queries first to last - 1. Calls on disjoint ranges may run at the same time, each with its own scratch.
  void (*rows)(const RankingProblem* problem, int64_t first, int64_t last, void* scratch,
               const RankingRows* result);
  // cmc (max_rank,): fraction of the valid queries with first_rank <= k + 1. means: {mAP, mINP} over the
  // valid queries. All zero when no query is valid.
  void (*summary)(int64_t queries, int64_t max_rank, const RankingRows* rows, double* cmc, double* means);
};
FASTREID_DECLARE_KERNELS(RankingKernels, ranking_kernels)

namespace cuda {
// Device bytes that launch_ranking() needs at `scratch`, 8-byte aligned; known without looking at the labels.
int64_t ranking_scratch(int64_t queries, int64_t gallery);
// All pointers on the device, `stream` a cudaStream_t. Returns the cudaError_t of the launches, 0 for success.
int launch_ranking(const RankingProblem& problem, void* scratch, const RankingRows& result, void* stream);
int launch_ranking_summary(int64_t queries, int64_t max_rank, const RankingRows& rows, double* cmc,
                           double* means, void* stream);
}  // namespace cuda

}  // namespace fastreid
