// SPDX-License-Identifier: Apache-2.0
// Arithmetic on sizes. Everything is static: these functions are used in files compiled for one instruction
// set each, where a weak copy of a shared inline function could end up running on a processor that lacks it.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FASTREID_HOST_DEVICE __host__ __device__
#else
#define FASTREID_HOST_DEVICE
#endif

namespace fastreid {

FASTREID_HOST_DEVICE static constexpr int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }

FASTREID_HOST_DEVICE static constexpr int64_t round_up(int64_t a, int64_t multiple) {
  return ceil_div(a, multiple) * multiple;
}

FASTREID_HOST_DEVICE static constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

FASTREID_HOST_DEVICE static constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// *product = a * b; false (and *product untouched) where that is not an int64. Host only.
static inline bool multiply(int64_t a, int64_t b, int64_t* product) {
  int64_t result;
  if (__builtin_mul_overflow(a, b, &result)) return false;
  *product = result;
  return true;
}

}  // namespace fastreid
