// SPDX-License-Identifier: Apache-2.0
// The cases of test_attention.cpp about statistics.
#pragma once

#include "attention_runs.h"

namespace {

struct Pooled {
  Array row_mean, row_max, column_mean, column_max;
  std::vector<int32_t> row_place, column_place;

  Pooled(const AttentionShape& s, Type type)
      : row_mean(wide(type), s.batch * s.rows),
        row_max(wide(type), s.batch * s.rows),
        column_mean(wide(type), s.batch * s.columns),
        column_max(wide(type), s.batch * s.columns),
        row_place(static_cast<std::size_t>(s.batch * s.rows), -7),
        column_place(static_cast<std::size_t>(s.batch * s.columns), -7) {}
  // Bits 1, 2, 4, 8: row mean, row maximum, column mean, column maximum.
  AttentionPool view(int wanted, bool ties) {
    AttentionPool to = {};
    if (wanted & 1) to.row_mean = row_mean.data();
    if (wanted & 2) to.row_max = row_max.data(), to.row_place = row_place.data();
    if (wanted & 4) to.column_mean = column_mean.data();
    if (wanted & 8) to.column_max = column_max.data(), to.column_place = column_place.data();
    to.count_ties = ties;
    return to;
  }
  bool same_bits(const Pooled& other) const {
    return row_mean.same_bits(other.row_mean) && row_max.same_bits(other.row_max) &&
           column_mean.same_bits(other.column_mean) && column_max.same_bits(other.column_max) &&
           row_place == other.row_place && column_place == other.column_place;
  }
};

void compare_side(const Side& side, const Array* mean, const Array* peak, const std::vector<int32_t>& place,
                  bool ties, Type type) {
  if (mean != nullptr) side.mean.compare("mean", *mean, type);
  for (std::size_t i = 0; peak != nullptr && i < side.peak.size(); ++i) {
    CHECK_NEAR(peak->get(static_cast<int64_t>(i)), side.peak[i], 0.0, 0.0);
    if (!ties || !std::isnan(side.peak[i])) CHECK_EQUAL(place[i], ties ? side.count[i] : side.place[i]);
  }
}

void compare_pool(const PoolOracle& oracle, const Pooled& got, int wanted, bool ties, Type type) {
  compare_side(oracle.row, wanted & 1 ? &got.row_mean : nullptr, wanted & 2 ? &got.row_max : nullptr,
               got.row_place, ties, type);
  compare_side(oracle.column, wanted & 4 ? &got.column_mean : nullptr, wanted & 8 ? &got.column_max : nullptr,
               got.column_place, ties, type);
}

Pooled pool_on_cpu(const AttentionShape& s, Array& x, int wanted, bool ties, int parts) {
  const AttentionKernels& kernels = FASTREID_KERNELS(attention_kernels);
  Pooled got(s, x.type());
  const AttentionPool to = got.view(wanted, ties);
  Scratch scratch(kernels.workspace_bytes(&s));
  for (int64_t b = 0; b < s.batch; ++b) {
    if ((wanted & 12) == 0) {
      in_parts(s.rows, parts, [&](int64_t begin, int64_t end) {
        kernels.pool(&s, x.data(), &to, b, begin, end, 0, s.columns, scratch.data());
      });
    } else if ((wanted & 3) == 0) {
      in_parts(s.columns, parts, [&](int64_t begin, int64_t end) {
        kernels.pool(&s, x.data(), &to, b, 0, s.rows, begin, end, scratch.data());
      });
    } else {
      kernels.pool(&s, x.data(), &to, b, 0, s.rows, 0, s.columns, scratch.data());
    }
  }
  return got;
}

#ifdef FASTREID_EMULATED
Pooled pool_on_device(const AttentionShape& s, Array& x, int wanted, bool ties) {
  Pooled got(s, x.type());
  const AttentionPool to = got.view(wanted, ties);
  Scratch scratch(cuda::attention_pool_scratch(s, to));
  CHECK_EQUAL(cuda::launch_attention_pool(s, x.data(), to, scratch.data(), nullptr), 0);
  return got;
}
#endif

void check_pool(const Size& size, Array& x, int wanted, bool ties, bool orders) {
  const AttentionShape s = shape_of(size, x.type());
  Trying trying(name(x.type()), " ", s.batch, " x ", s.rows, " x ", s.columns, " wanted ", wanted, " ties ",
                ties);
  const PoolOracle oracle(s, x);
  const auto compare = [&](const Pooled& got) { compare_pool(oracle, got, wanted, ties, x.type()); };
  check_cpu([&](int parts) { return pool_on_cpu(s, x, wanted, ties, parts); }, compare);
  check_device([&] { return pool_on_device(s, x, wanted, ties); }, compare, orders);
}

CASE(pool) {
  constexpr int kWanted[] = {1, 2, 3, 4, 8, 12, 5, 10, 15};
  Random random(1);
  int turn = 0;
  for (const Type type : kTypes) {
    for (const Size& size : kSizes) {
      Array x = rectified_array(type, size.batch * size.rows * size.columns, random);
      for (const bool ties : {false, true})
        for (const int wanted : {3, 12, 15, kWanted[turn++ % 9]})
          check_pool(size, x, wanted, ties, turn % 5 == 0 && size.columns < 100);
      Array y = random_array(type, x.size(), random, -5, -1);
      check_pool(size, y, 15, turn % 2 == 0, false);
    }
  }
}

CASE(pool_of_what_is_no_number) {
  constexpr Size kFew[] = {{1, 1, 1}, {2, 9, 13}, {1, 40, 64}, {1, 3, 280}};
  Random random(2);
  for (const Type type : kTypes) {
    for (const Size& size : kFew) {
      for (const double value :
           {static_cast<double>(NAN), static_cast<double>(INFINITY), -static_cast<double>(INFINITY)}) {
        Array x = random_array(type, size.batch * size.rows * size.columns, random, -2, 2);
        for (int64_t n = 0; n < 1 + x.size() / 100; ++n) x.set(random.below(x.size()), value);
        for (int64_t c = 0; c < size.columns; ++c)
          x.set((size.rows - 1) * size.columns + c, value);  // nothing else
        for (const bool ties : {false, true}) {
          check_pool(size, x, 15, ties, false);
          check_pool(size, x, 3, ties, false);
          check_pool(size, x, 12, ties, false);
        }
      }
    }
  }
}

}  // namespace
