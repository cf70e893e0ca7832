// SPDX-License-Identifier: Apache-2.0
// Screened search on the device: products of rounded rows, with a bound on what the rounding did. Only for
// x_cuda.cu.
//
// As in screen.h: rows are moved by a common vector, scaled by a common power of two and rounded, and the
// score s(x, y) = x.y - |y|^2 / 2 is then known to within +-screen_bound(x). The products come from the
// tensor cores, of float16: the longest row has a length of about 1, so that the range is enough (what it
// loses of small elements is in the bound), and an eighth of bfloat16's rounding is left.
#pragma once

#include "common/exact.cuh"
#include "common/sizes.h"

#ifndef FASTREID_EMULATION
#include <cuda_pipeline_primitives.h>
#include <mma.h>
#endif

namespace fastreid {
namespace {

constexpr int kTile = 128;         // rows of x and of y whose products a block computes
constexpr int kTileDepth = 32;     // elements of each row at a time
constexpr int kTileStages = 4;     // of which so many lots are under way
constexpr int kTileThreads = 256;  // 2 x 4 warps of 64 x 32 products
constexpr int kTileStride =
    kTileDepth + 8;  // in shared memory: 80 bytes, so that 8 rows lie in 8 sets of banks
constexpr int kTileBytes = kTileStages * 2 * kTile * kTileStride * 2;
constexpr int kPackThreads = 256;
constexpr int kPackRows = kPackThreads / kWarpSize;
constexpr int kCentreRows =
    512;  // rows whose mean is the common vector: any vector is right, this one is near
constexpr int kCentreColumns = 32;
constexpr int kCentreGroups = 8;

// ---- what both sides share ----

struct Frame {
  double* centre;               // (depth,)
  unsigned long long* longest;  // bits of the largest |row|^2 as given, float64
  unsigned* max_norm;           // of y: bits of float32
  unsigned* max_error;

  static int64_t bytes(int64_t depth) { return depth * 8 + 16; }
  void lay_out(char* memory, int64_t depth) {
    centre = reinterpret_cast<double*>(memory);
    longest = reinterpret_cast<unsigned long long*>(centre + depth);
    max_norm = reinterpret_cast<unsigned*>(longest + 1);
    max_error = max_norm + 1;
  }
};

__global__ void frame_kernel(Frame frame) {
  *frame.longest = 0;
  *frame.max_norm = *frame.max_error = 0;
}

// The mean of at most kCentreRows rows, spread evenly.
template <class S>
__global__ void centre_kernel(ExactRows<S> rows, int64_t count, int64_t depth, double* centre) {
  __shared__ double partial[kCentreGroups][kCentreColumns];
  const int64_t used = smaller(count, kCentreRows),
                k = static_cast<int64_t>(blockIdx.x) * kCentreColumns + threadIdx.x;
  double sum = 0;
  if (k < depth) {
    for (int64_t i = threadIdx.y; i < used; i += kCentreGroups) {
      const int64_t row = i * count / used;
      sum += as_double(rows.row(row)[k * rows.column_stride]) * rows.scale(row);
    }
  }
  partial[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || k >= depth) return;
  for (int group = 1; group < kCentreGroups; ++group) sum += partial[group][threadIdx.x];
  centre[k] = sum / static_cast<double>(used);
}

// The power of two that gives the longest row a length of about 1: no float32 overflows, and none underflows
// that matters. d2 of the packed rows is factor^2 times that of the given ones.
__device__ __forceinline__ double screen_factor(const Frame& frame, bool angular) {
  const double longest = angular ? 1.0 : __longlong_as_double(static_cast<long long>(*frame.longest));
  if (!(longest > 0) || !(longest < 1e300)) return 1;
  const int64_t exponent = __double_as_longlong(__dsqrt_rn(longest)) >> 52;
  return __longlong_as_double((2046 - exponent) << 52);
}

// ---- one set of rows, packed ----

struct Screened {
  __half* packed;  // (padded to whole tiles, depth_of())
  float* half;     // (rows,) |x|^2 / 2
  float* norm;     // (rows,) at least |x| and |x^|
  float* error;    // (rows,) at least |x - x^|

  static int64_t depth_of(int64_t depth) { return round_up(depth, kTileDepth); }  // padded with zeros
  static int64_t bytes(int64_t rows, int64_t depth) {
    const int64_t padded = round_up(rows, kTile);
    return padded * (depth * 2 + 12);
  }
  void lay_out(char* memory, int64_t rows, int64_t depth) {
    const int64_t padded = round_up(rows, kTile);
    packed = reinterpret_cast<__half*>(memory);
    half = reinterpret_cast<float*>(packed + padded * depth);
    norm = half + padded;
    error = norm + padded;
  }
  Screened from(int64_t row, int64_t depth) const {
    return {packed + row * depth, half + row, norm + row, error + row};
  }
};

__device__ __forceinline__ float rounded_up(double value) {
  return static_cast<float>(value * (1 + 1e-6)) + 1e-37f;
}

// Packs rows first to first + count - 1 of `rows`, a warp for each, and zeros up to whole tiles. largest:
// whether these rows are those of y, whose largest norm and error are asked for.
template <class S>
__global__ void pack_kernel(ExactRows<S> rows, int64_t first, int64_t count, int64_t depth,
                            int64_t packed_depth, const double* square, Frame frame, bool largest,
                            Screened out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kPackRows + threadIdx.x / kWarpSize;
  const bool real = i < count, angular = rows.inverse != nullptr;
  const int64_t row = first + (real ? i : 0);
  const double factor = screen_factor(frame, angular), scale = rows.scale(row);
  const S* from = rows.row(row);
  uint32_t* const to = reinterpret_cast<uint32_t*>(out.packed + i * packed_depth);
  double before = 0, after = 0, error = 0;
  for (int64_t k = 2 * (threadIdx.x % kWarpSize); k < packed_depth; k += 2 * kWarpSize) {
    uint32_t word = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t at = k + half;
      double v = 0;
      if (real && at < depth) {
        // The scaled element exactly as exact_distance() has it.
        const double element = as_double(from[at * rows.column_stride]);
        v = __dsub_rn(angular ? __dmul_rn(element, scale) : element, frame.centre[at]) * factor;
      }
      const __half rounded = __float2half_rn(static_cast<float>(v));
      const double r = as_double(rounded);
      before += v * v;
      after += r * r;
      error += (v - r) * (v - r);
      word |= static_cast<uint32_t>(__half_as_ushort(rounded)) << (16 * half);
    }
    to[k / 2] = word;
  }
  before = warp_reduce(before, Sum{});
  after = warp_reduce(after, Sum{});
  error = warp_reduce(error, Sum{});
  if (threadIdx.x % kWarpSize != 0) return;
  // A length from a square without all its bits is not quite 1, but distance 2 from rows of zeros it has.
  if (real && angular && square[row] < 1e-290 && scale != 0) error = INFINITY;
  const float norm = rounded_up(sqrt(before > after ? before : after)), off = rounded_up(sqrt(error));
  // A row of zeros has no direction: its d2 is 2 to every row, not the 1 of its place among unit vectors. (A
  // row of zeros in x has no scores: that is its caller's.)
  const double lift = real && angular && scale == 0 ? factor * factor : 0;
  out.half[i] = static_cast<float>((before + lift) / 2);
  out.norm[i] = norm;
  out.error[i] = off;
  // Bits of floats that are not negative are ordered as they are; those of NaN come last.
  if (!largest || !real) return;
  atomicMax(frame.max_norm, __float_as_uint(norm) & 0x7fffffffu);
  atomicMax(frame.max_error, __float_as_uint(off) & 0x7fffffffu);
}

// How far a score may be off, against any row of y. Infinite where float64 itself would not tell distances
// apart, or float32 cannot hold the rows: then everything is looked at exactly.
//
// Tensor cores add a group of products and the sum so far, each addend cut off to within 2^-23 of the
// largest, and then the sum; an addend is at most |x^| |y^|. So much for each of depth * 5 / 4 addends, for
// groups of four or more.
__device__ __forceinline__ float screen_bound(const Frame& frame, float norm, float error, bool angular,
                                              int64_t packed_depth) {
  const double max_norm = __uint_as_float(*frame.max_norm), max_error = __uint_as_float(*frame.max_error);
  const double n = norm, factor = screen_factor(frame, angular);
  const double gamma = (1.25 * static_cast<double>(packed_depth) + 64) * 0x1p-23;
  const double rounding = 0x1p-21 * (max_norm + n) * (max_norm + n),
               far = static_cast<double>(packed_depth) * 0x1p-126;
  const double b = error * max_norm + n * max_error + gamma * n * max_norm + rounding + far;
  return factor > 0x1p450 || !(b < 1e30) ? INFINITY : static_cast<float>(b * (1 + 1e-5)) + 1e-36f;
}

// ---- tiles: product[i][j] = x^_i . y^_j ----

// Brings one lot of both sides after the other to shared memory, in pieces of 16 bytes, always the same ones
// of each row in one thread.
struct Loader {
  static constexpr int kPiece = 8, kPieces = kTileDepth / kPiece;  // elements, of a row
  static constexpr int kRows = kTileThreads / kPieces;             // brought at once
  const __half* x;
  const __half* y;
  int64_t jump;  // kRows further down
  __half* to;

  __device__ Loader(const __half* x_tile, const __half* y_tile, int64_t depth, __half* shared)
      : jump(kRows * depth) {
    const int row = threadIdx.x / kPieces, k = threadIdx.x % kPieces * kPiece;
    x = x_tile + row * depth + k;
    y = y_tile + row * depth + k;
    to = shared + row * kTileStride + k;
  }
  __device__ void next(int stage) {
    __half* at = to + stage * (2 * kTile * kTileStride);
#pragma unroll
    for (int i = 0; i < kTile / kRows; ++i, at += kRows * kTileStride) {
      __pipeline_memcpy_async(at, x + i * jump, kPiece * sizeof(__half));
      __pipeline_memcpy_async(at + kTile * kTileStride, y + i * jump, kPiece * sizeof(__half));
    }
    x += kTileDepth;
    y += kTileDepth;
  }
};

// Block (column tile, row tile). x, y: packed rows, whole tiles of them. product: (rows, columns) of a chunk.
__global__ __launch_bounds__(kTileThreads) void tile_kernel(const __half* x, const __half* y, int64_t depth,
                                                            float* product, int64_t columns) {
  namespace wmma = nvcuda::wmma;
  constexpr int kM = 4, kN = 2;  // fragments of a warp
  __half* const shared = dynamic_shared<__half>();
  Loader loader(x + blockIdx.y * kTile * depth, y + blockIdx.x * kTile * depth, depth, shared);
  const int steps = static_cast<int>(depth / kTileDepth);
  const int warp = threadIdx.x / kWarpSize, row = warp / 4 * 16 * kM, column = warp % 4 * 16 * kN;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum[kM][kN];
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < kN; ++n) wmma::fill_fragment(sum[m][n], 0.0f);

  constexpr int kLot = 2 * kTile * kTileStride;
  for (int lot = 0; lot < kTileStages - 1; ++lot) {
    if (lot < steps) loader.next(lot);
    __pipeline_commit();
  }
  for (int step = 0; step < steps; ++step) {
    __pipeline_wait_prior(kTileStages - 2);
    __syncthreads();  // everybody's part of this lot is there, and nobody reads the one before
    const int next = step + kTileStages - 1;
    if (next < steps) loader.next(next % kTileStages);
    __pipeline_commit();
    const __half* const a_lot = shared + step % kTileStages * kLot + row * kTileStride;
    const __half* const b_lot = shared + step % kTileStages * kLot + (kTile + column) * kTileStride;
#pragma unroll
    for (int k = 0; k < kTileDepth; k += 16) {
      wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> a[kM];
      wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::col_major> b[kN];
#pragma unroll
      for (int n = 0; n < kN; ++n)
        wmma::load_matrix_sync(b[n], b_lot + n * 16 * kTileStride + k, kTileStride);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        wmma::load_matrix_sync(a[m], a_lot + m * 16 * kTileStride + k, kTileStride);
#pragma unroll
        for (int n = 0; n < kN; ++n) wmma::mma_sync(sum[m][n], a[m], b[n], sum[m][n]);
      }
    }
  }
  product += (blockIdx.y * kTile + row) * columns + blockIdx.x * kTile + column;
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int n = 0; n < kN; ++n)
      wmma::store_matrix_sync(product + m * 16 * columns + n * 16, sum[m][n], static_cast<unsigned>(columns),
                              wmma::mem_row_major);
}

}  // namespace
}  // namespace fastreid
