// SPDX-License-Identifier: Apache-2.0
// The passes of attention.h against attention_oracle.h. Here those with gates; statistics are in attention_pool.h, channel
// attention as a whole in attention_whole.h.
#include "attention/attention.h"

#include <algorithm>

#include "attention_pool.h"
#include "attention_runs.h"
#include "attention_whole.h"

namespace {

// Everything one gate is tried with.
struct Problem {
  Size size;
  Type type;
  AttentionShape shape;
  std::vector<Array> x;
  std::vector<Logits> logits;
  Array residual, grad, result;
  bool relu;

  Problem(const Size& size_, Type type_, Kind kind, GateActivation activation, int branches, bool last,
          bool relu_, unsigned seed)
      : Problem(size_, type_, kind, activation, branches, last, relu_, seed, Random(seed)) {}

 private:
  Problem(const Size& size_, Type type_, Kind kind, GateActivation activation, int branches, bool last,
          bool relu_, unsigned seed, Random random)
      : size(size_),
        type(type_),
        shape(shape_of(size, type)),
        residual(random_array(type, shape.batch * shape.rows * shape.columns, random, -2, 2)),
        grad(random_array(type, residual.size(), random, -2, 2)),
        result(rectified_array(type, residual.size(), random)),
        relu(relu_) {
    for (int k = 0; k < branches; ++k) {
      x.push_back(random_array(type, residual.size(), random, -3, 3));
      logits.emplace_back(type, shape, kind, activation, last, size.height, size.factor_y, size.factor_x,
                          seed + static_cast<unsigned>(k));
    }
  }
};

struct One {
  Array values;
  bool same_bits(const One& other) const { return values.same_bits(other.values); }
};

AttentionApply apply_of(Problem& p, bool residual, bool stream, Array& result) {
  AttentionApply problem = {};
  problem.shape = p.shape;
  problem.branches = static_cast<int>(p.x.size());
  for (std::size_t k = 0; k < p.x.size(); ++k)
    problem.x[k] = p.x[k].data(), problem.gate[k] = p.logits[k].view();
  problem.residual = residual ? p.residual.data() : nullptr;
  problem.relu = p.relu;
  problem.stream = stream;
  problem.result = result.data();
  return problem;
}

void check_apply(Problem& p, bool residual, bool orders) {
  const Expected expected = apply_oracle(p.shape, p.x, p.logits, residual ? &p.residual : nullptr, p.relu);
  const auto compare = [&](const One& got) { expected.compare("result", got.values, p.type); };
  check_cpu(
      [&](int parts) {
        const AttentionKernels& kernels = FASTREID_KERNELS(attention_kernels);
        One got = {Array(p.type, p.residual.size())};
        const AttentionApply problem = apply_of(p, residual, parts == 2, got.values);
        Scratch scratch(kernels.workspace_bytes(&p.shape));
        for (int64_t b = 0; b < p.shape.batch; ++b)
          in_parts(p.shape.rows, parts, [&](int64_t begin, int64_t end) {
            kernels.apply(&problem, b, begin, end, scratch.data());
          });
        return got;
      },
      compare);
  check_device(
      [&] {
        One got = {Array(p.type, p.residual.size())};
        CHECK_EQUAL(cuda::launch_attention_apply(apply_of(p, residual, false, got.values), nullptr), 0);
        return got;
      },
      compare, orders);
}

struct Reduced {
  Array row, column, row_shift, column_shift, full, x;

  explicit Reduced(const Problem& p)
      : row(wide(p.type), p.shape.batch * p.shape.rows),
        column(wide(p.type), p.shape.batch * p.shape.columns),
        row_shift(wide(p.type), row.size()),
        column_shift(wide(p.type), column.size()),
        full(p.type, p.logits[0].full.size()),
        x(p.type, p.residual.size()) {}
  bool same_bits(const Reduced& other) const {
    return row.same_bits(other.row) && column.same_bits(other.column) &&
           row_shift.same_bits(other.row_shift) && column_shift.same_bits(other.column_shift) &&
           full.same_bits(other.full) && x.same_bits(other.x);
  }
};

// `without`: bits 1 and 2 leave out the gradient of the map, of the columns.
AttentionReduce reduce_of(Problem& p, int without, bool stream, Reduced& to) {
  Logits& g = p.logits[0];
  AttentionReduce problem = {};
  problem.shape = p.shape;
  problem.gate = g.view();
  problem.x = p.x[0].data(), problem.grad = p.grad.data();
  if (p.relu) problem.result = p.result.data();
  problem.stream = stream;
  if (g.kind == Kind::row || g.kind == Kind::outer) problem.grad_row = to.row.data();
  if ((g.kind == Kind::column || g.kind == Kind::outer) && !(without & 2))
    problem.grad_column = to.column.data();
  if (g.row_shifts) problem.grad_row_shift = to.row_shift.data();
  if (g.column_shifts) problem.grad_column_shift = to.column_shift.data();
  if (g.kind == Kind::full) problem.grad_full = to.full.data();
  if (!(without & 1)) problem.grad_x = to.x.data();
  return problem;
}

void check_reduce(Problem& p, int without, bool orders) {
  const Logits& g = p.logits[0];
  const ReduceOracle expected(p.shape, p.x[0], p.grad, p.relu ? &p.result : nullptr, g);
  const auto compare = [&](const Reduced& got) {
    if (g.kind == Kind::row || g.kind == Kind::outer) expected.row.compare("row", got.row, p.type);
    if ((g.kind == Kind::column || g.kind == Kind::outer) && !(without & 2))
      expected.column.compare("column", got.column, p.type);
    if (g.row_shifts) expected.row_shift.compare("row shift", got.row_shift, p.type);
    if (g.column_shifts) expected.column_shift.compare("column shift", got.column_shift, p.type);
    if (g.kind == Kind::full) expected.full.compare("full", got.full, p.type);
    if (!(without & 1)) expected.x.compare("x", got.x, p.type);
  };
  const bool ranges = g.kind == Kind::row || (g.kind == Kind::full && !g.channels_last);
  check_cpu(
      [&](int parts) {
        const AttentionKernels& kernels = FASTREID_KERNELS(attention_kernels);
        Reduced got(p);
        const AttentionReduce problem = reduce_of(p, without, parts == 2, got);
        Scratch scratch(kernels.workspace_bytes(&p.shape));
        for (int64_t b = 0; b < p.shape.batch; ++b)
          in_parts(p.shape.rows, ranges ? parts : 1, [&](int64_t begin, int64_t end) {
            kernels.reduce(&problem, b, begin, end, scratch.data());
          });
        return got;
      },
      compare);
  check_device(
      [&] {
        Reduced got(p);
        const AttentionReduce problem = reduce_of(p, without, false, got);
        Scratch scratch(cuda::attention_reduce_scratch(problem));
        CHECK_EQUAL(cuda::launch_attention_reduce(problem, scratch.data(), nullptr), 0);
        return got;
      },
      compare, orders);
}

// given: bits as in StatisticsGradient; 16: the gradient through the gate.
void check_input(Problem& p, int given, bool ties, bool orders) {
  Trying trying("given ", given, " ties ", ties);
  Random random(static_cast<unsigned>(given) + 90);
  Array x = rectified_array(p.type, p.residual.size(), random);
  PoolOracle pool(p.shape, x);
  StatisticsGradient of(p.type, p.shape, given, random);
  const bool gate = (given & 16) != 0;
  const Expected expected = input_oracle(p.shape, x, pool, gate ? &p.grad : nullptr,
                                         gate && p.relu ? &p.result : nullptr, p.logits[0], of, ties);
  const auto maxima = [&](const Side& side) {
    Array values(wide(p.type), static_cast<int64_t>(side.peak.size()));
    for (std::size_t i = 0; i < side.peak.size(); ++i) values.set(static_cast<int64_t>(i), side.peak[i]);
    return values;
  };
  Array row_max = maxima(pool.row), column_max = maxima(pool.column);
  const auto problem_of = [&](bool stream, Array& to) {
    AttentionInput problem = {};
    problem.shape = p.shape;
    if (gate) problem.gate = p.logits[0].view(), problem.grad = p.grad.data();
    if (gate && p.relu) problem.result = p.result.data();
    if (of.row_mean) problem.grad_row_mean = of.of_row_mean.data();
    if (of.row_max) problem.grad_row_max = of.of_row_max.data();
    if (of.column_mean) problem.grad_column_mean = of.of_column_mean.data();
    if (of.column_max) problem.grad_column_max = of.of_column_max.data();
    if (of.row_max) problem.row_place = (ties ? pool.row.count : pool.row.place).data();
    if (of.column_max) problem.column_place = (ties ? pool.column.count : pool.column.place).data();
    problem.count_ties = ties;
    if (ties) problem.x = x.data();
    if (ties && of.row_max) problem.row_max = row_max.data();
    if (ties && of.column_max) problem.column_max = column_max.data();
    problem.stream = stream;
    problem.grad_x = to.data();
    return problem;
  };
  const auto compare = [&](const One& got) { expected.compare("grad_x", got.values, p.type); };
  check_cpu(
      [&](int parts) {
        const AttentionKernels& kernels = FASTREID_KERNELS(attention_kernels);
        One got = {Array(p.type, p.residual.size())};
        const AttentionInput problem = problem_of(parts == 2, got.values);
        Scratch scratch(kernels.workspace_bytes(&p.shape));
        for (int64_t b = 0; b < p.shape.batch; ++b)
          in_parts(p.shape.rows, parts, [&](int64_t begin, int64_t end) {
            kernels.input(&problem, b, begin, end, scratch.data());
          });
        return got;
      },
      compare);
  check_device(
      [&] {
        One got = {Array(p.type, p.residual.size())};
        CHECK_EQUAL(cuda::launch_attention_input(problem_of(false, got.values), nullptr), 0);
        return got;
      },
      compare, orders);
}

// The positions of channels_last are rows: the same sizes the other way round.
Size turned(Size size, bool last) {
  if (last) std::swap(size.rows, size.columns);
  return size;
}

CASE(gates) {
  unsigned turn = 0;
  for (const Type type : kTypes) {
    for (const Size& each : kSizes) {
      for (const Kind kind : kKinds) {
        for (const bool last : {false, true}) {
          const GateActivation activation = kActivations[(turn + turn / 4) % 4];
          const Size size = turned(each, last);
          ++turn;
          Problem p(size, type, kind, activation, 1, last, turn % 3 == 0, turn);
          Trying trying(name(type), " ", size.batch, " x ", size.rows, " x ", size.columns, " kind ",
                        static_cast<int>(kind), last ? " channels_last" : "", " activation ",
                        static_cast<int>(activation), p.relu ? " relu" : "");
          const bool orders = turn % 7 == 0 && size.rows * size.columns < 3000;
          check_apply(p, turn % 2 == 0, orders);
          check_reduce(p, turn % 4 == 1 ? 1 : turn % 8 == 2 ? 2 : 0, orders);
          check_input(p, static_cast<int>(16 + turn % 16), turn % 3 == 1, orders);
        }
      }
      Problem p(each, type, Kind::row, GateActivation::linear, 1, false, false, ++turn);
      Trying trying(name(type), " ", each.batch, " x ", each.rows, " x ", each.columns, " statistics alone");
      for (const bool ties : {false, true})
        for (const int given : {3, 12, 15}) check_input(p, given, ties, false);
    }
  }
}

CASE(branches) {
  unsigned turn = 100;
  for (const Type type : kTypes) {
    for (const Size& size : {Size{2, 6, 24}, Size{1, 9, 5}, Size{1, 35, 130}}) {
      for (const int count : {2, 3, 8}) {
        for (const Kind kind : {Kind::row, Kind::column}) {
          ++turn;
          Problem p(size, type, kind, kActivations[turn % 4], count, false, turn % 3 == 0, turn);
          Trying trying(name(type), " ", size.rows, " x ", size.columns, " branches ", count);
          check_apply(p, turn % 2 == 0, turn % 5 == 0);
        }
      }
    }
  }
}

// A NaN or an infinity goes where a product takes it and nowhere else; gates of large logits are 1 and next to nothing.
CASE(gates_pass_on_what_is_no_number) {
  for (const Type type : kTypes) {
    for (const bool relu : {false, true}) {
      Trying trying(name(type), relu ? " relu" : "");
      Problem p({1, 5, 24, 4, 2, 2}, type, Kind::outer, GateActivation::sigmoid, 1, false, relu, 7);
      p.x[0].set(30, NAN), p.x[0].set(31, INFINITY);
      for (int64_t c = 0; c < 24; ++c) p.logits[0].column.set(c, c == 3 ? 1000.0 : c == 4 ? -1000.0 : 1.0);
      for (int64_t r = 0; r < 5; ++r) p.logits[0].row.set(r, 1.0);
      p.logits[0].row.set(4, NAN);
      const auto compare = [&](const One& got) {
        for (int64_t r = 0; r < 5; ++r)
          for (int64_t c = 0; c < 24; ++c)
            CHECK_EQUAL(std::isnan(got.values.get(r * 24 + c)), r == 4 || r * 24 + c == 30);
        CHECK_EQUAL(got.values.get(31), static_cast<double>(INFINITY));
        if (relu) return;
        CHECK_EQUAL(got.values.get(3), p.x[0].get(3));
        CHECK_NEAR(got.values.get(4), 0.0, 1e-36, 0.0);
      };
      check_cpu(
          [&](int) {
            const AttentionKernels& kernels = FASTREID_KERNELS(attention_kernels);
            One got = {Array(type, 120)};
            const AttentionApply problem = apply_of(p, false, false, got.values);
            Scratch scratch(kernels.workspace_bytes(&p.shape));
            kernels.apply(&problem, 0, 0, 5, scratch.data());
            return got;
          },
          compare);
      check_device(
          [&] {
            One got = {Array(type, 120)};
            CHECK_EQUAL(cuda::launch_attention_apply(apply_of(p, false, false, got.values), nullptr), 0);
            return got;
          },
          compare, false);
    }
  }
}

#ifdef FASTREID_EMULATED
// The same bits wherever a map lies: what is not aligned is loaded otherwise, and added up in the same order.
CASE(bits_do_not_depend_on_alignment) {
  for (const Type type : kTypes) {
    for (const Size& size : {Size{2, 30, 96, 8, 2, 3}, Size{1, 3, 2080, 13, 13, 4}}) {
      for (const Kind kind : kKinds) {
        Trying trying(name(type), " ", size.rows, " x ", size.columns, " kind ", static_cast<int>(kind));
        Problem p(size, type, kind, GateActivation::sigmoid, 1, false, false, 3);
        Array shifted(type, p.x[0].size() + 1);
        std::memcpy(shifted.at(1), p.x[0].data(), static_cast<std::size_t>(p.x[0].size() * size_of(type)));
        const auto run = [&](const void* x, Reduced& sums, Pooled& pooled, Array& result) {
          AttentionReduce reduce = reduce_of(p, 0, false, sums);
          AttentionApply apply = apply_of(p, true, false, result);
          const AttentionPool pool = pooled.view(15, false);
          reduce.x = apply.x[0] = x;
          Scratch for_sums(cuda::attention_reduce_scratch(reduce)),
              for_pool(cuda::attention_pool_scratch(p.shape, pool));
          CHECK_EQUAL(cuda::launch_attention_reduce(reduce, for_sums.data(), nullptr), 0);
          CHECK_EQUAL(cuda::launch_attention_apply(apply, nullptr), 0);
          CHECK_EQUAL(cuda::launch_attention_pool(p.shape, x, pool, for_pool.data(), nullptr), 0);
        };
        Reduced sums(p), sums_shifted(p);
        Pooled pooled(p.shape, type), pooled_shifted(p.shape, type);
        Array result(type, p.residual.size()), result_shifted(type, p.residual.size());
        run(p.x[0].data(), sums, pooled, result);
        run(shifted.at(1), sums_shifted, pooled_shifted, result_shifted);
        CHECK(sums.same_bits(sums_shifted));
        CHECK(pooled.same_bits(pooled_shifted));
        CHECK(result.same_bits(result_shifted));
      }
    }
  }
}
#endif

}  // namespace
