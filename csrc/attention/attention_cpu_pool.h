// SPDX-License-Identifier: Apache-2.0
// Means and maxima of one sample's rows and columns. Only for attention_cpu.cpp.
#pragma once

#include <type_traits>

#include "attention/attention.h"
#include "attention/attention_cpu_lanes.h"

namespace fastreid::FASTREID_ISA {
namespace {

constexpr int64_t kRowBlock = 8;  // rows that share one visit of the columns' running values

// Where the results of one sample go; null is not computed.
template <class T>
struct PoolTo {
  T* mean;
  T* maximum;
  int32_t* place;
  bool count_ties;
};

template <class S>
double row_sum(const S* row, int64_t columns) {
  using T = Compute<S>;
  return sum_row<T>(columns, [&](int64_t i, int64_t lanes) { return load_some(row + i, lanes); });
}

// The maximum of a row without NaN and its place.
template <class S>
void row_maximum(const S* row, int64_t columns, bool count_ties, Compute<S>* maximum, int32_t* place) {
  using T = Compute<S>;
  const T first = widen(row[0]);
  Pack<T> best = fill(first);
  each_pack<T>(columns,
               [&](int64_t i, int64_t lanes) { best = upper(load_some(row + i, lanes, first), best); });
  const T value = max_of(best);
  *maximum = value;
  const Pack<T> wanted = fill(value);
  int32_t count = 0;
  for (int64_t i = 0; i < columns; i += kPack<T>) {
    const int64_t lanes = smaller(kPack<T>, columns - i);
    const uint32_t found =
        equal_lanes(load_some(row + i, lanes), wanted) & ((uint32_t(2) << (lanes - 1)) - 1);
    if (found == 0) continue;
    if (!count_ties) {
      *place = static_cast<int32_t>(i + __builtin_ctz(found));
      return;
    }
    count += __builtin_popcount(found);
  }
  *place = count;
}

template <class S>
void row_statistics(const S* row, int64_t columns, const PoolTo<Compute<S>>& to, int64_t r) {
  using T = Compute<S>;
  const double sum = row_sum(row, columns);
  if (to.mean != nullptr) to.mean[r] = static_cast<T>(sum / static_cast<double>(columns));
  if (to.maximum == nullptr) return;
  if (sum == sum) return row_maximum(row, columns, to.count_ties, to.maximum + r, to.place + r);
  // NaN in the sum: one in the row, or infinities of both signs.
  int64_t i = 0;
  while (i < columns && widen(row[i]) == widen(row[i])) ++i;
  if (i == columns) return row_maximum(row, columns, to.count_ties, to.maximum + r, to.place + r);
  to.maximum[r] = widen(row[i]);
  to.place[r] = to.count_ties ? 1 : static_cast<int32_t>(i);
}

// Comparisons give lanes of integers as wide as T; places are kept in such lanes.
template <class T>
using PlaceVec = decltype(Vec<T>{} > Vec<T>{});
template <class T>
struct Places {
  PlaceVec<T> v[kRegisters];
};

// Running values of the columns [first, last) of one sample, in `memory` of 24 bytes a column.
template <class S>
class Columns {
  using T = Compute<S>;
  using Place = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

 public:
  Columns(int64_t first, int64_t last, bool mean, bool maximum, bool count_ties, void* memory)
      : first_(first), count_(last - first), mean_(mean), maximum_(maximum), count_ties_(count_ties) {
    const int64_t padded = round_up(count_, kPack<T>);
    sum_ = static_cast<double*>(memory);
    best_ = reinterpret_cast<T*>(sum_ + padded);
    place_ = reinterpret_cast<Place*>(best_ + padded);
    for (int64_t i = 0; i < padded; ++i) sum_[i] = 0, best_[i] = 0, place_[i] = 0;
  }

  // Rows [begin, begin + count) of a map of `columns` columns, count at most kRowBlock.
  void add(const S* x, int64_t columns, int64_t begin, int64_t count) {
    const S* rows = x + begin * columns + first_;
    each_pack<T>(count_, [&](int64_t i, int64_t lanes) {
      Pack<T> sum = fill(T(0)), best = get(best_ + i);
      Places<T> place;
      __builtin_memcpy(&place, place_ + i, 64);
      for (int64_t r = 0; r < count; ++r) {
        const Pack<T> value = load_some(rows + r * columns + i, lanes);
        if (mean_) sum = sum + value;
        if (maximum_) take(value, begin + r, &best, &place);
      }
      if (mean_) {
        alignas(64) T part[kPack<T>];
        put(part, sum);
        for (int j = 0; j < kPack<T>; ++j) sum_[i + j] += static_cast<double>(part[j]);
      }
      if (maximum_) put(best_ + i, best), __builtin_memcpy(place_ + i, &place, 64);
    });
  }

  void finish(int64_t rows, const PoolTo<T>& to) const {
    for (int64_t i = 0; mean_ && i < count_; ++i)
      to.mean[first_ + i] = static_cast<T>(sum_[i] / static_cast<double>(rows));
    for (int64_t i = 0; maximum_ && i < count_; ++i) {
      to.maximum[first_ + i] = best_[i];
      to.place[first_ + i] = static_cast<int32_t>(place_[i]);
    }
  }

 private:
  // Row 0 starts the maximum. A NaN beats every number and nothing beats it.
  void take(Pack<T> value, int64_t row, Pack<T>* best, Places<T>* place) const {
    const PlaceVec<T> one = PlaceVec<T>{} + 1, here = PlaceVec<T>{} + static_cast<Place>(row);
    for (int i = 0; i < kRegisters; ++i) {
      const Vec<T> v = value.v[i], b = best->v[i];
      if (row == 0) {
        best->v[i] = v;
        place->v[i] = count_ties_ ? one : here;
        continue;
      }
      const PlaceVec<T> beats = (v > b) | ((v != v) & (b == b)), old = place->v[i];
      place->v[i] = count_ties_ ? (beats ? one : old - (v == b)) : (beats ? here : old);
      best->v[i] = beats ? v : b;
    }
  }

  int64_t first_, count_;
  bool mean_, maximum_, count_ties_;
  double* sum_;
  T* best_;
  Place* place_;
};

template <class T>
constexpr int64_t columns_bytes(int64_t columns) {
  return round_up(columns, kPack<T>) * 24;
}

// See AttentionKernels::pool; pointers are those of the sample.
template <class S>
void pool_sample(const S* x, int64_t rows, int64_t columns, const PoolTo<Compute<S>>& row, int64_t row_begin,
                 int64_t row_end, const PoolTo<Compute<S>>& column, int64_t column_begin, int64_t column_end,
                 void* memory) {
  using T = Compute<S>;
  const bool by_row = row.mean != nullptr || row.maximum != nullptr;
  if (column.mean == nullptr && column.maximum == nullptr) {
    for (int64_t r = row_begin; r < row_end; ++r) row_statistics(x + r * columns, columns, row, r);
    return;
  }
  Columns<S> running(column_begin, column_end, column.mean != nullptr, column.maximum != nullptr,
                     column.count_ties, memory);
  for (int64_t begin = 0; begin < rows; begin += kRowBlock) {
    const int64_t count = smaller(kRowBlock, rows - begin);
    running.add(x, columns, begin, count);
    for (int64_t r = begin; by_row && r < begin + count; ++r)
      row_statistics(x + r * columns, columns, row, r);
  }
  running.finish(rows, PoolTo<T>(column));
}

}  // namespace
}  // namespace fastreid::FASTREID_ISA
