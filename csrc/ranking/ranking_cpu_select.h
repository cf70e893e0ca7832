// SPDX-License-Identifier: Apache-2.0
// The entries of a block that are at most a threshold, side by side: the one thing of ranking_cpu.cpp that
// needs instructions by name. Part of it.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "ranking/ranking_cpu_keys.h"

namespace fastreid::FASTREID_ISA {
namespace {

#if defined(__AVX512F__)
#define FASTREID_IN_REGISTER(v) "+v"(v)
#elif defined(__x86_64__)
#define FASTREID_IN_REGISTER(v) "+x"(v)
#else
#define FASTREID_IN_REGISTER(v) "+r"(v)
#endif

// kWidth keys at a time. at_most: one bit for each key. pack: writes the keys whose bit is set side by side,
// then anything up to kWidth keys (which never runs ahead of what was read).
#if defined(__AVX512F__)
template <class Key>
struct Lanes;
template <>
struct Lanes<int32_t> {
  using V = __m512i;
  static constexpr int kWidth = 16;
  static V load(const void* p) { return _mm512_loadu_si512(p); }
  static void store(void* p, V v) { _mm512_storeu_si512(p, v); }
  static V splat(int32_t x) { return _mm512_set1_epi32(x); }
  static V iota() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
  static V add(V a, V b) { return _mm512_add_epi32(a, b); }
  static V larger(V a, V b) { return _mm512_maskz_max_epi32(0xffff, a, b); }  // plain: GCC 12 warns falsely
  static V both(V a, V b) { return _mm512_and_epi32(a, b); }
  static V rough(V v, V magnitude) {
    return _mm512_xor_epi32(v, _mm512_and_epi32(_mm512_maskz_srai_epi32(0xffff, v, 31), magnitude));
  }
  static unsigned at_most(V a, V b) { return _mm512_cmple_epi32_mask(a, b); }
  static void pack(int32_t* p, V v, unsigned bits) {
    store(p, _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), v));
  }
};
template <>
struct Lanes<int64_t> {
  using V = __m512i;
  static constexpr int kWidth = 8;
  static V load(const void* p) { return _mm512_loadu_si512(p); }
  static void store(void* p, V v) { _mm512_storeu_si512(p, v); }
  static V splat(int64_t x) { return _mm512_set1_epi64(x); }
  static V iota() { return _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7); }
  static V add(V a, V b) { return _mm512_add_epi64(a, b); }
  static V larger(V a, V b) { return _mm512_maskz_max_epi64(0xff, a, b); }
  static V both(V a, V b) { return _mm512_and_epi64(a, b); }
  static V rough(V v, V magnitude) {
    return _mm512_xor_epi64(v, _mm512_and_epi64(_mm512_maskz_srai_epi64(0xff, v, 63), magnitude));
  }
  static unsigned at_most(V a, V b) { return _mm512_cmple_epi64_mask(a, b); }
  static void pack(int64_t* p, V v, unsigned bits) {
    store(p, _mm512_maskz_compress_epi64(static_cast<__mmask8>(bits), v));
  }
};
#elif defined(__AVX2__)
// For each of the 256 sets of eight lanes, the lanes in it, packed.
struct Packing {
  uint64_t lanes[256];
  constexpr Packing() : lanes() {
    for (int set = 0; set < 256; ++set) {
      int at = 0;
      for (uint64_t lane = 0; lane < 8; ++lane) {
        if (set >> lane & 1) lanes[set] |= lane << (8 * at++);
      }
    }
  }
};
constexpr Packing kPacking;

inline __m256i packed(__m256i v, unsigned lanes) {
  const __m128i bytes = _mm_cvtsi64_si128(static_cast<int64_t>(kPacking.lanes[lanes]));
  return _mm256_permutevar8x32_epi32(v, _mm256_cvtepu8_epi32(bytes));
}

template <class Key>
struct Lanes;
template <>
struct Lanes<int32_t> {
  using V = __m256i;
  static constexpr int kWidth = 8;
  static V load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void store(void* p, V v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  static V splat(int32_t x) { return _mm256_set1_epi32(x); }
  static V iota() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  static V add(V a, V b) { return _mm256_add_epi32(a, b); }
  static V larger(V a, V b) { return _mm256_max_epi32(a, b); }
  static V both(V a, V b) { return _mm256_and_si256(a, b); }
  static V rough(V v, V magnitude) {
    return _mm256_xor_si256(v, _mm256_and_si256(_mm256_srai_epi32(v, 31), magnitude));
  }
  static unsigned at_most(V a, V b) {
    return 0xffu & ~static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b))));
  }
  static void pack(int32_t* p, V v, unsigned bits) { store(p, packed(v, bits)); }
};
template <>
struct Lanes<int64_t> {
  using V = __m256i;
  static constexpr int kWidth = 4;
  static V load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static void store(void* p, V v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  static V splat(int64_t x) { return _mm256_set1_epi64x(x); }
  static V iota() { return _mm256_setr_epi64x(0, 1, 2, 3); }
  static V add(V a, V b) { return _mm256_add_epi64(a, b); }
  static V larger(V a, V b) { return _mm256_blendv_epi8(a, b, _mm256_cmpgt_epi64(b, a)); }
  static V both(V a, V b) { return _mm256_and_si256(a, b); }
  static V rough(V v, V magnitude) {
    const V negative = _mm256_cmpgt_epi64(_mm256_setzero_si256(), v);
    return _mm256_xor_si256(v, _mm256_and_si256(negative, magnitude));
  }
  static unsigned at_most(V a, V b) {
    return 0xfu & ~static_cast<unsigned>(_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpgt_epi64(a, b))));
  }
  static void pack(int64_t* p, V v, unsigned bits) {
    // Each 64-bit lane is two of 32: bit i becomes bits 2i and 2i + 1.
    const unsigned spread = ((bits & 1) | (bits & 2) << 1 | (bits & 4) << 2 | (bits & 8) << 3) * 3;
    store(p, packed(v, spread));
  }
};
#else
template <class Key>
struct Lanes {
  using V = Key;
  static constexpr int kWidth = 1;
  static V load(const void* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(void* p, V v) { __builtin_memcpy(p, &v, sizeof v); }
  static V splat(Key x) { return x; }
  static V iota() { return 0; }
  static V add(V a, V b) { return a + b; }
  static V larger(V a, V b) { return a < b ? b : a; }
  static V both(V a, V b) { return a & b; }
  static V rough(V v, V magnitude) { return v < 0 ? v ^ magnitude : v; }
  static unsigned at_most(V a, V b) { return a <= b; }
  static void pack(Key* p, V v, unsigned) { *p = v; }
};
#if defined(__x86_64__)
template <>
struct Lanes<int32_t> {
  using V = __m128i;
  static constexpr int kWidth = 4;
  static V load(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static void store(void* p, V v) { _mm_storeu_si128(static_cast<__m128i*>(p), v); }
  static V splat(int32_t x) { return _mm_set1_epi32(x); }
  static V iota() { return _mm_setr_epi32(0, 1, 2, 3); }
  static V add(V a, V b) { return _mm_add_epi32(a, b); }
  static V larger(V a, V b) {
    const V first = _mm_cmpgt_epi32(a, b);
    return _mm_or_si128(_mm_and_si128(first, a), _mm_andnot_si128(first, b));
  }
  static V both(V a, V b) { return _mm_and_si128(a, b); }
  static V rough(V v, V magnitude) {
    return _mm_xor_si128(v, _mm_and_si128(_mm_srai_epi32(v, 31), magnitude));
  }
  static unsigned at_most(V a, V b) {
    return 0xfu & ~static_cast<unsigned>(_mm_movemask_ps(_mm_castsi128_ps(_mm_cmpgt_epi32(a, b))));
  }
  static void pack(int32_t* p, V v, unsigned bits) {
    int32_t lanes[4];
    store(lanes, v);
    // No branch on bits: it would be guessed wrong half the time.
    for (unsigned lane = 0; lane < 4; ++lane) *p = lanes[lane], p += bits >> lane & 1;
  }
};
#endif
#endif

// The bits of excluded, or 0 without them, for kWidth entries from the j-th on.
template <class Key>
unsigned left_out(const uint64_t* excluded, int64_t j) {
  return excluded ? static_cast<unsigned>(excluded[j >> 6] >> (j & 63)) : 0u;
}

// Without the instruction, __builtin_popcount is a call.
inline int64_t ones(unsigned bits) {
#if defined(__POPCNT__)
  return __builtin_popcount(bits);
#else
  return (0x4332322132212110u >> (4 * bits)) & 15;  // of up to four
#endif
}

enum class Give { keys, indices };

// Keys at most `threshold` whose bit in excluded (null: none) is not set, or their indices in `keys`, in the
// order they lie; returns how many. `out` may be `keys`.
template <Give give, class Key>
int64_t select(const Key* keys, int64_t n, Key threshold, const uint64_t* excluded, Key* out) {
  using L = Lanes<Key>;
  const auto limit = L::splat(threshold);
  const auto step = L::splat(L::kWidth);
  auto index = L::iota();
  int64_t count = 0, j = 0;
  for (; j + L::kWidth <= n; j += L::kWidth) {
    const auto v = L::load(keys + j);
    const unsigned bits = L::at_most(v, limit) & ~left_out<Key>(excluded, j);
    L::pack(out + count, give == Give::keys ? v : index, bits);
    count += ones(bits);
    if constexpr (give == Give::indices) index = L::add(index, step);
  }
  for (; j < n; ++j) {
    const Key key = keys[j];
    out[count] = give == Give::keys ? key : static_cast<Key>(j);
    count += key <= threshold && !(left_out<Key>(excluded, j) & 1);
  }
  return count;
}

// How far ahead of what is being read, in bytes, memory is asked for: without it nothing is under way while
// keys are counted, nor from one row to the next. Where the next row lies elsewhere, it is asked for in vain.
constexpr int64_t kAhead = 16384;

inline void fetch_behind(const void* p) { __builtin_prefetch(static_cast<const char*>(p) + kAhead); }

// select() of keys, straight from n numbers of a row as they lie in memory, which must have the keys' width.
// *magnitude becomes at least the largest of the numbers' magnitude bits, excluded ones included.
template <class T>
int64_t first_look(const typename T::Bits* row, int64_t n, typename T::Key threshold,
                   const uint64_t* excluded, typename T::Key* out, typename T::Key* magnitude) {
  using Key = typename T::Key;
  using L = Lanes<Key>;
  static_assert(sizeof(Key) == sizeof(typename T::Bits));
  const auto limit = L::splat(threshold), all = L::splat(T::kMagnitude);
  auto largest = L::splat(*magnitude);
  int64_t count = 0, j = 0;
  for (; j + L::kWidth <= n; j += L::kWidth) {
    if (L::kWidth > 1 || j % 16 == 0) fetch_behind(row + j);
    auto v = L::load(row + j);
    // A row seldom begins on a cache line. Without this the compiler reads v three times, which on memory
    // that is not in the cache takes twice as long.
    asm("" : FASTREID_IN_REGISTER(v));
    largest = L::larger(largest, L::both(v, all));
    const auto rough = L::rough(v, all);
    const unsigned bits = L::at_most(rough, limit) & ~left_out<Key>(excluded, j);
    L::pack(out + count, rough, bits);
    count += ones(bits);
  }
  Key lanes[L::kWidth];
  L::store(lanes, largest);
  for (const Key lane : lanes) *magnitude = lane > *magnitude ? lane : *magnitude;
  for (; j < n; ++j) {
    const Key value = static_cast<Key>(row[j]), size = value & T::kMagnitude;
    *magnitude = size > *magnitude ? size : *magnitude;
    const Key rough = value < 0 ? value ^ T::kMagnitude : value;
    out[count] = rough;
    count += rough <= threshold && !(left_out<Key>(excluded, j) & 1);
  }
  // A negative NaN passes as the smallest of all: now it is the largest.
  for (int64_t i = 0; i < count; ++i) out[i] = T::settled(out[i]);
  return count;
}

}  // namespace
}  // namespace fastreid::FASTREID_ISA
