// SPDX-License-Identifier: Apache-2.0
// The k-selection of topk.h on the device: buffers that keep, for each row, every entry that may still be
// among its k best by an approximate score (larger = better), and a sort in the order (value, index). Only
// for x_cuda.cu.
//
// One block of kSelectThreads works on a row, and every function here is for the whole of it (the sort for a block of
// any size).
#pragma once

#include "common/launch.cuh"
#include "common/sizes.h"

namespace fastreid {
namespace {

constexpr int kSelectThreads = 128;
// Scores offered by each thread at a time. Few on the emulated device, so that small cases fill buffers.
constexpr int kSelectItems = kEmulated ? 1 : 8;
constexpr int kSelectStep = kSelectThreads * kSelectItems;
constexpr int kSelectBins = 256;

__device__ __forceinline__ float lowest_score() { return __int_as_float(static_cast<int>(0xff800000u)); }

// Buffers of one kind for the rows of a slab.
struct Candidates {
  double* value;     // (rows, capacity): a float32 score, or an exact value
  int32_t* index;    // (rows, capacity)
  int32_t* count;    // (rows,)
  float* threshold;  // (rows,); an entry below it is not worth keeping
  int64_t k;
  int64_t capacity;

  // A full buffer has more than k entries before a step of new ones comes, and room for them with k.
  static int64_t capacity_for(int64_t k, int64_t columns) {
    return round_up(smaller(columns, 2 * k + kSelectStep), 2);
  }
  static int64_t row_bytes(int64_t capacity) { return capacity * 12 + 8; }

  void lay_out(char* memory, int64_t rows) {
    value = reinterpret_cast<double*>(memory);
    index = reinterpret_cast<int32_t*>(value + rows * capacity);
    count = index + rows * capacity;
    threshold = reinterpret_cast<float*>(count + rows);
  }
};

// One row's buffer while a block works on it. Every thread has the same.
struct Buffer {
  double* value;
  int32_t* index;
  int64_t k;
  int count;
  int capacity;
  float threshold;

  __device__ Buffer(const Candidates& all, int64_t row, bool empty)
      : value(all.value + row * all.capacity),
        index(all.index + row * all.capacity),
        k(all.k),
        count(empty ? 0 : all.count[row]),
        capacity(static_cast<int>(all.capacity)),
        threshold(empty ? lowest_score() : all.threshold[row]) {}

  __device__ void save(const Candidates& all, int64_t row) const {
    if (threadIdx.x != 0) return;
    all.count[row] = count;
    all.threshold[row] = threshold;
  }
  // Also true for NaN, which comes up only where scores mean nothing and all is measured exactly.
  __device__ bool wants(float score) const { return !(score < threshold); }
};

// Larger values have smaller keys.
__device__ __forceinline__ unsigned descending_key(double score) {
  const unsigned bits = __float_as_uint(static_cast<float>(score));
  return (bits >> 31) != 0 ? bits : ~bits & 0x7fffffffu;
}
__device__ __forceinline__ float descending_value(unsigned key) {
  return __uint_as_float((key >> 31) != 0 ? key : ~key & 0x7fffffffu);
}

// The k-th largest of the scores, 1 <= k <= count: four counts, one for each byte of the key.
__device__ __forceinline__ float kth_largest(const Buffer& buffer) {
  __shared__ unsigned bins[kSelectBins];
  __shared__ unsigned chosen;
  __shared__ int before_chosen;
  unsigned prefix = 0;
  int64_t wanted = buffer.k;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int bin = threadIdx.x; bin < kSelectBins; bin += kSelectThreads) bins[bin] = 0;
    __syncthreads();
    const unsigned above = shift == 24 ? 0u : ~0u << (shift + 8);
    for (int e = threadIdx.x; e < buffer.count; e += kSelectThreads) {
      const unsigned key = descending_key(buffer.value[e]);
      if ((key & above) == prefix) atomicAdd(&bins[key >> shift & 255u], 1u);
    }
    __syncthreads();
    if (threadIdx.x < kWarpSize) {
      constexpr int kEach = kSelectBins / kWarpSize;
      int own = 0;
      for (int i = 0; i < kEach; ++i) own += static_cast<int>(bins[threadIdx.x * kEach + i]);
      int before = warp_scan(own, Sum{}) - own;
      if (before < wanted && wanted <= before + own) {
        int bin = threadIdx.x * kEach;
        while (before + static_cast<int>(bins[bin]) < wanted) before += static_cast<int>(bins[bin++]);
        chosen = static_cast<unsigned>(bin);
        before_chosen = before;
      }
    }
    __syncthreads();
    prefix |= chosen << shift;
    wanted -= before_chosen;
  }
  return descending_value(prefix);
}

// Drops what cannot be among the k best when scores are right to +-bound.
__device__ __forceinline__ void compact(Buffer& buffer, float bound) {
  __shared__ int kept;
  if (buffer.count <= buffer.k) return;
  const float limit = kth_largest(buffer) - 2 * bound;
  if (limit > buffer.threshold) buffer.threshold = limit;
  if (threadIdx.x == 0) kept = 0;
  __syncthreads();
  // What a step keeps is written in front of what the next one reads.
  for (int first = 0; first < buffer.count; first += kSelectThreads) {
    const int e = first + static_cast<int>(threadIdx.x);
    const double value = e < buffer.count ? buffer.value[e] : 0;
    const int32_t index = e < buffer.count ? buffer.index[e] : 0;
    __syncthreads();
    if (e < buffer.count && buffer.wants(static_cast<float>(value))) {
      const int at = atomicAdd(&kept, 1);
      buffer.value[at] = value;
      buffer.index[at] = index;
    }
  }
  __syncthreads();
  buffer.count = kept;
  __syncthreads();
}

// Ascending (value, index), in place, in any memory that the block shares. A bitonic network whose
// comparisons all point the same way, so that the entries that fill n up to a power of two need not exist.
template <int kThreads = kSelectThreads>
__device__ __forceinline__ void sort_ascending(double* value, int32_t* index, int64_t n) {
  int levels = 0;
  while (int64_t{1} << levels < n) ++levels;
  const int64_t pairs = (int64_t{1} << levels) / 2;
  for (int level = 0; level < levels; ++level) {
    for (int step = level; step >= 0; --step) {
      const int64_t distance = int64_t{1} << step;
      for (int64_t t = threadIdx.x; t < pairs; t += kThreads) {
        const int64_t within = t & (distance - 1), start = (t >> step) << (step + 1);
        const int64_t a = start + within;
        const int64_t b = step == level ? start + 2 * distance - 1 - within : a + distance;
        if (b >= n) continue;
        const double x = value[a], y = value[b];
        const int32_t i = index[a], j = index[b];
        if (y < x || (y == x && j < i)) {
          value[a] = y, value[b] = x;
          index[a] = j, index[b] = i;
        }
      }
      __syncthreads();
    }
  }
}

// Offers each thread's kSelectItems scores, of columns first, first + kSelectThreads and so on. room(buffer)
// is called when they do not fit; it leaves the buffer with no more than capacity - kSelectStep entries.
template <class Room>
__device__ __forceinline__ void offer(Buffer& buffer, const float* score, int32_t first, unsigned offered,
                                      Room room) {
  __shared__ int next;
  for (;;) {
    unsigned wanted = 0;
#pragma unroll
    for (int i = 0; i < kSelectItems; ++i)
      if ((offered >> i & 1u) != 0 && buffer.wants(score[i])) wanted |= 1u << i;
    if (threadIdx.x == 0) next = buffer.count;
    if (!__syncthreads_or(wanted != 0)) return;
    int at = wanted != 0 ? atomicAdd(&next, __popc(wanted)) : 0;
    __syncthreads();
    const int total = next;
    if (total <= buffer.capacity) {
#pragma unroll
      for (int i = 0; i < kSelectItems; ++i) {
        if ((wanted >> i & 1u) == 0) continue;
        buffer.value[at] = static_cast<double>(score[i]);
        buffer.index[at++] = first + i * kSelectThreads;
      }
      buffer.count = total;
      __syncthreads();
      return;
    }
    __syncthreads();
    room(buffer);
  }
}

}  // namespace
}  // namespace fastreid
