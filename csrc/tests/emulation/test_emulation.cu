// SPDX-License-Identifier: Apache-2.0
// The emulation's intrinsics against their definitions in the CUDA C++ programming guide, computed here lane
// by lane.
#include <algorithm>
#include <array>
#include <numeric>

#include "common/launch.cuh"
#include "testing.h"

namespace {

using fastreid::dynamic_shared;
using fastreid::kFullMask;
using fastreid::launch;
using fastreid::emulation::Order;

template <typename Kernel, typename... Arguments>
void run(Kernel kernel, dim3 grid, dim3 block, Arguments... arguments) {
  CHECK_EQUAL(launch(kernel, grid, block, 0, nullptr, arguments...), cudaSuccess);
}

__global__ void shuffle_kernel(int* out, int operand, int width) {
  const int lane = threadIdx.x;
  out[lane] = __shfl_sync(kFullMask, lane, operand, width);
  out[32 + lane] = __shfl_up_sync(kFullMask, lane, operand, width);
  out[64 + lane] = __shfl_down_sync(kFullMask, lane, operand, width);
  out[96 + lane] = __shfl_xor_sync(kFullMask, lane, operand, width);
}

CASE(shuffles_follow_their_definition) {
  for (const int width : {4, 16, 32}) {
    for (const int operand : {0, 1, 3, 17, 31}) {
      testing::Trying trying("width ", width, " operand ", operand);
      std::array<int, 128> out{};
      run(shuffle_kernel, 1, 32, out.data(), operand, width);
      for (int lane = 0; lane < 32; ++lane) {
        const int inside = lane % width, first = lane - inside;
        const auto at = [&](int row) { return out[static_cast<std::size_t>(32 * row + lane)]; };
        CHECK_EQUAL(at(0), first + operand % width);
        CHECK_EQUAL(at(1), inside >= operand ? lane - operand : lane);
        CHECK_EQUAL(at(2), inside + operand < width ? lane + operand : lane);
        CHECK_EQUAL(at(3), (lane ^ operand) < first + width ? lane ^ operand : lane);
      }
    }
  }
}

template <typename T>
__global__ void broadcast_kernel(T* out, T value) {
  const T mine = threadIdx.x == 5 ? value : T(0.0f);
  out[threadIdx.x] = __shfl_sync(kFullMask, mine, 5);
}

template <typename T>
void broadcasts(T value) {
  T out[32];
  run(broadcast_kernel<T>, 1, 32, &out[0], value);
  for (const T& each : out) CHECK(std::memcmp(&each, &value, sizeof value) == 0);
}

CASE(shuffles_carry_every_type) {
  broadcasts(-7);
  broadcasts(0xfedcba98u);
  broadcasts(std::int64_t{-1} << 40);
  broadcasts(1.0e-30f);
  broadcasts(-1.0e300);
  broadcasts(__float2half_rn(1.5f));
  broadcasts(__float2bfloat16_rn(-2.25f));
}

struct Votes {
  unsigned ballot, half_ballot, same;
  int any, all, none, sum, low, high;
};

__global__ void vote_kernel(Votes* out) {
  const int lane = threadIdx.x;
  Votes v{};
  v.ballot = __ballot_sync(kFullMask, lane % 3 == 0);
  if (lane < 16) v.half_ballot = __ballot_sync(0x0000ffffu, lane > 3);
  v.same = __match_any_sync(kFullMask, lane / 5);
  v.any = __any_sync(kFullMask, lane == 31);
  v.all = __all_sync(kFullMask, lane < 32);
  v.none = __all_sync(kFullMask, lane < 31);
  v.sum = __reduce_add_sync(kFullMask, lane);
  v.low = __reduce_min_sync(kFullMask, 7 - lane);
  v.high = __reduce_max_sync(kFullMask, 7 - lane);
  out[lane] = v;
}

CASE(votes_and_reductions) {
  std::array<Votes, 32> out{};
  run(vote_kernel, 1, 32, out.data());
  unsigned thirds = 0;
  for (int i = 0; i < 32; i += 3) thirds |= 1u << i;
  for (int lane = 0; lane < 32; ++lane) {
    const Votes& v = out[static_cast<std::size_t>(lane)];
    unsigned same = 0;
    for (int i = 0; i < 32; ++i) same |= i / 5 == lane / 5 ? 1u << i : 0u;
    CHECK_EQUAL(v.ballot, thirds);
    CHECK_EQUAL(v.half_ballot, lane < 16 ? 0xfff0u : 0u);
    CHECK_EQUAL(v.same, same);
    CHECK(v.any == 1 && v.all == 1 && v.none == 0);
    CHECK(v.sum == 496 && v.low == -24 && v.high == 7);
  }
}

__global__ void count_kernel(int* out) {
  const int n = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[3 * n] = __syncthreads_count(n % 4 == 0);
  out[3 * n + 1] = __syncthreads_or(n == 59);
  out[3 * n + 2] = __syncthreads_and(n != 59);
}

CASE(barriers_count_in_blocks_of_three_dimensions) {
  std::array<int, 180> out{};
  run(count_kernel, 1, dim3(5, 4, 3), out.data());
  for (std::size_t n = 0; n < 60; ++n) CHECK(out[3 * n] == 15 && out[3 * n + 1] == 1 && out[3 * n + 2] == 0);
}

__global__ void index_kernel(unsigned* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  out[block * blockDim.x + threadIdx.x] = 1000 * block + threadIdx.x;
}

CASE(grids_of_three_dimensions_visit_every_thread) {
  std::array<unsigned, 2 * 3 * 4 * 33> out{};
  run(index_kernel, dim3(2, 3, 4), 33, out.data());
  for (unsigned n = 0; n < out.size(); ++n) CHECK_EQUAL(out[n], n / 33 * 1000 + n % 33);
}

struct Cells {
  int sum, low, high, last;
  unsigned bits, flips;
  unsigned long long wide, swaps;
  float real;
  double precise;
};

__global__ void atomics_kernel(Cells* c) {
  const int n = threadIdx.x;
  atomicAdd(&c->sum, n);
  atomicMin(&c->low, -n);
  atomicMax(&c->high, n);
  atomicExch(&c->last, 5);
  atomicOr(&c->bits, 1u << (n % 32));
  atomicXor(&c->flips, 1u << (n % 32));
  atomicAdd(&c->wide, 1ull << 33);
  atomicAdd(&c->real, 0.5f);
  atomicAdd(&c->precise, 0.25);
  unsigned long long seen = 0, expected;
  do {
    expected = seen;
    seen = atomicCAS(&c->swaps, expected, expected + 2);
  } while (seen != expected);
}

CASE(atomics_lose_nothing) {
  Cells c{};
  run(atomics_kernel, 3, 48, &c);
  CHECK(c.sum == 3 * 24 * 47 && c.low == -47 && c.high == 47 && c.last == 5);
  CHECK(c.bits == 0xffffffffu &&
        c.flips == 0xffff0000u);  // lanes 0-15 flip twice a block, the others once, three blocks
  CHECK(c.wide == 144ull << 33 && c.real == 72.0f && c.precise == 36.0 && c.swaps == 288);
}

__global__ void bits_kernel(int* out) {
  const int values[] = {__popc(0xf0f0u),
                        __popcll(~0ull),
                        __ffs(8),
                        __clz(1),
                        __clz(0),
                        __float_as_int(1.0f),
                        __clzll(1ll << 40),
                        min(3, -2),
                        max(3, -2),
                        __ffsll(0),
                        static_cast<int>(__brev(1u) >> 31),
                        static_cast<int>(__umulhi(1u << 31, 6u))};
  for (int i = 0; i < 12; ++i) out[i] = values[i];
}

CASE(bit_functions) {
  std::array<int, 12> out{};
  run(bits_kernel, 1, 1, out.data());
  const std::array<int, 12> expected = {8, 64, 4, 31, 32, 0x3f800000, 23, -2, 3, 0, 1, 3};
  CHECK(out == expected);
}

template <typename T>
__global__ void reduce_kernel(const T* x, T* out, int n) {
  using A = fastreid::accumulator_t<T>;
  A sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += fastreid::widen(x[i]);
  const A high = fastreid::block_reduce(sum, A(-1e9), fastreid::Maximum{});
  const A low = fastreid::block_reduce(sum, A(1e9), fastreid::Minimum{});
  sum = fastreid::block_reduce(sum, A(0), fastreid::Sum{});
  const int scan = fastreid::warp_scan(1, fastreid::Sum{});
  if (threadIdx.x == blockDim.x - 1) {
    const A values[] = {sum, high, low, A(scan)};
    for (int i = 0; i < 4; ++i) out[i] = fastreid::narrow<T>(values[i]);
  }
}

template <typename T>
void reduces(int block) {
  std::vector<T> x(200, T(0.5f));
  x[3] = T(2.0f);
  T out[4];
  run(reduce_kernel<T>, 1, block, static_cast<const T*>(x.data()), &out[0], 200);
  double sums[1024] = {};
  for (int i = 0; i < 200; ++i) sums[i % block] += i == 3 ? 2.0 : 0.5;
  double high = sums[0], low = sums[0];
  for (int i = 1; i < block; ++i) high = std::fmax(high, sums[i]), low = std::fmin(low, sums[i]);
  const double expected[] = {101.5, high, low, 32.0};
  for (int i = 0; i < 4; ++i) CHECK_EQUAL(static_cast<double>(static_cast<float>(out[i])), expected[i]);
}

CASE(block_reductions_of_launch_cuh) {
  for (const Order order : {Order::forward, Order::reverse, Order::seeded}) {
    fastreid::emulation::set_order(order, 3);
    for (const int block : {32, 96, 256, 1024}) {
      testing::Trying trying("block ", block);
      reduces<float>(block);
      reduces<double>(block);
      reduces<__half>(block);
      reduces<__nv_bfloat16>(block);
    }
  }
  fastreid::emulation::set_order(Order::forward);
}

__global__ void order_kernel(int* out, int* next) { out[atomicAdd(next, 1)] = threadIdx.x; }

std::vector<int> visit(Order order, std::uint64_t seed) {
  std::vector<int> out(70);
  int next = 0;
  fastreid::emulation::set_order(order, seed);
  run(order_kernel, 1, 70, out.data(), &next);
  fastreid::emulation::set_order(Order::forward);
  return out;
}

CASE(orders_are_what_they_say_and_repeat) {
  std::vector<int> expected(70);
  std::iota(expected.begin(), expected.end(), 0);
  CHECK(visit(Order::forward, 1) == expected);
  std::reverse(expected.begin(), expected.end());
  CHECK(visit(Order::reverse, 1) == expected);
  std::vector<int> drawn = visit(Order::seeded, 1);
  CHECK(visit(Order::seeded, 1) == drawn);
  CHECK(visit(Order::seeded, 2) != drawn);
  std::sort(drawn.rbegin(), drawn.rend());
  CHECK(drawn == expected);
}

__global__ void product_kernel(const __half* a, const __half* b, const float* c, unsigned a_stride,
                               unsigned b_stride, unsigned stride, float* out) {
  namespace wmma = nvcuda::wmma;
  wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> left;
  wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::col_major> right;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
  wmma::fill_fragment(sum, *c);
  wmma::load_matrix_sync(left, a, a_stride);
  wmma::load_matrix_sync(right, b, b_stride);
  wmma::mma_sync(sum, left, right, sum);
  wmma::store_matrix_sync(out, sum, stride, wmma::mem_row_major);
}

CASE(tensor_cores_multiply) {
  constexpr unsigned kA = 24, kB = 16, kOut = 20;
  alignas(32) __half a[16 * kA], b[16 * kB];
  alignas(32) float out[16 * kOut];
  testing::Random random(3);
  // Powers of two and small integers, with float16's smallest number, largest and infinity: sums are exact.
  for (__half& each : a) each = __float2half_rn(static_cast<float>(random.below(9) - 4));
  for (__half& each : b) each = __float2half_rn(std::ldexp(1.0f, static_cast<int>(random.below(3))));
  a[0] = __float2half_rn(0x1p-24f), a[1] = __float2half_rn(65504.0f), a[kA] = __float2half_rn(-INFINITY);
  const float start = 0.5f;
  run(product_kernel, 1, 32, &a[0], &b[0], &start, kA, kB, kOut, &out[0]);
  for (unsigned i = 0; i < 16; ++i) {
    for (unsigned j = 0; j < 16; ++j) {
      float expected = start;
      for (unsigned k = 0; k < 16; ++k) expected += __half2float(a[i * kA + k]) * __half2float(b[j * kB + k]);
      CHECK_EQUAL(out[i * kOut + j], expected);
    }
  }
}

// What the first of two groups, then of both, has brought.
__global__ void copy_kernel(const float4* from, float* out) {
  float4* shared = dynamic_shared<float4>();
  const unsigned i = threadIdx.x;
  __pipeline_memcpy_async(shared + i, from + i, sizeof(float4));
  __pipeline_commit();
  __pipeline_memcpy_async(shared + 4 + i, from + 4 + i, sizeof(float4));
  __pipeline_commit();
  out[i] = shared[i].y;
  __pipeline_wait_prior(1);
  out[4 + i] = shared[i].y;
  out[8 + i] = shared[4 + i].y;
  __pipeline_wait_prior(0);
  out[12 + i] = shared[4 + i].y;
}

CASE(asynchronous_copies_are_made_when_waited_for) {
  float4 from[8];
  float out[16];
  for (int i = 0; i < 8; ++i) from[i] = {0.0f, static_cast<float>(i), 0.0f, 0.0f};
  CHECK_EQUAL(launch(copy_kernel, 1, 4, sizeof from, nullptr, &from[0], &out[0]), cudaSuccess);
  for (int i = 0; i < 4; ++i) {
    CHECK(std::isnan(out[i]));
    CHECK_EQUAL(out[4 + i], static_cast<float>(i));
    CHECK(std::isnan(out[8 + i]));
    CHECK_EQUAL(out[12 + i], static_cast<float>(4 + i));
  }
}

__global__ void fill_kernel(float* out) {
  float* shared = dynamic_shared<float>();
  out[threadIdx.x] = shared[threadIdx.x];
}

CASE(dynamic_shared_memory_starts_as_nan_in_every_block) {
  float out[8] = {};
  CHECK_EQUAL(launch(fill_kernel, 3, 8, 32, nullptr, &out[0]), cudaSuccess);
  for (const float value : out) CHECK(std::isnan(value));
}

CASE(launches_refuse_what_the_hardware_refuses) {
  float out[1] = {};
  CHECK_EQUAL(launch(fill_kernel, 0, 8, 32, nullptr, &out[0]), cudaErrorInvalidConfiguration);
  CHECK_EQUAL(cudaGetLastError(), cudaErrorInvalidConfiguration);
  CHECK_EQUAL(cudaGetLastError(), cudaSuccess);
  CHECK_EQUAL(launch(fill_kernel, dim3(1, 65536), 8, 32, nullptr, &out[0]), cudaErrorInvalidConfiguration);
  CHECK_EQUAL(launch(fill_kernel, 1, 1025, 32, nullptr, &out[0]), cudaErrorInvalidConfiguration);
  CHECK_EQUAL(launch(fill_kernel, 1, dim3(1, 1, 65), 32, nullptr, &out[0]), cudaErrorInvalidConfiguration);
  CHECK_EQUAL(launch(fill_kernel, 1, 1, 228 * 1024, nullptr, &out[0]), cudaErrorInvalidValue);
  CHECK_EQUAL(launch(fill_kernel, 1, 1, 227 * 1024, nullptr, &out[0]), cudaSuccess);
}

}  // namespace
