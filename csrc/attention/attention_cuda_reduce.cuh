// SPDX-License-Identifier: Apache-2.0
// Gradients of logits that belong to rows, to columns or to both, in one read of the map and its gradient; what comes
// through the gate to the map is written on the way.
#pragma once

#include "attention/attention_cuda_gate.cuh"

namespace fastreid {
namespace {

template <typename T>
struct Reduce {
  AttentionShape shape;
  Gates<T> gate;
  const T *x, *grad, *result;
  T* grad_x;  // null: not wanted
};

template <typename T>
Reduce<T> reduce_of(const AttentionReduce& p) {
  return {p.shape,
          Gates<T>(p.gate),
          static_cast<const T*>(p.x),
          static_cast<const T*>(p.grad),
          static_cast<const T*>(p.result),
          static_cast<T*>(p.grad_x)};
}

// 16 bytes of the map and of what its gate was multiplied with.
template <typename T>
struct Pair {
  using A = accumulator_t<T>;
  Pack<T> x, grad, result;

  __device__ __forceinline__ void read(const Reduce<T>& p, int64_t at, int count, bool aligned) {
    x = load(p.x + at, count, aligned);
    grad = load(p.grad + at, count, aligned);
    if (p.result != nullptr) result = load(p.result + at, count, aligned);
  }
  __device__ __forceinline__ A gradient(const Reduce<T>& p, int v) const {
    return p.result == nullptr || widen(result.value[v]) > 0 ? widen(grad.value[v]) : A(0);
  }
};

template <typename T, bool kAligned>
__global__ void __launch_bounds__(kRowThreads)
    reduce_rows_kernel(const Reduce<T> p, int lanes, accumulator_t<T>* to) {
  using A = accumulator_t<T>;
  constexpr int kWarps = kRowThreads / kWarpSize, kUnroll = kRowUnroll / 2;  // two or three maps
  __shared__ A of_warp[kWarps];
  const int64_t items = p.shape.batch * p.shape.rows, columns = p.shape.columns;
  const int lane = static_cast<int>(threadIdx.x) % lanes, slot = static_cast<int>(threadIdx.x) / lanes;
  const int64_t step = static_cast<int64_t>(lanes) * kWide<T>, own = static_cast<int64_t>(lane) * kWide<T>;
  const int64_t beside = kRowThreads / lanes;
  for (int64_t first = blockIdx.x * beside; first < items; first += gridDim.x * beside) {
    const int64_t item = first + slot;
    Gate<A> gate = {A(0), A(0)};
    if (item < items) gate = gate_of(p.gate.row[item], p.gate.activation);
    A sum = 0;
    for (int64_t c = own; item < items && c < columns; c += kUnroll * step) {
      const int64_t at = item * columns + c;
      Pair<T> pair[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
        if (c + u * step < columns)
          pair[u].read(p, at + u * step, entries<T>(c + u * step, columns), kAligned);
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (c + u * step >= columns) continue;
        const int count = entries<T>(c + u * step, columns);
        A through[kWide<T>] = {};
#pragma unroll
        for (int v = 0; v < kWide<T>; ++v) {
          if (!is_one(v, count, kAligned)) continue;
          const A gradient = pair[u].gradient(p, v);
          sum += widen(pair[u].x.value[v]) * gradient;
          through[v] = gradient * gate.value;
        }
        if (p.grad_x != nullptr) store(p.grad_x + at + u * step, through, count, kAligned);
      }
    }
    for (int offset = (lanes < kWarpSize ? lanes : kWarpSize) / 2; offset > 0; offset /= 2)
      sum += __shfl_xor_sync(kFullMask, sum, offset);
    if (lanes > kWarpSize) {
      if (lane % kWarpSize == 0) of_warp[lane / kWarpSize] = sum;
      __syncthreads();
      if (lane == 0)
        for (int w = 1; w < kWarps; ++w) sum += of_warp[w];
      __syncthreads();
    }
    if (lane == 0 && item < items && to != nullptr) to[item] = sum * gate.slope;
  }
}

// What a row or column gathers: d logit times the other factor of the logit, and d logit itself.
template <typename A>
struct Gathered {
  A scaled, plain;
};

// Results of all rows or all columns, null is not wanted, and what the blocks have of them: `pieces`, one of which is
// the result itself.
template <typename A>
struct Sums {
  A *scaled, *plain;
  const A* logits;  // of column gates, whose slope is the last factor; else null
  GateActivation activation;
  A *scaled_pieces, *plain_pieces;
  int64_t pieces, items;

  bool wanted() const { return scaled != nullptr || plain != nullptr; }
  // Pieces lie in `memory`, where they need any; returns what lies behind them.
  char* lay_out(char* memory) {
    scaled_pieces = reinterpret_cast<A*>(memory);
    plain_pieces = scaled_pieces + pieces * items;
    return memory + bytes(pieces, items);
  }
  static int64_t bytes(int64_t pieces, int64_t items) {
    return pieces > 1 ? 2 * static_cast<int64_t>(sizeof(A)) * pieces * items : 0;
  }
  __device__ __forceinline__ void write(int64_t item, const Gathered<A>& found) const {
    const A slope = logits == nullptr ? A(1) : gate_of(logits[item], activation).slope;
    if (scaled != nullptr) scaled[item] = found.scaled * slope;
    if (plain != nullptr) plain[item] = found.plain;
  }
  __device__ __forceinline__ void write_piece(int64_t piece, int64_t item, const Gathered<A>& found) const {
    if (pieces == 1) return write(item, found);
    scaled_pieces[piece * items + item] = found.scaled;
    plain_pieces[piece * items + item] = found.plain;
  }
  __device__ __forceinline__ void add_up(int64_t item) const {
    Gathered<A> found = {A(0), A(0)};
#pragma unroll 4
    for (int64_t piece = 0; piece < pieces; ++piece) {
      found.scaled += scaled_pieces[piece * items + item];
      found.plain += plain_pieces[piece * items + item];
    }
    write(item, found);
  }
};

// Two maps and their sums: as many columns as leave registers for several blocks.
template <typename T>
constexpr int kReduceEach = sizeof(T) == 2 ? 1 : 2;

template <typename T, bool kAligned, GateKind kKind>
__global__ void __launch_bounds__(kThreads, kBlocks)
    reduce_tiles_kernel(const Reduce<T> p, TileGrid grid, Sums<accumulator_t<T>> to_rows,
                        Sums<accumulator_t<T>> to_columns) {
  using A = accumulator_t<T>;
  constexpr bool kOuter = kKind == GateKind::outer;
  constexpr int kEach = kReduceEach<T>, kEntries = kEach * kWide<T>, kShared = kThreads / 2 * kEntries;
  __shared__ A shared_scaled[kShared];
  __shared__ A shared_plain[kOuter ? kShared : 1];
  const AttentionShape& shape = p.shape;
  const TilePlace own(grid, shape, kWide<T>);
  const int lanes = grid.lanes, slots = grid.slots, step = lanes * kWide<T>;

  for (int64_t sample = blockIdx.y; sample < shape.batch; sample += gridDim.y) {
    Gathered<A> column[kEach][kWide<T>] = {};
    Logits<T, kKind> logits[kEach];  // column gates: gates
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      logits[k].read_columns(p.gate, shape, sample, own.column + k * step, own.columns - k * step);
      if constexpr (!kOuter) {
#pragma unroll
        for (int v = 0; v < kWide<T>; ++v)
          logits[k].factor[v] = gate_of(logits[k].factor[v], p.gate.activation).value;
      }
    }
    int64_t at = (sample * shape.rows + own.row) * shape.columns + own.column;
    for (int r = 0; r < own.turns; ++r, at += slots * shape.columns) {
      Gathered<A> found = {A(0), A(0)};
      Pair<T> pair[kEach];
#pragma unroll
      for (int k = 0; k < kEach; ++k)
        if (r < own.rows && own.columns > k * step)
          pair[k].read(p, at + k * step, own.columns - k * step, kAligned);
      const int64_t row = sample * shape.rows + own.row + static_cast<int64_t>(r) * slots;
      A by = 0, plus = 0;
      if (kOuter && r < own.rows) {
        by = p.gate.row[row];
        if (p.gate.row_shift != nullptr) plus = p.gate.row_shift[row];
      }
#pragma unroll
      for (int k = 0; k < kEach; ++k) {
        const int count = own.columns - k * step;
        if (r >= own.rows || count <= 0) continue;
        A through[kWide<T>] = {};
#pragma unroll
        for (int v = 0; v < kWide<T>; ++v) {
          if (!is_one(v, count, kAligned)) continue;
          const A gradient = pair[k].gradient(p, v), product = widen(pair[k].x.value[v]) * gradient;
          if constexpr (kOuter) {
            const Gate<A> gate =
                gate_of(by * logits[k].factor[v] + plus + logits[k].shift[v], p.gate.activation);
            const A d = product * gate.slope;
            column[k][v].scaled += d * by;
            column[k][v].plain += d;
            found.scaled += d * logits[k].factor[v];
            found.plain += d;
            through[v] = gradient * gate.value;
          } else {
            column[k][v].scaled += product;
            through[v] = gradient * logits[k].factor[v];
          }
        }
        if (p.grad_x != nullptr) store(p.grad_x + at + k * step, through, count, kAligned);
      }
      if constexpr (kOuter) {
        for (int offset = lanes / 2; offset > 0; offset /= 2) {
          found.scaled += __shfl_xor_sync(kFullMask, found.scaled, offset);
          found.plain += __shfl_xor_sync(kFullMask, found.plain, offset);
        }
        if (own.lane == 0 && r < own.rows) to_rows.write_piece(own.tile, row, found);
      }
    }

    // As in pool_tiles_kernel.
    for (int half = slots / 2; half > 0; half /= 2) {
      const int stride = half * lanes, thread = static_cast<int>(threadIdx.x);
      if (thread >= stride && thread < 2 * stride) {
#pragma unroll
        for (int e = 0; e < kEntries; ++e) {
          const int at = e * stride + thread - stride;
          shared_scaled[at] = column[e / kWide<T>][e % kWide<T>].scaled;
          if constexpr (kOuter) shared_plain[at] = column[e / kWide<T>][e % kWide<T>].plain;
        }
      }
      __syncthreads();
      if (thread < stride) {
#pragma unroll
        for (int e = 0; e < kEntries; ++e) {
          const int at = e * stride + thread;
          column[e / kWide<T>][e % kWide<T>].scaled += shared_scaled[at];
          if constexpr (kOuter) column[e / kWide<T>][e % kWide<T>].plain += shared_plain[at];
        }
      }
      __syncthreads();
    }
    const int wide = lanes * kEntries;
    if (own.slot == 0) {
#pragma unroll
      for (int e = 0; e < kEntries; ++e) {
        const int place = e / kWide<T> * step + own.lane * kWide<T> + e % kWide<T>;
        shared_scaled[place] = column[e / kWide<T>][e % kWide<T>].scaled;
        if constexpr (kOuter) shared_plain[place] = column[e / kWide<T>][e % kWide<T>].plain;
      }
    }
    __syncthreads();
    const int64_t begin = own.tile * grid.wide;
    for (int i = static_cast<int>(threadIdx.x); i < wide && begin + i < shape.columns; i += kThreads)
      to_columns.write_piece(own.chunk, sample * shape.columns + begin + i,
                             Gathered<A>{shared_scaled[i], kOuter ? shared_plain[i] : A(0)});
    __syncthreads();
  }
}

template <typename A>
__global__ void __launch_bounds__(kThreads)
    reduce_finish_kernel(Sums<A> to_rows, int64_t row_items, Sums<A> to_columns, int64_t column_items) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t i = first; i < row_items + column_items; i += static_cast<int64_t>(gridDim.x) * kThreads) {
    if (i < row_items) {
      to_rows.add_up(i);
    } else {
      to_columns.add_up(i - row_items);
    }
  }
}

// Rows first. A side that is not wanted writes nothing and needs no pieces.
template <typename T>
struct ReduceWork {
  using A = accumulator_t<T>;
  TileGrid grid;
  Sums<A> rows, columns;

  explicit ReduceWork(const AttentionReduce& p) : grid(p.shape, kWide<T>, kReduceEach<T>) {
    const bool outer = p.gate.row != nullptr;
    const auto out = [](void* pointer) { return static_cast<A*>(pointer); };
    rows = {outer ? out(p.grad_row) : nullptr,
            outer ? out(p.grad_row_shift) : nullptr,
            nullptr,
            p.gate.activation,
            nullptr,
            nullptr,
            1,
            p.shape.batch * p.shape.rows};
    columns = {out(p.grad_column),
               outer ? out(p.grad_column_shift) : nullptr,
               outer ? nullptr : static_cast<const A*>(p.gate.column),
               p.gate.activation,
               nullptr,
               nullptr,
               1,
               p.shape.batch * p.shape.columns};
    if (rows.wanted()) rows.pieces = grid.tiles.divisor;
    if (columns.wanted()) columns.pieces = grid.chunks;
  }
  int64_t bytes() const {
    return round_up(Sums<A>::bytes(rows.pieces, rows.items) + Sums<A>::bytes(columns.pieces, columns.items),
                    16);
  }
};

template <typename T>
cudaError_t run_reduce_rows(const AttentionReduce& problem, cudaStream_t stream) {
  const AttentionShape& shape = problem.shape;
  const bool vectors = all_aligned<T>(shape.columns, problem.x, problem.grad, problem.result, problem.grad_x);
  const int lanes = row_lanes(shape.columns, kWide<T>);
  return launch(vectors ? reduce_rows_kernel<T, true> : reduce_rows_kernel<T, false>,
                row_grid(shape.batch * shape.rows, lanes), dim3(kRowThreads), 0, stream,
                reduce_of<T>(problem), lanes, static_cast<accumulator_t<T>*>(problem.grad_row));
}

template <typename T, GateKind kKind>
cudaError_t run_reduce_tiles(const AttentionReduce& problem, char* scratch, cudaStream_t stream) {
  using A = accumulator_t<T>;
  const AttentionShape& shape = problem.shape;
  ReduceWork<T> work(problem);
  work.columns.lay_out(work.rows.lay_out(scratch));
  const bool vectors = all_aligned<T>(shape.columns, problem.x, problem.grad, problem.result, problem.grad_x);
  const cudaError_t error =
      launch(vectors ? reduce_tiles_kernel<T, true, kKind> : reduce_tiles_kernel<T, false, kKind>,
             work.grid.grid(shape), dim3(kThreads), 0, stream, reduce_of<T>(problem), work.grid, work.rows,
             work.columns);
  const int64_t row_items = work.rows.pieces > 1 ? work.rows.items : 0;
  const int64_t column_items = work.columns.pieces > 1 ? work.columns.items : 0;
  if (error != cudaSuccess || row_items + column_items == 0) return error;
  const dim3 blocks(static_cast<unsigned>(smaller(ceil_div(row_items + column_items, kThreads), kMaxGridX)));
  return launch(reduce_finish_kernel<A>, blocks, dim3(kThreads), 0, stream, work.rows, row_items,
                work.columns, column_items);
}

}  // namespace
}  // namespace fastreid
