// SPDX-License-Identifier: Apache-2.0
// From neighbour lists to rows of the k-reciprocal encoding V. Only for rerank_cpu.cpp.
#pragma once

#include <cstdint>

#include "common/exact.h"
#include "common/sizes.h"
#include "rerank/rerank.h"
#include "rerank/rerank_cpu_select.h"

namespace fastreid::FASTREID_ISA {
namespace {

// exp(x) for x <= 0, within two units of float64's last place; own arithmetic, so that no library's version of it
// decides a bit. 2^n times the Taylor polynomial of the rest, which is at most ln(2) / 2.
inline double exponential(double x) {
  if (!(x > -700)) return 0;
  constexpr double kPerLn2 = 1.4426950408889634, kHigh = 0x1.62e42fee00000p-1, kLow = 0x1.a39ef35793c76p-33;
  const int64_t n = static_cast<int64_t>(x * kPerLn2 - 0.5);
  const double r = (x - static_cast<double>(n) * kHigh) - static_cast<double>(n) * kLow;
  constexpr double kInverse[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
      1.0 / 720,        1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0,         1.0};
  double sum = kInverse[0];
  for (int i = 1; i < 14; ++i) sum = sum * r + kInverse[i];
  return sum * __builtin_bit_cast(double, (n + 1023) << 52);
}

inline float half_rounded(float x) {
  Float16 half;
  narrow(static_cast<double>(x), &half);
  return widen(half);
}

// The place of `point` in a list, n if it is not there.
inline int64_t place_in(const int32_t* list, int64_t n, int32_t point) {
  int32_t place = static_cast<int32_t>(n);
  for (int32_t p = 0; p < static_cast<int32_t>(n); ++p) place = list[p] == point ? p : place;
  return place;
}

void reciprocal(const RerankLists* lists, int64_t first, int64_t last, const RerankSets* sets) {
  const int64_t listed = lists->listed, half = lists->half;
  for (int64_t i = first; i < last; ++i) {
    const int32_t* own = lists->index + i * listed;
    int32_t* const whole = sets->whole + i * listed;
    int32_t* const near = sets->half + i * half;
    int32_t whole_count = 0, near_count = 0;
    for (int64_t p = 0; p < listed; ++p) {
      const int64_t j = own[p];
      const int64_t place = place_in(lists->index + j * listed, listed, static_cast<int32_t>(i));
      if (place == listed) continue;
      whole[whole_count++] = static_cast<int32_t>(j);
      if (p < half && place < half) near[near_count++] = static_cast<int32_t>(j);
    }
    sets->whole_count[i] = whole_count;
    sets->half_count[i] = near_count;
  }
}

// Ascending, in place. Sets are small; a heap where they are not.
void sort_columns(int32_t* column, int64_t n) {
  if (n > 64) {
    const auto sift_down = [column](int64_t root, int64_t size) {
      const int32_t held = column[root];
      for (int64_t child = 2 * root + 1; child < size; root = child, child = 2 * root + 1) {
        if (child + 1 < size && column[child] < column[child + 1]) ++child;
        if (column[child] <= held) break;
        column[root] = column[child];
        column[child] = held;
      }
    };
    for (int64_t root = n / 2 - 1; root >= 0; --root) sift_down(root, n);
    for (int64_t end = n - 1; end > 0; --end) {
      const int32_t held = column[end];
      column[end] = column[0];
      column[0] = held;
      sift_down(0, end);
    }
    return;
  }
  for (int64_t e = 1; e < n; ++e) {
    const int32_t held = column[e];
    int64_t place = e;
    for (; place > 0 && column[place - 1] > held; --place) column[place] = column[place - 1];
    column[place] = held;
  }
}

// R*(i): the mutual neighbours, and the half sets of those more than two thirds of whose half set are among them
// (tested against the mutual neighbours alone, not against what has been added). Unsorted; returns their number.
int64_t expanded_set(const RerankLists& lists, const RerankSets& sets, int64_t i, int32_t* marks,
                     int32_t mark, int32_t* column) {
  const int32_t* own = sets.whole + i * lists.listed;
  const int64_t size = sets.whole_count[i];
  int64_t n = size;
  for (int64_t e = 0; e < size; ++e) marks[own[e]] = mark + 1, column[e] = own[e];
  for (int64_t e = 0; e < size; ++e) {
    const int64_t candidate = own[e];
    const int32_t* theirs = sets.half + candidate * lists.half;
    const int64_t count = sets.half_count[candidate];
    int64_t common = 0;
    for (int64_t t = 0; t < count; ++t) common += marks[theirs[t]] == mark + 1;
    if (3 * common <= 2 * count) continue;
    for (int64_t t = 0; t < count; ++t) {
      if (marks[theirs[t]] >= mark) continue;
      marks[theirs[t]] = mark;
      column[n++] = theirs[t];
    }
  }
  return n;
}

inline double matrix_distance(const RerankMatrices& m, int64_t i, int64_t j) {
  const int64_t q = m.queries;
  const double value = j < q && i < q ? element(m.query_query, j, i)
                       : j < q        ? element(m.query_gallery, j, i - q)
                       : i < q        ? element(m.query_gallery, i, j - q)
                                      : element(m.gallery_gallery, j - q, i - q);
  return __builtin_fabs(value);
}

template <class S>
void feature_distances(const RerankPairs& pairs, int64_t i, const int32_t* index, int64_t n, bool* prepared,
                       double* wide, double* distance) {
  const ExactRows<S> rows{static_cast<const S*>(pairs.x.data), pairs.x.row_stride, pairs.x.column_stride,
                          static_cast<const S*>(pairs.more), pairs.split};
  const double inverse = pairs.inverse ? pairs.inverse[i] : 1;
  if (!*prepared) exact_prepare(rows.row(i), rows.column_stride, pairs.depth, inverse, pairs.inverse, wide);
  *prepared = true;
  exact_distances(wide, inverse, rows, pairs.inverse, pairs.depth, index, n, distance);
}

// Distances of point i to the points of its set: from its list where they are in it, else of the pair.
void set_distances(const RerankLists& lists, const RerankPairs& pairs, int64_t i, const int32_t* column,
                   int64_t n, double* wide, double* distance) {
  constexpr int64_t kAtOnce = 64;
  int32_t missing[kAtOnce], slot[kAtOnce];
  double found[kAtOnce];
  int64_t absent = 0;
  bool prepared = false;
  for (int64_t e = 0; e < n; ++e) {
    const int64_t place = place_in(lists.index + i * lists.listed, lists.listed, column[e]);
    if (place < lists.listed) {
      distance[e] = lists.distance[i * lists.listed + place];
    } else {
      slot[absent] = static_cast<int32_t>(e);
      missing[absent++] = column[e];
    }
    if (absent == 0 || (absent < kAtOnce && e + 1 < n)) continue;
    if (pairs.x.data == nullptr) {
      for (int64_t a = 0; a < absent; ++a) found[a] = matrix_distance(pairs.matrices, i, missing[a]);
    } else if (pairs.x.dtype == Dtype::float64) {
      feature_distances<double>(pairs, i, missing, absent, &prepared, wide, found);
    } else {
      feature_distances<float>(pairs, i, missing, absent, &prepared, wide, found);
    }
    for (int64_t a = 0; a < absent; ++a) distance[slot[a]] = found[a];
    absent = 0;
  }
}

int64_t encode(const RerankLists* lists, const RerankPairs* pairs, const RerankSets* sets, bool to_half,
               int64_t first, int64_t last, int32_t* marks, int64_t tag, double* wide, int32_t* column,
               float* value, int64_t* counts) {
  double* const w = wide + pairs->depth;
  int64_t total = 0;
  for (int64_t i = first; i < last; ++i, ++tag) {
    int32_t* const own = column + total;
    const int64_t n = expanded_set(*lists, *sets, i, marks, static_cast<int32_t>(2 * tag + 1), own);
    sort_columns(own, n);
    set_distances(*lists, *pairs, i, own, n, wide, w);
    const double divisor = lists->farthest && lists->farthest[i] > 0 ? lists->farthest[i] : 1;
    double smallest = __builtin_inf(), sum = 0;
    for (int64_t e = 0; e < n; ++e) {
      const double ratio = w[e] / divisor;
      w[e] = lists->power == 2 ? ratio * ratio : ratio;
      smallest = w[e] < smallest ? w[e] : smallest;
    }
    for (int64_t e = 0; e < n; ++e) w[e] = exponential(smallest - w[e]);
    for (int64_t e = 0; e < n; ++e) sum += w[e];
    for (int64_t e = 0; e < n; ++e) {
      const float weight = static_cast<float>(w[e] / sum);
      value[total + e] = to_half ? half_rounded(weight) : weight;
    }
    counts[i - first] = n;
    total += n;
  }
  return total;
}

}  // namespace
}  // namespace fastreid::FASTREID_ISA
