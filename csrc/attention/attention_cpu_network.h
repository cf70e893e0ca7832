// SPDX-License-Identifier: Apache-2.0
// Channel attention as a whole: a few samples at a time through statistics, network and gate. Only for
// attention_cpu.cpp.
#pragma once

#include "attention/attention_cpu_backward.h"

namespace fastreid::FASTREID_ISA {
namespace {

template <class T>
T dot(const T* a, const T* b, int64_t count) {
  Pack<T> even = fill(T(0)), odd = even;
  int64_t i = 0;
  for (; i + 2 * kPack<T> <= count; i += 2 * kPack<T>) {
    even = fma(get(a + i), get(b + i), even);
    odd = fma(get(a + i + kPack<T>), get(b + i + kPack<T>), odd);
  }
  for (; i < count; i += kPack<T>) {
    const int64_t lanes = smaller(kPack<T>, count - i);
    even = fma(load_some(a + i, lanes), load_some(b + i, lanes), even);
  }
  return sum_of(even + odd);
}

// to[i] = sum over j in [0, terms) of factor(j) * row(j)[i] for i in [0, count); 64 terms at a time.
template <class T, class Row, class Factor>
void combine(T* to, int64_t count, int64_t terms, const Row& row, const Factor& factor) {
  constexpr int kTile = 4;
  for (int64_t i = 0; i < count; i += kTile * kPack<T>) {
    const int64_t width = smaller(kTile * kPack<T>, count - i);
    Pack<T> total[kTile] = {};
    for (int64_t begin = 0; begin < terms; begin += 64) {
      Pack<T> sum[kTile] = {};
      for (int64_t j = begin; j < smaller(terms, begin + 64); ++j) {
        const T* from = row(j) + i;
        const Pack<T> f = fill(factor(j));
        if (width == kTile * kPack<T>) {
          for (int t = 0; t < kTile; ++t) sum[t] = fma(f, get(from + t * kPack<T>), sum[t]);
        } else {
          for (int t = 0; t * kPack<T> < width; ++t)
            sum[t] = fma(f, load_some(from + t * kPack<T>, smaller(kPack<T>, width - t * kPack<T>)), sum[t]);
        }
      }
      for (int t = 0; t < kTile; ++t) total[t] = total[t] + sum[t];
    }
    for (int t = 0; t * kPack<T> < width; ++t) {
      const int64_t lanes = smaller(kPack<T>, width - t * kPack<T>);
      if (lanes == kPack<T>)
        put(to + i + t * kPack<T>, total[t]);
      else
        store_part(to + i + t * kPack<T>, total[t], lanes);
    }
  }
}

// The network of one call, all pointers typed. A "row" is branch * batch + sample.
template <class T>
struct Net {
  explicit Net(const AttentionWhole& whole)
      : of(whole.network),
        batch(whole.apply.shape.batch),
        parts((of.mean ? 1 : 0) + (of.maximum ? 1 : 0)),
        copies(of.shared ? 2 : 1),
        weight1(static_cast<const T*>(of.weight1)),
        bias1(static_cast<const T*>(of.bias1)),
        weight2(static_cast<const T*>(of.weight2)),
        bias2(static_cast<const T*>(of.bias2)),
        statistics(static_cast<T*>(whole.statistics)),
        hidden(static_cast<T*>(whole.hidden)),
        logits(static_cast<T*>(whole.logits)) {}

  // W1 s + b1 of copy 0 or 1, hidden unit j.
  T first(int64_t row, int64_t copy, int64_t j) const {
    const T* s = statistics + (row * parts + copy) * of.channels;
    const T z = dot(weight1 + j * of.inputs, s, of.inputs);
    return bias1 == nullptr ? z : z + bias1[j];
  }

  void hidden_unit(int64_t row, int64_t j) const {
    for (int64_t copy = 0; copy < copies; ++copy) {
      const T z = first(row, copy, j);
      hidden[(row * copies + copy) * of.hidden + j] = z <= 0 ? T(0) : z;
    }
  }

  void logit(int64_t row, int64_t c) const {
    T z = 0;
    for (int64_t copy = 0; copy < copies; ++copy) {
      if (weight2 == nullptr) {
        z += first(row, copy, c);
      } else {
        z += dot(weight2 + c * of.hidden, hidden + (row * copies + copy) * of.hidden, of.hidden);
        if (bias2 != nullptr) z += bias2[c];
      }
    }
    logits[row * of.channels + c] = z;
  }

  // Units [begin, end) of all branches of samples [first_sample, last_sample); a weight's row is read once.
  template <class F>
  void each(int branches, int64_t first_sample, int64_t last_sample, int64_t begin, int64_t end,
            const F& unit) const {
    for (int64_t j = begin; j < end; ++j)
      for (int k = 0; k < branches; ++k)
        for (int64_t b = first_sample; b < last_sample; ++b) unit(k * batch + b, j);
  }

  AttentionNetwork of;
  int64_t batch, parts, copies;
  const T *weight1, *bias1, *weight2, *bias2;
  T *statistics, *hidden, *logits;
};

// The call's gate with the logits of one branch.
template <class T>
AttentionGate gate_of(const AttentionWhole& whole, int branch) {
  AttentionGate gate = whole.apply.gate[branch];
  const T* logits =
      static_cast<const T*>(whole.logits) + branch * whole.apply.shape.batch * whole.network.channels;
  (gate.channels_last ? gate.column : gate.row) = logits;
  return gate;
}

// Statistics of channels [begin, end) of one sample.
template <class S>
void whole_pool(const AttentionWhole& problem, const Net<Compute<S>>& net, int branch, int64_t sample,
                int64_t begin, int64_t end, void* memory) {
  using T = Compute<S>;
  const AttentionShape& shape = problem.apply.shape;
  const int64_t row = branch * shape.batch + sample, channels = net.of.channels;
  T* s = net.statistics + row * net.parts * channels;
  const PoolTo<T> to = {net.of.mean ? s : nullptr, net.of.maximum ? s + (net.parts - 1) * channels : nullptr,
                        problem.place == nullptr ? nullptr : problem.place + row * channels,
                        problem.count_ties};
  const PoolTo<T> nothing = {};
  const bool by_column = problem.apply.gate[0].channels_last;
  const S* x = static_cast<const S*>(problem.apply.x[branch]) + sample * shape.rows * shape.columns;
  pool_sample(x, shape.rows, shape.columns, by_column ? nothing : to, begin, end, by_column ? to : nothing,
              begin, end, memory);
}

template <class S>
void whole(const AttentionWhole& problem, int64_t begin, int64_t end, void* memory) {
  using T = Compute<S>;
  const Net<T> net(problem);
  const int branches = problem.apply.branches;
  for (int k = 0; k < branches; ++k)
    for (int64_t b = begin; b < end; ++b) whole_pool<S>(problem, net, k, b, 0, net.of.channels, memory);
  if (net.weight2 != nullptr)
    net.each(branches, begin, end, 0, net.of.hidden,
             [&](int64_t row, int64_t j) { net.hidden_unit(row, j); });
  net.each(branches, begin, end, 0, net.of.channels, [&](int64_t row, int64_t c) { net.logit(row, c); });
  AttentionApply apply = problem.apply;
  for (int k = 0; k < branches; ++k) apply.gate[k] = gate_of<T>(problem, k);
  for (int64_t b = begin; b < end; ++b) apply_rows<S>(apply, b, 0, problem.apply.shape.rows, memory);
}

template <class T>
int64_t network_bytes(const AttentionWhole& problem, int64_t samples) {
  return problem.apply.branches * samples * problem.network.inputs * (problem.network.shared ? 2 : 1) *
         static_cast<int64_t>(sizeof(T));
}

// Units [begin, end) of the hidden layer for samples [first, last): W2^T grad_logits, 0 where the ReLU was.
template <class T>
void hidden_gradient(const AttentionWholeBackward& problem, const Net<T>& net, int64_t first, int64_t last,
                     int64_t begin, int64_t end) {
  const int64_t channels = net.of.channels, hidden = net.of.hidden;
  for (int k = 0; k < problem.forward.apply.branches; ++k) {
    for (int64_t row = k * net.batch + first; row < k * net.batch + last; ++row) {
      const T* z = static_cast<const T*>(problem.grad_logits) + row * channels;
      for (int64_t copy = 0; copy < net.copies; ++copy) {
        const int64_t at = (row * net.copies + copy) * hidden;
        T* h = static_cast<T*>(problem.grad_hidden) + at;
        combine(
            h + begin, end - begin, channels, [&](int64_t c) { return net.weight2 + c * hidden + begin; },
            [&](int64_t c) { return z[c]; });
        for (int64_t j = begin; j < end; ++j) h[j] = net.hidden[at + j] <= 0 ? T(0) : h[j];
      }
    }
  }
}

// Inputs [begin, end) of the network for samples [first, last), W1^T of what is above; `to` holds those samples alone.
template <class T>
void statistics_gradient(const AttentionWholeBackward& problem, const Net<T>& net, int64_t first,
                         int64_t last, int64_t begin, int64_t end, T* to) {
  const int64_t channels = net.of.channels;
  const bool deep = net.weight2 != nullptr;
  for (int k = 0; k < problem.forward.apply.branches; ++k) {
    for (int64_t b = first; b < last; ++b) {
      const int64_t row = k * net.batch + b;
      for (int64_t copy = 0; copy < net.copies; ++copy) {
        const T* above =
            deep ? static_cast<const T*>(problem.grad_hidden) + (row * net.copies + copy) * net.of.hidden
                 : static_cast<const T*>(problem.grad_logits) + row * channels;
        T* s = to + (k * (last - first) + b - first) * net.parts * channels + copy * channels;
        combine(
            s + begin, end - begin, net.of.hidden,
            [&](int64_t j) { return net.weight1 + j * net.of.inputs + begin; },
            [&](int64_t j) { return above[j]; });
      }
    }
  }
}

// Rows [row_begin, row_end) of the map's gradient; `s` are the gradients of its sample's statistics.
template <class S>
void whole_input(const AttentionWholeBackward& problem, const Net<Compute<S>>& net, const Compute<S>* s,
                 int branch, int64_t sample, int64_t row_begin, int64_t row_end, void* memory) {
  using T = Compute<S>;
  const AttentionWhole& forward = problem.forward;
  AttentionInput input = {};
  input.shape = forward.apply.shape;
  input.gate = gate_of<T>(forward, branch);
  input.grad = problem.grad;
  input.result = forward.apply.relu ? forward.apply.result : nullptr;
  input.count_ties = forward.count_ties;
  input.x = forward.apply.x[branch];
  input.stream = forward.apply.stream;
  input.grad_x = problem.grad_x[branch];
  const int64_t row = branch * net.batch + sample, channels = net.of.channels;
  const T* mean = net.of.mean ? s : nullptr;
  const T* top = net.of.maximum ? s + (net.parts - 1) * channels : nullptr;
  const int32_t* place = forward.place == nullptr ? nullptr : forward.place + row * channels;
  const T* maximum = net.statistics + (row * net.parts + net.parts - 1) * channels;
  StatisticsBack<T> back = {};
  if (input.gate.channels_last)
    back.column_mean = mean, back.column_top = top, back.column_place = place, back.column_max = maximum;
  else
    back.row_mean = mean, back.row_top = top, back.row_place = place, back.row_max = maximum;
  input_rows<S>(input, back, sample, row_begin, row_end, memory);
}

// `memory`: network_bytes for the gradients of the statistics, then what the kernels need.
template <class S>
void whole_backward(const AttentionWholeBackward& problem, int64_t begin, int64_t end, void* memory) {
  using T = Compute<S>;
  const AttentionWhole& forward = problem.forward;
  const Net<T> net(forward);
  const AttentionShape& shape = forward.apply.shape;
  const int branches = forward.apply.branches;
  const int64_t channels = net.of.channels;
  T* const statistics = static_cast<T*>(memory);
  void* const rest = static_cast<char*>(memory) + round_up(network_bytes<T>(forward, end - begin), 64);
  for (int k = 0; k < branches; ++k) {
    AttentionReduce reduce = {};
    reduce.shape = shape;
    reduce.gate = gate_of<T>(forward, k);
    reduce.x = forward.apply.x[k];
    reduce.grad = problem.grad;
    reduce.result = forward.apply.relu ? forward.apply.result : nullptr;
    (reduce.gate.channels_last ? reduce.grad_column : reduce.grad_row) =
        static_cast<T*>(problem.grad_logits) + k * shape.batch * channels;
    for (int64_t b = begin; b < end; ++b) Reduce<S>(reduce, b, rest).run(0, shape.rows);
  }
  if (net.weight2 != nullptr) hidden_gradient(problem, net, begin, end, 0, net.of.hidden);
  statistics_gradient(problem, net, begin, end, 0, net.of.inputs, statistics);
  for (int k = 0; k < branches; ++k)
    for (int64_t b = begin; b < end; ++b)
      whole_input<S>(problem, net, statistics + (k * (end - begin) + b - begin) * net.parts * channels, k, b,
                     0, shape.rows, rest);
}

template <class T>
void weight_gradients(const AttentionWholeBackward& problem, const AttentionWeightGradients& to, int layer,
                      int64_t begin, int64_t end) {
  const Net<T> net(problem.forward);
  const int64_t rows = problem.forward.apply.branches * net.batch, channels = net.of.channels,
                hidden = net.of.hidden;
  const T* const grad_logits = static_cast<const T*>(problem.grad_logits);
  const T* const grad_hidden = static_cast<const T*>(problem.grad_hidden);
  T* const weight = static_cast<T*>(layer == 1 ? to.weight1 : to.weight2);
  T* const bias = static_cast<T*>(layer == 1 ? to.bias1 : to.bias2);
  // Unit j of the layer: its output's gradient and its input, for one row and copy.
  const bool last = layer == 2 || net.weight2 == nullptr;
  const auto out = [&](int64_t term, int64_t j) {
    return last ? grad_logits[term / net.copies * channels + j] : grad_hidden[term * hidden + j];
  };
  const auto in = [&](int64_t term) {
    if (layer == 2) return static_cast<const T*>(net.hidden) + term * hidden;
    return static_cast<const T*>(net.statistics) +
           (term / net.copies * net.parts + term % net.copies) * channels;
  };
  const int64_t width = layer == 2 ? hidden : net.of.inputs;
  for (int64_t j = begin; j < end; ++j) {
    if (weight != nullptr)
      combine(weight + j * width, width, rows * net.copies, in, [&](int64_t term) { return out(term, j); });
    if (bias != nullptr) {
      double sum = 0;
      for (int64_t term = 0; term < rows * net.copies; ++term) sum += static_cast<double>(out(term, j));
      bias[j] = static_cast<T>(sum);
    }
  }
}

}  // namespace
}  // namespace fastreid::FASTREID_ISA
