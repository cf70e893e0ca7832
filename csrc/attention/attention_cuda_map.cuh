// SPDX-License-Identifier: Apache-2.0
// The two passes that write a map and sum nothing: maps times gates, and the gradient of a map.
#pragma once

#include "attention/attention_cuda_gate.cuh"

namespace fastreid {
namespace {

template <typename T>
struct Apply {
  AttentionShape shape;
  int branches;
  const T* x[kMaxBranches];
  const accumulator_t<T>* logits[kMaxBranches];  // row or column gates
  Gates<T> gate;                                 // of the first branch
  const T* residual;
  bool relu;
  T* result;
};

template <typename T, GateKind kKind>
__global__ void __launch_bounds__(kThreads, kBlocks)
    apply_kernel(const Apply<T> p, ElementGrid grid, bool aligned) {
  using A = accumulator_t<T>;
  const AttentionShape& shape = p.shape;
  constexpr int kRows = kRowsEach<T, kKind>;
  const Element<T, kRows> own(grid, shape);
  if (own.rows == 0) return;
  for (int64_t sample = blockIdx.y; sample < shape.batch; sample += gridDim.y) {
    const int64_t first = (sample * shape.rows + own.row) * shape.columns + own.column;
    const int64_t step = grid.depth * shape.columns;
    Pack<T> pack[kRows];
    A sum[kRows][kWide<T>] = {};
    for (int k = 0; k < p.branches; ++k) {
      load_rows(pack, p.x[k] + first, step, own.rows, own.count, aligned);
      Gates<T> gates = p.gate;
      if constexpr (kKind == GateKind::row) gates.row = p.logits[k];
      if constexpr (kKind == GateKind::column) gates.column = p.logits[k];
      RowGates<T, kKind> gate;
      gate.read_columns(gates, shape, sample, own.column, own.count);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        if (i >= own.rows) continue;
        A by[kWide<T>];
        gate.read_row(gates, shape, sample, own.row + i * grid.depth, own.column, own.count, aligned, by);
#pragma unroll
        for (int v = 0; v < kWide<T>; ++v) sum[i][v] += widen(pack[i].value[v]) * by[v];
      }
    }
    if (p.residual != nullptr) load_rows(pack, p.residual + first, step, own.rows, own.count, aligned);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (i >= own.rows) continue;
#pragma unroll
      for (int v = 0; v < kWide<T>; ++v) {
        if (p.residual != nullptr) sum[i][v] += widen(pack[i].value[v]);
        if (p.relu && sum[i][v] < 0) sum[i][v] = 0;
      }
      store(p.result + first + i * step, sum[i], own.count, aligned);
    }
  }
}

// What a maximum's gradient goes to: the entry at `place`, or with ties every entry equal to `peak`, in equal parts.
template <typename A>
struct PeakGradient {
  const A *grad, *peak;
  const int32_t* place;  // or the number of ties
};

template <typename T>
struct Input {
  using A = accumulator_t<T>;
  AttentionShape shape;
  Gates<T> gate;
  const T *grad, *result, *x;
  const A *row_mean, *column_mean;  // gradients
  PeakGradient<A> row, column;
  bool ties;
  A row_share, column_share;  // of an entry in a mean
  T* to;
};

template <typename A>
__device__ __forceinline__ A peak_part(const PeakGradient<A>& of, bool ties, int64_t at) {
  if (of.grad == nullptr) return 0;
  return ties ? of.grad[at] * reciprocal(static_cast<A>(of.place[at])) : of.grad[at];
}

template <typename T, GateKind kKind>
__global__ void __launch_bounds__(kThreads, kBlocks)
    input_kernel(const Input<T> p, ElementGrid grid, bool aligned) {
  using A = accumulator_t<T>;
  const AttentionShape& shape = p.shape;
  constexpr int kRows = kRowsEach<T, kKind>;
  const Element<T, kRows> own(grid, shape);
  if (own.rows == 0) return;
  for (int64_t sample = blockIdx.y; sample < shape.batch; sample += gridDim.y) {
    const int64_t first = (sample * shape.rows + own.row) * shape.columns + own.column;
    const int64_t step = grid.depth * shape.columns;
    Pack<T> pack[kRows], other[kRows];
    A sum[kRows][kWide<T>] = {};
    if (p.grad != nullptr) {
      load_rows(pack, p.grad + first, step, own.rows, own.count, aligned);
      if (p.result != nullptr) load_rows(other, p.result + first, step, own.rows, own.count, aligned);
      RowGates<T, kKind> gate;
      gate.read_columns(p.gate, shape, sample, own.column, own.count);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        if (i >= own.rows) continue;
        A by[kWide<T>];
        gate.read_row(p.gate, shape, sample, own.row + i * grid.depth, own.column, own.count, aligned, by);
#pragma unroll
        for (int v = 0; v < kWide<T>; ++v)
          if (p.result == nullptr || widen(other[i].value[v]) > 0)
            sum[i][v] = widen(pack[i].value[v]) * by[v];
      }
    }
    const bool peaks = p.row.grad != nullptr || p.column.grad != nullptr;
    if (p.ties && peaks) load_rows(other, p.x + first, step, own.rows, own.count, aligned);
    if (p.row_mean != nullptr || p.row.grad != nullptr) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        if (i >= own.rows) continue;
        const int64_t at = sample * shape.rows + own.row + i * grid.depth;
        const A mean = p.row_mean == nullptr ? A(0) : p.row_mean[at] * p.row_share;
        const A part = peak_part(p.row, p.ties, at);
        const A peak = p.row.grad != nullptr && p.ties ? p.row.peak[at] : A(0);
        const int place =
            p.row.grad != nullptr && !p.ties ? p.row.place[at] - static_cast<int>(own.column) : -1;
#pragma unroll
        for (int v = 0; v < kWide<T>; ++v) {
          const bool is_peak =
              p.ties ? p.row.grad != nullptr && widen(other[i].value[v]) == peak : place == v;
          sum[i][v] += is_peak ? mean + part : mean;
        }
      }
    }
    if (p.column_mean != nullptr || p.column.grad != nullptr) {
#pragma unroll
      for (int v = 0; v < kWide<T>; ++v) {
        if (v >= own.count) continue;
        const int64_t at = sample * shape.columns + own.column + v;
        const A mean = p.column_mean == nullptr ? A(0) : p.column_mean[at] * p.column_share;
        const A part = peak_part(p.column, p.ties, at);
        const A peak = p.column.grad != nullptr && p.ties ? p.column.peak[at] : A(0);
        const int place =
            p.column.grad != nullptr && !p.ties ? p.column.place[at] - static_cast<int>(own.row) : -1;
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          if (i >= own.rows) continue;
          const bool is_peak =
              p.ties ? p.column.grad != nullptr && widen(other[i].value[v]) == peak : place == i * grid.depth;
          sum[i][v] += is_peak ? mean + part : mean;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      if (i < own.rows) store(p.to + first + i * step, sum[i], own.count, aligned);
  }
}

// run<kind>() for the kind of `gate`.
template <typename Run>
cudaError_t with_kind(GateKind kind, Run run) {
  switch (kind) {
    case GateKind::row:
      return run.template operator()<GateKind::row>();
    case GateKind::column:
      return run.template operator()<GateKind::column>();
    case GateKind::outer:
      return run.template operator()<GateKind::outer>();
    case GateKind::full:
      return run.template operator()<GateKind::full>();
    default:
      return run.template operator()<GateKind::full_last>();
  }
}

template <typename T>
cudaError_t run_apply(const AttentionApply& problem, cudaStream_t stream) {
  using A = accumulator_t<T>;
  const AttentionShape& shape = problem.shape;
  Apply<T> p = {shape,
                problem.branches,
                {},
                {},
                Gates<T>(problem.gate[0]),
                static_cast<const T*>(problem.residual),
                problem.relu,
                static_cast<T*>(problem.result)};
  bool vectors = all_aligned<T>(shape.columns, problem.residual, problem.result, problem.gate[0].full);
  for (int k = 0; k < problem.branches; ++k) {
    const AttentionGate& gate = problem.gate[k];
    p.x[k] = static_cast<const T*>(problem.x[k]);
    p.logits[k] = static_cast<const A*>(gate.row != nullptr ? gate.row : gate.column);
    vectors = vectors && aligned(problem.x[k]);
  }
  return with_kind(kind_of(problem.gate[0]), [&]<GateKind kKind>() {
    const ElementGrid grid(shape, kWide<T>, kRowsEach<T, kKind>);
    return launch(apply_kernel<T, kKind>, grid.grid(shape), grid.block(), 0, stream, p, grid, vectors);
  });
}

template <typename T>
cudaError_t run_input(const AttentionInput& problem, cudaStream_t stream) {
  using A = accumulator_t<T>;
  const AttentionShape& shape = problem.shape;
  const auto part = [](const void* grad, const void* peak, const int32_t* place) {
    return PeakGradient<A>{static_cast<const A*>(grad), static_cast<const A*>(peak), place};
  };
  const Input<T> p = {shape,
                      Gates<T>(problem.gate),
                      static_cast<const T*>(problem.grad),
                      static_cast<const T*>(problem.result),
                      static_cast<const T*>(problem.x),
                      static_cast<const A*>(problem.grad_row_mean),
                      static_cast<const A*>(problem.grad_column_mean),
                      part(problem.grad_row_max, problem.row_max, problem.row_place),
                      part(problem.grad_column_max, problem.column_max, problem.column_place),
                      problem.count_ties,
                      A(1) / static_cast<A>(shape.columns),
                      A(1) / static_cast<A>(shape.rows),
                      static_cast<T*>(problem.grad_x)};
  const bool vectors =
      all_aligned<T>(shape.columns, problem.grad, problem.result, problem.count_ties ? problem.x : nullptr,
                     problem.grad_x, problem.gate.full);
  // Without a gradient from above there is no gate to read: any kind will do.
  const GateKind kind = problem.grad == nullptr ? GateKind::row : kind_of(problem.gate);
  return with_kind(kind, [&]<GateKind kKind>() {
    const ElementGrid grid(shape, kWide<T>, kRowsEach<T, kKind>);
    return launch(input_kernel<T, kKind>, grid.grid(shape), grid.block(), 0, stream, p, grid, vectors);
  });
}

}  // namespace
}  // namespace fastreid
