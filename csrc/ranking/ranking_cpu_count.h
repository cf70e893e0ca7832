// SPDX-License-Identifier: Apache-2.0
// The ranks of a query's relevant entries: one pass over the row. Part of ranking_cpu.cpp.
#pragma once

#include "ranking/ranking.h"
#include "ranking/ranking_cpu_keys.h"
#include "ranking/ranking_cpu_select.h"

namespace fastreid::FASTREID_ISA {
namespace {

// Entries of the row looked at together. A multiple of 64, so that a block begins with a word of the excluded
// bits.
constexpr int64_t kBlock = 1024;
// Keys kept from several blocks before they are counted: they stay in the first-level cache.
constexpr int64_t kKept = 8 * kBlock;
// Thresholds counted per pass over these: eight counters and eight thresholds fit the registers of every set.
constexpr int kGroup = 8;
// Above this many relevant entries a binary search per gallery entry beats comparing with each.
constexpr int64_t kSearchFrom = 256;

// One row, its excluded bits, and how to take it block by block.
template <class T>
struct Row {
  const typename T::Bits* data;
  int64_t stride;
  int64_t size;
  const uint64_t* excluded;

  typename T::Key key(int64_t g) const { return T::key(data[g * stride]); }
  const uint64_t* excluded_from(int64_t g) const { return excluded ? excluded + (g >> 6) : nullptr; }
};

template <class Key>
void count_at_most(const Key* keys, int64_t n, const Key* thresholds, int64_t* counts) {
  Key c0 = 0, c1 = 0, c2 = 0, c3 = 0, c4 = 0, c5 = 0, c6 = 0, c7 = 0;
  const Key t0 = thresholds[0], t1 = thresholds[1], t2 = thresholds[2], t3 = thresholds[3];
  const Key t4 = thresholds[4], t5 = thresholds[5], t6 = thresholds[6], t7 = thresholds[7];
  for (int64_t j = 0; j < n; ++j) {
    const Key k = keys[j];
    c0 += k <= t0, c1 += k <= t1, c2 += k <= t2, c3 += k <= t3;
    c4 += k <= t4, c5 += k <= t5, c6 += k <= t6, c7 += k <= t7;
  }
  counts[0] = c0, counts[1] = c1, counts[2] = c2, counts[3] = c3;
  counts[4] = c4, counts[5] = c5, counts[6] = c6, counts[7] = c7;
}

// Adds to ahead[] the keys below that of each relevant entry, to other[] those not above it. From the last
// relevant entry to the first, four at a time; what lies behind the next four is dropped from keys in
// between.
template <class Key>
void count_keys(Key* keys, int64_t n, const Relevant<Key>& relevant) {
  constexpr int64_t kEntries = kGroup / 2;
  for (int64_t end = relevant.size; end > 0 && n > 0; end -= kEntries) {
    Key thresholds[kGroup];
    int64_t counts[kGroup];
    for (int64_t i = 0; i < kEntries; ++i) {
      const Key key = relevant.key[end > i ? end - 1 - i : 0];
      thresholds[2 * i] = key - 1, thresholds[2 * i + 1] = key;
    }
    count_at_most(keys, n, thresholds, counts);
    for (int64_t i = 0; i < kEntries && i < end; ++i) {
      relevant.ahead[end - 1 - i] += counts[2 * i];
      relevant.other[end - 1 - i] += counts[2 * i + 1];
    }
    if (end > kEntries) n = select<Give::keys>(keys, n, relevant.key[end - kEntries - 1], nullptr, keys);
  }
}

// Entries first to last - 1 with this key, the excluded ones left out.
template <class T>
int64_t count_equal(const Row<T>& row, int64_t first, int64_t last, typename T::Key key) {
  int64_t count = 0;
  if (row.excluded) {
    for (int64_t g = first; g < last; ++g) count += row.key(g) == key && !is_excluded(row.excluded, g);
  } else if (row.stride == 1) {
    for (int64_t begin = first; begin < last; begin += kKept) {
      const int64_t end = smaller(begin + kKept, last);
      typename T::Key part = 0;
      for (int64_t g = begin; g < end; ++g) part += T::key(row.data[g]) == key;
      count += part;
    }
  } else {
    for (int64_t g = first; g < last; ++g) count += row.key(g) == key;
  }
  return count;
}

// Of the entries with the key of a relevant one, those in front of it go by their place in the row. Rare for
// float32 distances; for half types the rule.
template <class T>
void settle_ties(const Row<T>& row, const Relevant<typename T::Key>& relevant) {
  for (int64_t r = 0, from = 0, equal = 0; r < relevant.size; ++r) {
    if (r == 0 || relevant.key[r] != relevant.key[r - 1]) from = equal = 0;
    const int64_t here = relevant.index[r] + 1;
    if (relevant.other[r] - relevant.ahead[r] > 1) {
      equal += count_equal(row, from, here, relevant.key[r]);
      from = here;
    } else {
      equal = 1;
    }
    relevant.ahead[r] += equal;
  }
}

// ahead[] becomes the entries not behind each relevant one, itself included, of those not excluded. Returns
// the NaN and infinite entries of the row.
template <class T>
int64_t count_by_comparing(const Row<T>& row, const Relevant<typename T::Key>& relevant) {
  using Key = typename T::Key;
  constexpr bool kDirect = sizeof(Key) == sizeof(typename T::Bits);
  Key keys[kKept];
  Key magnitude = 0;
  int64_t nonfinite = 0, kept = 0;
  const Key farthest = relevant.size > 0 ? relevant.key[relevant.size - 1] : 0;
  for (int64_t first = 0; first < row.size; first += kBlock) {
    const int64_t n = smaller(row.size - first, kBlock);
    const typename T::Bits* block = row.data + first * row.stride;
    const uint64_t* excluded = row.excluded_from(first);
    if (kDirect && row.stride == 1) {
      if constexpr (kDirect) kept += first_look<T>(block, n, farthest, excluded, keys + kept, &magnitude);
    } else {
      for (int64_t j = 0; j < n && row.stride == 1; j += 64 / sizeof *block) fetch_behind(block + j);
      nonfinite += read_keys<T>(block, row.stride, n, keys + kept);
      kept += select<Give::keys>(keys + kept, n, farthest, excluded, keys + kept);
    }
    if (kept > kKept - kBlock || first + n == row.size) {
      count_keys(keys, kept, relevant);
      kept = 0;
    }
  }
  settle_ties(row, relevant);
  if (magnitude >= T::kInfinity) {
    for (int64_t g = 0; g < row.size; ++g) nonfinite += T::nonfinite(row.data[g]);
  }
  return nonfinite;
}

void accumulate(int64_t* counts, int64_t n) {
  for (int64_t i = 1; i < n; ++i) counts[i] += counts[i - 1];
}

// The same with a histogram over the gaps between relevant entries.
template <class T>
int64_t count_by_searching(const Row<T>& row, const Relevant<typename T::Key>& relevant) {
  typename T::Key keys[kBlock];
  int64_t nonfinite = 0;
  for (int64_t first = 0; first < row.size; first += kBlock) {
    const int64_t n = smaller(row.size - first, kBlock);
    nonfinite += read_keys<T>(row.data + first * row.stride, row.stride, n, keys);
    for (int64_t j = 0; j < n; ++j) {
      if (is_excluded(row.excluded, first + j)) continue;
      const int64_t position = relevant.position(keys[j], first + j);
      if (position < relevant.size) ++relevant.ahead[position];
    }
  }
  accumulate(relevant.ahead, relevant.size);
  return nonfinite;
}

// Calls visit(g, key) for every entry not excluded and not behind the relevant entry `last`, in the row's
// order.
template <class T, class Visit>
void visit_ahead(const Row<T>& row, const Relevant<typename T::Key>& relevant, int64_t last, Visit visit) {
  typename T::Key keys[kBlock], indices[kBlock];
  const typename T::Key threshold = relevant.key[last];
  for (int64_t first = 0; first < row.size; first += kBlock) {
    const int64_t n = smaller(row.size - first, kBlock);
    read_keys<T>(row.data + first * row.stride, row.stride, n, keys);
    const int64_t left = select<Give::indices>(keys, n, threshold, row.excluded_from(first), indices);
    for (int64_t i = 0; i < left; ++i) {
      const int64_t g = first + indices[i];
      if (keys[indices[i]] < threshold || g <= relevant.index[last]) visit(g, keys[indices[i]]);
    }
  }
}

}  // namespace
}  // namespace fastreid::FASTREID_ISA
