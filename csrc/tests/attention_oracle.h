// SPDX-License-Identifier: Apache-2.0
// attention.h by its definitions, in extended precision and plain loops, and random problems for it. A result comes
// with what rounding in the compute type may change of it.
#pragma once

#include <utility>
#include <vector>

#include "attention/attention.h"
#include "testing.h"
#include "values.h"

namespace testing {

using fastreid::AttentionGate;
using fastreid::AttentionShape;
using fastreid::GateActivation;

// The type sums and gates are carried in, its unit roundoff and that of a stored map.
inline Type wide(Type type) { return type == Type::float64 ? type : Type::float32; }
inline double carried(Type type) { return type == Type::float64 ? 0x1p-53 : 0x1p-24; }
inline double rounding(Type type) {
  return type == Type::bfloat16 ? 0x1p-8 : type == Type::float16 ? 0x1p-11 : carried(type);
}

inline Array random_array(Type type, int64_t size, Random& random, double low, double high) {
  Array values(type, size);
  for (int64_t i = 0; i < size; ++i) values.set(i, random.uniform(low, high));
  return values;
}

// A map as layers have it: half of it exact zeros and few different values, so that maxima tie.
inline Array rectified_array(Type type, int64_t size, Random& random) {
  Array values(type, size);
  for (int64_t i = 0; i < size; ++i)
    values.set(i, std::max<double>(0, static_cast<double>(random.below(25)) - 12) / 4);
  return values;
}

// Expected values and how far each may be missed, beside the rounding of the stored type.
struct Expected {
  std::vector<long double> value, slack;

  explicit Expected(int64_t size)
      : value(static_cast<std::size_t>(size), 0.0L), slack(static_cast<std::size_t>(size), 0.0L) {}
  // A term of entry i and its size; its factors are good to `error` roundings, and to `more`.
  void add(int64_t i, long double term, long double error = 1, long double more = 0) {
    value[static_cast<std::size_t>(i)] += term;
    slack[static_cast<std::size_t>(i)] += std::fabs(term) * error + more;
  }
  // A slope s (1 - s) is good to a rounding of 1, however small it is.
  void scale_by_slope(int64_t i, long double by) {
    value[static_cast<std::size_t>(i)] *= by;
    slack[static_cast<std::size_t>(i)] *= std::fabs(by) + 0.1L;
  }
  void compare(const char* what, const Array& got, Type type) const {
    Trying trying(what);
    for (std::size_t i = 0; i < value.size(); ++i) {
      const double stored = rounding(got.type());
      CHECK_NEAR(
          got.get(static_cast<int64_t>(i)), static_cast<double>(value[i]),
          30 * carried(type) * static_cast<double>(slack[i]) + (got.type() == Type::float16 ? 6e-8 : 1e-37),
          2 * stored);
    }
  }
};

enum class Kind { row, column, outer, full };
constexpr Kind kKinds[] = {Kind::row, Kind::column, Kind::outer, Kind::full};
constexpr GateActivation kActivations[] = {GateActivation::sigmoid, GateActivation::relu,
                                           GateActivation::linear, GateActivation::sigmoid_relu};

inline long double activate(GateActivation activation, long double z) {
  if (activation == GateActivation::linear) return z;
  if (activation == GateActivation::relu) return z > 0 ? z : 0;
  if (activation == GateActivation::sigmoid_relu && z < 0) z = 0;
  return 1 / (1 + std::exp(-z));
}
inline long double slope(GateActivation activation, long double z) {
  if (activation == GateActivation::linear) return 1;
  if (activation == GateActivation::relu) return z > 0 ? 1 : 0;
  if (activation == GateActivation::sigmoid_relu && !(z > 0)) return 0;
  const long double s = 1 / (1 + std::exp(-z));
  return s * (1 - s);
}

// The logits of one gate over all samples.
struct Logits {
  Kind kind;
  GateActivation activation;
  bool channels_last;
  int64_t height, width, full_height, full_width;
  bool row_shifts, column_shifts;
  Array row, column, row_shift, column_shift, full;

  // factor_y * factor_x positions share an entry; positions are height x width.
  Logits(Type type, const AttentionShape& s, Kind kind_, GateActivation activation_, bool last,
         int64_t height_, int64_t factor_y, int64_t factor_x, unsigned seed)
      : Logits(type, s, kind_, activation_, last, height_, factor_y, factor_x, Random(seed)) {}

  AttentionGate view() {
    AttentionGate gate = {};
    if (kind == Kind::row || kind == Kind::outer) gate.row = row.data();
    if (kind == Kind::column || kind == Kind::outer) gate.column = column.data();
    if (row_shifts) gate.row_shift = row_shift.data();
    if (column_shifts) gate.column_shift = column_shift.data();
    if (kind == Kind::full) {
      gate.full = full.data();
      gate.height = height, gate.width = width, gate.full_height = full_height, gate.full_width = full_width;
    }
    gate.channels_last = channels_last;
    gate.activation = activation;
    return gate;
  }
  // Where `full` holds the logit of (sample, r, c).
  int64_t entry(const AttentionShape& s, int64_t sample, int64_t r, int64_t c) const {
    const int64_t position = channels_last ? r : c, y = position / width, x = position % width;
    const int64_t place = y * full_height / height * full_width + x * full_width / width;
    if (channels_last) return (sample * full_height * full_width + place) * s.columns + c;
    return (sample * s.rows + r) * full_height * full_width + place;
  }
  long double at(const AttentionShape& s, int64_t sample, int64_t r, int64_t c) const {
    if (kind == Kind::full) return full.get(entry(s, sample, r, c));
    if (kind == Kind::row) return row.get(sample * s.rows + r);
    if (kind == Kind::column) return column.get(sample * s.columns + c);
    return static_cast<long double>(row.get(sample * s.rows + r)) * column.get(sample * s.columns + c) +
           (row_shifts ? row_shift.get(sample * s.rows + r) : 0.0) +
           (column_shifts ? column_shift.get(sample * s.columns + c) : 0.0);
  }
  // How large the terms of that are: what its rounding is measured by.
  long double size(const AttentionShape& s, int64_t sample, int64_t r, int64_t c) const {
    if (kind != Kind::outer) return std::fabs(at(s, sample, r, c));
    return std::fabs(static_cast<long double>(row.get(sample * s.rows + r)) *
                     column.get(sample * s.columns + c)) +
           std::fabs(row_shift.get(sample * s.rows + r)) +
           std::fabs(column_shift.get(sample * s.columns + c));
  }
  long double gate(const AttentionShape& s, int64_t sample, int64_t r, int64_t c) const {
    return activate(activation, at(s, sample, r, c));
  }
  // What rounding of the logit makes of the gate.
  long double gate_error(const AttentionShape& s, int64_t sample, int64_t r, int64_t c) const {
    return size(s, sample, r, c) * slope(activation, at(s, sample, r, c));
  }

 private:
  Logits(Type type, const AttentionShape& s, Kind kind_, GateActivation activation_, bool last,
         int64_t height_, int64_t factor_y, int64_t factor_x, Random random)
      : kind(kind_),
        activation(activation_),
        channels_last(last),
        height(height_),
        width((last ? s.rows : s.columns) / height_),
        full_height(height / factor_y),
        full_width(width / factor_x),
        row_shifts(kind == Kind::outer && random.below(2) == 0),
        column_shifts(kind == Kind::outer && random.below(2) == 0),
        row(random_array(wide(type), s.batch * s.rows, random, -2, 3)),
        column(random_array(wide(type), s.batch * s.columns, random, -2, 3)),
        row_shift(random_array(wide(type), s.batch * s.rows, random, -2, 2)),
        column_shift(random_array(wide(type), s.batch * s.columns, random, -2, 2)),
        full(random_array(type, s.batch * (last ? s.columns : s.rows) * full_height * full_width, random, -3,
                          4)) {}
};

template <typename Body>
void for_every_entry(const AttentionShape& s, Body body) {
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t r = 0; r < s.rows; ++r)
      for (int64_t c = 0; c < s.columns; ++c) body(b, r, c, (b * s.rows + r) * s.columns + c);
}

// Statistics of all rows or all columns.
struct Side {
  Expected mean;
  std::vector<double> peak;
  std::vector<int32_t> place, count;

  explicit Side(int64_t size)
      : mean(size),
        peak(static_cast<std::size_t>(size), -INFINITY),
        place(static_cast<std::size_t>(size), -1),
        count(static_cast<std::size_t>(size), 0) {}
  void see(int64_t i, double value, int64_t at, int64_t of) {
    const auto n = static_cast<std::size_t>(i);
    mean.add(i, static_cast<long double>(value) / of);
    if (place[n] < 0 || (std::isnan(value) && !std::isnan(peak[n])) || value > peak[n]) {
      peak[n] = value, place[n] = static_cast<int32_t>(at), count[n] = 1;
    } else if (value == peak[n]) {
      ++count[n];
    }
  }
};

struct PoolOracle {
  Side row, column;

  PoolOracle(const AttentionShape& s, const Array& x) : row(s.batch * s.rows), column(s.batch * s.columns) {
    for_every_entry(s, [&](int64_t b, int64_t r, int64_t c, int64_t at) {
      row.see(b * s.rows + r, x.get(at), c, s.columns);
      column.see(b * s.columns + c, x.get(at), r, s.rows);
    });
  }
};

inline Expected apply_oracle(const AttentionShape& s, const std::vector<Array>& x,
                             const std::vector<Logits>& logits, const Array* residual, bool relu) {
  Expected result(s.batch * s.rows * s.columns);
  for_every_entry(s, [&](int64_t b, int64_t r, int64_t c, int64_t at) {
    for (std::size_t k = 0; k < x.size(); ++k)
      result.add(at, x[k].get(at) * logits[k].gate(s, b, r, c), 2,
                 std::fabs(x[k].get(at)) * logits[k].gate_error(s, b, r, c));
    if (residual != nullptr) result.add(at, residual->get(at));
    if (relu)
      result.value[static_cast<std::size_t>(at)] = std::max(result.value[static_cast<std::size_t>(at)], 0.0L);
  });
  return result;
}

// The gradient that counts.
inline long double passed(const Array& grad, const Array* result, int64_t at) {
  return result == nullptr || result->get(at) > 0 ? grad.get(at) : 0.0;
}

struct ReduceOracle {
  Expected row, column, row_shift, column_shift, full, x;

  ReduceOracle(const AttentionShape& s, const Array& map, const Array& grad, const Array* result,
               const Logits& g)
      : row(s.batch * s.rows),
        column(s.batch * s.columns),
        row_shift(s.batch * s.rows),
        column_shift(s.batch * s.columns),
        full(g.full.size()),
        x(s.batch * s.rows * s.columns) {
    for_every_entry(s, [&](int64_t b, int64_t r, int64_t c, int64_t at) {
      const long double z = g.at(s, b, r, c), from = passed(grad, result, at), term = map.get(at) * from;
      const long double d = term * slope(g.activation, z), error = 2 + g.size(s, b, r, c);
      const long double more = std::fabs(term) / 10;  // as in scale_by_slope
      const int64_t i = b * s.rows + r, j = b * s.columns + c;
      x.add(at, from * activate(g.activation, z), 2, std::fabs(from) * g.gate_error(s, b, r, c));
      if (g.kind == Kind::row) row.add(i, d, error, more);
      if (g.kind == Kind::column) column.add(j, d, error, more);
      if (g.kind == Kind::full) full.add(g.entry(s, b, r, c), d, error, more);
      if (g.kind != Kind::outer) return;
      row.add(i, d * g.column.get(j), error, 3 * more), column.add(j, d * g.row.get(i), error, 3 * more);
      row_shift.add(i, d, error, more), column_shift.add(j, d, error, more);
    });
  }
};

// Gradients of statistics; what is not `given` is null.
struct StatisticsGradient {
  bool row_mean, row_max, column_mean, column_max;
  Array of_row_mean, of_row_max, of_column_mean, of_column_max;

  StatisticsGradient(Type type, const AttentionShape& s, int given, Random& random)
      : row_mean(given & 1),
        row_max(given & 2),
        column_mean(given & 4),
        column_max(given & 8),
        of_row_mean(random_array(wide(type), s.batch * s.rows, random, -2, 2)),
        of_row_max(random_array(wide(type), s.batch * s.rows, random, -2, 2)),
        of_column_mean(random_array(wide(type), s.batch * s.columns, random, -2, 2)),
        of_column_max(random_array(wide(type), s.batch * s.columns, random, -2, 2)) {}
};

inline Expected input_oracle(const AttentionShape& s, const Array& x, const PoolOracle& pool,
                             const Array* grad, const Array* result, const Logits& g,
                             const StatisticsGradient& of, bool ties) {
  Expected to(s.batch * s.rows * s.columns);
  for_every_entry(s, [&](int64_t b, int64_t r, int64_t c, int64_t at) {
    const int64_t i = b * s.rows + r, j = b * s.columns + c;
    const auto share = [&](const Side& side, int64_t n, int64_t place) -> long double {
      const auto k = static_cast<std::size_t>(n);
      if (ties) return x.get(at) == side.peak[k] ? 1.0L / side.count[k] : 0.0L;
      return side.place[k] == place ? 1 : 0;
    };
    if (grad != nullptr)
      to.add(at, passed(*grad, result, at) * g.gate(s, b, r, c), 2,
             std::fabs(grad->get(at)) * g.gate_error(s, b, r, c));
    if (of.row_mean) to.add(at, static_cast<long double>(of.of_row_mean.get(i)) / s.columns);
    if (of.column_mean) to.add(at, static_cast<long double>(of.of_column_mean.get(j)) / s.rows);
    if (of.row_max) to.add(at, of.of_row_max.get(i) * share(pool.row, i, c));
    if (of.column_max) to.add(at, of.of_column_max.get(j) * share(pool.column, j, r));
  });
  return to;
}

}  // namespace testing
