// SPDX-License-Identifier: Apache-2.0
#include "distance/distance.h"

#include "distance/distance_cpu_gradient.h"
#include "distance/distance_cpu_rows.h"

namespace fastreid::FASTREID_ISA {
namespace {

// One tile: kRows rows of x against kColumns columns of y (rows of y), all accumulators in registers.
#if defined(__AVX512F__)
constexpr int kRows = 14;  // 28 accumulators + 2 of y + 1 difference of 32 registers
#else
constexpr int kRows = 6;  // 12 + 2 + 1 of 16
#endif
template <class T>
constexpr int kColumns = 2 * kLanes<T>;
// Terms added up in the compute type before they go to float64; the error grows in proportion to this number.
// float64 has nothing wider: 32 terms, 8 such sums, and so on.
template <class T>
constexpr int64_t kChunk = sizeof(T) == 8 ? 32 : 64;
// Bytes of packed x and y for each thread: x and one panel of y stay in the second-level cache while all
// panels of y go by.
constexpr int64_t kPackedX = 384 * 1024;
constexpr int64_t kPackedY = 2 * 1024 * 1024;
constexpr int64_t kMiddle = 256;     // float64: terms in a sum of sums
constexpr double kSmall = 1.0 / 16;  // |x-y|^2 below this part of |x|^2 + |y|^2 comes from differences
constexpr double kPi = 3.14159265358979323846;

// Squares of smaller numbers fall out of the compute type's range.
template <class T>
constexpr double kTiny = 1e-26;
template <>
constexpr double kTiny<double> = 1e-280;

// Rows [first, first + count) as panels of kWidth rows, depth-major, the last panel filled up with zeros;
// squares[] their squared lengths after rounding to the compute type.
template <int kWidth, class S, class T>
void pack(const Rows<S>& rows, int64_t first, int64_t count, bool unit, T* packed, double* squares) {
  constexpr int64_t kBlock = 16;
  for (int64_t base = 0; base < count; base += kWidth, packed += kWidth * rows.depth, squares += kWidth) {
    const int width = static_cast<int>(smaller(kWidth, count - base));
    Scale scale[kWidth];
    for (int r = 0; r < width; ++r) scale[r] = unit ? unit_scale(rows, first + base + r) : Scale{1, 1};
    alignas(64) double sums[kWidth] = {}, middle[kWidth] = {};
    for (int64_t k0 = 0; k0 < rows.depth; k0 += kBlock) {
      const int64_t length = smaller(kBlock, rows.depth - k0);
      T* to = packed + k0 * kWidth;
      for (int r = 0; r < width; ++r) {
        const S* from = rows.data + (first + base + r) * rows.row_stride + k0 * rows.column_stride;
        const double before = scale[r].before, after = scale[r].after;
        if (unit) {
          for (int64_t k = 0; k < length; ++k)
            to[k * kWidth + r] = static_cast<T>(widen(from[k * rows.column_stride]) * before * after);
        } else if (rows.column_stride == 1) {
          for (int64_t k = 0; k < length; ++k) to[k * kWidth + r] = widen(from[k]);
        } else {
          for (int64_t k = 0; k < length; ++k) to[k * kWidth + r] = widen(from[k * rows.column_stride]);
        }
      }
      for (int r = width; r < kWidth; ++r)
        for (int64_t k = 0; k < length; ++k) to[k * kWidth + r] = 0;
      alignas(64) double part[kWidth] = {};
      for (int64_t k = 0; k < length; ++k)
        for (int r = 0; r < kWidth; ++r)
          part[r] += static_cast<double>(to[k * kWidth + r]) * to[k * kWidth + r];
      const bool fold = (k0 + kBlock) % kMiddle == 0 || k0 + kBlock >= rows.depth;
      for (int r = 0; r < kWidth; ++r) {
        middle[r] += part[r];
        if (fold) sums[r] += middle[r], middle[r] = 0;
      }
    }
    for (int r = 0; r < kWidth; ++r) squares[r] = sums[r];
  }
}

// ---- tiles ----

// sums[r][c] = sum over k of a*b, or of (a-b)^2. An entry's order of additions is the same in every tile shape.
template <class T, int kTileRows, bool kDifference>
__attribute__((noinline)) void tile(const T* a, const T* b, int64_t depth, double* sums) {
  constexpr int kWidth = kColumns<T>, kL = kLanes<T>;
  constexpr bool kNested = sizeof(T) == 8;
  alignas(64) double middle[kNested ? kTileRows * kWidth : 1] = {};
  double* const to = kNested ? middle : sums;
  for (int i = 0; i < kTileRows * kWidth; ++i) sums[i] = 0;
  for (int64_t k0 = 0; k0 < depth; k0 += kChunk<T>) {
    Vec<T> acc[kTileRows][2] = {};
    for (int64_t k = k0, end = smaller(depth, k0 + kChunk<T>); k < end; ++k) {
      const Vec<T> b0 = load(b + k * kWidth), b1 = load(b + k * kWidth + kL);
#pragma GCC unroll 14
      for (int r = 0; r < kTileRows; ++r) {
        const Vec<T> value = splat(a[k * kRows + r]);
        if constexpr (kDifference) {
          const Vec<T> d0 = value - b0, d1 = value - b1;
          acc[r][0] = fma(d0, d0, acc[r][0]);
          acc[r][1] = fma(d1, d1, acc[r][1]);
        } else {
          acc[r][0] = fma(value, b0, acc[r][0]);
          acc[r][1] = fma(value, b1, acc[r][1]);
        }
      }
    }
    for (int r = 0; r < kTileRows; ++r) {
      alignas(64) T part[kWidth];
      store(part, acc[r][0]);
      store(part + kL, acc[r][1]);
      for (int c = 0; c < kWidth; ++c) to[r * kWidth + c] += static_cast<double>(part[c]);
    }
    if (!kNested || ((k0 + kChunk<T>) % kMiddle != 0 && k0 + kChunk<T> < depth)) continue;
    for (int i = 0; i < kTileRows * kWidth; ++i) {
      sums[i] += middle[i];
      middle[i] = 0;
    }
  }
}

// Sum of (a + sign*b)^2 in float64 throughout, for entries outside the compute type's range and for opposite
// directions.
template <class T>
double exact_square(const T* a, const T* b, int64_t depth, double sign) {
  double sum = 0;
  for (int64_t k = 0; k < depth; ++k) {
    const double d = static_cast<double>(a[k * kRows]) + sign * static_cast<double>(b[k * kColumns<T>]);
    sum += d * d;
  }
  return sum;
}

// asin(x) / x = 1 + t p(t), t = x^2 <= 1/4; p is a Chebyshev fit computed with mpmath, largest relative error 4e-18.
VecD asin_half(VecD x) {
  constexpr double p[] = {0x1.d72b41e1e00cfp-6, -0x1.e6aae7fce8104p-7, 0x1.1d18a7db74d35p-6,
                          0x1.65a9a86ef56c6p-8, 0x1.52420e3e82172p-7,  0x1.7826514f4755cp-7,
                          0x1.c9cf077388859p-7, 0x1.1c4d35cf2f0eep-6,  0x1.6e8bb1c824ce4p-6,
                          0x1.f1c71c1db0483p-6, 0x1.6db6db6e31f16p-5,  0x1.3333333332ecap-4,
                          0x1.5555555555556p-3};
  const VecD t = x * x;
  VecD value = splat(p[0]);
  for (int i = 1; i < 13; ++i) value = value * t + splat(p[i]);
  return x + x * (t * value);
}

// From q = |x-y|^2 to the metric.
VecD finish(Metric metric, VecD q) {
  switch (metric) {
    case Metric::euclidean:
      return square_root(q);
    case Metric::sqeuclidean:
      return q;
    case Metric::cosine:
      return q > splat(4.0) ? splat(2.0) : q * splat(0.5);
    default:
      break;
  }
  // cos = 1 - 2h. asin is only asked for |argument| <= 1/2: of cos itself in the middle, of a half angle at
  // both ends.
  const VecD h = q > splat(4.0) ? splat(1.0) : q * splat(0.25);
  const VecD cosine = splat(1.0) - (h + h), other = splat(1.0) - h;
  const VecD root = square_root(h < other ? h : other);
  const auto near = cosine > splat(0.5), far = cosine < splat(-0.5);
  const VecD arc = asin_half(near ? root : (far ? root : cosine));
  const VecD end = arc + arc;
  const VecD wide = far ? splat(kPi) - end : splat(kPi / 2) - arc;
  const VecD angle = near ? end : wide;
  return q == q ? angle : q;
}

// Rows [first, first + kTileRows) of one panel of x against one panel of y, from the panels to the result.
template <class S, int kTileRows>
void emit(const DistanceProblem& problem, const Compute<S>* a, const Compute<S>* b, const double* a_squares,
          const double* b_squares, int columns, S* out) {
  using T = Compute<S>;
  constexpr int kWidth = kColumns<T>, kD = kLanes<double>;
  const int64_t depth = problem.depth;
  const bool unit = angular(problem.metric);
  alignas(64) double q[kTileRows * kWidth], differences[kTileRows * kWidth];
  bool redo[kTileRows];
  int to_redo = 0;
  tile<T, kTileRows, false>(a, b, depth, q);
  for (int r = 0; r < kTileRows; ++r) {
    int bad = 0;
    for (int c = 0; c < kWidth; ++c) {
      const double scale = a_squares[r] + b_squares[c], value = scale - 2 * q[r * kWidth + c];
      bad |= !(value > kSmall * scale + kTiny<T>) | !(value <= kHuge);
      q[r * kWidth + c] = value;
    }
    redo[r] = bad;
    to_redo += redo[r];
  }
  if (to_redo > kTileRows / 3) {
    tile<T, kTileRows, true>(a, b, depth, differences);
  } else if (to_redo > 0) {
    for (int r = 0; r < kTileRows; ++r)
      if (redo[r]) tile<T, 1, true>(a + r, b, depth, differences + r * kWidth);
  }
  for (int r = 0; r < kTileRows; ++r, out += problem.y_rows) {
    double* row = q + r * kWidth;
    if (redo[r]) {
      for (int c = 0; c < columns; ++c) {
        const double scale = a_squares[r] + b_squares[c];
        if (row[c] > kSmall * scale + kTiny<T> && row[c] <= kHuge) continue;
        row[c] = differences[r * kWidth + c];
        const bool out_of_range = !(row[c] <= kHuge) || (row[c] <= kTiny<T> && scale < kTiny<T>);
        if (sizeof(T) == 4 && out_of_range && scale > 0 && scale <= kHuge)
          row[c] = exact_square(a + r, b + c, depth, -1.0);
      }
    }
    if (unit)  // rows scaled to length 1 are so up to rounding; this takes out what is left
      for (int c = 0; c < kWidth; ++c) row[c] *= 2 / (a_squares[r] + b_squares[c]);
    for (int c = 0; c < kWidth; c += kD) store(row + c, finish(problem.metric, load(row + c)));
    if (problem.metric == Metric::arccos) {  // |u-v| says little about angles near pi, |u+v| everything
      for (int c = 0; c < columns; ++c)
        if (row[c] > 3.0) {
          const double rest = exact_square(a + r, b + c, depth, 1.0);
          const double square = rest * 2 / (a_squares[r] + b_squares[c]);
          row[c] = kPi - 2 * asin_half(splat(__builtin_sqrt(square) / 2))[0];
        }
    }
    if (unit) {
      for (int c = 0; c < columns; ++c)
        if (a_squares[r] == 0 || b_squares[c] == 0) {
          const bool defined = a_squares[r] == a_squares[r] && b_squares[c] == b_squares[c];
          row[c] = !defined ? a_squares[r] + b_squares[c] : problem.metric == Metric::cosine ? 1.0 : kPi / 2;
        }
    }
    for (int c = 0; c < columns; ++c) narrow(row[c], out + c);
  }
}

struct Blocks {
  int64_t rows, columns, x_bytes, y_bytes, x_squares, y_squares;
};

template <class T>
Blocks blocks_of(int64_t depth, int64_t rows, int64_t columns) {
  const int64_t row = depth * static_cast<int64_t>(sizeof(T));
  Blocks b;
  b.rows = smaller(round_up(rows, kRows), larger(kRows, kPackedX / row / kRows * kRows));
  b.columns = smaller(round_up(columns, kColumns<T>),
                      larger(kColumns<T>, kPackedY / row / kColumns<T> * kColumns<T>));
  b.x_bytes = round_up(b.rows * row, 64);
  b.y_bytes = round_up(b.columns * row, 64);
  b.x_squares = round_up(b.rows * 8, 64);
  b.y_squares = b.columns * 8;
  return b;
}

template <class S>
void rectangle(const DistanceProblem& problem, int64_t row_begin, int64_t row_end, int64_t column_begin,
               int64_t column_end, void* workspace, S* distance) {
  using T = Compute<S>;
  const int64_t depth = problem.depth;
  const Blocks blocks = blocks_of<T>(depth, row_end - row_begin, column_end - column_begin);
  char* memory = static_cast<char*>(workspace);
  T* const x = reinterpret_cast<T*>(memory);
  T* const y = reinterpret_cast<T*>(memory += blocks.x_bytes);
  double* const x_squares = reinterpret_cast<double*>(memory += blocks.y_bytes);
  double* const y_squares = reinterpret_cast<double*>(memory += blocks.x_squares);
  const bool unit = angular(problem.metric);
  const Rows<S> x_rows(problem.x, depth), y_rows(problem.y, depth);
  for (int64_t j0 = column_begin; j0 < column_end; j0 += blocks.columns) {
    const int64_t columns = smaller(blocks.columns, column_end - j0);
    pack<kColumns<T>>(y_rows, j0, columns, unit, y, y_squares);
    for (int64_t i0 = row_begin; i0 < row_end; i0 += blocks.rows) {
      const int64_t rows = smaller(blocks.rows, row_end - i0);
      pack<kRows>(x_rows, i0, rows, unit, x, x_squares);
      for (int64_t j = 0; j < columns; j += kColumns<T>) {
        const T* b = y + j * depth;
        const int width = static_cast<int>(smaller(kColumns<T>, columns - j));
        for (int64_t i = 0; i < rows;) {
          const int64_t left = smaller(rows - i, kRows - i % kRows);
          const T* a = x + (i / kRows * kRows) * depth + i % kRows;
          S* out = distance + (i0 + i) * problem.y_rows + j0 + j;
          if (left == kRows) {
            emit<S, kRows>(problem, a, b, x_squares + i, y_squares + j, width, out);
            i += kRows;
          } else if (left >= 4) {
            emit<S, 4>(problem, a, b, x_squares + i, y_squares + j, width, out);
            i += 4;
          } else {
            emit<S, 1>(problem, a, b, x_squares + i, y_squares + j, width, out);
            i += 1;
          }
        }
      }
    }
  }
}

// ---- the table ----

template <class F>
auto with_type(Dtype dtype, F function) {
  switch (dtype) {
    case Dtype::float64:
      return function(static_cast<double*>(nullptr));
    case Dtype::bfloat16:
      return function(static_cast<BFloat16*>(nullptr));
    case Dtype::float16:
      return function(static_cast<Float16*>(nullptr));
    default:
      return function(static_cast<float*>(nullptr));
  }
}

int64_t workspace_bytes(const DistanceProblem* problem, int64_t rows, int64_t columns) {
  const Blocks b = problem->dtype == Dtype::float64 ? blocks_of<double>(problem->depth, rows, columns)
                                                    : blocks_of<float>(problem->depth, rows, columns);
  return b.x_bytes + b.y_bytes + b.x_squares + b.y_squares;
}

void rectangle_any(const DistanceProblem* problem, int64_t row_begin, int64_t row_end, int64_t column_begin,
                   int64_t column_end, void* workspace, void* distance) {
  with_type(problem->dtype, [&](auto* type) {
    rectangle(*problem, row_begin, row_end, column_begin, column_end, workspace,
              static_cast<decltype(type)>(distance));
  });
}

int64_t gradient_workspace_bytes(const DistanceGradProblem* problem) {
  return problem->of.dtype == Dtype::float64 ? gradient_workspace<double>(problem->of.depth)
                                             : gradient_workspace<float>(problem->of.depth);
}

void gradient_rows_any(const DistanceGradProblem* problem, int64_t row_begin, int64_t row_end,
                       void* workspace, void* grad_x) {
  with_type(problem->of.dtype, [&](auto* type) {
    gradient_rows(*problem, row_begin, row_end, workspace, static_cast<decltype(type)>(grad_x));
  });
}

}  // namespace

extern const DistanceKernels distance_kernels = {workspace_bytes, rectangle_any, gradient_workspace_bytes,
                                                 gradient_rows_any};

}  // namespace fastreid::FASTREID_ISA
