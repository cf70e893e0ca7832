// SPDX-License-Identifier: Apache-2.0
// Packs of 64 bytes of the compute type, in as many registers as the instruction set needs, so that a sum has the same
// lanes and the same tree everywhere. No fused multiply-add but in fma(), for the same reason. Only for
// attention_cpu.cpp.
#pragma once

// GCC 12 takes the undefined operands inside its own AVX-512 header for mistakes.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include "common/simd.h"
#include "common/sizes.h"

namespace fastreid::FASTREID_ISA {
namespace {

constexpr int kRegisters = 64 / kVectorBytes;
template <class T>
constexpr int kPack = 64 / static_cast<int>(sizeof(T));  // lanes

template <class T>
struct Pack {
  Vec<T> v[kRegisters];
};

#define FASTREID_EACH for (int i = 0; i < kRegisters; ++i)

template <class T>
inline Pack<T> fill(T value) {
  Pack<T> p;
  FASTREID_EACH p.v[i] = splat(value);
  return p;
}
template <class T>
inline Pack<T> operator+(Pack<T> a, Pack<T> b) {
  FASTREID_EACH a.v[i] = a.v[i] + b.v[i];
  return a;
}
template <class T>
inline Pack<T> operator-(Pack<T> a, Pack<T> b) {
  FASTREID_EACH a.v[i] = a.v[i] - b.v[i];
  return a;
}
template <class T>
inline Pack<T> operator*(Pack<T> a, Pack<T> b) {
  FASTREID_EACH a.v[i] = a.v[i] * b.v[i];
  return a;
}
template <class T>
inline Pack<T> operator/(Pack<T> a, Pack<T> b) {
  FASTREID_EACH a.v[i] = a.v[i] / b.v[i];
  return a;
}
template <class T>
inline Pack<T> fma(Pack<T> a, Pack<T> b, Pack<T> c) {
  FASTREID_EACH c.v[i] = fma(a.v[i], b.v[i], c.v[i]);
  return c;
}
// a where a > b, else b: a NaN in a is dropped.
template <class T>
inline Pack<T> upper(Pack<T> a, Pack<T> b) {
  FASTREID_EACH b.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return b;
}
// 0 where x <= 0, else value: with a NaN in x too, as in torch.
template <class T>
inline Pack<T> where_positive(Pack<T> x, Pack<T> value) {
  FASTREID_EACH value.v[i] = x.v[i] <= Vec<T>{} ? Vec<T>{} : value.v[i];
  return value;
}
// value where a == b, else 0.
template <class T>
inline Pack<T> where_equal(Pack<T> a, Pack<T> b, Pack<T> value) {
  FASTREID_EACH value.v[i] = a.v[i] == b.v[i] ? value.v[i] : Vec<T>{};
  return value;
}

// Bit i: lane i of a equals that of b (never for NaN).
template <class T>
inline uint32_t equal_lanes(Pack<T> a, Pack<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_cmp_ps_mask(a.v[0], b.v[0], _CMP_EQ_OQ);
  else
    return _mm512_cmp_pd_mask(a.v[0], b.v[0], _CMP_EQ_OQ);
#else
  uint32_t mask = 0;
  FASTREID_EACH {
#if defined(__AVX2__)
    if constexpr (sizeof(T) == 4)
      mask |= static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.v[i], b.v[i], _CMP_EQ_OQ))) << 8 * i;
    else
      mask |= static_cast<uint32_t>(_mm256_movemask_pd(_mm256_cmp_pd(a.v[i], b.v[i], _CMP_EQ_OQ))) << 4 * i;
#elif defined(__x86_64__)
    if constexpr (sizeof(T) == 4)
      mask |= static_cast<uint32_t>(_mm_movemask_ps(_mm_cmpeq_ps(a.v[i], b.v[i]))) << 4 * i;
    else
      mask |= static_cast<uint32_t>(_mm_movemask_pd(_mm_cmpeq_pd(a.v[i], b.v[i]))) << 2 * i;
#else
    for (int lane = 0; lane < kLanes<T>; ++lane)
      mask |= static_cast<uint32_t>(a.v[i][lane] == b.v[i][lane]) << (kLanes<T> * i + lane);
#endif
  }
  return mask;
#endif
}

// Lanes to memory of the compute type and back, any alignment.
template <class T>
inline void put(T* to, Pack<T> p) {
  __builtin_memcpy(to, &p, 64);
}
template <class T>
inline Pack<T> get(const T* from) {
  Pack<T> p;
  __builtin_memcpy(&p, from, 64);
  return p;
}

// kPack elements, widened.
inline Pack<float> load_pack(const float* from) { return get(from); }
inline Pack<double> load_pack(const double* from) { return get(from); }
template <class S>
inline Pack<float> load_half(const S* from) {
  alignas(64) float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = widen(from[i]);
  return get(lanes);
}
inline Pack<float> load_pack(const BFloat16* from) {
#if defined(__AVX512F__)
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
  return {{reinterpret_cast<__m512>(wide)}};
#else
  return load_half(from);
#endif
}
inline Pack<float> load_pack(const Float16* from) {
#if defined(__AVX512F__)
  return {{_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))}};
#elif defined(__AVX2__)
  const __m128i* halves = reinterpret_cast<const __m128i*>(from);
  return {{_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))}};
#else
  return load_half(from);
#endif
}
// The first `count` elements, `fallback` behind them.
template <class S, class T = Compute<S>>
inline Pack<T> load_part(const S* from, int64_t count, T fallback = 0) {
#if defined(__AVX512F__)
  const uint32_t mask = (uint32_t(1) << count) - 1;
  if constexpr (sizeof(S) == 4)
    return {{_mm512_mask_loadu_ps(splat(fallback), static_cast<__mmask16>(mask), from)}};
  if constexpr (sizeof(S) == 8)
    return {{_mm512_mask_loadu_pd(splat(fallback), static_cast<__mmask8>(mask), from)}};
#endif
  alignas(64) T lanes[kPack<T>];
  for (int i = 0; i < kPack<T>; ++i) lanes[i] = fallback;
  for (int64_t i = 0; i < count; ++i) lanes[i] = widen(from[i]);
  return get(lanes);
}
template <class S, class T = Compute<S>>
inline Pack<T> load_some(const S* from, int64_t count, T fallback = 0) {
  return count == kPack<T> ? load_pack(from) : load_part(from, count, fallback);
}

inline void store_pack(float* to, Pack<float> p) { put(to, p); }
inline void store_pack(double* to, Pack<double> p) { put(to, p); }
template <class S>
inline void store_half(S* to, Pack<float> p) {
  alignas(64) float lanes[16];
  put(lanes, p);
  for (int i = 0; i < 16; ++i) narrow(lanes[i], to + i);
}
inline void store_pack(BFloat16* to, Pack<float> p) {
#if defined(__AVX512F__)
  const __m512i bits = reinterpret_cast<__m512i>(p.v[0]);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(p.v[0], p.v[0], _CMP_UNORD_Q);
  const __m512i kept = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __m512i high = _mm512_srli_epi32(_mm512_mask_blend_epi32(nan, rounded, kept), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(high));
#else
  store_half(to, p);
#endif
}
inline void store_pack(Float16* to, Pack<float> p) {
#if defined(__AVX512F__)
  const __m256i half = _mm512_cvtps_ph(p.v[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), half);
#elif defined(__AVX2__)
  __m128i* halves = reinterpret_cast<__m128i*>(to);
  _mm_storeu_si128(halves, _mm256_cvtps_ph(p.v[0], _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(halves + 1, _mm256_cvtps_ph(p.v[1], _MM_FROUND_TO_NEAREST_INT));
#else
  store_half(to, p);
#endif
}
template <class S, class T>
inline void store_part(S* to, Pack<T> p, int64_t count) {
  alignas(64) T lanes[kPack<T>];
  put(lanes, p);
  for (int64_t i = 0; i < count; ++i) narrow(lanes[i], to + i);
}
// Past the cache; `to` is 64-byte aligned.
template <class T>
inline void stream_pack(T* to, Pack<T> p) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(p.v[0]));
#elif defined(__AVX2__)
  FASTREID_EACH _mm256_stream_si256(reinterpret_cast<__m256i*>(to) + i, reinterpret_cast<__m256i>(p.v[i]));
#elif defined(__x86_64__)
  FASTREID_EACH _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i, reinterpret_cast<__m128i>(p.v[i]));
#else
  put(to, p);
#endif
}
inline void finish_stream() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Lanes folded in halves: (i, i + 8), (i, i + 4), (i, i + 2), (i, i + 1) of 16, from (i, i + 4) of 8.
template <class T, class F>
inline T fold(Pack<T> p, F f) {
  FASTREID_EACH if (i < kRegisters / 2) p.v[i] = f(p.v[i], p.v[i + kRegisters / 2]);
  if (kRegisters == 4) p.v[0] = f(p.v[0], p.v[1]);
#if defined(__AVX512F__)
  typedef T Half __attribute__((vector_size(32)));
  typedef T Quarter __attribute__((vector_size(16)));
  Half low, high;
  __builtin_memcpy(&low, &p.v[0], 32);
  __builtin_memcpy(&high, reinterpret_cast<const char*>(&p.v[0]) + 32, 32);
  low = f(low, high);
  Quarter a, b;
  __builtin_memcpy(&a, &low, 16);
  __builtin_memcpy(&b, reinterpret_cast<const char*>(&low) + 16, 16);
  a = f(a, b);
#elif defined(__AVX2__)
  typedef T Quarter __attribute__((vector_size(16)));
  Quarter a, b;
  __builtin_memcpy(&a, &p.v[0], 16);
  __builtin_memcpy(&b, reinterpret_cast<const char*>(&p.v[0]) + 16, 16);
  a = f(a, b);
#else
  const Vec<T> a = p.v[0];
#endif
  if constexpr (sizeof(T) == 4)
    return f(f(a[0], a[2]), f(a[1], a[3]));
  else
    return f(a[0], a[1]);
}
template <class T>
inline T sum_of(Pack<T> p) {
  return fold(p, [](auto a, auto b) { return a + b; });
}
template <class T>
inline T max_of(Pack<T> p) {
  return fold(p, [](auto a, auto b) { return a > b ? a : b; });
}

// e^x for x <= 0, not below e^-87.33 = 1.2e-38. x = n log 2 + r, then a polynomial in r (that of the Cephes library).
inline Pack<float> exp_of(Pack<float> x) {
  x = upper(x, fill(-87.33f));
  const Pack<float> magic = fill(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Pack<float> shifted = x * fill(1.44269504f) + magic, n = shifted - magic;
  const Pack<float> r = x - n * fill(0.693359375f) - n * fill(-2.12194440e-4f);
  Pack<float> p = fill(1.9875691500e-4f);
  p = p * r + fill(1.3981999507e-3f);
  p = p * r + fill(8.3334519073e-3f);
  p = p * r + fill(4.1665795894e-2f);
  p = p * r + fill(1.6666665459e-1f);
  p = p * r + fill(5.0000001201e-1f);
  p = p * r * r + r + fill(1.0f);
  typedef int32_t Bits __attribute__((vector_size(kVectorBytes)));
  FASTREID_EACH {
    const Bits exponent = (reinterpret_cast<Bits>(shifted.v[i]) << 23) + 0x3f800000;  // magic's bits fall off
    p.v[i] = p.v[i] * reinterpret_cast<VecF>(exponent);
  }
  return p;
}
inline Pack<double> exp_of(Pack<double> x) {
  alignas(64) double lanes[8];
  put(lanes, x);
  for (double& lane : lanes) lane = __builtin_exp(lane);
  return get(lanes);
}
// 1 / (1 + e^-z) without overflow: e^-|z| on either side. NaN stays NaN.
template <class T>
inline Pack<T> sigmoid(Pack<T> z) {
  Pack<T> negative;
  FASTREID_EACH negative.v[i] = z.v[i] > Vec<T>{} ? -z.v[i] : z.v[i];
  const Pack<T> e = exp_of(negative), one = fill(T(1));
  Pack<T> top = e;
  FASTREID_EACH top.v[i] = z.v[i] > Vec<T>{} ? one.v[i] : e.v[i];
  Pack<T> result = top / (one + e);
  FASTREID_EACH result.v[i] = z.v[i] == z.v[i] ? result.v[i] : z.v[i];
  return result;
}

// [first, count) of a row in packs: body(i, lanes), lanes a constant kPack but in the last call.
template <class T, class F>
inline void each_pack(int64_t count, const F& body) {
  int64_t i = 0;
  for (; i + kPack<T> <= count; i += kPack<T>) body(i, int64_t(kPack<T>));
  if (i < count) body(i, count - i);
}

// out[i] = make(i, lanes) for i in [0, count). With `stream`, what fills whole cache lines goes past the cache.
template <class S, class F>
inline void write_row(S* out, int64_t count, bool stream, const F& make) {
  using T = Compute<S>;
  int64_t i = 0;
  if constexpr (sizeof(S) == sizeof(T)) {
    if (stream) {
      const int64_t past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) % 64 / sizeof(S));
      const int64_t head = smaller(past == 0 ? 0 : kPack<T> - past, count);
      if (head > 0) store_part(out, make(int64_t(0), head), head);
      for (i = head; i + kPack<T> <= count; i += kPack<T>) stream_pack(out + i, make(i, int64_t(kPack<T>)));
    }
  }
  for (; i + kPack<T> <= count; i += kPack<T>) store_pack(out + i, make(i, int64_t(kPack<T>)));
  if (i < count) store_part(out + i, make(i, count - i), count - i);
}

// Sum of term(i, lanes) over a row: at most 64 terms to a lane, what they give in double.
template <class T, class F>
inline double sum_row(int64_t count, const F& term) {
  constexpr int64_t kBlock = 128 * kPack<T>;
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = smaller(count, begin + kBlock);
    Pack<T> a = fill(T(0)), b = a;
    int64_t i = begin;
    for (; i + 2 * kPack<T> <= end; i += 2 * kPack<T>) {
      a = a + term(i, int64_t(kPack<T>));
      b = b + term(i + kPack<T>, int64_t(kPack<T>));
    }
    for (; i + kPack<T> <= end; i += kPack<T>) a = a + term(i, int64_t(kPack<T>));
    if (i < end) b = b + term(i, end - i);
    total += static_cast<double>(sum_of(a + b));
  }
  return total;
}

}  // namespace
}  // namespace fastreid::FASTREID_ISA
