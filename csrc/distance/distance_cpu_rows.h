// SPDX-License-Identifier: Apache-2.0
// Rows as the CPU kernels read them: any strides, the compute type, and the factors that bring a row to
// length 1 for the angular metrics. Only for distance_cpu.cpp.
#pragma once

#include "common/simd.h"
#include "common/sizes.h"
#include "distance/distance.h"

namespace fastreid::FASTREID_ISA {
namespace {

constexpr double kHuge = 1.7976931348623157e308;

bool angular(Metric metric) { return metric == Metric::cosine || metric == Metric::arccos; }

template <class S>
struct Rows {
  const S* data;
  int64_t row_stride, column_stride, depth;
  explicit Rows(const DistanceMatrix& m, int64_t depth)
      : data(static_cast<const S*>(m.data)),
        row_stride(m.row_stride),
        column_stride(m.column_stride),
        depth(depth) {}
  Compute<S> at(int64_t row, int64_t k) const { return widen(data[row * row_stride + k * column_stride]); }
};

// Factors that bring a row to length 1: value * before * after. 0 for a row of zeros, `before` only against
// over- and underflow.
struct Scale {
  double before, after;
};

// Sixteen interleaved sums, then pairs: one order for every instruction set, and no chain of additions to
// wait for.
template <class S>
double square_sum(const Rows<S>& rows, int64_t row, double factor) {
  constexpr int kSums = 16;
  alignas(64) double sums[kSums] = {};
  const S* from = rows.data + row * rows.row_stride;
  int64_t k = 0;
  for (; k + kSums <= rows.depth; k += kSums, from += kSums * rows.column_stride)
    for (int i = 0; i < kSums; ++i) {
      const double value = static_cast<double>(widen(from[i * rows.column_stride])) * factor;
      sums[i] += value * value;
    }
  for (int i = 0; k < rows.depth; ++k, ++i) {
    const double value = static_cast<double>(rows.at(row, k)) * factor;
    sums[i] += value * value;
  }
  for (int half = kSums / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  return sums[0];
}

template <class S>
Scale unit_scale(const Rows<S>& rows, int64_t row) {
  const double square = square_sum(rows, row, 1);
  if (sizeof(S) == 8 && !(square > 1e-280 && square < 1e280)) {
    double largest = 0;
    for (int64_t k = 0; k < rows.depth; ++k) {
      const double value = __builtin_fabs(rows.at(row, k));
      largest = value > largest ? value : largest;
    }
    if (largest > 0 && largest <= kHuge) {
      const double before = largest < 1 ? 0x1p600 : 0x1p-600;
      return {before, 1 / __builtin_sqrt(square_sum(rows, row, before))};
    }
  }
  return {1, square == 0 ? 0 : 1 / __builtin_sqrt(square)};
}

}  // namespace
}  // namespace fastreid::FASTREID_ISA
