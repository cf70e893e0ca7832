// SPDX-License-Identifier: Apache-2.0
// grad_x[i] = sum_j w_ij (x_i - y_j): differences are taken before anything is added up. Only for
// distance_cpu.cpp.
#pragma once

#include "distance/distance_cpu_rows.h"

namespace fastreid::FASTREID_ISA {
namespace {

constexpr int64_t kGradRows = 32;     // rows of x that share one pass over y
constexpr int64_t kGradColumns = 64;  // rows of y in a block; also the terms added up in the compute type
constexpr int64_t kGradDepth = 128;

template <class T>
int64_t padded(int64_t depth) {
  return round_up(depth, 2 * kLanes<T>);
}

// Rows [first, first + count), columns [k0, k0 + length) to contiguous rows of `stride`, zeros behind.
template <class S, class T>
void gather(const Rows<S>& rows, int64_t first, int64_t count, int64_t k0, int64_t length, const Scale* scale,
            T* to, int64_t stride) {
  for (int64_t r = 0; r < count; ++r, to += stride) {
    const S* from = rows.data + (first + r) * rows.row_stride + k0 * rows.column_stride;
    if (scale != nullptr) {
      for (int64_t k = 0; k < length; ++k)
        to[k] = static_cast<T>(widen(from[k * rows.column_stride]) * scale[r].before * scale[r].after);
    } else if (rows.column_stride == 1) {
      for (int64_t k = 0; k < length; ++k) to[k] = widen(from[k]);
    } else {
      for (int64_t k = 0; k < length; ++k) to[k] = widen(from[k * rows.column_stride]);
    }
    for (int64_t k = length; k < stride; ++k) to[k] = 0;
  }
}

// d distance / d x_i = weight * (x_i - y_j), up to the projection of the angular metrics.
double weight(Metric metric, double grad, double distance) {
  switch (metric) {
    case Metric::euclidean:
      return distance > 0 ? grad / distance : 0;
    case Metric::sqeuclidean:
      return 2 * grad;
    case Metric::cosine:
      return grad;
    default:
      break;
  }
  const double sine = __builtin_sin(distance);
  return distance > 0 && sine > 1e-7 ? grad / sine : 0;  // at 0 and pi the angle has no direction
}

template <class T, int kTileRows>
void accumulate(const T* a, int64_t a_stride, const T* b, int64_t b_stride, const T* weights, int64_t count,
                double* total) {
  constexpr int kL = kLanes<T>;
  Vec<T> acc[kTileRows][2] = {};
  for (int64_t j = 0; j < count; ++j) {
    const Vec<T> b0 = load(b + j * b_stride), b1 = load(b + j * b_stride + kL);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      const Vec<T> w = splat(weights[j * kGradRows + r]);
      acc[r][0] = fma(w, load(a + r * a_stride) - b0, acc[r][0]);
      acc[r][1] = fma(w, load(a + r * a_stride + kL) - b1, acc[r][1]);
    }
  }
  for (int r = 0; r < kTileRows; ++r) {
    alignas(64) T part[2 * kL];
    store(part, acc[r][0]);
    store(part + kL, acc[r][1]);
    for (int c = 0; c < 2 * kL; ++c) total[r * a_stride + c] += static_cast<double>(part[c]);
  }
}

template <class S>
int64_t gradient_workspace(int64_t depth) {
  using T = Compute<S>;
  const int64_t size = static_cast<int64_t>(sizeof(T));
  return kGradRows * padded<T>(depth) * (size + 8) + kGradColumns * (kGradRows + kGradDepth) * size;
}

template <class S>
void gradient_rows(const DistanceGradProblem& problem, int64_t row_begin, int64_t row_end, void* workspace,
                   S* grad_x) {
  using T = Compute<S>;
  const DistanceProblem& of = problem.of;
  const int64_t depth = of.depth, stride = padded<T>(depth);
  const bool unit = angular(of.metric);
  const Rows<S> x(of.x, depth), y(of.y, depth), grad(problem.grad, of.y_rows),
      distance(problem.distance, of.y_rows);
  double* const total = static_cast<double*>(workspace);
  T* const a = reinterpret_cast<T*>(total + kGradRows * stride);
  T* const b = a + kGradRows * stride;
  T* const weights = b + kGradColumns * kGradDepth;
  Scale x_scale[kGradRows], y_scale[kGradColumns];
  for (int64_t i0 = row_begin; i0 < row_end; i0 += kGradRows) {
    const int64_t rows = smaller(kGradRows, row_end - i0), grouped = round_up(rows, 4);
    for (int64_t r = 0; unit && r < rows; ++r) x_scale[r] = unit_scale(x, i0 + r);
    gather(x, i0, rows, 0, depth, unit ? x_scale : nullptr, a, stride);
    for (int64_t i = rows * stride; i < grouped * stride; ++i) a[i] = 0;
    for (int64_t i = 0; i < grouped * stride; ++i) total[i] = 0;
    for (int64_t j0 = 0; j0 < of.y_rows; j0 += kGradColumns) {
      const int64_t count = smaller(kGradColumns, of.y_rows - j0);
      for (int64_t j = 0; unit && j < count; ++j) y_scale[j] = unit_scale(y, j0 + j);
      for (int64_t j = 0; j < count; ++j)
        for (int64_t r = 0; r < grouped; ++r)
          weights[j * kGradRows + r] =
              r < rows
                  ? static_cast<T>(weight(of.metric, grad.at(i0 + r, j0 + j), distance.at(i0 + r, j0 + j)))
                  : T(0);
      for (int64_t k0 = 0; k0 < depth; k0 += kGradDepth) {
        const int64_t width = smaller(kGradDepth, stride - k0);
        gather(y, j0, count, k0, smaller(width, depth - k0), unit ? y_scale : nullptr, b, width);
        for (int64_t r = 0; r < grouped; r += 4)
          for (int64_t k = 0; k < width; k += 2 * kLanes<T>)
            accumulate<T, 4>(a + r * stride + k0 + k, stride, b + k, width, weights + r, count,
                             total + r * stride + k0 + k);
      }
    }
    for (int64_t r = 0; r < rows; ++r) {
      const double* sum = total + r * stride;
      const T* direction = a + r * stride;
      double along = 0;
      for (int64_t k = 0; unit && k < depth; ++k) along += sum[k] * direction[k];
      S* out = grad_x + (i0 + r) * depth;
      for (int64_t k = 0; k < depth; ++k)  // a unit row only turns: the part along it is taken out
        narrow(unit ? (sum[k] - along * direction[k]) * x_scale[r].before * x_scale[r].after : sum[k],
               out + k);
    }
  }
}

}  // namespace
}  // namespace fastreid::FASTREID_ISA
