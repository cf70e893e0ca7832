// SPDX-License-Identifier: Apache-2.0
// Screened search: products of rounded rows, with a bound on what the rounding did. Only for x_cpu.cpp.
//
// Rows are moved by a common vector and scaled by a common power of two (neither changes the order of distances),
// then rounded: x = x^ + e, to bfloat16 where the processor multiplies pairs of it, else to float32. With the norms
// of x^ and e known,
//
//     |x.y - fl(x^.y^)| <= |e_x| |y| + |x^| |e_y| + g |x^| |y^|,     g: the accumulation in float32,
//
// so that the score s(x, y) = x.y - |y|^2 / 2 (larger = nearer, since |x-y|^2 / 2 = |x|^2 / 2 - s) is known to
// within +-bound[row of x]. Whoever needs to know more than that asks exact.h.
#pragma once

#include <cstdint>

#include "common/exact.h"
#include "common/sizes.h"

namespace fastreid::FASTREID_ISA {
namespace {

// Rows are packed in panels of kPanel, word by word: panel[word * kPanel + row]. A word is one float32 or two
// bfloat16, and the same panels serve both sides of a product.
constexpr int kPanel = 3 * kLanes<float>;
#if defined(__AVX512F__)
constexpr int kTileRows = 8;  // 24 accumulators, 3 registers of y and 1 of x, of 32
#else
constexpr int kTileRows = 4;  // 12 + 3 + 1 of 16
#endif
// Words added up in one register: this much of a panel stays in the first-level cache while the rows of the other
// panel go by, and the error of float32 sums stays proportional to it.
constexpr int64_t kStep = 256;
// Panels of x that share each panel of y read: 800 KiB at depth 2048, in the second-level cache.
constexpr int64_t kBlockPanels = 2;
constexpr int64_t kCentreRows =
    512;  // rows whose mean is the common vector: any vector is right, this one is near

// ---- tiles: out[row][column] = sum over words of a * b, kTileRows x kPanel ----

template <bool kFirst>
__attribute__((noinline)) void tile_float(const float* a, const float* b, int64_t words, float* out) {
  constexpr int kL = kLanes<float>;
  Vec<float> acc[kTileRows][3] = {};
  for (int64_t k = 0; k < words; ++k) {
    const Vec<float> b0 = load(b + k * kPanel), b1 = load(b + k * kPanel + kL),
                     b2 = load(b + k * kPanel + 2 * kL);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      const Vec<float> value = splat(a[k * kPanel + r]);
      acc[r][0] = fma(value, b0, acc[r][0]);
      acc[r][1] = fma(value, b1, acc[r][1]);
      acc[r][2] = fma(value, b2, acc[r][2]);
    }
  }
  for (int r = 0; r < kTileRows; ++r)
    for (int v = 0; v < 3; ++v) {
      float* const to = out + r * kPanel + v * kL;
      store(to, kFirst ? acc[r][v] : acc[r][v] + load(to));
    }
}

#if defined(__AVX512F__)
template <bool kFirst>
__attribute__((target("avx512bf16"), noinline)) void tile_pairs(const uint32_t* a, const uint32_t* b,
                                                                int64_t words, float* out) {
  __m512 acc[kTileRows][3];
  for (int r = 0; r < kTileRows; ++r)
    for (int v = 0; v < 3; ++v) acc[r][v] = _mm512_setzero_ps();
  for (int64_t k = 0; k < words; ++k) {
    const __m512bh b0 = (__m512bh)_mm512_load_si512(b + k * kPanel),
                   b1 = (__m512bh)_mm512_load_si512(b + k * kPanel + 16),
                   b2 = (__m512bh)_mm512_load_si512(b + k * kPanel + 32);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      const __m512bh value = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[k * kPanel + r]));
      acc[r][0] = _mm512_dpbf16_ps(acc[r][0], value, b0);
      acc[r][1] = _mm512_dpbf16_ps(acc[r][1], value, b1);
      acc[r][2] = _mm512_dpbf16_ps(acc[r][2], value, b2);
    }
  }
  for (int r = 0; r < kTileRows; ++r)
    for (int v = 0; v < 3; ++v) {
      float* const to = out + r * kPanel + v * 16;
      _mm512_store_ps(to, kFirst ? acc[r][v] : _mm512_add_ps(acc[r][v], _mm512_load_ps(to)));
    }
}
#endif

// Products of the first `rows` rows of panel a (rounded up to whole tiles) with all of panel b.
inline void product(const uint32_t* a, const uint32_t* b, int64_t words, int rows, bool pairs, float* out) {
  for (int64_t k = 0; k < words; k += kStep) {
    const int64_t n = smaller(kStep, words - k);
    for (int r = 0; r < rows; r += kTileRows) {
      const uint32_t *from = a + k * kPanel + r, *with = b + k * kPanel;
      float* const to = out + r * kPanel;
#if defined(__AVX512F__)
      if (pairs) {
        k == 0 ? tile_pairs<true>(from, with, n, to) : tile_pairs<false>(from, with, n, to);
        continue;
      }
#endif
      const float *x = reinterpret_cast<const float*>(from), *y = reinterpret_cast<const float*>(with);
      k == 0 ? tile_float<true>(x, y, n, to) : tile_float<false>(x, y, n, to);
    }
  }
  (void)pairs;
}

// Relative error of a sum of squares in 16 float32 sums.
inline double sum_error(int64_t depth) { return static_cast<double>(depth / 16 + 8) * 0x1p-24; }

// ---- one set of rows, packed ----

struct Screened {
  uint32_t* panels;  // (padded / kPanel, words, kPanel)
  float* half;       // (padded,) |x|^2 / 2; infinite past the last row
  float* norm;       // (padded,) at least |x| and |x^|
  float* error;      // (padded,) at least |x - x^|
  double* inverse;   // (rows,) 1 / |x| for angular metrics, else null
  double* square;    // (rows,) |x|^2 as given
  int64_t rows;
  int64_t padded;
  int64_t words;
  bool pairs;

  static int64_t words_of(int64_t depth, bool pairs) { return pairs ? (depth + 1) / 2 : depth; }
  static int64_t bytes(int64_t rows, int64_t depth, bool pairs) {
    const int64_t padded = round_up(rows, kPanel);
    return round_up(padded * words_of(depth, pairs) * 4, 64) + 3 * round_up(padded * 4, 64) +
           2 * round_up(rows * 8, 64);
  }

  void lay_out(char* memory, int64_t n, int64_t depth, bool bf16, bool angular) {
    rows = n;
    padded = round_up(n, kPanel);
    pairs = bf16;
    words = words_of(depth, bf16);
    panels = reinterpret_cast<uint32_t*>(memory);
    memory += round_up(padded * words * 4, 64);
    float** const each[] = {&half, &norm, &error};
    for (int i = 0; i < 3; ++i, memory += round_up(padded * 4, 64))
      *each[i] = reinterpret_cast<float*>(memory);
    square = reinterpret_cast<double*>(memory);
    inverse = angular ? reinterpret_cast<double*>(memory + round_up(rows * 8, 64)) : nullptr;
  }

  template <class S>
  void measure(const ExactRows<S>& x, int64_t depth, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      square[i] = exact_square(x.row(i), x.column_stride, depth);
      if (inverse) inverse[i] = exact_inverse(square[i]);
    }
  }

  // Panels [first, last). centre: float64, in the units of the rows (scaled to length one where angular).
  template <class S>
  void pack(const ExactRows<S>& x, int64_t depth, const double* centre, double factor, int64_t first,
            int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      pairs ? pack_panel<true>(x, depth, centre, factor, p) : pack_panel<false>(x, depth, centre, factor, p);
    }
  }

 private:
  template <bool kPairs, class S>
  void pack_panel(const ExactRows<S>& x, int64_t depth, const double* centre, double factor, int64_t p) {
    constexpr int kBlock = 16;  // elements of each row at a time: 1.5 KiB of the panel, written in place
    const int64_t base = p * kPanel;
    const int count = static_cast<int>(smaller(kPanel, rows - base));
    double squares[kPanel] = {}, rounded[kPanel] = {}, errors[kPanel] = {};
    alignas(64) float sums[kPanel][3][kBlock] = {};
    // Rows of float32 in one piece are moved and scaled in float32, where the factor is one.
    const bool plain = sizeof(S) == 4 && x.column_stride == 1 && factor > 0x1p-100 && factor < 0x1p100;
    for (int64_t k0 = 0; k0 < depth; k0 += kBlock) {
      const int n = static_cast<int>(smaller(kBlock, depth - k0));
      uint32_t* const to = panels + p * words * kPanel + (kPairs ? k0 / 2 : k0) * kPanel;
      const int used = kPairs ? (n + 1) / 2 : n;
      float moved[kBlock];
      for (int i = 0; i < n; ++i) moved[i] = static_cast<float>(centre[k0 + i]);
      for (int r = 0; r < kPanel; ++r) {
        uint32_t bits[kBlock];
        double sum[3] = {};
        if (r >= count) {
          for (int i = 0; i < kBlock; ++i) bits[i] = 0;
        } else if (plain && n == kBlock && ordinary(base + r)) {
          const float scale = inverse ? static_cast<float>(inverse[base + r]) : 1.0f;
          round_floats<kPairs>(reinterpret_cast<const float*>(x.row(base + r) + k0), scale, moved,
                               static_cast<float>(factor), bits, sums[r]);
        } else {
          round_block<kPairs>(x, base + r, k0, n, centre, factor, bits, sum);
        }
        squares[r] += sum[0], rounded[r] += sum[1], errors[r] += sum[2];
        if (kPairs) {
          for (int i = 0; i < used; ++i) to[i * kPanel + r] = bits[2 * i] | bits[2 * i + 1] << 16;
        } else {
          for (int i = 0; i < used; ++i) to[i * kPanel + r] = bits[i];
        }
      }
    }
    for (int r = 0; r < kPanel; ++r) {
      for (int i = 0; i < kBlock; ++i) {
        squares[r] += sums[r][0][i], rounded[r] += sums[r][1][i], errors[r] += sums[r][2][i];
      }
      const double longer = squares[r] > rounded[r] ? squares[r] : rounded[r];
      // A row of zeros has no direction: its d2 is 2 to every row, not the 1 of its place among unit vectors.
      const double lift = r < count && inverse && inverse[base + r] == 0 ? factor * factor : 0;
      half[base + r] = r < count ? static_cast<float>((squares[r] + lift) / 2) : __builtin_inff();
      const double length = __builtin_sqrt(longer * (1 + sum_error(depth)));
      norm[base + r] = above(length);
      // What float32 lost before the rounding: three operations on each element, one of them on the row as given.
      const double lost = plain ? 0x1p-22 * (length + (inverse ? factor : 0)) : 0;
      error[base + r] = above(__builtin_sqrt(errors[r] * (1 + sum_error(depth))) + lost);
      // A length from a square without all its bits is not quite 1, but distance 2 from rows of zeros it has.
      if (r < count && inverse && square[base + r] < 1e-290 && inverse[base + r] != 0)
        error[base + r] = __builtin_inff();
    }
  }

  // The row's scale is a float32 whose products are.
  bool ordinary(int64_t row) const {
    return inverse == nullptr || (inverse[row] > 0x1p-100 && inverse[row] < 0x1p100);
  }

  // One block in float32; sums of squares by place, of the rows before and after rounding and of the difference.
  template <bool kPairs>
  static void round_floats(const float* from, float scale, const float* centre, float factor, uint32_t* bits,
                           float (*sums)[16]) {
    for (int i = 0; i < 16; ++i) {
      const float value = (from[i] * scale - centre[i]) * factor;
      uint32_t b = to_bits(value);
      if (kPairs) b = (b + 0x7fffu + (b >> 16 & 1u)) & 0xffff0000u;
      b = (b & 0x7f800000u) == 0 ? 0 : b;
      bits[i] = kPairs ? b >> 16 : b;
      const float rounded = from_bits(b), difference = value - rounded;
      sums[0][i] += value * value;
      sums[1][i] += rounded * rounded;
      sums[2][i] += difference * difference;
    }
  }

  static float above(double value) { return static_cast<float>(value * (1 + 1e-6)) + 1e-37f; }

  // One row's elements k0 .. k0 + n - 1, moved, scaled and rounded; sums of squares before, after, of the error.
  template <bool kPairs, class S>
  void round_block(const ExactRows<S>& x, int64_t row, int64_t k0, int n, const double* centre, double factor,
                   uint32_t* bits, double* sum) const {
    constexpr int kBlock = 16;
    const S* from = x.row(row) + k0 * x.column_stride;
    const double scale = inverse ? inverse[row] : 1.0;
    double v[kBlock];
    if (n == kBlock && x.column_stride == 1) {
      for (int i = 0; i < kBlock; ++i) v[i] = (widen(from[i]) * scale - centre[k0 + i]) * factor;
    } else {
      for (int i = 0; i < kBlock; ++i)
        v[i] = i < n ? (widen(from[i * x.column_stride]) * scale - centre[k0 + i]) * factor : 0;
    }
    double before[4] = {}, after[4] = {}, error[4] = {};
    for (int i = 0; i < kBlock; ++i) {
      const float value = static_cast<float>(v[i]);
      uint32_t b = to_bits(value);
      if (kPairs) b = (b + 0x7fffu + (b >> 16 & 1u)) & 0xffff0000u;  // nearest, ties to even
      // The product instruction takes subnormal numbers for zero.
      b = (b & 0x7f800000u) == 0 ? 0 : b;
      bits[i] = kPairs ? b >> 16 : b;
      const double r = static_cast<double>(from_bits(b));
      before[i & 3] += v[i] * v[i];
      after[i & 3] += r * r;
      error[i & 3] += (v[i] - r) * (v[i] - r);
    }
    sum[0] = (before[0] + before[1]) + (before[2] + before[3]);
    sum[1] = (after[0] + after[1]) + (after[2] + after[3]);
    sum[2] = (error[0] + error[1]) + (error[2] + error[3]);
  }
};

// ---- what both sides share ----

struct Frame {
  double* centre;    // (depth,)
  double factor;     // the power of two; d2 of the packed rows is factor^2 times that of the given ones
  double max_norm;   // of y
  double max_error;  // of y

  // The mean of at most kCentreRows rows of y, spread evenly.
  template <class S>
  void find_centre(const ExactRows<S>& y, int64_t rows, int64_t depth, bool angular) {
    for (int64_t k = 0; k < depth; ++k) centre[k] = 0;
    const int64_t used = smaller(rows, kCentreRows);
    for (int64_t i = 0; i < used; ++i) {
      const S* row = y.row(i * rows / used);
      double scale = 1.0 / static_cast<double>(used);
      if (angular) scale *= exact_inverse(exact_square(row, y.column_stride, depth));
      for (int64_t k = 0; k < depth; ++k) centre[k] += widen(row[k * y.column_stride]) * scale;
    }
    for (int64_t k = 0; k < depth; ++k) {  // one that float32 holds: then moving rows of float32 rounds once
      const float rounded = static_cast<float>(centre[k]);
      centre[k] = rounded - rounded == 0 ? static_cast<double>(rounded) : 0;
    }
  }

  // The longest row gets a length of about 1: no float32 overflows, and none underflows that matters.
  void find_factor(const Screened& x, const Screened& y, bool angular) {
    double longest = angular ? 1 : 0;
    if (!angular) {
      const Screened* const sides[] = {&x, &y};
      for (const Screened* side : sides)
        for (int64_t i = 0; i < side->rows; ++i)
          longest = side->square[i] > longest ? side->square[i] : longest;
    }
    factor = 1;
    if (!(longest > 0)) return;
    if (!(longest <= 1.7e308)) {  // squares may be infinite: everything is looked at exactly, see bound()
      factor = 0x1p-1022;
      return;
    }
    const uint64_t exponent = __builtin_bit_cast(uint64_t, __builtin_sqrt(longest)) >> 52;
    factor = __builtin_bit_cast(double, (2046 - exponent) << 52);
  }

  void find_largest(const Screened& y) {
    max_norm = max_error = 0;
    for (int64_t i = 0; i < y.rows; ++i) {
      max_norm = y.norm[i] > max_norm ? y.norm[i] : max_norm;
      max_error = y.error[i] > max_error ? y.error[i] : max_error;
    }
  }

  // How far a score of row i of x may be off, against any row of y. Infinite where float64 itself would not tell
  // distances apart: then everything is looked at exactly.
  float bound(const Screened& x, int64_t i, int64_t depth) const {
    const double steps = static_cast<double>(kStep * (x.pairs ? 2 : 1) + ceil_div(x.words, kStep) + 8);
    const double gamma =
        steps * 0x1p-23;  // twice the unit roundoff: the pair product may round more than once
    const double n = x.norm[i];
    const double rounding = (0x1p-21 + sum_error(depth)) * (max_norm + n) * (max_norm + n);
    const double far = static_cast<double>(depth) * 0x1p-126;
    const double b = x.error[i] * max_norm + n * max_error + gamma * n * max_norm + rounding + far;
    if (x.inverse && x.inverse[i] == 0) return __builtin_inff();
    return factor > 0x1p450 || factor < 0x1p-500 || !(b < 1e30) ? __builtin_inff()
                                                                : static_cast<float>(b * (1 + 1e-5)) + 1e-36f;
  }
};

}  // namespace
}  // namespace fastreid::FASTREID_ISA
