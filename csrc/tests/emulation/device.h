// SPDX-License-Identifier: Apache-2.0
// A CUDA device on the host, for tests: force-included (`-include`) before a .cu file that g++ compiles.
//
// NVIDIA's own headers compile with a plain C++ compiler (qualifiers vanish, half arithmetic has host code).
// What a device has and they leave out is here: thread indices, shared memory, barriers, warp exchanges,
// atomics, launches. A block's threads are fibers of one host thread (device.cpp), so a run is repeatable, in
// three kinds of order. Every collective is checked: who takes part, at which line, and that nobody waits for
// a thread that does not come; ASan, UBSan and TSan see the kernel's memory accesses, with CUDA's ordering
// (barriers order memory, exchanges do not).
//
// Not covered: races between blocks (they run one after the other), the rounding of device intrinsics, inline
// PTX, speed.
#pragma once

#define FASTREID_EMULATION 1

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <tuple>
#include <type_traits>

#include "engine.h"

namespace fastreid::emulation {

template <typename... Parameters, typename... Arguments>
cudaError_t launch_kernel(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                          Arguments&&... arguments) {
  using Call = std::tuple<void (*)(Parameters...), std::tuple<Parameters...>>;
  static_assert((std::is_trivially_copyable_v<Parameters> && ...), "kernel parameters are copied bit by bit");
  const Call call(kernel, std::tuple<Parameters...>(static_cast<Parameters>(arguments)...));
  const Entry entry = [](const void* p) {
    std::apply(std::get<0>(*static_cast<const Call*>(p)), std::get<1>(*static_cast<const Call*>(p)));
  };
  return run(*config, reinterpret_cast<const void*>(kernel), entry, &call);
}

template <typename T>
std::uint64_t to_bits(T value) {
  static_assert(std::is_arithmetic_v<T> || std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>,
                "CUDA exchanges integers and floating-point numbers only");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

template <typename T>
T from_bits(std::uint64_t bits) {
  T value;
  std::memcpy(static_cast<void*>(&value), &bits, sizeof value);
  return value;
}

template <typename T>
T shuffle(Collective kind, unsigned mask, T value, int operand, int width, Site site) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0)
    fail(site, "shuffle width is not a power of two up to 32");
  const std::uint64_t* given = exchange(kind, mask, to_bits(value), site);
  const int self = static_cast<int>(lane()), first = self & ~(width - 1), last = first + width - 1;
  int source = self;
  if (kind == Collective::shuffle) source = first + (operand & (width - 1));
  if (kind == Collective::shuffle_up && self - operand >= first) source = self - operand;
  if (kind == Collective::shuffle_down && self + operand <= last) source = self + operand;
  if (kind == Collective::shuffle_xor && (self ^ operand) <= last) source = self ^ operand;
  return from_bits<T>(given[source]);
}

template <typename T, typename Operation>
T reduce(unsigned mask, T value, Operation operation, Site site) {
  const std::uint64_t* given = exchange(Collective::reduce, mask, to_bits(value), site);
  for (unsigned i = 0; i < 32; ++i) {
    if ((mask >> i & 1u) != 0 && i != lane()) value = operation(value, from_bits<T>(given[i]));
  }
  return value;
}

// Relaxed, as on the device: an atomic orders nothing but itself. Floating-point sums go through their bits.
template <typename T, typename Operation>
T atomic_update(T* address, Operation operation) {
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  static_assert(sizeof(T) == sizeof(Bits));
  auto* cell = reinterpret_cast<Bits*>(address);
  Bits old = __atomic_load_n(cell, __ATOMIC_RELAXED);
  for (;;) {
    const T next = operation(from_bits<T>(old));
    if (__atomic_compare_exchange_n(cell, &old, static_cast<Bits>(to_bits(next)), false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED)) {
      return from_bits<T>(old);
    }
  }
}

}  // namespace fastreid::emulation

#define threadIdx (::fastreid::emulation::here->thread)
#define blockIdx (::fastreid::emulation::here->block)
#define blockDim (::fastreid::emulation::here->block_dim)
#define gridDim (::fastreid::emulation::here->grid_dim)
#define warpSize 32
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __shared__
#define __shared__ static
#define cudaLaunchKernelEx ::fastreid::emulation::launch_kernel

// The site of the call, wherever the function below is called from.
#define FASTREID_AT std::source_location site = std::source_location::current()
#define FASTREID_DEVICE static inline

FASTREID_DEVICE void __syncthreads(FASTREID_AT) { fastreid::emulation::barrier(site); }
FASTREID_DEVICE int __syncthreads_count(int p, FASTREID_AT) {
  return fastreid::emulation::barrier_count(p != 0, site);
}
FASTREID_DEVICE int __syncthreads_or(int p, FASTREID_AT) {
  return fastreid::emulation::barrier_count(p != 0, site) != 0;
}
FASTREID_DEVICE int __syncthreads_and(int p, FASTREID_AT) {
  return fastreid::emulation::barrier_count(p == 0, site) == 0;
}
FASTREID_DEVICE void __syncwarp(unsigned mask = ~0u, FASTREID_AT) {
  fastreid::emulation::warp_barrier(mask, site);
}
FASTREID_DEVICE void __threadfence() { fastreid::emulation::fence(); }
FASTREID_DEVICE void __threadfence_block() { fastreid::emulation::fence(); }
// CUDA promises the calling lane and no other.
FASTREID_DEVICE unsigned __activemask() { return 1u << fastreid::emulation::lane(); }

#define FASTREID_SHUFFLE(name, kind, operand_type)                                          \
  template <typename T>                                                                     \
  T name(unsigned mask, T value, operand_type operand, int width = 32, FASTREID_AT) {       \
    return fastreid::emulation::shuffle(fastreid::emulation::Collective::kind, mask, value, \
                                        static_cast<int>(operand), width, site);            \
  }
FASTREID_SHUFFLE(__shfl_sync, shuffle, int)
FASTREID_SHUFFLE(__shfl_up_sync, shuffle_up, unsigned)
FASTREID_SHUFFLE(__shfl_down_sync, shuffle_down, unsigned)
FASTREID_SHUFFLE(__shfl_xor_sync, shuffle_xor, int)
#undef FASTREID_SHUFFLE

FASTREID_DEVICE unsigned __ballot_sync(unsigned mask, int predicate, FASTREID_AT) {
  const std::uint64_t* given =
      fastreid::emulation::exchange(fastreid::emulation::Collective::vote, mask, predicate != 0, site);
  unsigned votes = 0;
  for (unsigned i = 0; i < 32; ++i) votes |= (mask >> i & 1u) != 0 && given[i] != 0 ? 1u << i : 0u;
  return votes;
}
FASTREID_DEVICE int __any_sync(unsigned mask, int predicate, FASTREID_AT) {
  return __ballot_sync(mask, predicate, site) != 0;
}
FASTREID_DEVICE int __all_sync(unsigned mask, int predicate, FASTREID_AT) {
  return __ballot_sync(mask, predicate, site) == mask;
}
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, FASTREID_AT) {
  const std::uint64_t bits = fastreid::emulation::to_bits(value);
  const std::uint64_t* given =
      fastreid::emulation::exchange(fastreid::emulation::Collective::match, mask, bits, site);
  unsigned same = 0;
  for (unsigned i = 0; i < 32; ++i) same |= (mask >> i & 1u) != 0 && given[i] == bits ? 1u << i : 0u;
  return same;
}

#define FASTREID_REDUCE(name, expression)                                                            \
  template <typename T>                                                                              \
  T name(unsigned mask, T value, FASTREID_AT) {                                                      \
    static_assert(std::is_integral_v<T> && sizeof(T) == 4, "the hardware reduces 32-bit integers");  \
    return fastreid::emulation::reduce(mask, value, [](T a, T b) -> T { return expression; }, site); \
  }
FASTREID_REDUCE(__reduce_add_sync, a + b)
FASTREID_REDUCE(__reduce_min_sync, b < a ? b : a)
FASTREID_REDUCE(__reduce_max_sync, a < b ? b : a)
FASTREID_REDUCE(__reduce_and_sync, a& b)
FASTREID_REDUCE(__reduce_or_sync, a | b)
FASTREID_REDUCE(__reduce_xor_sync, a ^ b)
#undef FASTREID_REDUCE

// The second argument converts to the cell's type, as CUDA's overloads do.
#define FASTREID_ATOMIC(name, expression)                                                             \
  template <typename T>                                                                               \
  T name(T* address, std::common_type_t<T> operand) {                                                 \
    return fastreid::emulation::atomic_update(address, [operand](T old) -> T { return expression; }); \
  }
FASTREID_ATOMIC(atomicAdd, old + operand)
FASTREID_ATOMIC(atomicSub, old - operand)
FASTREID_ATOMIC(atomicMax, old < operand ? operand : old)
FASTREID_ATOMIC(atomicMin, operand < old ? operand : old)
FASTREID_ATOMIC(atomicAnd, old& operand)
FASTREID_ATOMIC(atomicOr, old | operand)
FASTREID_ATOMIC(atomicXor, old ^ operand)
FASTREID_ATOMIC(atomicExch, (static_cast<void>(old), operand))
#undef FASTREID_ATOMIC
template <typename T>
T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> desired) {
  return fastreid::emulation::atomic_update(address,
                                            [=](T old) -> T { return old == expected ? desired : old; });
}

#include "device_math.h"
#include "device_tensor.h"

#undef FASTREID_AT
