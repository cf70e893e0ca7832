// SPDX-License-Identifier: Apache-2.0
#include "distance/distance.h"

#include "common/simd.h"
#include "common/sizes.h"

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
constexpr int64_t kPackedX =
    384 * 1024;  // bytes of packed x and y for each thread; x and one panel of y stay in
constexpr int64_t kPackedY = 2 * 1024 * 1024;  // the second-level cache while all panels of y go by
constexpr int64_t kMiddle = 256;               // float64: terms in a sum of sums
constexpr double kSmall = 1.0 / 16;  // |x-y|^2 below this part of |x|^2 + |y|^2 comes from differences
constexpr double kHuge = 1.7976931348623157e308;
constexpr double kPi = 3.14159265358979323846;

// Squares of smaller numbers fall out of the compute type's range.
template <class T>
constexpr double kTiny = 1e-26;
template <>
constexpr double kTiny<double> = 1e-280;

bool angular(Metric metric) { return metric == Metric::cosine || metric == Metric::arccos; }

// ---- rows as the kernels want them: compute type, scaled to length 1 for the angular metrics ----

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

// sums[r][c] = sum over k of a*b, or of (a-b)^2. An entry's order of additions is the same in every tile
// shape.
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

// asin(x) / x = 1 + t p(t), t = x^2 <= 1/4; p is a Chebyshev fit computed with mpmath, largest relative error
// 4e-18.
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

// ---- gradient: grad_x[i] = sum_j w_ij (x_i - y_j), differences taken before anything is added up ----

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

// ---- the table ----

template <class F>
auto with_type(DistanceDtype dtype, F function) {
  switch (dtype) {
    case DistanceDtype::float64:
      return function(static_cast<double*>(nullptr));
    case DistanceDtype::bfloat16:
      return function(static_cast<BFloat16*>(nullptr));
    case DistanceDtype::float16:
      return function(static_cast<Float16*>(nullptr));
    default:
      return function(static_cast<float*>(nullptr));
  }
}

int64_t workspace_bytes(const DistanceProblem* problem, int64_t rows, int64_t columns) {
  const Blocks b = problem->dtype == DistanceDtype::float64 ? blocks_of<double>(problem->depth, rows, columns)
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
  return problem->of.dtype == DistanceDtype::float64 ? gradient_workspace<double>(problem->of.depth)
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
