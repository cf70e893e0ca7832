// SPDX-License-Identifier: Apache-2.0
// Does the emulation see what it should? Small kernels of the usual kinds (block reduction, bitonic sort,
// warp exchange, histogram), each with bugs that can be switched on: `seeded_bugs 2` runs with bug 2 and must
// be caught, by a wrong result, by the emulation or by the sanitizer that csrc/tests/CMakeLists.txt names for
// it. `seeded_bugs 0` runs the clean code.
#define TESTING_OWN_MAIN
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <utility>

#include "common/launch.cuh"
#include "testing.h"

namespace {

using fastreid::kFullMask;
using fastreid::launch;

enum Bug {
  kNone,
  kNoBarrierAfterWrite,
  kNoBarrierBeforeReuse,
  kSharedArrayShort,
  kReadPastEnd,
  kWrongShuffleOffset,
  kWrongTieOrder,
  kBarrierInBranch,
  kEarlyReturn,
  kFullMaskInHalfWarp,
  kNoBarrierInSort,
  kNoBarrierAfterInit,
  kMisalignedVector,
  kNoWarpBarrier,
  kStepTooLarge,
  kDynamicSharedShort,
  kSharedNotCleared,
  kPlainIncrement,
  kMaskWithoutSelf,
  kBugs
};

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

template <int B>
__device__ float block_sum(float value) {
  __shared__ float partial[B == kSharedArrayShort ? kWarps - 1 : kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int offset = B == kWrongShuffleOffset ? 8 : 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kFullMask, value, offset);
  }
  if (lane == 0) partial[warp] = value;
  if (B == kBarrierInBranch) {
    if (warp == 0) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if (B != kNoBarrierAfterWrite) {
    __syncthreads();
  }
  float total = 0.0f;
  const int warps = blockDim.x / 32;
  for (int i = 0; i < warps; ++i) total += partial[i];
  if (B != kNoBarrierBeforeReuse) __syncthreads();
  return total;
}

// One row per block: y = (x - mean) / sqrt(sum of squares), two reductions through the same shared array.
template <int B>
__global__ void standardize_kernel(const float* x, float* y, int columns) {
  if (B == kEarlyReturn && static_cast<int>(threadIdx.x) >= columns) return;
  const float* row = x + static_cast<std::int64_t>(blockIdx.x) * columns;
  float* out = y + static_cast<std::int64_t>(blockIdx.x) * columns;
  const int step = B == kStepTooLarge ? 2 * blockDim.x : blockDim.x;
  const int end = B == kReadPastEnd ? columns + 1 : columns;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < end; i += step) sum += row[i];
  if (B == kFullMaskInHalfWarp && threadIdx.x % 32 < 16) sum += 0.0f * __shfl_down_sync(kFullMask, sum, 8);
  if (B == kMaskWithoutSelf) sum += 0.0f * __shfl_sync(0x0000ffffu, sum, 0);
  const float mean = block_sum<B>(sum) / columns;
  float squares = 0.0f;
  for (int i = threadIdx.x; i < columns; i += step) squares += (row[i] - mean) * (row[i] - mean);
  const float scale = rsqrtf(block_sum<B>(squares));
  const int vectors = B == kMisalignedVector || columns % 4 == 0 ? columns / 4 : 0;
  for (int i = threadIdx.x; i < vectors; i += blockDim.x) {
    const float4 v = reinterpret_cast<const float4*>(row)[i];
    const float four[] = {v.x, v.y, v.z, v.w};
    for (int j = 0; j < 4; ++j) out[4 * i + j] = (four[j] - mean) * scale;
  }
  for (int i = 4 * vectors + threadIdx.x; i < columns; i += blockDim.x) out[i] = (row[i] - mean) * scale;
}

// Indices of x in ascending order of (value, index): bitonic, padded to a power of two, in dynamic shared memory.
template <int B>
__global__ void sort_kernel(const float* x, int* order, int n, int padded) {
  float* keys = fastreid::dynamic_shared<float>();
  int* indices = reinterpret_cast<int*>(keys + padded);
  for (int i = threadIdx.x; i < padded; i += blockDim.x) {
    keys[i] = i < n ? x[i] : INFINITY;
    indices[i] = i;
  }
  if (B != kNoBarrierAfterInit) __syncthreads();
  for (int size = 2; size <= padded; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      for (int t = threadIdx.x; t < padded / 2; t += blockDim.x) {
        const int i = 2 * stride * (t / stride) + t % stride, j = i + stride;
        const bool tie = keys[j] == keys[i];
        const bool less = tie && B != kWrongTieOrder ? indices[j] < indices[i] : keys[j] < keys[i];
        if (less == ((i & size) == 0)) {
          const float key = keys[i];
          const int index = indices[i];
          keys[i] = keys[j], indices[i] = indices[j];
          keys[j] = key, indices[j] = index;
        }
      }
      if (B != kNoBarrierInSort) __syncthreads();
    }
  }
  for (int i = threadIdx.x; i < n; i += blockDim.x) order[i] = indices[i];
}

// Neighbours swap through shared memory; a warp needs no more than its own barrier.
template <int B>
__global__ void swap_kernel(const int* x, int* y) {
  __shared__ int box[kThreads];
  box[threadIdx.x] = x[threadIdx.x];
  if (B != kNoWarpBarrier) __syncwarp();
  y[threadIdx.x] = box[threadIdx.x ^ 1];
}

template <int B>
__global__ void histogram_kernel(const int* x, unsigned* counts, int n, int bins) {
  unsigned* shared = fastreid::dynamic_shared<unsigned>();
  if (B != kSharedNotCleared) {
    for (int i = threadIdx.x; i < bins; i += blockDim.x) shared[i] = 0;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    if (B == kPlainIncrement) {
      ++shared[x[i]];
    } else {
      atomicAdd(&shared[x[i]], 1u);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < bins; i += blockDim.x) atomicAdd(&counts[i], shared[i]);
}

// One set of kernels for each bug.
struct Kernels {
  void (*standardize)(const float*, float*, int);
  void (*sort)(const float*, int*, int, int);
  void (*swap)(const int*, int*);
  void (*histogram)(const int*, unsigned*, int, int);
};
template <int... Bugs>
Kernels kernels_with(int bug, std::integer_sequence<int, Bugs...>) {
  const Kernels all[] = {
      {standardize_kernel<Bugs>, sort_kernel<Bugs>, swap_kernel<Bugs>, histogram_kernel<Bugs>}...};
  return all[bug];
}

int bug = kNone;
Kernels kernels;

// Exactly as long as asked for: a std::vector may keep spare room behind its end.
template <typename T>
std::unique_ptr<T[]> array(std::int64_t n) {
  return std::make_unique<T[]>(static_cast<std::size_t>(n));
}

void standardize(int rows, int columns) {
  testing::Trying trying(rows, " x ", columns);
  auto x = array<float>(rows * columns), y = array<float>(rows * columns);
  testing::Random random(7);
  for (int i = 0; i < rows * columns; ++i) x[i] = static_cast<float>(random.uniform(0.0, 2.0));
  CHECK_EQUAL(launch(kernels.standardize, rows, kThreads, 0, nullptr, x.get(), y.get(), columns),
              cudaSuccess);
  for (int r = 0; r < rows; ++r) {
    const float* row = &x[r * columns];
    const double mean = std::accumulate(row, row + columns, 0.0) / columns;
    double squares = 0.0;
    for (int i = 0; i < columns; ++i) squares += (row[i] - mean) * (row[i] - mean);
    for (int i = 0; i < columns; ++i)
      CHECK_NEAR(y[r * columns + i], (row[i] - mean) / std::sqrt(squares), 1e-6, 1e-5);
  }
}

void sort(int n) {
  testing::Trying trying("sort of ", n);
  auto x = array<float>(n);
  auto order = array<int>(n);
  testing::Random random(11);
  for (int i = 0; i < n; ++i) x[i] = static_cast<float>(random.below(20));  // many ties
  int padded = 2;
  while (padded < n) padded *= 2;
  const std::size_t bytes = static_cast<std::size_t>(padded) * 8 - (bug == kDynamicSharedShort ? 4 : 0);
  CHECK_EQUAL(launch(kernels.sort, 1, kThreads, bytes, nullptr, x.get(), order.get(), n, padded),
              cudaSuccess);
  std::vector<int> expected(static_cast<std::size_t>(n));
  std::iota(expected.begin(), expected.end(), 0);
  std::stable_sort(expected.begin(), expected.end(), [&](int a, int b) { return x[a] < x[b]; });
  for (int i = 0; i < n; ++i) CHECK_EQUAL(order[i], expected[static_cast<std::size_t>(i)]);
}

void swap() {
  testing::Trying trying("swap");
  auto x = array<int>(kThreads), y = array<int>(kThreads);
  for (int i = 0; i < kThreads; ++i) x[i] = 3 * i;
  CHECK_EQUAL(launch(kernels.swap, 1, kThreads, 0, nullptr, x.get(), y.get()), cudaSuccess);
  for (int i = 0; i < kThreads; ++i) CHECK_EQUAL(y[i], 3 * (i ^ 1));
}

void histogram() {
  testing::Trying trying("histogram");
  constexpr int kN = 1000, kBins = 37;
  auto x = array<int>(kN);
  auto counts = array<unsigned>(kBins), expected = array<unsigned>(kBins);
  testing::Random random(13);
  for (int i = 0; i < kN; ++i)
    expected[x[i] = static_cast<int>(random.below(kBins))] += 2;  // two blocks count all
  CHECK_EQUAL(launch(kernels.histogram, 2, kThreads, kBins * 4, nullptr, x.get(), counts.get(), kN, kBins),
              cudaSuccess);
  for (int i = 0; i < kBins; ++i) CHECK_EQUAL(counts[i], expected[i]);
}

}  // namespace

int main(int count, char** arguments) {
  using fastreid::emulation::Order;
  bug = count > 1 ? std::atoi(arguments[1]) : kNone;
  kernels = kernels_with(bug, std::make_integer_sequence<int, kBugs>());
  for (const Order order : {Order::forward, Order::reverse, Order::seeded}) {
    testing::Trying trying("order ", static_cast<int>(order));
    fastreid::emulation::set_order(order, 42);
    standardize(2, 300);
    standardize(2, 301);
    standardize(1, 100);
    sort(200);
    swap();
    histogram();
  }
  std::printf("%d checks, %d failed\n", testing::checks, testing::failures);
  return testing::failures == 0 && testing::checks > 0 ? 0 : 1;
}
