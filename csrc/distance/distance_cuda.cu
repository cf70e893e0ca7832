// SPDX-License-Identifier: Apache-2.0
// Differences throughout: a tile of 64 x 64 entries for each block, 4 x 4 for each thread, operands staged in
// shared memory. That is one subtraction more for each product than |x|^2 + |y|^2 - 2xy, and no entry ever
// loses digits.
#include "common/launch.cuh"

#include <cmath>

#include "common/sizes.h"
#include "distance/distance.h"

namespace fastreid {
namespace {

constexpr int kTile = 64, kStep = 16, kThreads = 256, kSide = 16, kEach = kTile / kSide;
constexpr int kPadded = kTile + 1;
constexpr int kChunk = 128;  // terms added up in the compute type before they go to float64
constexpr int kScaleThreads = 128;
constexpr int64_t kMaxGrid = 0x7fffffff;
constexpr double kPi = 3.14159265358979323846;

// Factors that bring a row to length 1. A row of zeros has before = 0; otherwise `before` is a power of two
// against overflow.
struct Scale {
  double before, after;
};

template <typename S>
struct Rows {
  const S* data;
  int64_t row_stride, column_stride;
  __device__ accumulator_t<S> at(int64_t row, int64_t k) const {
    return widen(data[row * row_stride + k * column_stride]);
  }
};

template <typename S>
Rows<S> rows_of(const DistanceMatrix& m) {
  return {static_cast<const S*>(m.data), m.row_stride, m.column_stride};
}

template <typename S>
__device__ accumulator_t<S> scaled(const Rows<S>& rows, int64_t row, int64_t k, const Scale* scales) {
  if (scales == nullptr) return rows.at(row, k);
  return static_cast<accumulator_t<S>>(rows.at(row, k) * scales[row].before * scales[row].after);
}

template <typename S>
__device__ double square_sum(const Rows<S>& rows, int64_t row, int64_t depth, double factor) {
  double sum = 0;
  for (int64_t k = threadIdx.x; k < depth; k += kScaleThreads) {
    const double value = rows.at(row, k) * factor;
    sum += value * value;
  }
  return block_reduce(sum, 0.0, Sum{});
}

template <typename S>
__global__ void __launch_bounds__(kScaleThreads)
    scale_kernel(Rows<S> rows, int64_t count, int64_t depth, Scale* scales) {
  for (int64_t row = blockIdx.x; row < count; row += gridDim.x) {
    double before = 1, square = square_sum(rows, row, depth, 1.0);
    if (sizeof(S) == 8 && !(square > 1e-280 && square < 1e280)) {
      before = square < 1 ? 0x1p600 : 0x1p-600;
      square = square_sum(rows, row, depth, before);
    }
    if (threadIdx.x == 0) scales[row] = square == 0 ? Scale{0, 0} : Scale{before, 1 / sqrt(square)};
  }
}

// Sum of (a + sign*b)^2 in float64, for entries outside the compute type's range and for opposite directions.
template <typename S>
__device__ double exact_square(const Rows<S>& x, int64_t i, const Rows<S>& y, int64_t j, int64_t depth,
                               const Scale* x_scales, const Scale* y_scales, double sign) {
  double sum = 0;
  for (int64_t k = 0; k < depth; ++k) {
    const double d = scaled(x, i, k, x_scales) + sign * static_cast<double>(scaled(y, j, k, y_scales));
    sum += d * d;
  }
  return sum;
}

template <typename S>
__device__ double finish(Metric metric, double q, const Rows<S>& x, int64_t i, const Rows<S>& y, int64_t j,
                         int64_t depth, const Scale* x_scales, const Scale* y_scales) {
  if (sizeof(S) < 8 && (!(q <= 3e38) || (q < 1e-26 && q > 0)))
    q = exact_square(x, i, y, j, depth, x_scales, y_scales, -1.0);
  if (metric == Metric::sqeuclidean) return q;
  if (metric == Metric::euclidean) return sqrt(q);
  const Scale a = x_scales[i], b = y_scales[j];
  if (a.before == 0 || b.before == 0) {
    const bool defined = (a.before == 0 || a.after > 0) && (b.before == 0 || b.after > 0);
    return !defined ? NAN : metric == Metric::cosine ? 1.0 : kPi / 2;
  }
  if (metric == Metric::cosine) return q > 4 ? 2.0 : q / 2;
  if (!(q > 3.9)) return 2 * asin(sqrt(q) / 2);
  const double rest =
      exact_square(x, i, y, j, depth, x_scales, y_scales, 1.0);  // |u-v| says little about angles near pi
  return kPi - 2 * asin(sqrt(rest) / 2);
}

// Rows [first, first + kTile) x elements [k0, k0 + kStep) to to[k][row]; zeros outside. Threads run along
// whichever is contiguous.
template <typename S, typename T>
__device__ void stage(const Rows<S>& rows, int64_t first, int64_t count, int64_t k0, int64_t depth,
                      const Scale* scales, T (*to)[kPadded]) {
  const bool by_row = rows.row_stride == 1;
#pragma unroll 1  // four in flight would cost 40 registers of addresses, and with them every second block
  for (int e = threadIdx.x; e < kTile * kStep; e += kThreads) {
    const int r = by_row ? e % kTile : e / kStep, k = by_row ? e / kTile : e % kStep;
    to[k][r] = first + r < count && k0 + k < depth ? scaled(rows, first + r, k0 + k, scales) : T(0);
  }
}

template <typename S>
__global__ void __launch_bounds__(kThreads)
    distance_kernel(Rows<S> x, Rows<S> y, int64_t x_rows, int64_t y_rows, int64_t depth, Metric metric,
                    const Scale* x_scales, const Scale* y_scales, S* distance) {
  using T = accumulator_t<S>;
  __shared__ T a[kStep][kPadded];
  __shared__ T b[kStep][kPadded];
  __shared__ double q[kTile / 2][kTile];
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  const int64_t tile_columns = ceil_div(y_rows, kTile), tiles = ceil_div(x_rows, kTile) * tile_columns;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t i0 = tile / tile_columns * kTile, j0 = tile % tile_columns * kTile;
    double total[kEach][kEach] = {};
    T acc[kEach][kEach] = {};
    for (int64_t k0 = 0; k0 < depth; k0 += kStep) {
      __syncthreads();
      stage(x, i0, x_rows, k0, depth, x_scales, a);
      stage(y, j0, y_rows, k0, depth, y_scales, b);
      __syncthreads();
#pragma unroll 4
      for (int k = 0; k < kStep; ++k) {
        T left[kEach], right[kEach];
#pragma unroll
        for (int i = 0; i < kEach; ++i) left[i] = a[k][ty + kSide * i];
#pragma unroll
        for (int j = 0; j < kEach; ++j) right[j] = b[k][tx + kSide * j];
#pragma unroll
        for (int i = 0; i < kEach; ++i)
#pragma unroll
          for (int j = 0; j < kEach; ++j) {
            const T d = left[i] - right[j];
            acc[i][j] += d * d;
          }
      }
      if ((k0 + kStep) % kChunk == 0 || k0 + kStep >= depth) {
#pragma unroll
        for (int i = 0; i < kEach; ++i)
#pragma unroll
          for (int j = 0; j < kEach; ++j) {
            total[i][j] += acc[i][j];
            acc[i][j] = 0;
          }
      }
    }
    // Through shared memory, so that the long way from q to the metric is in the code twice, not sixteen times.
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kEach / 2; ++i)
#pragma unroll
        for (int j = 0; j < kEach; ++j) q[ty + kSide * i][tx + kSide * j] = total[half * kEach / 2 + i][j];
      __syncthreads();
#pragma unroll 1
      for (int e = threadIdx.x; e < kTile / 2 * kTile; e += kThreads) {
        const int64_t row = i0 + half * (kTile / 2) + e / kTile, column = j0 + e % kTile;
        if (row < x_rows && column < y_rows)
          distance[row * y_rows + column] = narrow<S>(static_cast<T>(
              finish(metric, q[e / kTile][e % kTile], x, row, y, column, depth, x_scales, y_scales)));
      }
    }
  }
}

// d distance / d x_i = weight * (x_i - y_j), up to the projection of the angular metrics.
__device__ double weight(Metric metric, double grad, double distance) {
  if (metric == Metric::euclidean) return distance > 0 ? grad / distance : 0;
  if (metric == Metric::sqeuclidean) return 2 * grad;
  if (metric == Metric::cosine) return grad;
  const double sine = sin(distance);
  return distance > 0 && sine > 1e-7 ? grad / sine : 0;  // at 0 and pi the angle has no direction
}

// sums[i][k] = sum over j of w_ij (x_ik - y_jk), into grad_x or, for the angular metrics, float64 sums that
// project_kernel finishes.
template <typename S>
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(Rows<S> x, Rows<S> y, Rows<S> grad, Rows<S> distance, int64_t x_rows, int64_t y_rows,
                    int64_t depth, Metric metric, const Scale* x_scales, const Scale* y_scales, double* sums,
                    S* grad_x) {
  using T = accumulator_t<S>;
  __shared__ T w[kStep][kPadded];
  __shared__ T b[kStep][kPadded];
  const int tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  const int64_t tile_columns = ceil_div(depth, kTile), tiles = ceil_div(x_rows, kTile) * tile_columns;
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t i0 = tile / tile_columns * kTile, c0 = tile % tile_columns * kTile;
    double total[kEach][kEach] = {};
    T acc[kEach][kEach] = {}, own[kEach][kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i)
#pragma unroll
      for (int c = 0; c < kEach; ++c) {
        const int64_t row = i0 + ty + kSide * i, column = c0 + tx + kSide * c;
        own[i][c] = row < x_rows && column < depth ? scaled(x, row, column, x_scales) : T(0);
      }
    for (int64_t j0 = 0; j0 < y_rows; j0 += kStep) {
      __syncthreads();
      for (int e = threadIdx.x; e < kTile * kStep; e += kThreads) {
        const int r = e / kStep, j = e % kStep, c = e % kTile, row_of_y = e / kTile;
        w[j][r] = i0 + r < x_rows && j0 + j < y_rows
                      ? static_cast<T>(weight(metric, grad.at(i0 + r, j0 + j), distance.at(i0 + r, j0 + j)))
                      : T(0);
        b[row_of_y][c] =
            j0 + row_of_y < y_rows && c0 + c < depth ? scaled(y, j0 + row_of_y, c0 + c, y_scales) : T(0);
      }
      __syncthreads();
      const int steps = static_cast<int>(smaller(kStep, y_rows - j0));
      for (int j = 0; j < steps; ++j) {
#pragma unroll
        for (int i = 0; i < kEach; ++i)
#pragma unroll
          for (int c = 0; c < kEach; ++c)
            acc[i][c] += w[j][ty + kSide * i] * (own[i][c] - b[j][tx + kSide * c]);
      }
      if ((j0 + kStep) % kChunk == 0 || j0 + kStep >= y_rows) {
#pragma unroll
        for (int i = 0; i < kEach; ++i)
#pragma unroll
          for (int c = 0; c < kEach; ++c) {
            total[i][c] += acc[i][c];
            acc[i][c] = 0;
          }
      }
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i)
#pragma unroll
      for (int c = 0; c < kEach; ++c) {
        const int64_t row = i0 + ty + kSide * i, column = c0 + tx + kSide * c;
        if (row >= x_rows || column >= depth) continue;
        if (sums != nullptr) {
          sums[row * depth + column] = total[i][c];
        } else {
          grad_x[row * depth + column] = narrow<S>(static_cast<T>(total[i][c]));
        }
      }
  }
}

// A row of length 1 only turns: the part of its gradient along it is taken out, then its length is divided by.
template <typename S>
__global__ void __launch_bounds__(kScaleThreads)
    project_kernel(Rows<S> x, int64_t x_rows, int64_t depth, const Scale* scales, const double* sums,
                   S* grad_x) {
  for (int64_t row = blockIdx.x; row < x_rows; row += gridDim.x) {
    double part = 0;
    for (int64_t k = threadIdx.x; k < depth; k += kScaleThreads)
      part += sums[row * depth + k] * scaled(x, row, k, scales);
    const double along = block_reduce(part, 0.0, Sum{});
    for (int64_t k = threadIdx.x; k < depth; k += kScaleThreads) {
      const double value = sums[row * depth + k] - along * scaled(x, row, k, scales);
      grad_x[row * depth + k] =
          narrow<S>(static_cast<accumulator_t<S>>(value * scales[row].before * scales[row].after));
    }
  }
}

bool needs_scales(const DistanceProblem& p) {
  return p.metric == Metric::cosine || p.metric == Metric::arccos;
}

dim3 grid_for(int64_t blocks) { return dim3(static_cast<unsigned>(smaller(blocks, kMaxGrid))); }

template <typename S>
cudaError_t scale_rows(const DistanceProblem& p, Scale* scales, cudaStream_t stream) {
  const cudaError_t error = launch(scale_kernel<S>, grid_for(p.x_rows), dim3(kScaleThreads), 0, stream,
                                   rows_of<S>(p.x), p.x_rows, p.depth, scales);
  if (error != cudaSuccess) return error;
  return launch(scale_kernel<S>, grid_for(p.y_rows), dim3(kScaleThreads), 0, stream, rows_of<S>(p.y),
                p.y_rows, p.depth, scales + p.x_rows);
}

template <typename S>
cudaError_t run_distance(const DistanceProblem& p, void* scratch, void* distance, cudaStream_t stream) {
  Scale* const scales = needs_scales(p) ? static_cast<Scale*>(scratch) : nullptr;
  if (scales != nullptr) {
    const cudaError_t error = scale_rows<S>(p, scales, stream);
    if (error != cudaSuccess) return error;
  }
  const int64_t tiles = ceil_div(p.x_rows, kTile) * ceil_div(p.y_rows, kTile);
  return launch(distance_kernel<S>, grid_for(tiles), dim3(kThreads), 0, stream, rows_of<S>(p.x),
                rows_of<S>(p.y), p.x_rows, p.y_rows, p.depth, p.metric, scales,
                scales == nullptr ? nullptr : scales + p.x_rows, static_cast<S*>(distance));
}

template <typename S>
cudaError_t run_gradient(const DistanceGradProblem& g, void* scratch, void* grad_x, cudaStream_t stream) {
  const DistanceProblem& p = g.of;
  Scale* const scales = needs_scales(p) ? static_cast<Scale*>(scratch) : nullptr;
  double* sums = nullptr;
  if (scales != nullptr) {
    sums = reinterpret_cast<double*>(scales + p.x_rows + p.y_rows);
    const cudaError_t error = scale_rows<S>(p, scales, stream);
    if (error != cudaSuccess) return error;
  }
  const int64_t tiles = ceil_div(p.x_rows, kTile) * ceil_div(p.depth, kTile);
  const cudaError_t error =
      launch(gradient_kernel<S>, grid_for(tiles), dim3(kThreads), 0, stream, rows_of<S>(p.x), rows_of<S>(p.y),
             rows_of<S>(g.grad), rows_of<S>(g.distance), p.x_rows, p.y_rows, p.depth, p.metric, scales,
             scales == nullptr ? nullptr : scales + p.x_rows, sums, static_cast<S*>(grad_x));
  if (error != cudaSuccess || scales == nullptr) return error;
  return launch(project_kernel<S>, grid_for(p.x_rows), dim3(kScaleThreads), 0, stream, rows_of<S>(p.x),
                p.x_rows, p.depth, scales, sums, static_cast<S*>(grad_x));
}

}  // namespace

namespace cuda {

int64_t distance_scratch(const DistanceProblem& p) {
  return needs_scales(p) ? static_cast<int64_t>(sizeof(Scale)) * (p.x_rows + p.y_rows) : 0;
}

int64_t distance_gradient_scratch(const DistanceGradProblem& g) {
  return needs_scales(g.of) ? distance_scratch(g.of) + 8 * g.of.x_rows * g.of.depth : 0;
}

int launch_distance(const DistanceProblem& p, void* scratch, void* distance, void* stream) {
  if (p.x_rows == 0 || p.y_rows == 0) return cudaSuccess;
  const auto on = static_cast<cudaStream_t>(stream);
  switch (p.dtype) {
    case Dtype::float64:
      return run_distance<double>(p, scratch, distance, on);
    case Dtype::bfloat16:
      return run_distance<__nv_bfloat16>(p, scratch, distance, on);
    case Dtype::float16:
      return run_distance<__half>(p, scratch, distance, on);
    default:
      return run_distance<float>(p, scratch, distance, on);
  }
}

int launch_distance_gradient(const DistanceGradProblem& g, void* scratch, void* grad_x, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (g.of.x_rows == 0) return cudaSuccess;
  if (g.of.y_rows == 0) {
    const int64_t item = g.of.dtype == Dtype::float64 ? 8 : g.of.dtype == Dtype::float32 ? 4 : 2;
    return cudaMemsetAsync(grad_x, 0, static_cast<size_t>(g.of.x_rows * g.of.depth * item), on);
  }
  switch (g.of.dtype) {
    case Dtype::float64:
      return run_gradient<double>(g, scratch, grad_x, on);
    case Dtype::bfloat16:
      return run_gradient<__nv_bfloat16>(g, scratch, grad_x, on);
    case Dtype::float16:
      return run_gradient<__half>(g, scratch, grad_x, on);
    default:
      return run_gradient<float>(g, scratch, grad_x, on);
  }
}

}  // namespace cuda
}  // namespace fastreid
