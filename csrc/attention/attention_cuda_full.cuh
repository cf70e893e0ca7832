// SPDX-License-Identifier: Apache-2.0
// Gradients of full gates: an entry gathers from the positions that read it, a rectangle of the map.
#pragma once

#include "attention/attention_cuda_reduce.cuh"

namespace fastreid {
namespace {

constexpr int kStripThreads = 128;

template <typename T>
constexpr int64_t kWidestStrip = kEmulated ? 8 * kWide<T> : static_cast<int64_t>(kStripThreads) * kWide<T>;

// NCHW. A strip is the lines that share a line of the gate, `block_height` of them, one behind the other in memory: as
// are the strips, over rows and samples, and the lines of the gate. A thread has some places of every line; the places
// that share an entry meet in shared memory.
template <typename T>
__global__ void __launch_bounds__(kStripThreads, 4)
    reduce_strips_kernel(const Reduce<T> p, int64_t strips, int lanes, T* to, bool aligned) {
  using A = accumulator_t<T>;
  __shared__ A shared[kStripThreads * kWide<T>];
  const int lane = static_cast<int>(threadIdx.x) % lanes, slot = static_cast<int>(threadIdx.x) / lanes;
  const int width = static_cast<int>(p.gate.width.divisor), place = lane * kWide<T>, count = width - place;
  const int lines = static_cast<int>(p.gate.block_height.divisor);
  const int share = static_cast<int>(p.gate.block_width.divisor);
  const int entries_of_line = static_cast<int>(p.gate.full_width);
  const int64_t beside = kStripThreads / lanes;
  A* const own = shared + slot * lanes * kWide<T>;
  for (int64_t first = blockIdx.x * beside; first < strips; first += gridDim.x * beside) {
    const int64_t strip = first + slot;
    const T* const full = p.gate.full + strip * entries_of_line;
    if (strip < strips && count > 0) {
      Gate<A> gate[kWide<T>];
      A sum[kWide<T>] = {};
      if (p.gate.same) {
        const Pack<T> pack = load(full + place, count, aligned);
#pragma unroll
        for (int v = 0; v < kWide<T>; ++v) gate[v] = gate_of(widen(pack.value[v]), p.gate.activation);
      } else {
#pragma unroll
        for (int v = 0; v < kWide<T>; ++v)
          if (v < count)
            gate[v] = gate_of(widen(full[p.gate.block_width.quotient(static_cast<unsigned>(place + v))]),
                              p.gate.activation);
      }
#pragma unroll 2
      for (int line = 0; line < lines; ++line) {
        const int64_t at = (strip * lines + line) * width + place;
        Pair<T> pair;
        pair.read(p, at, count, aligned);
        A through[kWide<T>] = {};
#pragma unroll
        for (int v = 0; v < kWide<T>; ++v) {
          if (v >= count) continue;
          const A gradient = pair.gradient(p, v);
          sum[v] += widen(pair.x.value[v]) * gradient;
          through[v] = gradient * gate[v].value;
        }
        if (p.grad_x != nullptr) store(p.grad_x + at, through, count, aligned);
      }
#pragma unroll
      for (int v = 0; v < kWide<T>; ++v)
        if (v < count) own[place + v] = sum[v] * gate[v].slope;
    }
    __syncthreads();
    if (strip < strips && to != nullptr) {
      for (int entry = lane; entry < entries_of_line; entry += lanes) {
        A sum = 0;
        for (int i = 0; i < share; ++i) sum += own[entry * share + i];
        to[strip * entries_of_line + entry] = narrow<T>(sum);
      }
    }
    __syncthreads();
  }
}

// NCHW with lines too long for a block: a thread for each entry.
template <typename T>
__global__ void __launch_bounds__(kThreads) reduce_entries_kernel(const Reduce<T> p, int64_t items, T* to) {
  using A = accumulator_t<T>;
  const int64_t width = p.gate.width.divisor, tall = p.gate.block_height.divisor,
                wide = p.gate.block_width.divisor;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t item = first; item < items; item += static_cast<int64_t>(gridDim.x) * kThreads) {
    const Gate<A> gate = gate_of(widen(p.gate.full[item]), p.gate.activation);
    const int64_t strip = item / p.gate.full_width, entry = item - strip * p.gate.full_width;
    A sum = 0;
    for (int64_t line = 0; line < tall; ++line) {
      const int64_t from = (strip * tall + line) * width + entry * wide;
      for (int64_t at = from; at < from + wide; ++at) {
        const A gradient = p.result == nullptr || widen(p.result[at]) > 0 ? widen(p.grad[at]) : A(0);
        sum += widen(p.x[at]) * gradient;
        if (p.grad_x != nullptr) p.grad_x[at] = narrow<T>(gradient * gate.value);
      }
    }
    if (to != nullptr) to[item] = narrow<T>(sum * gate.slope);
  }
}

// channels_last: a thread has 16 bytes of the channels of an entry and of all positions that read it.
template <typename T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    reduce_last_kernel(const Reduce<T> p, int64_t entry_count, T* to, bool aligned) {
  using A = accumulator_t<T>;
  const int64_t columns = p.shape.columns, vectors = ceil_div(columns, kWide<T>);
  const int64_t width = p.gate.width.divisor, tall = p.gate.block_height.divisor,
                wide = p.gate.block_width.divisor;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t i = first; i < entry_count * vectors; i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t entry = i / vectors, column = (i - entry * vectors) * kWide<T>;
    const int64_t strip = entry / p.gate.full_width, x = (entry - strip * p.gate.full_width) * wide;
    const int count = entries<T>(column, columns);
    const Pack<T> full = load(p.gate.full + entry * columns + column, count, aligned);
    Gate<A> gate[kWide<T>];
    A sum[kWide<T>] = {};
#pragma unroll
    for (int v = 0; v < kWide<T>; ++v) gate[v] = gate_of(widen(full.value[v]), p.gate.activation);
    for (int64_t line = 0; line < tall; ++line) {
#pragma unroll 2
      for (int64_t i_of_line = 0; i_of_line < wide; ++i_of_line) {
        const int64_t at = ((strip * tall + line) * width + x + i_of_line) * columns + column;
        Pair<T> pair;
        pair.read(p, at, count, aligned);
        A through[kWide<T>] = {};
#pragma unroll
        for (int v = 0; v < kWide<T>; ++v) {
          if (v >= count) continue;
          const A gradient = pair.gradient(p, v);
          sum[v] += widen(pair.x.value[v]) * gradient;
          through[v] = gradient * gate[v].value;
        }
        if (p.grad_x != nullptr) store(p.grad_x + at, through, count, aligned);
      }
    }
#pragma unroll
    for (int v = 0; v < kWide<T>; ++v) sum[v] *= gate[v].slope;
    if (to != nullptr) store(to + entry * columns + column, sum, count, aligned);
  }
}

template <typename T>
cudaError_t run_reduce_full(const AttentionReduce& problem, cudaStream_t stream) {
  const AttentionShape& shape = problem.shape;
  const AttentionGate& gate = problem.gate;
  const Reduce<T> p = reduce_of<T>(problem);
  T* const to = static_cast<T*>(problem.grad_full);
  const auto blocks = [](int64_t threads) {
    return dim3(static_cast<unsigned>(smaller(ceil_div(threads, kThreads), kMaxGridX)));
  };
  const auto vectors = [&](int64_t columns) {
    return all_aligned<T>(columns, problem.x, problem.grad, problem.result, problem.grad_x, gate.full, to);
  };
  const int64_t entry_count = shape.batch * gate.full_height * gate.full_width;
  if (gate.channels_last)
    return launch(reduce_last_kernel<T>, blocks(entry_count * ceil_div(shape.columns, kWide<T>)),
                  dim3(kThreads), 0, stream, p, entry_count, to, vectors(shape.columns));
  if (gate.width > kWidestStrip<T>)
    return launch(reduce_entries_kernel<T>, blocks(entry_count * shape.rows), dim3(kThreads), 0, stream, p,
                  entry_count * shape.rows, to);
  const int64_t strips = shape.batch * shape.rows * gate.full_height;
  int lanes = 1;
  while (lanes * kWide<T> < gate.width) lanes *= 2;
  const dim3 grid(static_cast<unsigned>(smaller(ceil_div(strips, kStripThreads / lanes), kMaxGridX)));
  return launch(reduce_strips_kernel<T>, grid, dim3(kStripThreads), 0, stream, p, strips, lanes, to,
                vectors(gate.width));
}

}  // namespace
}  // namespace fastreid
