// SPDX-License-Identifier: Apache-2.0
// The vector registers of the instruction set a kernel file is being compiled for, and the four floating
// types. Only for x_cpu.cpp: everything lies in an unnamed namespace inside fastreid::FASTREID_ISA, so that
// no copy is shared between sets.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fastreid::FASTREID_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

typedef float VecF __attribute__((vector_size(kVectorBytes)));
typedef double VecD __attribute__((vector_size(kVectorBytes)));
template <class T>
struct VecOf {
  using type = VecF;
};
template <>
struct VecOf<double> {
  using type = VecD;
};
template <class T>
using Vec = typename VecOf<T>::type;
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// Aligned to the register.
template <class T>
inline Vec<T> load(const T* p) {
  return *reinterpret_cast<const Vec<T>*>(p);
}
template <class T>
inline void store(T* p, Vec<T> v) {
  *reinterpret_cast<Vec<T>*>(p) = v;
}

// fma: one rounding where the set has the instruction, two in the baseline.
#if defined(__AVX512F__)
inline VecF splat(float x) { return _mm512_set1_ps(x); }
inline VecD splat(double x) { return _mm512_set1_pd(x); }
inline VecF fma(VecF a, VecF b, VecF c) { return _mm512_fmadd_ps(a, b, c); }
inline VecD fma(VecD a, VecD b, VecD c) { return _mm512_fmadd_pd(a, b, c); }
inline VecD square_root(VecD a) { return _mm512_maskz_sqrt_pd(0xff, a); }  // plain: GCC 12 warns falsely
#elif defined(__AVX2__)
inline VecF splat(float x) { return _mm256_set1_ps(x); }
inline VecD splat(double x) { return _mm256_set1_pd(x); }
inline VecF fma(VecF a, VecF b, VecF c) { return _mm256_fmadd_ps(a, b, c); }
inline VecD fma(VecD a, VecD b, VecD c) { return _mm256_fmadd_pd(a, b, c); }
inline VecD square_root(VecD a) { return _mm256_sqrt_pd(a); }
#else
inline VecF splat(float x) { return VecF{x, x, x, x}; }
inline VecD splat(double x) { return VecD{x, x}; }
inline VecF fma(VecF a, VecF b, VecF c) { return a * b + c; }
inline VecD fma(VecD a, VecD b, VecD c) { return a * b + c; }
inline VecD square_root(VecD a) { return VecD{__builtin_sqrt(a[0]), __builtin_sqrt(a[1])}; }
#endif

// Bit i: a[i] >= b[i].
#if defined(__AVX512F__)
inline uint32_t at_least(VecF a, VecF b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
#elif defined(__AVX2__)
inline uint32_t at_least(VecF a, VecF b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
}
#elif defined(__x86_64__)
inline uint32_t at_least(VecF a, VecF b) {
  return static_cast<uint32_t>(_mm_movemask_ps(_mm_cmpge_ps(a, b)));
}
#else
inline uint32_t at_least(VecF a, VecF b) {
  uint32_t mask = 0;
  for (int i = 0; i < kLanes<float>; ++i) mask |= static_cast<uint32_t>(a[i] >= b[i]) << i;
  return mask;
}
#endif

// bfloat16 and float16 as they lie in memory. By hand, because compilers before GCC 12 know no half on x86.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

inline float from_bits(uint32_t bits) { return __builtin_bit_cast(float, bits); }
inline uint32_t to_bits(float value) { return __builtin_bit_cast(uint32_t, value); }

inline float widen(float x) { return x; }
inline double widen(double x) { return x; }
inline float widen(BFloat16 x) { return from_bits(static_cast<uint32_t>(x.bits) << 16); }
inline float widen(Float16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
  // Exponent and fraction land 112 binades too low; one product puts them right, subnormals included.
  const uint32_t special = rest >= 0x7c00u ? 0x7f800000u | (rest & 0x3ffu) << 13 : 0u;
  const uint32_t normal = to_bits(from_bits(rest << 13) * from_bits(0x77800000u));
  return from_bits(sign | (special ? special : normal));
}

// Round to nearest, ties to even; a NaN stays one.
inline void narrow(double x, float* out) { *out = static_cast<float>(x); }
inline void narrow(double x, double* out) { *out = x; }
inline void narrow(double x, BFloat16* out) {
  const uint32_t bits = to_bits(static_cast<float>(x));
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  out->bits = static_cast<uint16_t>(nan ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
inline void narrow(double x, Float16* out) {
  const uint32_t bits = to_bits(static_cast<float>(x)), sign = bits >> 16 & 0x8000u,
                 rest = bits & 0x7fffffffu;
  // All four cases and then a choice, so that a loop over this needs no branch.
  const uint32_t tiny =
      to_bits(from_bits(rest) + 0.5f) - 0x3f000000u;  // the sum's last place is 2^-24: the hardware rounds
  const uint32_t usual = (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13;
  const uint32_t large = rest > 0x7f800000u ? 0x7e00u : 0x7c00u;  // NaN, or 65536 and more
  const uint32_t half = rest < 0x38800000u ? tiny : rest < 0x47800000u ? usual : large;
  out->bits = static_cast<uint16_t>(sign | half);
}

template <class S>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <class S>
using Compute = typename ComputeOf<S>::type;

}  // namespace
}  // namespace fastreid::FASTREID_ISA
