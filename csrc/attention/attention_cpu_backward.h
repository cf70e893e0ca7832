// SPDX-License-Identifier: Apache-2.0
// Gradients of one sample: of the logits, of the map through gate and statistics. Only for attention_cpu.cpp.
#pragma once

#include "attention/attention_cpu_gate.h"
#include "attention/attention_cpu_pool.h"

namespace fastreid::FASTREID_ISA {
namespace {

// The gradient that comes from above: 0 where the final ReLU was.
template <class S>
struct Above {
  using T = Compute<S>;
  const S* grad;
  const S* result;
  Pack<T> at(int64_t i, int64_t lanes) const {
    const Pack<T> value = load_some(grad + i, lanes);
    return result == nullptr ? value : where_positive(load_some(result + i, lanes), value);
  }
};

template <class S>
Above<S> above(const void* grad, const void* result, int64_t offset) {
  return {static_cast<const S*>(grad) + offset,
          result == nullptr ? nullptr : static_cast<const S*>(result) + offset};
}

template <class T>
T* part(void* all, int64_t offset) {
  return all == nullptr ? nullptr : static_cast<T*>(all) + offset;
}
template <class T>
const T* part(const void* all, int64_t offset) {
  return all == nullptr ? nullptr : static_cast<const T*>(all) + offset;
}

// sums[i] += terms, in double.
template <class T>
void add_to(double* sums, Pack<T> terms) {
  alignas(64) T lanes[kPack<T>];
  put(lanes, terms);
  for (int i = 0; i < kPack<T>; ++i) sums[i] += static_cast<double>(lanes[i]);
}

template <class T>
constexpr int64_t backward_bytes(int64_t columns) {
  return 2 * gate_bytes<T>(columns) + 3 * round_up(columns, kPack<T>) * 8;
}

template <class S>
class Reduce {
  using T = Compute<S>;

 public:
  Reduce(const AttentionReduce& problem, int64_t sample, void* memory)
      : problem_(problem),
        rows_(problem.shape.rows),
        columns_(problem.shape.columns),
        offset_(sample * rows_ * columns_),
        padded_(round_up(columns_, kPack<T>)),
        gates_(problem.shape, problem.gate, sample, false, memory),
        slopes_(problem.shape, problem.gate, sample, true,
                static_cast<char*>(memory) + gate_bytes<T>(columns_)),
        sums_(reinterpret_cast<double*>(static_cast<char*>(memory) + 2 * gate_bytes<T>(columns_))),
        grad_row_(part<T>(problem.grad_row, sample * rows_)),
        grad_column_(part<T>(problem.grad_column, sample * columns_)),
        grad_row_shift_(part<T>(problem.grad_row_shift, sample * rows_)),
        grad_column_shift_(part<T>(problem.grad_column_shift, sample * columns_)),
        grad_full_(part<S>(problem.grad_full, sample * problem.gate.full_height * problem.gate.full_width *
                                                  (problem.gate.channels_last ? columns_ : rows_))) {}

  void run(int64_t row_begin, int64_t row_end) {
    switch (gates_.kind()) {
      case GateKind::row:
        for (int64_t r = row_begin; r < row_end; ++r) row(r);
        break;
      case GateKind::column:
        column();
        break;
      case GateKind::outer:
        outer();
        break;
      case GateKind::full:
        if (problem_.gate.channels_last)
          full_channels_last();
        else
          for (int64_t r = row_begin; r < row_end; ++r) full_plane(r);
        break;
      default:
        break;
    }
    if (problem_.stream) finish_stream();
  }

 private:
  const S* map(int64_t r) const { return static_cast<const S*>(problem_.x) + offset_ + r * columns_; }
  Above<S> from_above(int64_t r) const {
    return above<S>(problem_.grad, problem_.result, offset_ + r * columns_);
  }

  void write_map(int64_t r) {
    if (problem_.grad_x == nullptr) return;
    const auto gate = gates_.at(r);
    const Above<S> from = from_above(r);
    write_row(static_cast<S*>(problem_.grad_x) + offset_ + r * columns_, columns_, problem_.stream,
              [&](int64_t i, int64_t lanes) { return from.at(i, lanes) * gate.get(i); });
  }

  void row(int64_t r) {
    if (grad_row_ != nullptr) {
      const S* x = map(r);
      const Above<S> from = from_above(r);
      const double sum = sum_row<T>(
          columns_, [&](int64_t i, int64_t lanes) { return load_some(x + i, lanes) * from.at(i, lanes); });
      alignas(64) T lanes[kPack<T>];
      put(lanes, slopes_.at(r).number);
      grad_row_[r] = static_cast<T>(sum * static_cast<double>(lanes[0]));
    }
    write_map(r);
  }

  void column() {
    for (int64_t i = 0; i < padded_; ++i) sums_[i] = 0;
    for (int64_t begin = 0; begin < rows_; begin += kRowBlock) {
      const int64_t end = smaller(rows_, begin + kRowBlock);
      if (grad_column_ != nullptr)
        each_pack<T>(columns_, [&](int64_t i, int64_t lanes) {
          Pack<T> sum = fill(T(0));
          for (int64_t r = begin; r < end; ++r)
            sum = sum + load_some(map(r) + i, lanes) * from_above(r).at(i, lanes);
          add_to(sums_ + i, sum);
        });
      for (int64_t r = begin; r < end; ++r) write_map(r);
    }
    if (grad_column_ == nullptr) return;
    const T* const steep = slopes_.at(0).vector;
    for (int64_t i = 0; i < columns_; ++i)
      grad_column_[i] = static_cast<T>(sums_[i] * static_cast<double>(steep[i]));
  }

  void outer() {
    double* const shifts = sums_ + padded_;
    for (int64_t i = 0; i < 2 * padded_; ++i) sums_[i] = 0;
    for (int64_t r = 0; r < rows_; ++r) {
      const auto steep = slopes_.at(r);
      const S* x = map(r);
      const Above<S> from = from_above(r);
      const auto term = [&](int64_t i, int64_t lanes) {
        return load_some(x + i, lanes) * from.at(i, lanes) * steep.get(i);
      };
      if (grad_row_ != nullptr)
        grad_row_[r] = static_cast<T>(sum_row<T>(columns_, [&](int64_t i, int64_t lanes) {
          return term(i, lanes) * load_some(gates_.column() + i, lanes);
        }));
      if (grad_row_shift_ != nullptr) grad_row_shift_[r] = static_cast<T>(sum_row<T>(columns_, term));
      const Pack<T> scale = fill(gates_.row()[r]);
      each_pack<T>(columns_, [&](int64_t i, int64_t lanes) {
        const Pack<T> terms = term(i, lanes);
        add_to(sums_ + i, terms * scale);
        if (grad_column_shift_ != nullptr) add_to(shifts + i, terms);
      });
      write_map(r);
    }
    for (int64_t i = 0; i < columns_; ++i) {
      if (grad_column_ != nullptr) grad_column_[i] = static_cast<T>(sums_[i]);
      if (grad_column_shift_ != nullptr) grad_column_shift_[i] = static_cast<T>(shifts[i]);
    }
  }

  void full_plane(int64_t r) {
    const AttentionGate& gate = problem_.gate;
    const int64_t down = gate.height / gate.full_height, across = gate.width / gate.full_width;
    if (grad_full_ != nullptr) {
      const auto steep = slopes_.at(r);
      const S* x = map(r);
      const Above<S> from = from_above(r);
      const auto term = [&](int64_t i, int64_t lanes) {
        return load_some(x + i, lanes) * from.at(i, lanes) * steep.get(i);
      };
      S* to = grad_full_ + r * gate.full_height * gate.full_width;
      if (down == 1 && across == 1) {
        write_row(to, columns_, false, term);
      } else {
        T* const terms = reinterpret_cast<T*>(sums_);
        each_pack<T>(columns_, [&](int64_t i, int64_t lanes) { put(terms + i, term(i, lanes)); });
        for (int64_t y = 0; y < gate.full_height; ++y)
          for (int64_t z = 0; z < gate.full_width; ++z) {
            double sum = 0;
            for (int64_t j = 0; j < down; ++j)
              for (int64_t i = 0; i < across; ++i)
                sum += static_cast<double>(terms[(y * down + j) * gate.width + z * across + i]);
            narrow(sum, to++);
          }
      }
    }
    write_map(r);
  }

  // Entry by entry of the small map, so that its positions are added up in registers.
  void full_channels_last() {
    const AttentionGate& gate = problem_.gate;
    const int64_t down = gate.height / gate.full_height, across = gate.width / gate.full_width;
    for (int64_t entry = 0; entry < gate.full_height * gate.full_width; ++entry) {
      const int64_t first = entry / gate.full_width * down * gate.width + entry % gate.full_width * across;
      if (grad_full_ != nullptr) {
        const auto steep = slopes_.at(first);
        write_row(grad_full_ + entry * columns_, columns_, false, [&](int64_t i, int64_t lanes) {
          Pack<T> sum = fill(T(0));
          for (int64_t j = 0; j < down; ++j)
            for (int64_t r = first + j * gate.width; r < first + j * gate.width + across; ++r)
              sum = sum + load_some(map(r) + i, lanes) * from_above(r).at(i, lanes);
          return sum * steep.get(i);
        });
      }
      for (int64_t j = 0; j < down; ++j)
        for (int64_t i = 0; i < across; ++i) write_map(first + j * gate.width + i);
    }
  }

  const AttentionReduce& problem_;
  int64_t rows_, columns_, offset_, padded_;
  Gates<S> gates_, slopes_;
  double* sums_;
  T* grad_row_;
  T* grad_column_;
  T* grad_row_shift_;
  T* grad_column_shift_;
  S* grad_full_;
};

// What the statistics of one sample bring to its map's gradient; null: nothing.
template <class T>
struct StatisticsBack {
  const T *row_mean, *row_top, *column_mean, *column_top;  // gradients of means and maxima
  const int32_t *row_place, *column_place;
  const T *row_max, *column_max;
};

template <class T>
StatisticsBack<T> statistics_back(const AttentionInput& problem, int64_t sample) {
  const int64_t row = sample * problem.shape.rows, column = sample * problem.shape.columns;
  return {part<T>(problem.grad_row_mean, row),
          part<T>(problem.grad_row_max, row),
          part<T>(problem.grad_column_mean, column),
          part<T>(problem.grad_column_max, column),
          part<int32_t>(problem.row_place, row),
          part<int32_t>(problem.column_place, column),
          part<T>(problem.row_max, row),
          part<T>(problem.column_max, column)};
}

// Rows [row_begin, row_end) of the map's gradient.
template <class S>
void input_rows(const AttentionInput& problem, const StatisticsBack<Compute<S>>& back, int64_t sample,
                int64_t row_begin, int64_t row_end, void* memory) {
  using T = Compute<S>;
  const int64_t rows = problem.shape.rows, columns = problem.shape.columns, offset = sample * rows * columns;
  Gates<S> gates(problem.shape, problem.gate, sample, false, memory);
  char* const behind = static_cast<char*>(memory) + gate_bytes<T>(columns);
  const int64_t padded = round_up(columns, kPack<T>);
  T* const column_part =
      reinterpret_cast<T*>(behind);  // what each column adds: its mean's share, its maximum's
  T* const column_top = column_part + padded;
  const T *const row_top = back.row_top, *const top = back.column_top;
  const int32_t* const column_place = back.column_place;
  const bool by_column = back.column_mean != nullptr || top != nullptr;
  for (int64_t i = 0; by_column && i < columns; ++i) {
    column_part[i] = back.column_mean == nullptr ? T(0) : back.column_mean[i] / static_cast<T>(rows);
    if (top != nullptr)
      column_top[i] = problem.count_ties ? top[i] / static_cast<T>(column_place[i]) : top[i];
  }
  for (int64_t r = row_begin; r < row_end; ++r) {
    const int64_t at = offset + r * columns;
    const auto gate = gates.at(r);
    const Above<S> from =
        problem.grad == nullptr ? Above<S>{nullptr, nullptr} : above<S>(problem.grad, problem.result, at);
    const S* x = part<S>(problem.x, at);
    const Pack<T> mean = fill(back.row_mean == nullptr ? T(0) : back.row_mean[r] / static_cast<T>(columns));
    const bool tied = row_top != nullptr && problem.count_ties;
    const Pack<T> share = fill(tied ? row_top[r] / static_cast<T>(back.row_place[r]) : T(0));
    const Pack<T> highest = fill(tied ? back.row_max[r] : T(0));
    const int64_t place = row_top != nullptr && !problem.count_ties ? back.row_place[r] : -1;
    write_row(static_cast<S*>(problem.grad_x) + at, columns, problem.stream, [&](int64_t i, int64_t lanes) {
      Pack<T> sum = mean;
      if (from.grad != nullptr) sum = from.at(i, lanes) * gate.get(i) + mean;
      if (place >= i && place < i + lanes) {
        alignas(64) T one[kPack<T>] = {};
        one[place - i] = row_top[r];
        sum = sum + get(one);
      }
      if (tied) sum = sum + where_equal(load_some(x + i, lanes), highest, share);
      if (by_column) sum = sum + load_some(column_part + i, lanes);
      if (top != nullptr) {
        const Pack<T> add = load_some(column_top + i, lanes);
        if (problem.count_ties) {
          sum = sum + where_equal(load_some(x + i, lanes), load_some(back.column_max + i, lanes), add);
        } else {
          alignas(64) T mine[kPack<T>] = {};
          put(mine, add);
          for (int64_t j = 0; j < lanes; ++j) mine[j] = column_place[i + j] == r ? mine[j] : T(0);
          sum = sum + get(mine);
        }
      }
      return sum;
    });
  }
  if (problem.stream) finish_stream();
}

}  // namespace
}  // namespace fastreid::FASTREID_ISA
