// SPDX-License-Identifier: Apache-2.0
// All distances between two sets of rows, and the gradient with respect to one of them. Torch-free: raw pointers,
// int64 sizes.
//
// Shapes: x (rows, depth) and y (rows, depth), any element strides, depth >= 1; distance (x.rows, y.rows),
//     contiguous rows. A gradient call takes x, y, grad and distance (x.rows, y.rows), any strides, and writes
//     grad_x (x.rows, depth).
// NaN: finite rows never give NaN or a negative distance; a NaN in a row makes all its distances NaN, Inf acts
//     as in sqrt(sum((x-y)^2)). A row of zeros has cosine distance 1 and angle pi/2 to every row, and gradient
//     zero.
// Ties: equal rows are at distance 0 exactly; d(x, y) and d(y, x) are the same bits. The gradient at distance 0
//     is 0.
// Determinism: an entry's bits depend on its two rows alone: not on threads, blocks or the other rows. avx2 and
//     avx512 agree; baseline (no fused multiply-add) and CUDA (differences throughout) may differ in the last
//     places.
// Memory: CPU, workspace_bytes() for each thread: packed rows, about 3 MiB, more only where 46 rows alone exceed
//     that. CUDA, distance_scratch(): 16 bytes a row for cosine and arccos; the gradient 8 * depth bytes a row of
//     x more.
//
// How: |x|^2 + |y|^2 - 2xy through a register-tiled product where that is accurate, and the sum of squared
// differences, tile by tile, where |x-y|^2 < (|x|^2 + |y|^2) / 16, so that rounding never eats a small distance.
// Products are added up in the compute type (float32 for half types) over at most 64 terms (32 in float64), those
// sums in float64. Cosine and arccos are the same sums over rows scaled to length 1: 1 - cos = |u-v|^2 / 2,
// angle = 2 asin(|u-v| / 2), exact where cos rounds to 1.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace fastreid {

enum class Metric : int { euclidean = 0, sqeuclidean = 1, cosine = 2, arccos = 3 };
// Element (i, k) is at data[i * row_stride + k * column_stride], counted in elements; 0 for an expanded dimension.
struct DistanceMatrix {
  const void* data;
  int64_t row_stride;
  int64_t column_stride;
};

struct DistanceProblem {
  DistanceMatrix x;
  DistanceMatrix y;
  int64_t x_rows;
  int64_t y_rows;
  int64_t depth;
  Metric metric;
  Dtype dtype;  // of x, y, distance, grad and grad_x
};

// grad_x[i] = sum over j of grad[i][j] * d distance[i][j] / d x[i]. For grad_y swap x and y and transpose the
// two matrices.
struct DistanceGradProblem {
  DistanceProblem of;
  DistanceMatrix grad;
  DistanceMatrix distance;
};

struct DistanceKernels {
  // Bytes at `workspace` (64-byte aligned) for rectangles of at most rows x columns.
  int64_t (*workspace_bytes)(const DistanceProblem* problem, int64_t rows, int64_t columns);
  // Fills rows [row_begin, row_end) x columns [column_begin, column_end) of distance (x_rows, y_rows), contiguous.
  void (*rectangle)(const DistanceProblem* problem, int64_t row_begin, int64_t row_end, int64_t column_begin,
                    int64_t column_end, void* workspace, void* distance);
  int64_t (*gradient_workspace_bytes)(const DistanceGradProblem* problem);
  // Fills rows [row_begin, row_end) of grad_x (x_rows, depth), contiguous.
  void (*gradient_rows)(const DistanceGradProblem* problem, int64_t row_begin, int64_t row_end,
                        void* workspace, void* grad_x);
};
FASTREID_DECLARE_KERNELS(DistanceKernels, distance_kernels)

namespace cuda {
// Device bytes (8-byte aligned) for one call of launch_distance and launch_distance_gradient.
int64_t distance_scratch(const DistanceProblem& problem);
int64_t distance_gradient_scratch(const DistanceGradProblem& problem);
// All pointers on the device, `stream` a cudaStream_t. Return the cudaError_t of the launches, 0 for success.
int launch_distance(const DistanceProblem& problem, void* scratch, void* distance, void* stream);
int launch_distance_gradient(const DistanceGradProblem& problem, void* scratch, void* grad_x, void* stream);
}  // namespace cuda

}  // namespace fastreid
