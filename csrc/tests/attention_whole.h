// SPDX-License-Identifier: Apache-2.0
// Channel attention as a whole (CPU only): the cases of test_attention.cpp that have a network.
#pragma once

#include "attention_runs.h"

namespace {

using Reals = std::vector<long double>;

struct Net {
  bool mean, maximum, shared, two_layers, bias1, bias2;
};

// A problem, and by plain loops all that belongs to it. Everything but maps is in the compute type, so are the oracle's
// intermediate results not: they carry on in extended precision.
struct WholeProblem {
  AttentionShape shape;
  Type type;
  Net net;
  GateActivation activation;
  bool last, ties, relu, with_residual;
  int branches;
  int64_t channels, positions, parts, inputs, hidden_size, copies, samples;
  std::vector<Array> x;
  Array residual, grad, weight1, bias1, weight2, bias2;

  WholeProblem(int64_t batch, int64_t channels_, int64_t positions_, int64_t hidden, Type type_,
               const Net& net_, GateActivation activation_, int branches_, unsigned flags, Random random)
      : shape{batch, flags & 1 ? positions_ : channels_, flags & 1 ? channels_ : positions_,
              static_cast<Dtype>(type_)},
        type(type_),
        net(net_),
        activation(activation_),
        last(flags & 1),
        ties(flags & 2),
        relu(flags & 4),
        with_residual(flags & 8),
        branches(branches_),
        channels(channels_),
        positions(positions_),
        parts(net.mean + net.maximum),
        inputs(channels * (net.shared ? 1 : parts)),
        hidden_size(net.two_layers ? hidden : channels),
        copies(net.shared ? 2 : 1),
        samples(branches * batch),
        residual(random_array(type, batch * channels * positions, random, -2, 2)),
        grad(random_array(type, residual.size(), random, -2, 2)),
        weight1(random_array(wide(type), hidden_size * inputs, random, -1, 1)),
        bias1(random_array(wide(type), hidden_size, random, -1, 1)),
        weight2(random_array(wide(type), channels * hidden, random, -1, 1)),
        bias2(random_array(wide(type), channels, random, -1, 1)) {
    for (int k = 0; k < branches; ++k)
      x.push_back(k % 2 == 0 ? random_array(type, residual.size(), random, -3, 3)
                             : rectified_array(type, residual.size(), random));
  }
  // Entry of channel c and position p.
  int64_t entry(int64_t b, int64_t c, int64_t p) const {
    return last ? (b * positions + p) * channels + c : (b * channels + c) * positions + p;
  }
};

struct WholeOracle {
  Expected statistics, hidden, logits, result, grad_logits, grad_hidden, weight1, bias1, weight2, bias2;
  std::vector<Expected> grad_x;
  std::vector<int32_t> place;

  // `kept`: the forward's result as it was stored, for the ReLU's mask.
  WholeOracle(const WholeProblem& p, const Array& kept)
      : statistics(p.samples * p.parts * p.channels),
        hidden(p.samples * p.copies * p.hidden_size),
        logits(p.samples * p.channels),
        result(p.residual.size()),
        grad_logits(p.samples * p.channels),
        grad_hidden(p.samples * p.copies * p.hidden_size),
        weight1(p.weight1.size()),
        bias1(p.bias1.size()),
        weight2(p.weight2.size()),
        bias2(p.bias2.size()),
        grad_x(static_cast<std::size_t>(p.branches), Expected(p.residual.size())),
        place(static_cast<std::size_t>(p.samples * p.channels)) {
    for (int k = 0; k < p.branches; ++k)
      for (int64_t b = 0; b < p.shape.batch; ++b) forward(p, k, b);
    if (p.with_residual)
      for (int64_t i = 0; i < p.residual.size(); ++i) result.add(i, p.residual.get(i));
    if (p.relu)
      for (long double& value : result.value) value = std::max(value, 0.0L);
    for (int k = 0; k < p.branches; ++k)
      for (int64_t b = 0; b < p.shape.batch; ++b) backward(p, kept, k, b);
  }

 private:
  static long double& of(Expected& e, int64_t i) { return e.value[static_cast<std::size_t>(i)]; }
  static long double slack_of(const Expected& e, int64_t i) { return e.slack[static_cast<std::size_t>(i)]; }

  void forward(const WholeProblem& p, int k, int64_t b) {
    const int64_t n = k * p.shape.batch + b, first = n * p.parts * p.channels;
    const Array& x = p.x[static_cast<std::size_t>(k)];
    for (int64_t c = 0; c < p.channels; ++c) {
      Side side(1);
      for (int64_t at = 0; at < p.positions; ++at) side.see(0, x.get(p.entry(b, c, at)), at, p.positions);
      if (p.net.mean) statistics.add(first + c, side.mean.value[0]);
      if (p.net.mean) statistics.slack[static_cast<std::size_t>(first + c)] = side.mean.slack[0];
      if (p.net.maximum) statistics.add(first + (p.parts - 1) * p.channels + c, side.peak[0]);
      place[static_cast<std::size_t>(n * p.channels + c)] = p.ties ? side.count[0] : side.place[0];
    }
    for (int64_t copy = 0; copy < p.copies; ++copy) {
      for (int64_t j = 0; j < p.hidden_size; ++j) {
        const int64_t unit = (n * p.copies + copy) * p.hidden_size + j;
        for (int64_t i = 0; i < p.inputs; ++i)
          hidden.add(unit, p.weight1.get(j * p.inputs + i) * of(statistics, first + copy * p.channels + i),
                     3);
        if (p.net.bias1) hidden.add(unit, p.bias1.get(j));
        if (!p.net.two_layers) {
          logits.add(n * p.channels + j, of(hidden, unit), 1, slack_of(hidden, unit));
          continue;
        }
        of(hidden, unit) = std::max(of(hidden, unit), 0.0L);
        for (int64_t c = 0; c < p.channels; ++c)
          logits.add(n * p.channels + c, p.weight2.get(c * p.hidden_size + j) * of(hidden, unit), 1,
                     std::fabs(p.weight2.get(c * p.hidden_size + j)) * slack_of(hidden, unit));
      }
      if (p.net.two_layers && p.net.bias2)
        for (int64_t c = 0; c < p.channels; ++c) logits.add(n * p.channels + c, p.bias2.get(c));
    }
    for (int64_t c = 0; c < p.channels; ++c)
      for (int64_t at = 0; at < p.positions; ++at)
        result.add(p.entry(b, c, at),
                   x.get(p.entry(b, c, at)) * activate(p.activation, of(logits, n * p.channels + c)),
                   2 + slack_of(logits, n * p.channels + c));
  }

  void backward(const WholeProblem& p, const Array& kept, int k, int64_t b) {
    const int64_t n = k * p.shape.batch + b, first = n * p.parts * p.channels;
    const Array& x = p.x[static_cast<std::size_t>(k)];
    Expected& to = grad_x[static_cast<std::size_t>(k)];
    const auto above = [&](int64_t at) { return passed(p.grad, p.relu ? &kept : nullptr, at); };
    for (int64_t c = 0; c < p.channels; ++c) {
      const int64_t logit = n * p.channels + c;
      for (int64_t at = 0; at < p.positions; ++at)
        grad_logits.add(logit, x.get(p.entry(b, c, at)) * above(p.entry(b, c, at)),
                        2 + slack_of(logits, logit));
      grad_logits.scale_by_slope(logit, slope(p.activation, of(logits, logit)));
    }
    Expected grad_statistics(p.parts * p.channels);
    for (int64_t copy = 0; copy < p.copies; ++copy) {
      for (int64_t j = 0; j < p.hidden_size; ++j) {
        const int64_t unit = (n * p.copies + copy) * p.hidden_size + j;
        for (int64_t c = 0; p.net.two_layers && c < p.channels; ++c) {
          const int64_t logit = n * p.channels + c;
          if (of(hidden, unit) > 0)
            add_product(grad_hidden, unit, p.weight2.get(c * p.hidden_size + j), 0, grad_logits, logit);
          add_product(weight2, c * p.hidden_size + j, of(hidden, unit), slack_of(hidden, unit), grad_logits,
                      logit);
        }
        if (!p.net.two_layers) add_product(grad_hidden, unit, 1, 0, grad_logits, n * p.channels + j);
        add_product(bias1, j, 1, 0, grad_hidden, unit);
        for (int64_t i = 0; i < p.inputs; ++i) {
          const int64_t s = copy * p.channels + i;
          add_product(weight1, j * p.inputs + i, of(statistics, first + s), slack_of(statistics, first + s),
                      grad_hidden, unit);
          add_product(grad_statistics, s, p.weight1.get(j * p.inputs + i), 0, grad_hidden, unit);
        }
      }
      for (int64_t c = 0; c < p.channels; ++c) add_product(bias2, c, 1, 0, grad_logits, n * p.channels + c);
    }
    for (int64_t c = 0; c < p.channels; ++c) {
      const int64_t logit = n * p.channels + c, top = (p.parts - 1) * p.channels + c;
      const long double value = activate(p.activation, of(logits, logit));
      const long double peak = of(statistics, first + top);
      for (int64_t at = 0; at < p.positions; ++at) {
        const int64_t i = p.entry(b, c, at), of_peak = place[static_cast<std::size_t>(logit)];
        to.add(i, above(i) * value, 2 + slack_of(logits, logit));
        if (p.net.mean) add_product(to, i, 1.0L / p.positions, 0, grad_statistics, c);
        if (!p.net.maximum || (p.ties ? x.get(i) != static_cast<double>(peak) : at != of_peak)) continue;
        add_product(to, i, 1.0L / (p.ties ? of_peak : 1), 0, grad_statistics, top);
      }
    }
  }
  // The product of `factor`, off by `error`, and an expected value.
  static void add_product(Expected& to, int64_t i, long double factor, long double error,
                          const Expected& from, int64_t at) {
    const long double value = from.value[static_cast<std::size_t>(at)];
    to.add(i, factor * value, 1, std::fabs(factor) * slack_of(from, at) + error * std::fabs(value));
  }
};

struct WholeResults {
  std::vector<Array> grad_x;
  Array statistics, hidden, logits, result, grad_logits, grad_hidden, weight1, bias1, weight2, bias2;
  std::vector<int32_t> place;

  explicit WholeResults(const WholeProblem& p)
      : statistics(wide(p.type), p.samples * p.parts * p.channels),
        hidden(wide(p.type), p.samples * p.copies * p.hidden_size),
        logits(wide(p.type), p.samples * p.channels),
        result(p.type, p.residual.size()),
        grad_logits(wide(p.type), logits.size()),
        grad_hidden(wide(p.type), hidden.size()),
        weight1(wide(p.type), p.weight1.size()),
        bias1(wide(p.type), p.bias1.size()),
        weight2(wide(p.type), p.weight2.size()),
        bias2(wide(p.type), p.bias2.size()),
        place(static_cast<std::size_t>(p.samples * p.channels), -7) {
    for (int k = 0; k < p.branches; ++k) grad_x.emplace_back(p.type, p.residual.size());
  }
  bool same_bits(const WholeResults& o) const {
    for (std::size_t k = 0; k < grad_x.size(); ++k)
      if (!grad_x[k].same_bits(o.grad_x[k])) return false;
    return statistics.same_bits(o.statistics) && hidden.same_bits(o.hidden) && logits.same_bits(o.logits) &&
           result.same_bits(o.result) && grad_logits.same_bits(o.grad_logits) &&
           grad_hidden.same_bits(o.grad_hidden) && weight1.same_bits(o.weight1) && bias1.same_bits(o.bias1) &&
           weight2.same_bits(o.weight2) && bias2.same_bits(o.bias2) && place == o.place;
  }
};

// `unit` samples at a time, layers in `parts`. With `apart` the forward pass is made of pool(), hidden(), logits() and
// apply(), what whole() is for few samples.
WholeResults run_whole(WholeProblem& p, int64_t unit, int parts, bool apart) {
  const AttentionKernels& kernels = FASTREID_KERNELS(attention_kernels);
  WholeResults to(p);
  AttentionWholeBackward problem = {};
  AttentionWhole& whole = problem.forward;
  whole.apply.shape = p.shape;
  whole.apply.branches = p.branches;
  for (int k = 0; k < p.branches; ++k) {
    whole.apply.x[k] = p.x[static_cast<std::size_t>(k)].data();
    whole.apply.gate[k].channels_last = p.last;
    whole.apply.gate[k].activation = p.activation;
    whole.apply.gate[k].height = 1, whole.apply.gate[k].width = p.positions;
    problem.grad_x[k] = to.grad_x[static_cast<std::size_t>(k)].data();
  }
  whole.apply.residual = p.with_residual ? p.residual.data() : nullptr;
  whole.apply.relu = p.relu;
  whole.apply.stream = parts == 2;
  whole.apply.result = to.result.data();
  whole.network = {p.channels,
                   p.inputs,
                   p.hidden_size,
                   p.net.mean,
                   p.net.maximum,
                   p.net.shared,
                   p.weight1.data(),
                   p.net.bias1 ? p.bias1.data() : nullptr,
                   p.net.two_layers ? p.weight2.data() : nullptr,
                   p.net.two_layers && p.net.bias2 ? p.bias2.data() : nullptr};
  whole.count_ties = p.ties;
  whole.statistics = to.statistics.data();
  whole.place = p.net.maximum ? to.place.data() : nullptr;
  whole.hidden = p.net.two_layers ? to.hidden.data() : nullptr;
  whole.logits = to.logits.data();
  problem.grad = p.grad.data();
  problem.grad_logits = to.grad_logits.data();
  problem.grad_hidden = p.net.two_layers ? to.grad_hidden.data() : nullptr;

  const auto in_units = [&](auto body) {
    for (int64_t begin = 0; begin < p.shape.batch; begin += unit) {
      const int64_t end = std::min(begin + unit, p.shape.batch);
      Scratch scratch(kernels.whole_workspace_bytes(&whole, end - begin));
      body(begin, end, scratch.data());
    }
  };
  const auto layer = [&](int64_t rows, auto body) {
    for (int part = 0; part < parts; ++part)
      if (rows * part / parts < rows * (part + 1) / parts)
        body(rows * part / parts, rows * (part + 1) / parts);
  };
  if (apart) {
    Scratch scratch(kernels.workspace_bytes(&p.shape));
    AttentionApply apply = whole.apply;
    for (int k = 0; k < p.branches; ++k) {
      for (int64_t b = 0; b < p.shape.batch; ++b) {
        const int64_t n = k * p.shape.batch + b, first = n * p.parts * p.channels;
        // A pool of one sample writes to that sample's place, as if there were more of them before it.
        AttentionShape one = p.shape;
        one.batch = 1;
        AttentionPool pool = {};
        (p.last ? pool.column_mean : pool.row_mean) = p.net.mean ? to.statistics.at(first) : nullptr;
        if (p.net.maximum) {
          (p.last ? pool.column_max : pool.row_max) = to.statistics.at(first + (p.parts - 1) * p.channels);
          (p.last ? pool.column_place : pool.row_place) = to.place.data() + n * p.channels;
        }
        pool.count_ties = p.ties;
        kernels.pool(&one, p.x[static_cast<std::size_t>(k)].at(b * p.channels * p.positions), &pool, 0, 0,
                     one.rows, 0, one.columns, scratch.data());
      }
      (p.last ? apply.gate[k].column : apply.gate[k].row) = to.logits.at(k * p.shape.batch * p.channels);
    }
    layer(p.hidden_size, [&](int64_t begin, int64_t end) {
      if (p.net.two_layers) kernels.hidden(&whole, begin, end);
    });
    layer(p.channels, [&](int64_t begin, int64_t end) { kernels.logits(&whole, begin, end); });
    for (int64_t b = 0; b < p.shape.batch; ++b) kernels.apply(&apply, b, 0, p.shape.rows, scratch.data());
  } else {
    in_units([&](int64_t begin, int64_t end, void* memory) { kernels.whole(&whole, begin, end, memory); });
  }
  in_units([&](int64_t begin, int64_t end, void* memory) {
    kernels.whole_backward(&problem, begin, end, memory);
  });
  const AttentionWeightGradients weights = {to.weight1.data(), p.net.bias1 ? to.bias1.data() : nullptr,
                                            p.net.two_layers ? to.weight2.data() : nullptr,
                                            p.net.two_layers && p.net.bias2 ? to.bias2.data() : nullptr};
  layer(p.hidden_size,
        [&](int64_t begin, int64_t end) { kernels.weight_gradients(&problem, &weights, 1, begin, end); });
  if (p.net.two_layers)
    layer(p.channels,
          [&](int64_t begin, int64_t end) { kernels.weight_gradients(&problem, &weights, 2, begin, end); });
  return to;
}

void check_whole(WholeProblem& p) {
  const WholeOracle oracle(p, run_whole(p, 1, 1, false).result);
  WholeResults wide_first(p);
  bool have_wide = false;
  for_every_isa([&] {
    WholeResults got = run_whole(p, 1, 1, false);
    oracle.statistics.compare("statistics", got.statistics, p.type);
    if (p.net.maximum) CHECK(got.place == oracle.place);
    if (p.net.two_layers) oracle.hidden.compare("hidden", got.hidden, p.type);
    oracle.logits.compare("logits", got.logits, p.type);
    oracle.result.compare("result", got.result, p.type);
    oracle.grad_logits.compare("grad_logits", got.grad_logits, p.type);
    if (p.net.two_layers) oracle.grad_hidden.compare("grad_hidden", got.grad_hidden, p.type);
    for (std::size_t k = 0; k < got.grad_x.size(); ++k)
      oracle.grad_x[k].compare("grad_x", got.grad_x[k], p.type);
    oracle.weight1.compare("weight1", got.weight1, p.type);
    if (p.net.bias1) oracle.bias1.compare("bias1", got.bias1, p.type);
    if (p.net.two_layers) oracle.weight2.compare("weight2", got.weight2, p.type);
    if (p.net.two_layers && p.net.bias2) oracle.bias2.compare("bias2", got.bias2, p.type);
    CHECK(run_whole(p, 2, 2, false).same_bits(got));
    CHECK(run_whole(p, p.shape.batch, 3, true).same_bits(got));
    if (active_isa() == Isa::baseline) return;
    if (have_wide) CHECK(got.same_bits(wide_first));
    wide_first = std::move(got), have_wide = true;
  });
}

CASE(whole) {
  constexpr Net kNets[] = {{true, false, false, true, true, true}, {true, true, false, true, true, false},
                           {true, true, true, true, false, false}, {false, true, false, false, true, false},
                           {true, true, true, false, true, false}, {true, false, false, false, false, false},
                           {false, true, false, true, true, true}, {true, true, false, false, true, false}};
  constexpr struct {
    int64_t batch, channels, positions, hidden;
  } kWholes[] = {{1, 1, 1, 1}, {3, 5, 7, 3}, {2, 16, 32, 4}, {5, 37, 12, 19}, {2, 150, 3, 70}};
  unsigned turn = 0;
  for (const Type type : kTypes) {
    for (const auto& size : kWholes) {
      for (const Net& net : kNets) {
        const int branches = turn % 3 == 0 ? 3 : 1;
        const GateActivation activation = kActivations[turn % 4];
        WholeProblem p(size.batch, size.channels, size.positions, size.hidden, type, net, activation,
                       branches, turn * 7 % 16, Random(turn));
        Trying trying(name(type), " ", size.batch, " x ", size.channels, " x ", size.positions, " net ",
                      turn % 8, " flags ", turn * 7 % 16, " branches ", branches, " activation ",
                      static_cast<int>(activation));
        check_whole(p);
        ++turn;
      }
      ++turn;  // other flags for the same network
    }
  }
}

}  // namespace
