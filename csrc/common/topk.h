// SPDX-License-Identifier: Apache-2.0
// The one k-selection: buffers that keep, for each row, every entry that may still be among its k best by an
// approximate score (larger = better), and the k smallest of exact values in the order (value, index). Only for
// x_cpu.cpp.
#pragma once

#include <cstdint>

#include "common/sizes.h"

namespace fastreid::FASTREID_ISA {
namespace {

constexpr float kLowest = -3.402823466e38f;
constexpr float kInfinity = __builtin_inff();

// Floats as integers in the same order.
inline int32_t ordered(float value) {
  const int32_t bits = __builtin_bit_cast(int32_t, value);
  return bits < 0 ? static_cast<int32_t>(0x80000000u - static_cast<uint32_t>(bits)) : bits;
}
inline float unordered(int32_t key) {
  return __builtin_bit_cast(float,
                            key < 0 ? static_cast<int32_t>(0x80000000u - static_cast<uint32_t>(key)) : key);
}

// The k-th largest of n scores, 1 <= k <= n: bisection on the bits, 32 counts at most, whatever the input.
inline float kth_largest(const float* score, int64_t n, int64_t k) {
  int32_t first = ordered(score[0]), last = first;
  for (int64_t i = 1; i < n; ++i) {
    const int32_t key = ordered(score[i]);
    first = key < first ? key : first;
    last = key > last ? key : last;
  }
  int64_t low = first, high = last;  // at least k scores are >= low, fewer than k are > high
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    const float at = unordered(static_cast<int32_t>(middle));
    int32_t count = 0;
    for (int64_t i = 0; i < n; ++i) count += score[i] >= at;
    if (count >= k) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return unordered(static_cast<int32_t>(low));
}

// Buffers of one kind for all rows. An entry is worth keeping while its score is at least `threshold`.
struct Candidates {
  float* score;      // (rows, capacity)
  int32_t* index;    // (rows, capacity)
  int32_t* count;    // (rows,)
  float* threshold;  // (padded rows,)
  int64_t k;
  int64_t capacity;

  static int64_t capacity_for(int64_t k, int64_t columns) {
    return round_up(smaller(columns, 2 * k + 64), 16);
  }
  static int64_t bytes(int64_t rows, int64_t padded, int64_t capacity) {
    return round_up(rows * capacity * 8, 64) + round_up(rows * 4, 64) + round_up(padded * 4, 64);
  }

  void lay_out(char* memory, int64_t rows) {
    score = reinterpret_cast<float*>(memory);
    index = reinterpret_cast<int32_t*>(score + rows * capacity);
    memory += round_up(rows * capacity * 8, 64);
    count = reinterpret_cast<int32_t*>(memory);
    threshold = reinterpret_cast<float*>(memory + round_up(rows * 4, 64));
  }

  void clear(int64_t rows, int64_t padded) {
    for (int64_t r = 0; r < rows; ++r) count[r] = 0, threshold[r] = kLowest;
    for (int64_t r = rows; r < padded; ++r) threshold[r] = kInfinity;  // nothing enters a row that is none
  }

  // Room for one more in row r. True while there is; else compact() first.
  bool full(int64_t r) const { return count[r] == capacity; }
  void push(int64_t r, float value, int64_t column) {
    const int64_t at = r * capacity + count[r]++;
    score[at] = value;
    index[at] = static_cast<int32_t>(column);
  }

  // Drops what cannot be among the k best when scores are right to +-bound.
  void compact(int64_t r, float bound) {
    float* const s = score + r * capacity;
    int32_t* const i = index + r * capacity;
    const int64_t n = count[r];
    if (n <= k) return;
    const float limit = kth_largest(s, n, k) - 2 * bound;
    if (!(limit > threshold[r])) {
      if (!(threshold[r] > kLowest)) return;
    } else {
      threshold[r] = limit;
    }
    int32_t kept = 0;
    for (int64_t e = 0; e < n; ++e) {
      const float value = s[e];
      const int32_t column = i[e];
      s[kept] = value;
      i[kept] = column;
      kept += value >= threshold[r];
    }
    count[r] = kept;
  }
};

// ---- exact values, in the order (value, index) ----

struct Ordered {
  double* value;
  int32_t* index;

  bool less(int64_t a, int64_t b) const {
    return value[a] < value[b] || (value[a] == value[b] && index[a] < index[b]);
  }
  void swap(int64_t a, int64_t b) {
    const double v = value[a];
    const int32_t i = index[a];
    value[a] = value[b], index[a] = index[b];
    value[b] = v, index[b] = i;
  }
  void sift_down(int64_t root, int64_t size) {
    for (int64_t child = 2 * root + 1; child < size; root = child, child = 2 * root + 1) {
      if (child + 1 < size && less(child, child + 1)) ++child;
      if (!less(root, child)) return;
      swap(root, child);
    }
  }
  void heap(int64_t size) {
    for (int64_t root = size / 2 - 1; root >= 0; --root) sift_down(root, size);
  }
  // The k first of n in ascending order at the front: a heap of k, then heap sort; never worse than n log k.
  void select(int64_t n, int64_t k) {
    const int64_t size = smaller(n, k);
    heap(size);
    for (int64_t e = size; e < n; ++e) {
      if (!less(e, 0)) continue;
      swap(e, 0);
      sift_down(0, size);
    }
    for (int64_t last = size - 1; last > 0; --last) {
      swap(0, last);
      sift_down(0, last);
    }
  }
};

}  // namespace
}  // namespace fastreid::FASTREID_ISA
