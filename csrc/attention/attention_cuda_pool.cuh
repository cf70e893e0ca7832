// SPDX-License-Identifier: Apache-2.0
// Means and maxima of rows, of columns, of both, in one read of the map.
#pragma once

#include "attention/attention_cuda_gate.cuh"

namespace fastreid {
namespace {

constexpr int32_t kNowhere = 0x7fffffff;

// The statistics of some entries of a row or column. `place` is the maximum's, or with kTies how often it occurs.
template <typename A>
struct Found {
  A sum, peak;
  int32_t place;
};

template <typename A>
__device__ __forceinline__ Found<A> nothing_found(int32_t place) {
  return {A(0), static_cast<A>(-INFINITY), place};
}

// Of two maxima the second: larger, or the first NaN.
template <typename A>
__device__ __forceinline__ bool beats(A second, A first) {
  return !(second <= first) && first == first;
}

template <typename A>
__device__ __forceinline__ bool same(A a, A b) {
  return a == b || (a != a && b != b);
}

// Entries must come in the order of their places; `found` began with its first.
template <bool kTies, typename A>
__device__ __forceinline__ void add_entry(Found<A>& found, A value, int32_t place) {
  found.sum += value;
  if (beats(value, found.peak)) {
    found.peak = value;
    found.place = kTies ? 1 : place;
  } else if (kTies && same(value, found.peak)) {
    ++found.place;
  }
}

template <bool kTies, typename A>
__device__ __forceinline__ Found<A> join(const Found<A>& a, const Found<A>& b) {
  Found<A> both = a;
  both.sum += b.sum;
  if (beats(b.peak, a.peak)) {
    both.peak = b.peak;
    both.place = b.place;
  } else if (same(a.peak, b.peak)) {
    both.place = kTies ? a.place + b.place : b.place < a.place ? b.place : a.place;
  }
  return both;
}

// Over groups of `lanes` neighbours of a warp; a sum is a + b in one lane and b + a in the other, the same bits.
template <bool kTies, typename A>
__device__ __forceinline__ Found<A> join_lanes(Found<A> own, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    const Found<A> other = {__shfl_xor_sync(kFullMask, own.sum, offset),
                            __shfl_xor_sync(kFullMask, own.peak, offset),
                            __shfl_xor_sync(kFullMask, own.place, offset)};
    own = join<kTies>(own, other);
  }
  return own;
}

// Of kCount rows at once, at most `lanes` of them: a lane passes on the half of its rows that its partner keeps, until it
// has one, in which it goes on as join_lanes does. Returns the row that `found[0]` then belongs to; the lanes that divide
// by lanes / kCount have it whole.
template <bool kTies, int kCount, typename A>
__device__ __forceinline__ int join_rows(Found<A> (&found)[kCount], int lane, int lanes) {
  int offset = lanes / 2, row = 0;
#pragma unroll
  for (int half = kCount / 2; half > 0; half /= 2, offset /= 2) {
    const bool upper = (lane & offset) != 0;
    if (upper) row += half;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      // Member by member: a choice between structs would go through local memory.
      const Found<A> low = found[i], high = found[i + half];
      const Found<A> kept = {upper ? high.sum : low.sum, upper ? high.peak : low.peak,
                             upper ? high.place : low.place};
      const Found<A> taken = {__shfl_xor_sync(kFullMask, upper ? low.sum : high.sum, offset),
                              __shfl_xor_sync(kFullMask, upper ? low.peak : high.peak, offset),
                              __shfl_xor_sync(kFullMask, upper ? low.place : high.place, offset)};
      found[i] = join<kTies>(kept, taken);
    }
  }
  found[0] = join_lanes<kTies>(found[0], 2 * offset);
  return row;
}

// Results of all rows or all columns; null is not wanted.
template <typename A>
struct Results {
  A *mean, *peak;
  int32_t* place;
  A share;  // of an entry in a mean

  __device__ __forceinline__ void write(int64_t at, const Found<A>& found) const {
    if (mean != nullptr) mean[at] = found.sum * share;
    if (peak != nullptr) peak[at] = found.peak;
    if (place != nullptr) place[at] = found.place;
  }
};

// What the blocks found of the same `items` rows or columns, `pieces` of them; one piece is the result itself.
template <typename A>
struct Pieces {
  A *sum, *peak;
  int32_t* place;
  int64_t pieces, items;

  static int64_t bytes(int64_t pieces, int64_t items) {
    return pieces > 1 ? round_up(pieces * items * static_cast<int64_t>(2 * sizeof(A) + sizeof(int32_t)), 16)
                      : 0;
  }
  Pieces(char* memory, int64_t pieces_, int64_t items_) : pieces(pieces_), items(items_) {
    sum = reinterpret_cast<A*>(memory);
    peak = sum + pieces * items;
    place = reinterpret_cast<int32_t*>(peak + pieces * items);
  }
  __device__ __forceinline__ void write(int64_t piece, int64_t item, const Found<A>& found,
                                        const Results<A>& results) const {
    if (pieces == 1) return results.write(item, found);
    const int64_t at = piece * items + item;
    sum[at] = found.sum;
    peak[at] = found.peak;
    place[at] = found.place;
  }
  template <bool kTies>
  __device__ __forceinline__ void join_all(int64_t item, const Results<A>& results) const {
    Found<A> found = {sum[item], peak[item], place[item]};
#pragma unroll 2
    for (int64_t piece = 1; piece < pieces; ++piece) {
      const int64_t at = piece * items + item;
      found = join<kTies>(found, Found<A>{sum[at], peak[at], place[at]});
    }
    results.write(item, found);
  }
};

template <typename T, bool kAligned, bool kTies>
__global__ void __launch_bounds__(kRowThreads)
    pool_rows_kernel(const T* x, int64_t items, int64_t columns, int lanes, Results<accumulator_t<T>> to) {
  using A = accumulator_t<T>;
  constexpr int kWarps = kRowThreads / kWarpSize;
  __shared__ Found<A> of_warp[kWarps];
  const int lane = static_cast<int>(threadIdx.x) % lanes, slot = static_cast<int>(threadIdx.x) / lanes;
  const int64_t step = static_cast<int64_t>(lanes) * kWide<T>, own = static_cast<int64_t>(lane) * kWide<T>;
  const int64_t beside = kRowThreads / lanes;
  for (int64_t first = blockIdx.x * beside; first < items; first += gridDim.x * beside) {
    const int64_t item = first + slot;
    Found<A> found = nothing_found<A>(kTies ? 0 : own < columns ? static_cast<int32_t>(own) : kNowhere);
    for (int64_t c = own; item < items && c < columns; c += kRowUnroll * step) {
      const T* const from = x + item * columns + c;
      Pack<T> pack[kRowUnroll];
#pragma unroll
      for (int u = 0; u < kRowUnroll; ++u)
        if (c + u * step < columns)
          pack[u] = load(from + u * step, entries<T>(c + u * step, columns), kAligned);
#pragma unroll
      for (int u = 0; u < kRowUnroll; ++u) {
        if (c + u * step >= columns) continue;
        const int count = entries<T>(c + u * step, columns);
#pragma unroll
        for (int v = 0; v < kWide<T>; ++v)
          if (is_one(v, count, kAligned))
            add_entry<kTies>(found, widen(pack[u].value[v]), static_cast<int32_t>(c + u * step + v));
      }
    }
    found = join_lanes<kTies>(found, lanes < kWarpSize ? lanes : kWarpSize);
    if (lanes > kWarpSize) {
      if (lane % kWarpSize == 0) of_warp[lane / kWarpSize] = found;
      __syncthreads();
      if (lane == 0)
        for (int w = 1; w < kWarps; ++w) found = join<kTies>(found, of_warp[w]);
      __syncthreads();
    }
    if (lane == 0 && item < items) to.write(item, found);
  }
}

// Of a thread at a time: columns, whose sums cost registers, and rows, whose loads are under way together. Both are shared
// by the shuffles of a row.
template <typename T>
constexpr int kPoolEach = sizeof(T) == 2 ? 1 : 2;
template <typename T, bool kAligned>
constexpr int kPoolRows = !kAligned        ? 1
                          : sizeof(T) == 2 ? 4
                                           : 2;

template <typename T>
constexpr int kPoolBlocks = sizeof(T) == 4 ? 3 : 2;  // on a multiprocessor

template <typename T, bool kAligned, bool kTies, bool kRows>
__global__ void __launch_bounds__(kThreads, kPoolBlocks<T>)
    pool_tiles_kernel(const T* x, AttentionShape shape, TileGrid grid, Results<accumulator_t<T>> to_rows,
                      Pieces<accumulator_t<T>> row_pieces, Results<accumulator_t<T>> to_columns,
                      Pieces<accumulator_t<T>> column_pieces) {
  using A = accumulator_t<T>;
  constexpr int kRowsAtATime = kPoolRows<T, kAligned>;
  constexpr int kEach = kPoolEach<T>, kEntries = kEach * kWide<T>, kShared = kThreads / 2 * kEntries;
  __shared__ A shared_sum[kShared];
  __shared__ A shared_peak[kShared];
  __shared__ int32_t shared_place[kShared];
  const TilePlace own(grid, shape, kWide<T>);
  const int lanes = grid.lanes, slots = grid.slots, step = lanes * kWide<T>;

  for (int64_t sample = blockIdx.y; sample < shape.batch; sample += gridDim.y) {
    Found<A> column[kEach][kWide<T>];
#pragma unroll
    for (int k = 0; k < kEach; ++k)
#pragma unroll
      for (int v = 0; v < kWide<T>; ++v)
        column[k][v] = nothing_found<A>(kTies ? 0 : own.rows > 0 ? own.row : kNowhere);

    const T* from = x + (sample * shape.rows + own.row) * shape.columns + own.column;
    const int64_t next_row = slots * shape.columns;
    for (int r = 0; r < own.turns; r += kRowsAtATime) {
      Pack<T> pack[kRowsAtATime][kEach];
#pragma unroll
      for (int i = 0; i < kRowsAtATime; ++i)
#pragma unroll
        for (int k = 0; k < kEach; ++k)
          if (r + i < own.rows && own.columns > k * step)
            pack[i][k] = load(from + i * next_row + k * step, own.columns - k * step, kAligned);
      from += kRowsAtATime * next_row;
      Found<A> found[kRowsAtATime];
      const int first = static_cast<int>(own.column);
#pragma unroll
      for (int i = 0; i < kRowsAtATime; ++i) {
        found[i] = nothing_found<A>(kTies ? 0 : own.columns > 0 ? first : kNowhere);
#pragma unroll
        for (int k = 0; k < kEach; ++k) {
          if (r + i >= own.rows || own.columns <= k * step) continue;
#pragma unroll
          for (int v = 0; v < kWide<T>; ++v) {
            if (!is_one(v, own.columns - k * step, kAligned)) continue;
            const A value = widen(pack[i][k].value[v]);
            add_entry<kTies>(column[k][v], value, own.row + (r + i) * slots);
            if constexpr (kRows) add_entry<kTies>(found[i], value, first + k * step + v);
          }
        }
      }
      if constexpr (kRows) {
        const int i = join_rows<kTies>(found, own.lane, lanes);
        if (own.lane % (lanes / kRowsAtATime) == 0 && r + i < own.rows)
          row_pieces.write(own.tile, sample * shape.rows + own.row + (r + i) * slots, found[0], to_rows);
      }
    }

    // The rows that were looked at side by side, in a tree; neighbouring threads in neighbouring words.
    for (int half = slots / 2; half > 0; half /= 2) {
      const int stride = half * lanes, thread = static_cast<int>(threadIdx.x);
      if (thread >= stride && thread < 2 * stride) {
#pragma unroll
        for (int e = 0; e < kEntries; ++e) {
          const Found<A>& mine = column[e / kWide<T>][e % kWide<T>];
          shared_sum[e * stride + thread - stride] = mine.sum;
          shared_peak[e * stride + thread - stride] = mine.peak;
          shared_place[e * stride + thread - stride] = mine.place;
        }
      }
      __syncthreads();
      if (thread < stride) {
#pragma unroll
        for (int e = 0; e < kEntries; ++e) {
          const int at = e * stride + thread;
          Found<A>& mine = column[e / kWide<T>][e % kWide<T>];
          mine = join<kTies>(mine, Found<A>{shared_sum[at], shared_peak[at], shared_place[at]});
        }
      }
      __syncthreads();
    }
    // In the order of the columns, for all threads to write.
    const int wide = lanes * kEntries;
    if (own.slot == 0) {
#pragma unroll
      for (int e = 0; e < kEntries; ++e) {
        const int at = e / kWide<T> * step + own.lane * kWide<T> + e % kWide<T>;
        const Found<A>& mine = column[e / kWide<T>][e % kWide<T>];
        shared_sum[at] = mine.sum, shared_peak[at] = mine.peak, shared_place[at] = mine.place;
      }
    }
    __syncthreads();
    const int64_t begin = own.tile * grid.wide;
    for (int at = static_cast<int>(threadIdx.x); at < wide && begin + at < shape.columns; at += kThreads)
      column_pieces.write(own.chunk, sample * shape.columns + begin + at,
                          Found<A>{shared_sum[at], shared_peak[at], shared_place[at]}, to_columns);
    __syncthreads();
  }
}

// Pieces that are the result already are none of this kernel's: 0 items.
template <typename A, bool kTies>
__global__ void __launch_bounds__(kThreads)
    pool_finish_kernel(Results<A> to_rows, Pieces<A> row_pieces, int64_t row_items, Results<A> to_columns,
                       Pieces<A> column_pieces, int64_t column_items) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t i = first; i < row_items + column_items; i += static_cast<int64_t>(gridDim.x) * kThreads) {
    if (i < row_items) {
      row_pieces.template join_all<kTies>(i, to_rows);
    } else {
      column_pieces.template join_all<kTies>(i - row_items, to_columns);
    }
  }
}

struct PoolWork {
  bool rows, columns;
  int64_t row_pieces, column_pieces;

  template <typename T>
  static PoolWork of(const AttentionShape& shape, const AttentionPool& to) {
    PoolWork work = {to.row_mean != nullptr || to.row_max != nullptr,
                     to.column_mean != nullptr || to.column_max != nullptr, 1, 1};
    const TileGrid grid(shape, kWide<T>, kPoolEach<T>);
    if (work.columns) work.column_pieces = grid.chunks;
    if (work.columns && work.rows) work.row_pieces = grid.tiles.divisor;
    return work;
  }
};

template <typename T>
int64_t pool_scratch(const AttentionShape& shape, const AttentionPool& to) {
  using A = accumulator_t<T>;
  const PoolWork work = PoolWork::of<T>(shape, to);
  return Pieces<A>::bytes(work.row_pieces, shape.batch * shape.rows) +
         Pieces<A>::bytes(work.column_pieces, shape.batch * shape.columns);
}

template <typename T, bool kAligned, bool kTies>
cudaError_t run_pool(const AttentionShape& shape, const T* x, const AttentionPool& to, char* scratch,
                     cudaStream_t stream) {
  using A = accumulator_t<T>;
  const PoolWork work = PoolWork::of<T>(shape, to);
  const int64_t rows = shape.batch * shape.rows, columns = shape.batch * shape.columns;
  const Results<A> to_rows = {static_cast<A*>(to.row_mean), static_cast<A*>(to.row_max), to.row_place,
                              A(1) / static_cast<A>(shape.columns)};
  const Results<A> to_columns = {static_cast<A*>(to.column_mean), static_cast<A*>(to.column_max),
                                 to.column_place, A(1) / static_cast<A>(shape.rows)};
  if (!work.columns) {
    if (!work.rows) return cudaSuccess;
    const int lanes = row_lanes(shape.columns, kWide<T>);
    return launch(pool_rows_kernel<T, kAligned, kTies>, row_grid(rows, lanes), dim3(kRowThreads), 0, stream,
                  x, rows, shape.columns, lanes, to_rows);
  }
  const Pieces<A> row_pieces(scratch, work.row_pieces, rows);
  const Pieces<A> column_pieces(scratch + Pieces<A>::bytes(work.row_pieces, rows), work.column_pieces,
                                columns);
  const TileGrid grid(shape, kWide<T>, kPoolEach<T>);
  const auto kernel =
      work.rows ? pool_tiles_kernel<T, kAligned, kTies, true> : pool_tiles_kernel<T, kAligned, kTies, false>;
  const cudaError_t error = launch(kernel, grid.grid(shape), dim3(kThreads), 0, stream, x, shape, grid,
                                   to_rows, row_pieces, to_columns, column_pieces);
  const int64_t row_items = work.row_pieces > 1 ? rows : 0,
                column_items = work.column_pieces > 1 ? columns : 0;
  if (error != cudaSuccess || row_items + column_items == 0) return error;
  const dim3 blocks(static_cast<unsigned>(smaller(ceil_div(row_items + column_items, kThreads), kMaxGridX)));
  return launch(pool_finish_kernel<A, kTies>, blocks, dim3(kThreads), 0, stream, to_rows, row_pieces,
                row_items, to_columns, column_pieces, column_items);
}

}  // namespace
}  // namespace fastreid
