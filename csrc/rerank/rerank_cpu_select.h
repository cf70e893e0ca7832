// SPDX-License-Identifier: Apache-2.0
// Selections of rerank.h: the k nearest of every point at the speed of reading the matrices, and the head of a row.
// Only for rerank_cpu.cpp.
#pragma once

#include <cstdint>

#include "common/simd.h"
#include "common/sizes.h"
#include "rerank/rerank.h"

namespace fastreid::FASTREID_ISA {
namespace {

typedef int32_t VecI __attribute__((vector_size(kVectorBytes)));
// As it lies in memory: at any address, whatever else it is.
typedef int32_t LooseI __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
typedef int32_t Loose __attribute__((may_alias));

constexpr int32_t kMagnitude = 0x7fffffff;
// Rows of a matrix that are compared with the thresholds of a column before these are written.
constexpr int64_t kRowsAtOnce = 8;
// Lists that are kept at a time: 1,024 of 512 bytes lie in the second-level cache.
constexpr int64_t kSelectTile = 1024;

// Bit l is set where a[l] < b[l].
inline uint32_t lanes_below(VecI a, VecI b) {
#if defined(__AVX512F__)
  return _mm512_cmplt_epi32_mask(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b));
#elif defined(__AVX2__)
  const VecI below = a < b;
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(below)));
#elif defined(__x86_64__)
  const VecI below = a < b;
  return static_cast<uint32_t>(_mm_movemask_ps(reinterpret_cast<__m128>(below)));
#else
  uint32_t bits = 0;
  for (int l = 0; l < kLanes<float>; ++l) bits |= static_cast<uint32_t>(a[l] < b[l]) << l;
  return bits;
#endif
}

// Buffers that keep every key that may be among its list's k smallest: (key << 32 | index), so that their order as
// integers is the order (key, index). Entries come in ascending index order, so a key that equals the threshold is
// too late.
struct SmallestLists {
  int64_t* entry;      // (lists, capacity)
  int32_t* count;      // (lists,)
  int32_t* threshold;  // (lists,) only smaller keys are of interest
  int64_t k;
  int64_t capacity;

  static int64_t capacity_for(int64_t k) { return round_up(3 * k, 16); }
  static int64_t bytes(int64_t lists, int64_t k) { return round_up(lists, 16) * (capacity_for(k) + 1) * 8; }

  SmallestLists(void* memory, int64_t lists, int64_t k_) : k(k_), capacity(capacity_for(k_)) {
    const int64_t padded = round_up(lists, 16);
    entry = static_cast<int64_t*>(memory);
    count = reinterpret_cast<int32_t*>(entry + padded * capacity);
    threshold = count + padded;
    // Keys are below kMagnitude: that is how a NaN looks.
    for (int64_t l = 0; l < padded; ++l) count[l] = 0, threshold[l] = kMagnitude;
  }

  static int32_t key(int64_t entry) { return static_cast<int32_t>(entry >> 32); }
  static int32_t index(int64_t entry) { return static_cast<int32_t>(entry & 0xffffffff); }

  void push(int64_t list, int32_t value, int32_t at) {
    entry[list * capacity + count[list]++] = static_cast<int64_t>(value) * (int64_t{1} << 32) + at;
    if (count[list] == capacity) compact(list, k / 2);
  }

  // Keeps the k smallest, and at most `slack` more: bisection between the least and the largest entry, at most 64
  // counts and with slack few, whatever comes.
  void compact(int64_t list, int64_t slack) {
    int64_t* const entries = entry + list * capacity;
    const int64_t n = count[list];
    if (n < k) return;
    int64_t low = entries[0], high = entries[0];
    for (int64_t e = 1; e < n; ++e) {
      low = entries[e] < low ? entries[e] : low;
      high = entries[e] > high ? entries[e] : high;
    }
    while (low < high) {
      const int64_t middle =
          low + static_cast<int64_t>((static_cast<uint64_t>(high) - static_cast<uint64_t>(low)) / 2);
      int64_t at_most = 0;
      for (int64_t e = 0; e < n; ++e) at_most += entries[e] <= middle;
      if (at_most < k) {
        low = middle + 1;
      } else {
        high = middle;
        if (at_most <= k + slack) break;
      }
    }
    int64_t kept = 0;
    for (int64_t e = 0; e < n; ++e) {
      const int64_t held = entries[e];
      entries[kept] = held;
      kept += held <= high;
    }
    count[list] = static_cast<int32_t>(kept);
    // k entries have keys up to that of `high`; what comes later with the same key has a larger index than they.
    threshold[list] = key(high);
  }

  // What is left, in the order (key, index).
  int64_t finish(int64_t list) {
    compact(list, 0);
    int64_t* const entries = entry + list * capacity;
    const int64_t n = count[list];
    if (n > 64) {
      heap_sort(entries, n);
      return n;
    }
    for (int64_t e = 1; e < n; ++e) {
      const int64_t held = entries[e];
      int64_t place = e;
      for (; place > 0 && entries[place - 1] > held; --place) entries[place] = entries[place - 1];
      entries[place] = held;
    }
    return n;
  }

 private:
  static void sift_down(int64_t* entries, int64_t root, int64_t size) {
    const int64_t held = entries[root];
    for (int64_t child = 2 * root + 1; child < size; root = child, child = 2 * root + 1) {
      if (child + 1 < size && entries[child] < entries[child + 1]) ++child;
      if (entries[child] <= held) break;
      entries[root] = entries[child];
      entries[child] = held;
    }
  }

  static void heap_sort(int64_t* entries, int64_t n) {
    for (int64_t root = n / 2 - 1; root >= 0; --root) sift_down(entries, root, n);
    for (int64_t last = n - 1; last > 0; --last) {
      const int64_t held = entries[last];
      entries[last] = entries[0];
      entries[0] = held;
      sift_down(entries, 0, last);
    }
  }
};

// `kAbsolute`: the magnitude's bits, which order magnitudes, with Inf and NaN on top. Else signed numbers in order.
template <bool kAbsolute>
inline VecI keys_of(VecI bits) {
  const VecI magnitude = bits & kMagnitude;
  if (kAbsolute) return magnitude;
  return bits < 0 ? -magnitude : bits;
}
template <bool kAbsolute>
inline int32_t key_of(int32_t bits) {
  const int32_t magnitude = bits & kMagnitude;
  return kAbsolute || bits >= 0 ? magnitude : -magnitude;
}

// Entries first .. first + n - 1 of one list. Returns the largest key, no smaller than `largest`.
template <bool kAbsolute>
int32_t select_row(const Loose* row, int64_t n, int32_t first, SmallestLists& lists, int64_t list,
                   int32_t largest) {
  constexpr int64_t kStep = kLanes<float>;
  VecI top = VecI{} + largest;
  int64_t j = 0;
  for (; j + 4 * kStep <= n; j += 4 * kStep) {
    VecI key[4];
    for (int64_t p = 0; p < 4; ++p)
      key[p] = keys_of<kAbsolute>(*reinterpret_cast<const LooseI*>(row + j + p * kStep));
    const VecI low01 = key[0] < key[1] ? key[0] : key[1], low23 = key[2] < key[3] ? key[2] : key[3];
    const VecI high01 = key[0] < key[1] ? key[1] : key[0], high23 = key[2] < key[3] ? key[3] : key[2];
    const VecI high = high01 < high23 ? high23 : high01;
    top = top < high ? high : top;
    if (!lanes_below(low01 < low23 ? low01 : low23, VecI{} + lists.threshold[list])) continue;
    for (int64_t p = 0; p < 4; ++p) {
      for (uint32_t hits = lanes_below(key[p], VecI{} + lists.threshold[list]); hits != 0; hits &= hits - 1) {
        const int64_t lane = __builtin_ctz(hits), at = j + p * kStep + lane;
        const int32_t value = key_of<kAbsolute>(row[at]);
        if (value < lists.threshold[list]) lists.push(list, value, first + static_cast<int32_t>(at));
      }
    }
  }
  for (int64_t l = 0; l < kStep; ++l) largest = top[l] > largest ? top[l] : largest;
  for (; j < n; ++j) {
    const int32_t value = key_of<kAbsolute>(row[j]);
    largest = value > largest ? value : largest;
    if (value < lists.threshold[list]) lists.push(list, value, first + static_cast<int32_t>(j));
  }
  return largest;
}

// `rows` rows (at most kRowsAtOnce) of `columns` columns, one list each; the rows' indices start at `first`.
void select_columns(const Loose* const* row, int64_t rows, int64_t columns, int32_t first,
                    SmallestLists& lists, int32_t* largest) {
  constexpr int64_t kStep = kLanes<float>;
  int64_t c = 0;
  if (rows == kRowsAtOnce) {
    for (; c + kStep <= columns; c += kStep) {
      VecI low = VecI{} + kMagnitude, high = VecI{};
      for (int64_t r = 0; r < kRowsAtOnce; ++r) {
        const VecI key = keys_of<true>(*reinterpret_cast<const LooseI*>(row[r] + c));
        low = key < low ? key : low;
        high = key > high ? key : high;
      }
      LooseI* const top = reinterpret_cast<LooseI*>(largest + c);
      const VecI before = *top;
      *top = before < high ? high : before;
      const VecI threshold = *reinterpret_cast<const LooseI*>(lists.threshold + c);
      if (!lanes_below(low, threshold)) continue;
      for (int64_t r = 0; r < kRowsAtOnce; ++r) {
        const VecI key = keys_of<true>(*reinterpret_cast<const LooseI*>(row[r] + c));
        for (uint32_t hits = lanes_below(key, threshold); hits != 0; hits &= hits - 1) {
          const int64_t list = c + __builtin_ctz(hits);
          const int32_t value = row[r][list] & kMagnitude;
          if (value < lists.threshold[list]) lists.push(list, value, first + static_cast<int32_t>(r));
        }
      }
    }
  }
  for (; c < columns; ++c) {
    for (int64_t r = 0; r < rows; ++r) {
      const int32_t value = row[r][c] & kMagnitude;
      largest[c] = value > largest[c] ? value : largest[c];
      if (value < lists.threshold[c]) lists.push(c, value, first + static_cast<int32_t>(r));
    }
  }
}

inline double element(const RerankMatrix& m, int64_t i, int64_t j) {
  const int64_t at = i * m.row_stride + j * m.column_stride;
  switch (m.dtype) {
    case Dtype::float32:
      return static_cast<const float*>(m.data)[at];
    case Dtype::float64:
      return static_cast<const double*>(m.data)[at];
    case Dtype::bfloat16:
      return widen(static_cast<const BFloat16*>(m.data)[at]);
    default:
      return widen(static_cast<const Float16*>(m.data)[at]);
  }
}

// Columns [first, last) of row i as float32: where they lie, or copied to `buffer`.
const Loose* read_row(const RerankMatrix& m, int64_t i, int64_t first, int64_t last, float* buffer) {
  if (m.dtype == Dtype::float32 && m.column_stride == 1)
    return reinterpret_cast<const Loose*>(static_cast<const float*>(m.data) + i * m.row_stride + first);
  for (int64_t j = first; j < last; ++j) buffer[j - first] = static_cast<float>(element(m, i, j));
  return reinterpret_cast<const Loose*>(buffer);
}

// One tile of lists, one for each of the columns [first, last) of m; indices start at `base`.
void select_down(const RerankMatrix& m, int64_t rows, int64_t first, int64_t last, int64_t base,
                 float* buffer, SmallestLists& lists, int32_t* largest) {
  for (int64_t i = 0; i < rows; i += kRowsAtOnce) {
    const Loose* row[kRowsAtOnce];
    const int64_t count = smaller(kRowsAtOnce, rows - i);
    for (int64_t r = 0; r < count; ++r) row[r] = read_row(m, i + r, first, last, buffer + r * kSelectTile);
    select_columns(row, count, last - first, static_cast<int32_t>(base + i), lists, largest);
  }
}

int64_t select_bytes(int64_t points, int64_t k) {
  const int64_t lists = smaller(points, kSelectTile);
  return SmallestLists::bytes(lists, k) + kSelectTile * 4 * (kRowsAtOnce + 1);
}

void select(const RerankMatrices* matrices, int64_t first, int64_t last, int64_t k, void* scratch,
            int32_t* index, double* distance, double* farthest) {
  const int64_t queries = matrices->queries, gallery = matrices->gallery;
  int32_t* const largest = static_cast<int32_t*>(scratch);
  float* const buffer = reinterpret_cast<float*>(largest + kSelectTile);
  for (int64_t begin = first; begin < last; begin += kSelectTile) {
    const int64_t end = smaller(last, begin + kSelectTile);
    SmallestLists lists(buffer + kRowsAtOnce * kSelectTile, end - begin, k);
    for (int64_t l = 0; l < kSelectTile; ++l) largest[l] = 0;
    if (begin < queries) {
      select_down(matrices->query_query, queries, begin, end, 0, buffer, lists, largest);
      for (int64_t q = begin; q < end; ++q) {
        for (int64_t g = 0; g < gallery; g += kSelectTile) {
          const int64_t stop = smaller(gallery, g + kSelectTile);
          const Loose* row = read_row(matrices->query_gallery, q, g, stop, buffer);
          largest[q - begin] = select_row<true>(row, stop - g, static_cast<int32_t>(queries + g), lists,
                                                q - begin, largest[q - begin]);
        }
      }
    } else {
      select_down(matrices->query_gallery, queries, begin - queries, end - queries, 0, buffer, lists,
                  largest);
      select_down(matrices->gallery_gallery, gallery, begin - queries, end - queries, queries, buffer, lists,
                  largest);
    }
    for (int64_t l = 0; l < end - begin; ++l) {
      const int64_t n = lists.finish(l), point = begin + l;
      farthest[point] = __builtin_bit_cast(float, largest[l]);
      // Fewer than k only where NaN came in, which the caller refuses by `farthest`.
      for (int64_t e = 0; e < k; ++e) {
        index[point * k + e] =
            e < n ? SmallestLists::index(lists.entry[l * lists.capacity + e]) : static_cast<int32_t>(point);
        distance[point * k + e] =
            e < n ? __builtin_bit_cast(float, SmallestLists::key(lists.entry[l * lists.capacity + e])) : 0;
      }
    }
  }
}

void head(const float* values, int64_t stride, int64_t first, int64_t last, int64_t columns, int64_t k,
          void* scratch, float* value, int64_t* index) {
  for (int64_t r = first; r < last; ++r) {
    SmallestLists list(scratch, 1, k);
    select_row<false>(reinterpret_cast<const Loose*>(values + r * stride), columns, 0, list, 0, -kMagnitude);
    const int64_t n = list.finish(0);
    for (int64_t e = 0; e < k; ++e) {
      const int64_t at = e < n ? SmallestLists::index(list.entry[e]) : -1;
      index[r * k + e] = at;
      value[r * k + e] = at < 0 ? __builtin_nanf("") : values[r * stride + at];
    }
  }
}

}  // namespace
}  // namespace fastreid::FASTREID_ISA
