// SPDX-License-Identifier: Apache-2.0
// Arithmetic that only device code has, for device.h. Plain IEEE arithmetic stands in for approximate intrinsics.
#pragma once

#define FASTREID_BITS(name, to, from)                                               \
  FASTREID_DEVICE to name(from value) {                                             \
    return fastreid::emulation::from_bits<to>(fastreid::emulation::to_bits(value)); \
  }
FASTREID_BITS(__float_as_int, int, float)
FASTREID_BITS(__float_as_uint, unsigned, float)
FASTREID_BITS(__int_as_float, float, int)
FASTREID_BITS(__uint_as_float, float, unsigned)
FASTREID_BITS(__double_as_longlong, long long, double)
FASTREID_BITS(__longlong_as_double, double, long long)
#undef FASTREID_BITS

FASTREID_DEVICE int __popc(unsigned value) { return __builtin_popcount(value); }
FASTREID_DEVICE int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
FASTREID_DEVICE int __ffs(int value) { return __builtin_ffs(value); }
FASTREID_DEVICE int __ffsll(long long value) { return __builtin_ffsll(value); }
FASTREID_DEVICE int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
FASTREID_DEVICE int __clzll(long long value) {
  return value == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(value));
}
FASTREID_DEVICE unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(std::uint64_t{a} * b >> 32);
}
FASTREID_DEVICE unsigned __brev(unsigned value) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (value >> i & 1u) << (31 - i);
  return reversed;
}

#define FASTREID_OPERATION(name, type, expression) \
  FASTREID_DEVICE type name(type a, type b) { return expression; }
FASTREID_OPERATION(__fadd_rn, float, a + b)
FASTREID_OPERATION(__fsub_rn, float, a - b)
FASTREID_OPERATION(__fmul_rn, float, a* b)
FASTREID_OPERATION(__fdiv_rn, float, a / b)
FASTREID_OPERATION(__fdividef, float, a / b)
FASTREID_OPERATION(__dadd_rn, double, a + b)
FASTREID_OPERATION(__dsub_rn, double, a - b)
FASTREID_OPERATION(__dmul_rn, double, a* b)
FASTREID_OPERATION(__ddiv_rn, double, a / b)
#undef FASTREID_OPERATION
FASTREID_DEVICE float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
FASTREID_DEVICE double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
FASTREID_DEVICE float __fsqrt_rn(float a) { return std::sqrt(a); }
FASTREID_DEVICE double __dsqrt_rn(double a) { return std::sqrt(a); }
FASTREID_DEVICE float rsqrtf(float a) { return 1.0f / std::sqrt(a); }
FASTREID_DEVICE double rsqrt(double a) { return 1.0 / std::sqrt(a); }
FASTREID_DEVICE float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }

// The C library owns these names for something else.
#define __expf expf
#define __logf logf

// CUDA's min and max take two of a kind and drop a NaN as fmin and fmax do.
template <typename T>
T min(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return std::fmin(a, b);
  return b < a ? b : a;
}
template <typename T>
T max(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) return std::fmax(a, b);
  return a < b ? b : a;
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
T __ldcs(const T* address) {
  return *address;
}
template <typename T>
T __ldcg(const T* address) {
  return *address;
}
template <typename T>
void __stcs(T* address, T value) {
  *address = value;
}
template <typename T>
void __stcg(T* address, T value) {
  *address = value;
}
