// SPDX-License-Identifier: Apache-2.0
// The k nearest rows of y of every row of x, exactly, without a matrix of distances. Torch-free: raw pointers, int64
// sizes.
//
// Shapes: x (x_rows, depth) and y (y_rows, depth), any element strides, depth >= 1, y_rows < 2^31; squared and index
//     (x_rows, k), 1 <= k <= y_rows (y_rows - 1 where exclude_self); farthest (x_rows,) or null.
// NaN: refused by the caller. With a NaN in the input the results mean nothing, but no memory is touched that is not
//     ours; a place that no row qualifies for holds NaN and -1.
// Ties: ascending (d2, index), d2 the squared distance in float64 (common/exact.h), of rows scaled to length one for
//     the angular metrics; a row of zeros is then at d2 = 2 to every row. index[i] is a row of y.
// Determinism: the same bits on any instruction set, with any threads, any division of the work and any device.
// Memory: CPU, state_bytes(): (2 depth + 28) bytes a row of y (4 depth + 28 where the processor has no bfloat16
//     products), as much again for x unless it is y, and 8 (2 k + 64) bytes a row of x, 512 more for farthest;
//     workspace_bytes() for each thread.
//
// How: a product of rounded rows bounds every score from both sides (common/screen.h). Buffers (common/topk.h) hold
// what may still be among the k nearest; at the end they are measured exactly and sorted. Where x is y each product
// serves both of its rows.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace fastreid {

struct NearestRows {
  const void* data;
  int64_t row_stride;  // in elements
  int64_t column_stride;
  const void* more =
      nullptr;  // CPU: rows from `split` on lie here, with the same strides; null: all are at data
  int64_t split = 0;
};

struct NearestProblem {
  NearestRows x;
  NearestRows y;
  int64_t x_rows;
  int64_t y_rows;
  int64_t depth;
  int64_t k;
  Dtype dtype;
  bool angular;       // compare directions: cosine and arccos
  bool same;          // x is y
  bool exclude_self;  // row i of x is not row i of y's neighbour
  bool pairs;         // bfloat16 products: the processor must have them (Isa::avx512_bf16)
};

struct NearestResult {
  double* squared;
  int64_t* index;
  double* farthest;  // the largest d2 to any row of y; null: not wanted
};

// A call is this sequence of phases on one state; the items of a phase may be run in any order and at the same time,
// each thread with its own workspace, but a phase starts when the one before it is complete.
enum class NearestPhase : int {
  start = 0,
  measure = 1,
  frame = 2,
  pack = 3,
  limits = 4,
  sweep = 5,
  finish = 6
};
constexpr int kNearestPhases = 7;

struct NearestKernels {
  int64_t (*state_bytes)(const NearestProblem* problem, bool farthest);      // 64-byte aligned, uninitialised
  int64_t (*workspace_bytes)(const NearestProblem* problem, bool farthest);  // for each thread
  int64_t (*items)(const NearestProblem* problem, NearestPhase phase);
  void (*run)(const NearestProblem* problem, const NearestResult* result, NearestPhase phase, int64_t first,
              int64_t last, void* state, void* workspace);
};
FASTREID_DECLARE_KERNELS(NearestKernels, nearest_kernels)

namespace cuda {
// Device bytes for one call, 8-byte aligned.
int64_t nearest_scratch(const NearestProblem& problem, bool farthest);
// All pointers on the device, `stream` a cudaStream_t. Returns the cudaError_t of the launches, 0 for success.
int launch_nearest(const NearestProblem& problem, void* scratch, const NearestResult& result, void* stream);
}  // namespace cuda

}  // namespace fastreid
