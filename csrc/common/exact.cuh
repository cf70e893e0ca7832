// SPDX-License-Identifier: Apache-2.0
// The exact distance of exact.h on the device, to the same bits. Only for x_cuda.cu.
//
// Its 8 partial sums are 8 neighbouring lanes of a warp, so that a warp works on four pairs of rows at once.
// Products and sums are written as intrinsics, which no compiler fuses.
#pragma once

#include "common/launch.cuh"

namespace fastreid {
namespace {

constexpr int kExactLanes = 8;

// Row i, element k at data[i * row_stride + k * column_stride].
template <class S>
struct ExactRows {
  const S* data;
  int64_t row_stride;
  int64_t column_stride;
  const double* inverse;  // 1 / |row| for the angular metrics, else null

  __device__ const S* row(int64_t i) const { return data + i * row_stride; }
  __device__ double scale(int64_t i) const { return inverse ? inverse[i] : 1.0; }
};

template <class S>
__device__ __forceinline__ double as_double(S value) {
  return static_cast<double>(widen(value));
}

// ((0+4)+(2+6))+((1+5)+(3+7)) of the lanes of a group, in each of them. The whole warp calls it.
__device__ __forceinline__ double exact_fold(double lane) {
  for (int offset = kExactLanes / 2; offset > 0; offset /= 2)
    lane = __dadd_rn(lane, __shfl_xor_sync(kFullMask, lane, offset));
  return lane;
}

// Squared length. The whole warp calls it, the lanes of a group with the same row.
template <class S>
__device__ __forceinline__ double exact_square(const S* x, int64_t stride, int64_t depth) {
  double lane = 0;
#pragma unroll 4
  for (int64_t k = threadIdx.x % kExactLanes; k < depth; k += kExactLanes) {
    const double v = as_double(x[k * stride]);
    lane = __dadd_rn(lane, __dmul_rn(v, v));
  }
  return exact_fold(lane);
}

// 1 / |x| for the angular metrics; 0 for a row of zeros, which exact_distance turns into the distance 2.
__device__ __forceinline__ double exact_inverse(double square) {
  return square > 0 ? __ddiv_rn(1.0, __dsqrt_rn(square)) : 0.0;
}

template <bool kScaled, class S>
__device__ __forceinline__ double exact_sum(const S* x, int64_t x_stride, double a, const S* y,
                                            int64_t y_stride, double b, int64_t depth) {
  double lane = 0;
#pragma unroll 4
  for (int64_t k = threadIdx.x % kExactLanes; k < depth; k += kExactLanes) {
    double u = as_double(x[k * x_stride]), v = as_double(y[k * y_stride]);
    if (kScaled) {
      u = __dmul_rn(u, a);
      v = __dmul_rn(v, b);
    }
    const double d = __dsub_rn(u, v);
    lane = __dadd_rn(lane, __dmul_rn(d, d));
  }
  return exact_fold(lane);
}

// d2 of row i of x and row j of y. The whole warp calls it, the lanes of a group with the same rows.
template <class S>
__device__ __forceinline__ double exact_distance(const ExactRows<S>& x, int64_t i, const ExactRows<S>& y,
                                                 int64_t j, int64_t depth) {
  const S *from = x.row(i), *to = y.row(j);
  if (!x.inverse) return exact_sum<false>(from, x.column_stride, 1.0, to, y.column_stride, 1.0, depth);
  const double a = x.inverse[i], b = y.inverse[j];
  const double d2 = exact_sum<true>(from, x.column_stride, a, to, y.column_stride, b, depth);
  return a == 0 || b == 0 ? 2.0 : d2;
}

// square[i] and inverse[i], where wanted; the largest square as bits in *longest (squares are never negative,
// so that their bits are ordered as they are). A group of lanes for each row.
constexpr int kMeasureThreads = 256;
constexpr int kMeasureRows = kMeasureThreads / kExactLanes;

template <class S>
__global__ void measure_kernel(ExactRows<S> rows, int64_t count, int64_t depth, double* square,
                               double* inverse, unsigned long long* longest) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kMeasureRows + threadIdx.x / kExactLanes;
  const double value = exact_square(rows.row(row < count ? row : 0), rows.column_stride, depth);
  if (row < count && threadIdx.x % kExactLanes == 0) {
    if (square) square[row] = value;
    if (inverse) inverse[row] = exact_inverse(value);
  }
  const unsigned long long bits =
      row < count ? static_cast<unsigned long long>(__double_as_longlong(value)) : 0ull;
  const unsigned long long most = warp_reduce(bits, Maximum{});
  if (threadIdx.x % kWarpSize == 0) atomicMax(longest, most);
}

}  // namespace
}  // namespace fastreid
