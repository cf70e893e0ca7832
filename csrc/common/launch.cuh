// SPDX-License-Identifier: Apache-2.0
// What every CUDA file of the project starts from: the one way to launch a kernel, the one way to reach
// dynamic shared memory, conversions of the four floating types, warp and block reductions.
//
// Kernels stay free of the triple-bracket launch, inline PTX and `#ifdef`s so that csrc/tests/emulation can
// run them on the host.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace fastreid {

constexpr int kWarpSize = 32;
// Whether this is the emulated device, for sizes that make small cases take every path there.
#ifdef FASTREID_EMULATION
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif
constexpr unsigned kFullMask = 0xffffffffu;
constexpr int kMaxBlockThreads = 1024;

// cudaLaunchKernelEx rather than triple brackets, so that the error of this launch comes back and not one
// left over from an earlier call. Arguments must be convertible to the kernel's parameters; an empty grid is
// the caller's to avoid (CUDA refuses it). More than 48 KiB of dynamic shared memory needs an opt-in per
// kernel and device, which is asked for here.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
                   cudaStream_t stream, Arguments... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments),
                "kernel and launch differ in their argument count");
  constexpr std::size_t kWithoutOptIn = 48 * 1024;
  if (shared_bytes > kWithoutOptIn) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  // By position: the emulation makes the name blockDim a macro.
  const cudaLaunchConfig_t config{grid, block, shared_bytes, stream, nullptr, 0};
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

// Number of blocks of `block` items that cover `items`; the caller checks it against the grid limit (2^31 - 1
// in x, 65535 in y and z) or strides over the grid.
constexpr std::int64_t blocks_for(std::int64_t items, std::int64_t block) {
  return (items + block - 1) / block;
}

// The block's dynamic shared memory, 16-byte aligned. Every call in a kernel returns the same address: a
// kernel that wants several arrays divides it itself, widest type first.
#ifndef FASTREID_EMULATION
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char fastreid_dynamic_shared[];
  return reinterpret_cast<T*>(fastreid_dynamic_shared);
}
#else
template <typename T>
T* dynamic_shared() {
  return static_cast<T*>(emulation::dynamic_shared_memory());
}
#endif

// The type sums are carried in: double for double, float for the three others.
template <typename T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <typename T>
using accumulator_t = typename Accumulator<T>::type;

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ __forceinline__ T narrow(accumulator_t<T> value);
template <>
__device__ __forceinline__ float narrow<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ double narrow<double>(double value) {
  return value;
}
template <>
__device__ __forceinline__ __half narrow<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

struct Sum {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Maximum {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
struct Minimum {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};

// Reduction over a whole warp; every lane must take part and every lane gets the result. The tree is fixed,
// so the same values give the same bits.
template <typename T, typename Operation>
__device__ __forceinline__ T warp_reduce(T value, Operation operation) {
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    value = operation(value, __shfl_xor_sync(kFullMask, value, offset));
  }
  return value;
}

// Inclusive scan over a whole warp: lane i gets the combination of lanes 0 to i.
template <typename T, typename Operation>
__device__ __forceinline__ T warp_scan(T value, Operation operation) {
  const int lane = threadIdx.x % kWarpSize;
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const T below = __shfl_up_sync(kFullMask, value, offset);
    if (lane >= offset) value = operation(below, value);
  }
  return value;
}

// Reduction over a one-dimensional block whose size is a multiple of 32; every thread must call it and gets
// the result. It may be called again at once: the closing barrier keeps the next call's writes behind this
// call's reads.
template <typename T, typename Operation>
static __device__ T block_reduce(T value, T identity, Operation operation) {
  __shared__ T partial[kMaxBlockThreads / kWarpSize];
  const int lane = threadIdx.x % kWarpSize;
  const int warp = threadIdx.x / kWarpSize;
  value = warp_reduce(value, operation);
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  const int warps = blockDim.x / kWarpSize;
  value = warp_reduce(lane < warps ? partial[lane] : identity, operation);
  __syncthreads();
  return value;
}

}  // namespace fastreid
