// SPDX-License-Identifier: Apache-2.0
// The gates of one sample's rows, as one number or one vector a row. Only for attention_cpu.cpp.
#pragma once

#include "attention/attention.h"
#include "attention/attention_cpu_lanes.h"

namespace fastreid::FASTREID_ISA {
namespace {

template <class T>
Pack<T> activate(GateActivation activation, Pack<T> z) {
  switch (activation) {
    case GateActivation::sigmoid:
      return sigmoid(z);
    case GateActivation::relu:
      return where_positive(z, z);
    case GateActivation::sigmoid_relu:
      return sigmoid(where_positive(z, z));
    default:
      return z;
  }
}

// d gate / d logit.
template <class T>
Pack<T> slope(GateActivation activation, Pack<T> z) {
  const Pack<T> one = fill(T(1));
  switch (activation) {
    case GateActivation::sigmoid: {
      const Pack<T> g = sigmoid(z);
      return g * (one - g);
    }
    case GateActivation::relu:
      return where_positive(z, one);
    case GateActivation::sigmoid_relu: {
      const Pack<T> g = sigmoid(where_positive(z, z));
      return where_positive(z, g * (one - g));
    }
    default:
      return one;
  }
}

template <class T>
T slope(GateActivation activation, T z) {
  alignas(64) T lanes[kPack<T>];
  put(lanes, slope(activation, fill(z)));
  return lanes[0];
}

enum class GateKind { none, row, column, outer, full };

inline GateKind kind_of(const AttentionGate& gate) {
  if (gate.full != nullptr) return GateKind::full;
  if (gate.row != nullptr) return gate.column != nullptr ? GateKind::outer : GateKind::row;
  return gate.column != nullptr ? GateKind::column : GateKind::none;
}

// Bytes for the gates of one branch: a vector of a row's length, and what lies behind it.
template <class T>
constexpr int64_t gate_bytes(int64_t columns) {
  return 2 * round_up(columns, kPack<T>) * static_cast<int64_t>(sizeof(T)) + 64;
}

// Gates, or their slopes, of one sample. at(r) is valid until the next call.
template <class S>
class Gates {
  using T = Compute<S>;

 public:
  struct Row {
    const T* vector;  // null: the same number everywhere
    Pack<T> number;
    Pack<T> get(int64_t i) const {
      return vector == nullptr ? number : fastreid::FASTREID_ISA::get(vector + i);
    }
  };

  Gates() = default;
  Gates(const AttentionShape& shape, const AttentionGate& gate, int64_t sample, bool slopes, void* memory)
      : gate_(gate),
        kind_(kind_of(gate)),
        slopes_(slopes),
        rows_(shape.rows),
        columns_(shape.columns),
        row_(static_cast<const T*>(gate.row)),
        column_(static_cast<const T*>(gate.column)),
        row_shift_(static_cast<const T*>(gate.row_shift)),
        column_shift_(static_cast<const T*>(gate.column_shift)),
        full_(static_cast<const S*>(gate.full)),
        vector_(static_cast<T*>(memory)),
        narrow_(vector_ + round_up(shape.columns, kPack<T>)) {
    if (row_ != nullptr) row_ += sample * shape.rows;
    if (column_ != nullptr) column_ += sample * shape.columns;
    if (row_shift_ != nullptr) row_shift_ += sample * shape.rows;
    if (column_shift_ != nullptr) column_shift_ += sample * shape.columns;
    if (full_ != nullptr)
      full_ +=
          sample * gate.full_height * gate.full_width * (gate.channels_last ? shape.columns : shape.rows);
    if (kind_ == GateKind::column) convert(column_, columns_, vector_);
  }

  GateKind kind() const { return kind_; }
  const T* row() const { return row_; }
  const T* column() const { return column_; }

  Row at(int64_t r) {
    switch (kind_) {
      case GateKind::row:
        if (r / kPack<T> != entry_) {
          entry_ = r / kPack<T>;
          const int64_t first = entry_ * kPack<T>;
          convert(row_ + first, smaller(kPack<T>, rows_ - first), vector_);
        }
        return {nullptr, fill(vector_[r % kPack<T>])};
      case GateKind::column:
        break;
      case GateKind::outer:
        outer(r);
        break;
      case GateKind::full:
        gate_.channels_last ? full_channels_last(r) : full_planes(r);
        break;
      default:
        return {nullptr, fill(T(0))};
    }
    return {vector_, fill(T(0))};
  }

 private:
  Pack<T> value(Pack<T> z) const {
    return slopes_ ? slope(gate_.activation, z) : activate(gate_.activation, z);
  }

  template <class From>
  void convert(const From* logits, int64_t count, T* to) const {
    each_pack<T>(count, [&](int64_t i, int64_t lanes) { put(to + i, value(load_some(logits + i, lanes))); });
  }

  void outer(int64_t r) {
    const Pack<T> scale = fill(row_[r]), shift = fill(row_shift_ == nullptr ? T(0) : row_shift_[r]);
    each_pack<T>(columns_, [&](int64_t i, int64_t lanes) {
      Pack<T> z = load_some(column_ + i, lanes) * scale + shift;
      if (column_shift_ != nullptr) z = z + load_some(column_shift_ + i, lanes);
      put(vector_ + i, value(z));
    });
  }

  // A row is a channel: each line of the small map is stretched, then repeated.
  void full_planes(int64_t r) {
    const int64_t across = gate_.width / gate_.full_width, down = gate_.height / gate_.full_height;
    const S* from = full_ + r * gate_.full_height * gate_.full_width;
    if (across == 1 && down == 1) return convert(from, columns_, vector_);
    convert(from, gate_.full_height * gate_.full_width, narrow_);
    T* to = vector_;
    for (int64_t y = 0; y < gate_.full_height; ++y) {
      const T* line = to;
      for (int64_t i = 0; i < gate_.full_width; ++i)
        for (int64_t k = 0; k < across; ++k) *to++ = narrow_[y * gate_.full_width + i];
      for (int64_t copy = 1; copy < down; ++copy)
        for (int64_t i = 0; i < gate_.width; ++i) *to++ = line[i];
    }
  }

  // A row is a position: its entry of the small map holds the gates of all channels.
  void full_channels_last(int64_t r) {
    const int64_t y = r / gate_.width * gate_.full_height / gate_.height;
    const int64_t x = r % gate_.width * gate_.full_width / gate_.width;
    const int64_t entry = y * gate_.full_width + x;
    if (entry == entry_) return;
    entry_ = entry;
    convert(full_ + entry * columns_, columns_, vector_);
  }

  AttentionGate gate_;
  GateKind kind_ = GateKind::none;
  bool slopes_ = false;
  int64_t rows_ = 0, columns_ = 0;
  const T* row_ = nullptr;
  const T* column_ = nullptr;
  const T* row_shift_ = nullptr;
  const T* column_shift_ = nullptr;
  const S* full_ = nullptr;
  T* vector_ = nullptr;
  T* narrow_ = nullptr;
  int64_t entry_ = -1;  // of the small map, or the block of rows, whose gates are in vector_
};

// Rows [row_begin, row_end) of result = relu(sum of x * gate + residual).
template <class S>
void apply_rows(const AttentionApply& problem, int64_t sample, int64_t row_begin, int64_t row_end,
                void* memory) {
  using T = Compute<S>;
  const int64_t columns = problem.shape.columns, offset = sample * problem.shape.rows * columns;
  const int64_t bytes = gate_bytes<T>(columns);
  Gates<S> gates[kMaxBranches];
  for (int k = 0; k < problem.branches; ++k)
    gates[k] =
        Gates<S>(problem.shape, problem.gate[k], sample, false, static_cast<char*>(memory) + k * bytes);
  const S* residual = static_cast<const S*>(problem.residual);
  S* result = static_cast<S*>(problem.result) + offset;
  for (int64_t r = row_begin; r < row_end; ++r) {
    const int64_t at = offset + r * columns;
    const auto first = gates[0].at(r);
    const S* x = static_cast<const S*>(problem.x[0]) + at;
    if (problem.branches == 1 && residual == nullptr && !problem.relu) {
      if (first.vector == nullptr)
        write_row(result + r * columns, columns, problem.stream,
                  [&](int64_t i, int64_t lanes) { return load_some(x + i, lanes) * first.number; });
      else
        write_row(result + r * columns, columns, problem.stream,
                  [&](int64_t i, int64_t lanes) { return load_some(x + i, lanes) * get(first.vector + i); });
      continue;
    }
    typename Gates<S>::Row gate[kMaxBranches] = {first};
    const S* map[kMaxBranches] = {x};
    for (int k = 1; k < problem.branches; ++k) {
      gate[k] = gates[k].at(r);
      map[k] = static_cast<const S*>(problem.x[k]) + at;
    }
    write_row(result + r * columns, columns, problem.stream, [&](int64_t i, int64_t lanes) {
      Pack<T> sum = load_some(map[0] + i, lanes) * gate[0].get(i);
      for (int k = 1; k < problem.branches; ++k) sum = sum + load_some(map[k] + i, lanes) * gate[k].get(i);
      if (residual != nullptr) sum = sum + load_some(residual + at + i, lanes);
      return problem.relu ? where_positive(sum, sum) : sum;
    });
  }
  if (problem.stream) finish_stream();
}

}  // namespace
}  // namespace fastreid::FASTREID_ISA
