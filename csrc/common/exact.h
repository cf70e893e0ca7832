// SPDX-License-Identifier: Apache-2.0
// The exact distance of two rows, on which every order in the retrieval ops rests. Only for x_cpu.cpp.
//
// d2 = sum_k (x_k * a - y_k * b)^2 in float64: 8 interleaved partial sums (term k goes to lane k % 8, in ascending
// order, multiplication and addition rounded one after the other), folded ((0+4)+(2+6))+((1+5)+(3+7)). So it is the
// same bits on every instruction set and device. a = b = 1 for the euclidean metrics; 1 / |x| and 1 / |y| for the
// angular ones, where d2 / 2 = 1 - cos.
#pragma once

#include <cstdint>

#include "common/simd.h"

namespace fastreid::FASTREID_ISA {
namespace {

// Row i, element k at data[i * row_stride + k * column_stride]; rows from `split` on continue at `more`, where that is
// not null, with the same strides.
template <class S>
struct ExactRows {
  const S* data;
  int64_t row_stride;
  int64_t column_stride;
  const S* more = nullptr;
  int64_t split = 0;
  const S* row(int64_t i) const {
    return more == nullptr || i < split ? data + i * row_stride : more + (i - split) * row_stride;
  }
};

inline double fold(const double* lane) {
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

// Squared length; the lanes of the definition, so that a row and its copy agree.
template <class S>
double exact_square(const S* x, int64_t stride, int64_t depth) {
  double lane[8] = {};
  int64_t k = 0;
  for (; k + 8 <= depth; k += 8)
    for (int i = 0; i < 8; ++i) {
      const double v = widen(x[(k + i) * stride]);
      lane[i] += v * v;
    }
  for (int i = 0; k < depth; ++k, ++i) {
    const double v = widen(x[k * stride]);
    lane[i] += v * v;
  }
  return fold(lane);
}

// 1 / |x| for the angular metrics; 0 for a row of zeros, which exact_distance turns into the distance 2.
inline double exact_inverse(double square) { return square > 0 ? 1 / __builtin_sqrt(square) : 0; }

// x as float64 and already scaled, y as it lies in memory.
template <int kRowsAtOnce, bool kScaled, class S>
void exact_rows(const double* x, const S* const* y, int64_t stride, const double* scale, int64_t depth,
                double* out) {
  double lane[kRowsAtOnce][8] = {};
  int64_t k = 0;
  if (stride == 1) {
    for (; k + 8 <= depth; k += 8) {
      for (int r = 0; r < kRowsAtOnce; ++r) {
        for (int i = 0; i < 8; ++i) {
          double v = widen(y[r][k + i]);
          if (kScaled) v *= scale[r];
          const double d = x[k + i] - v;
          lane[r][i] += d * d;
        }
      }
    }
  } else {
    for (; k + 8 <= depth; k += 8) {
      for (int r = 0; r < kRowsAtOnce; ++r) {
        for (int i = 0; i < 8; ++i) {
          double v = widen(y[r][(k + i) * stride]);
          if (kScaled) v *= scale[r];
          const double d = x[k + i] - v;
          lane[r][i] += d * d;
        }
      }
    }
  }
  for (int i = 0; k < depth; ++k, ++i) {
    for (int r = 0; r < kRowsAtOnce; ++r) {
      double v = widen(y[r][k * stride]);
      if (kScaled) v *= scale[r];
      const double d = x[k] - v;
      lane[r][i] += d * d;
    }
  }
  for (int r = 0; r < kRowsAtOnce; ++r) out[r] = fold(lane[r]);
}

// The row of x in the form that exact_distances takes. inverse: 1, or 1 / |x|.
template <class S>
void exact_prepare(const S* x, int64_t stride, int64_t depth, double inverse, bool scaled, double* out) {
  for (int64_t k = 0; k < depth; ++k) {
    const double v = widen(x[k * stride]);
    out[k] = scaled ? v * inverse : v;
  }
}

// Squared distances of one prepared row to rows index[0 .. n) of y. inverses: null for the euclidean metrics;
// a row of zeros (inverse 0, on either side) is at squared distance 2.
template <class S>
void exact_distances(const double* x, double x_inverse, const ExactRows<S>& y, const double* y_inverses,
                     int64_t depth, const int32_t* index, int64_t n, double* out) {
  constexpr int kAtOnce = 4;  // independent sums, so that an addition need not wait for the one before
  for (int64_t first = 0; first < n; first += kAtOnce) {
    const S* row[kAtOnce];
    double scale[kAtOnce], value[kAtOnce];
    const int64_t count = n - first < kAtOnce ? n - first : kAtOnce;
    for (int64_t r = 0; r < kAtOnce; ++r) {
      const int64_t j = index[first + (r < count ? r : 0)];
      row[r] = y.row(j);
      scale[r] = y_inverses ? y_inverses[j] : 1.0;
    }
    if (y_inverses) {
      exact_rows<kAtOnce, true>(x, row, y.column_stride, scale, depth, value);
      for (int64_t r = 0; r < count; ++r)
        if (x_inverse == 0 || scale[r] == 0) value[r] = 2;
    } else if (count == kAtOnce) {
      exact_rows<kAtOnce, false>(x, row, y.column_stride, scale, depth, value);
    } else {
      for (int64_t r = 0; r < count; ++r)
        exact_rows<1, false>(x, row + r, y.column_stride, scale + r, depth, value + r);
    }
    for (int64_t r = 0; r < count; ++r) out[first + r] = value[r];
  }
}

}  // namespace
}  // namespace fastreid::FASTREID_ISA
