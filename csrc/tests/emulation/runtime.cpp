// SPDX-License-Identifier: Apache-2.0
// The CUDA runtime functions that launchers and tests call, over host memory. One device with a small one's
// limits.
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "engine.h"

namespace fastreid::emulation {
namespace {

constexpr int kSharedWithoutOptIn = 48 * 1024;
constexpr int kSharedWithOptIn = 227 * 1024;  // compute capability 9.0

struct Limit {
  const void* kernel;
  std::size_t bytes;
};
Limit limits[256];
cudaError_t last_error = cudaSuccess;

// One thread's asynchronous copies, a ring.
struct Copies {
  static constexpr unsigned kRoom = 64;
  struct Grouped {
    Copy copy;
    std::size_t group;
  } ring[kRoom];
  unsigned first, last;
  std::size_t groups;
};
Copies copies[1024];
Copies& own_copies() {
  return copies[here->thread.x + here->block_dim.x * (here->thread.y + here->block_dim.y * here->thread.z)];
}

}  // namespace

void forget_copies() {
  for (Copies& each : copies) each.first = each.last = 0, each.groups = 0;
}
void copy_later(const Copy& copy) {
  Copies& own = own_copies();
  if (own.last - own.first == Copies::kRoom)
    fail(Site::current(), "more asynchronous copies under way than the emulation has room for");
  own.ring[own.last++ % Copies::kRoom] = {copy, own.groups};
}
void commit_copies() { ++own_copies().groups; }
bool next_copy(std::size_t prior, Copy* copy) {
  Copies& own = own_copies();
  if (own.first == own.last || own.ring[own.first % Copies::kRoom].group + prior >= own.groups) return false;
  *copy = own.ring[own.first++ % Copies::kRoom].copy;
  return true;
}

cudaError_t remember(cudaError_t error) { return last_error = error; }

std::size_t shared_limit(const void* kernel) {
  for (const Limit& limit : limits) {
    if (limit.kernel == kernel) return limit.bytes;
  }
  return kSharedWithoutOptIn;
}

}  // namespace fastreid::emulation

using fastreid::emulation::remember;

extern "C" {

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || value > fastreid::emulation::kSharedWithOptIn) return remember(cudaErrorInvalidValue);
  for (fastreid::emulation::Limit& limit : fastreid::emulation::limits) {
    if (limit.kernel != nullptr && limit.kernel != kernel) continue;
    limit = {kernel, static_cast<std::size_t>(value)};
    return cudaSuccess;
  }
  return remember(cudaErrorMemoryAllocation);
}

// Exactly as large as asked for and full of NaN, as fresh device memory may be.
cudaError_t cudaMalloc(void** address, std::size_t bytes) {
  *address = std::malloc(bytes);
  if (*address == nullptr) return remember(cudaErrorMemoryAllocation);
  std::memset(*address, 0xff, bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* address) {
  std::free(address);
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** address, std::size_t bytes, cudaStream_t) {
  return cudaMalloc(address, bytes);
}
cudaError_t cudaFreeAsync(void* address, cudaStream_t) { return cudaFree(address); }

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaMemset(void* address, int value, std::size_t bytes) {
  if (bytes > 0) std::memset(address, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* address, int value, std::size_t bytes, cudaStream_t) {
  return cudaMemset(address, value, bytes);
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaPeekAtLastError() { return fastreid::emulation::last_error; }
cudaError_t cudaGetLastError() {
  const cudaError_t error = fastreid::emulation::last_error;
  remember(cudaSuccess);
  return error;
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "error of an emulated CUDA call";
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = 4;
      return cudaSuccess;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = 32;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = fastreid::emulation::kSharedWithoutOptIn;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = fastreid::emulation::kSharedWithOptIn;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      return cudaSuccess;
    default:
      return remember(cudaErrorInvalidValue);
  }
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, std::size_t) {
  *blocks = 2;
  return cudaSuccess;
}

}  // extern "C"
