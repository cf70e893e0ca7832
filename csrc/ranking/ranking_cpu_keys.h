// SPDX-License-Identifier: Apache-2.0
// Distances as integers in the same order, and the relevant entries of one query sorted by them. Part of
// ranking_cpu.cpp.
#pragma once

#include <cstdint>

namespace fastreid::FASTREID_ISA {
namespace {

// Floating-point numbers as integers in the same order: flip the magnitude bits of negative ones, make -0.0
// into 0.0 and any NaN the largest key. No key is the smallest integer, so key - 1 never wraps. Integers, so
// that a thread that flushes denormal numbers finds the same order.
template <class Bits_, class Signed_, class Key_, Key_ infinity>
struct Layout {
  typedef Bits_ Bits __attribute__((may_alias));
  using Signed = Signed_;
  using Key = Key_;
  static constexpr Key kInfinity = infinity;
  static constexpr Key kMagnitude = static_cast<Key>(static_cast<Bits_>(~Bits_{0}) >> 1);
  static constexpr Key kNan = static_cast<Key>((~uint64_t{0}) >> (65 - 8 * sizeof(Key)));

  static Key nonfinite(Bits bits) { return (static_cast<Signed>(bits) & kMagnitude) >= infinity; }

  static Key key(Bits bits) {
    const Key value = static_cast<Signed>(bits);
    const Key magnitude = value & kMagnitude;
    Key ordered = value < 0 ? value ^ kMagnitude : value;
    ordered = magnitude == 0 ? 0 : ordered;
    return magnitude > infinity ? kNan : ordered;
  }

  // From value < 0 ? value ^ kMagnitude : value alone, which is what the first look at a row computes.
  static Key settled(Key rough) {
    const Key ordered = rough == -1 ? 0 : rough;  // -0.0
    return rough > infinity || rough < ~infinity ? kNan : ordered;
  }
};
using Float32 = Layout<uint32_t, int32_t, int32_t, 0x7f800000>;
using Float64 = Layout<uint64_t, int64_t, int64_t, 0x7ff0000000000000>;
using Bfloat16 = Layout<uint16_t, int16_t, int32_t, 0x7f80>;
using Float16 = Layout<uint16_t, int16_t, int32_t, 0x7c00>;

// n keys of a row; returns how many are NaN or infinite.
template <class T>
int64_t read_keys(const typename T::Bits* row, int64_t stride, int64_t n, typename T::Key* keys) {
  typename T::Key nonfinite = 0;
  if (stride == 1) {
    for (int64_t j = 0; j < n; ++j) nonfinite += T::nonfinite(row[j]), keys[j] = T::key(row[j]);
  } else {
    for (int64_t j = 0; j < n; ++j)
      nonfinite += T::nonfinite(row[j * stride]), keys[j] = T::key(row[j * stride]);
  }
  return nonfinite;
}

// The relevant entries of one query in ascending (key, index) order, and what is counted for each of them.
template <class Key>
struct Relevant {
  int64_t* index;
  int64_t* ahead;  // entries in front of this one; in the end its rank
  int64_t* other;  // entries not behind it; then those that the rules drop
  Key* key;
  int64_t size;

  bool less(int64_t a, int64_t b) const {
    return key[a] < key[b] || (key[a] == key[b] && index[a] < index[b]);
  }

  void swap(int64_t a, int64_t b) {
    const Key k = key[a];
    const int64_t i = index[a];
    key[a] = key[b], index[a] = index[b];
    key[b] = k, index[b] = i;
  }

  void sift_down(int64_t root, int64_t count) {
    for (int64_t child = 2 * root + 1; child < count; root = child, child = 2 * root + 1) {
      if (child + 1 < count && less(child, child + 1)) ++child;
      if (!less(root, child)) return;
      swap(root, child);
    }
  }

  // A few by insertion; many by a heap sort: in place, and never worse than n log n, whatever the input.
  void sort() {
    constexpr int64_t kFew = 48;
    if (size <= kFew) {
      for (int64_t i = 1; i < size; ++i) {
        const Key k = key[i];
        const int64_t at = index[i];
        int64_t j = i;
        for (; j > 0 && (k < key[j - 1] || (k == key[j - 1] && at < index[j - 1])); --j) {
          key[j] = key[j - 1], index[j] = index[j - 1];
        }
        key[j] = k, index[j] = at;
      }
      return;
    }
    for (int64_t root = size / 2 - 1; root >= 0; --root) sift_down(root, size);
    for (int64_t last = size - 1; last > 0; --last) {
      swap(0, last);
      sift_down(0, last);
    }
  }

  // Number of relevant entries in front of (k, i).
  int64_t position(Key k, int64_t i) const {
    int64_t low = 0;
    for (int64_t count = size; count > 0;) {
      const int64_t half = count / 2;
      const int64_t middle = low + half;
      const bool in_front = key[middle] < k || (key[middle] == k && index[middle] < i);
      low = in_front ? middle + 1 : low;
      count = in_front ? count - half - 1 : half;
    }
    return low;
  }
};

}  // namespace
}  // namespace fastreid::FASTREID_ISA
