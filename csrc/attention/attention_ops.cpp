// SPDX-License-Identifier: Apache-2.0
// Schemas, and the CPU side. The Python functions have checked the arguments in their own words; the checks
// here are a backstop.
#include "attention/attention_ops.h"

#include <torch/csrc/stable/library.h>
#include <unistd.h>

#include "common/items.h"

namespace fastreid {
namespace {

// Below this many bytes one thread is done before a second has woken up.
constexpr int64_t kSerial = int64_t(1) << 16;
// Samples that one thread carries through statistics, network and gate together: small enough to be found again in the
// second-level cache or next to it, large enough to share the weights. Measured at 0.25 to 12 MB.
constexpr int64_t kUnit = int64_t(1) << 20;

int64_t threads() { return larger(1, torch::stable::get_num_threads()); }

int64_t bytes_of(const AttentionShape& shape) {
  const int64_t item = shape.dtype == Dtype::float64 ? 8 : shape.dtype == Dtype::float32 ? 4 : 2;
  return shape.batch * shape.rows * shape.columns * item;
}

// Whether a result of this size goes past the cache: what does not fit into the last level would only push other things
// out, and a line written whole need not be read first.
bool streams(const AttentionShape& shape) {
  static const int64_t limit = [] {
    long size = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    size = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return larger(int64_t(size), int64_t(1) << 20) * 8;
  }();
  return bytes_of(shape) >= limit;
}

// body(sample, begin, end, workspace) over [0, size) of every sample, cut so that all threads have work; `whole`: not cut.
template <class F>
void split(const AttentionShape& shape, int64_t size, int64_t grain, bool whole, int64_t workspace,
           const F& body) {
  if (shape.batch == 0) return;
  const bool serial = bytes_of(shape) < kSerial;
  const int64_t count = serial ? 1 : threads();
  const int64_t cuts = whole || serial || shape.batch >= 4 * count ? 1 : ceil_div(4 * count, shape.batch);
  const int64_t piece = round_up(ceil_div(size, cuts), grain), parts = ceil_div(size, piece);
  const auto item = [&](int64_t task, void* memory) {
    const int64_t begin = task % parts * piece;
    body(task / parts, begin, smaller(size, begin + piece), memory);
  };
  if (serial || count == 1) {
    Workspace memory(workspace);
    for (int64_t task = 0; task < shape.batch * parts; ++task) item(task, memory.data());
    return;
  }
  for_items(0, shape.batch * parts, workspace, item);
}

PoolTensors attention_pool(const Tensor& map, int64_t channel, int64_t spatial, bool count_ties) {
  const FeatureMap x(kPoolOp, map);
  PoolCall call(x, channel, spatial, count_ties);
  const AttentionKernels& kernels = FASTREID_KERNELS(attention_kernels);
  const AttentionShape& shape = x.shape;
  const bool row = call.to.row_mean != nullptr || call.to.row_max != nullptr;
  const bool column = call.to.column_mean != nullptr || call.to.column_max != nullptr;
  const void* from = map.const_data_ptr();
  const int64_t bytes = kernels.workspace_bytes(&shape);
  if (!column)
    split(shape, shape.rows, 1, false, bytes, [&](int64_t b, int64_t begin, int64_t end, void* memory) {
      kernels.pool(&shape, from, &call.to, b, begin, end, 0, 0, memory);
    });
  else
    split(shape, shape.columns, 64, row, bytes, [&](int64_t b, int64_t begin, int64_t end, void* memory) {
      kernels.pool(&shape, from, &call.to, b, 0, shape.rows, begin, end, memory);
    });
  return call.tensors;
}

Tensor attention_apply(const std::vector<Tensor>& maps, const std::vector<Tensor>& channel,
                       const std::vector<Tensor>& spatial, const MaybeTensor& shift, const MaybeTensor& full,
                       const MaybeTensor& residual, int64_t activation, bool relu) {
  const FeatureMap x(kApplyOp, first_of(kApplyOp, maps));
  AttentionApply problem = apply_problem(x, maps, channel, spatial, shift, full, residual, activation, relu);
  const Tensor result = x.like();
  problem.result = result.mutable_data_ptr();
  problem.stream = streams(x.shape);
  const AttentionKernels& kernels = FASTREID_KERNELS(attention_kernels);
  split(x.shape, x.shape.rows, 16, false, kernels.workspace_bytes(&x.shape),
        [&](int64_t b, int64_t begin, int64_t end, void* memory) {
          kernels.apply(&problem, b, begin, end, memory);
        });
  return result;
}

ReduceTensors attention_reduce(const Tensor& map, const Tensor& grad, const MaybeTensor& result,
                               const MaybeTensor& channel, const MaybeTensor& spatial,
                               const MaybeTensor& shift, const MaybeTensor& full, int64_t activation,
                               bool with_map) {
  ReduceCall call(map, grad, result, channel, spatial, shift, full, activation, with_map);
  call.problem.stream = streams(call.x.shape);
  const AttentionKernels& kernels = FASTREID_KERNELS(attention_kernels);
  const bool by_row = call.problem.gate.column == nullptr &&
                      (call.problem.gate.full == nullptr || !call.problem.gate.channels_last);
  split(call.x.shape, call.x.shape.rows, 16, !by_row, kernels.workspace_bytes(&call.x.shape),
        [&](int64_t b, int64_t begin, int64_t end, void* memory) {
          kernels.reduce(&call.problem, b, begin, end, memory);
        });
  return call.tensors;
}

Tensor attention_input(const Tensor& map, const MaybeTensor& grad, const MaybeTensor& result,
                       const MaybeTensor& channel, const MaybeTensor& spatial, const MaybeTensor& shift,
                       const MaybeTensor& full, int64_t activation, const MaybeTensor& channel_mean,
                       const MaybeTensor& channel_top, const MaybeTensor& spatial_mean,
                       const MaybeTensor& spatial_top, const MaybeTensor& channel_place,
                       const MaybeTensor& spatial_place, const MaybeTensor& channel_max,
                       const MaybeTensor& spatial_max, bool count_ties) {
  InputCall call(map, grad, result, channel, spatial, shift, full, activation, channel_mean, channel_top,
                 spatial_mean, spatial_top, channel_place, spatial_place, channel_max, spatial_max,
                 count_ties);
  call.problem.stream = streams(call.x.shape);
  const AttentionKernels& kernels = FASTREID_KERNELS(attention_kernels);
  split(call.x.shape, call.x.shape.rows, 16, false, kernels.workspace_bytes(&call.x.shape),
        [&](int64_t b, int64_t begin, int64_t end, void* memory) {
          kernels.input(&call.problem, b, begin, end, memory);
        });
  return call.tensor;
}

struct ChannelCall {
  ChannelCall(const char* op, const std::vector<Tensor>& maps, const Tensor& weight1,
              const MaybeTensor& bias1, const MaybeTensor& weight2, const MaybeTensor& bias2,
              int64_t statistics, bool shared, bool count_ties, const MaybeTensor& residual,
              int64_t activation, bool relu)
      : x(op, first_of(op, maps)) {
    FASTREID_CHECK(statistics >= 1 && statistics <= 3 && (!shared || statistics == 3), op, "statistics",
                   shown(statistics), "1 to 3, 3 if shared");
    AttentionApply& apply = whole.apply;
    apply.shape = x.shape;
    apply.branches = static_cast<int>(maps.size());
    for (size_t k = 0; k < maps.size(); ++k) {
      apply.x[k] = x.same("x", maps[k]);
      apply.gate[k] = {nullptr,
                       nullptr,
                       nullptr,
                       nullptr,
                       nullptr,
                       x.height,
                       x.width,
                       x.height,
                       x.width,
                       x.channels_last,
                       activation_of(op, activation)};
    }
    apply.residual = x.same("residual", residual);
    apply.relu = relu;
    apply.stream = streams(x.shape);
    AttentionNetwork& net = whole.network;
    net.channels = x.channels;
    net.mean = statistics & kMean;
    net.maximum = statistics & kMaximum;
    net.shared = shared;
    net.inputs = x.channels * (net.mean && net.maximum && !shared ? 2 : 1);
    net.hidden = weight1.size(0);
    FASTREID_CHECK(weight2.has_value() || net.hidden == x.channels, op, "weight1",
                   shown(net.hidden) + " rows", shown(x.channels) + " without weight2");
    net.weight1 = x.values("weight1", weight1, net.hidden, net.hidden * net.inputs);
    net.bias1 = x.values("bias1", bias1, net.hidden, net.hidden);
    net.weight2 = x.values("weight2", weight2, x.channels, x.channels * net.hidden);
    net.bias2 = x.values("bias2", bias2, x.channels, x.channels);
    whole.count_ties = count_ties;
    rows = apply.branches * x.batch;
    width = x.channels * ((net.mean ? 1 : 0) + (net.maximum ? 1 : 0));
    hidden_width = net.hidden * (shared ? 2 : 1);
    unit = larger(1, smaller(kUnit / larger(1, apply.branches * bytes_of(x.shape) / larger(1, x.batch)), 16));
  }

  // Whether the threads share each sample instead of taking samples of their own.
  bool together() const { return bytes_of(x.shape) >= kSerial && threads() > 1 && x.batch < threads(); }

  // The gate of one branch, on logits (rows, channels).
  AttentionGate gate(int branch, void* logits, int64_t item) const {
    AttentionGate found = whole.apply.gate[branch];
    const char* const mine = static_cast<const char*>(logits) + branch * x.batch * x.channels * item;
    (x.channels_last ? found.column : found.row) = mine;
    return found;
  }

  FeatureMap x;
  AttentionWhole whole = {};
  int64_t rows, width, hidden_width, unit;
};

// body(begin, end, workspace) over the samples, `unit` at a time.
template <class F>
void by_unit(const ChannelCall& call, int64_t workspace, const F& body) {
  const int64_t batch = call.x.batch;
  const bool serial = bytes_of(call.x.shape) < kSerial || threads() == 1;
  const int64_t unit = serial ? call.unit : larger(1, smaller(call.unit, batch / (4 * threads())));
  const auto item = [&](int64_t index, void* memory) {
    body(index * unit, smaller(batch, (index + 1) * unit), memory);
  };
  if (serial) {
    Workspace memory(workspace);
    for (int64_t index = 0; index * unit < batch; ++index) item(index, memory.data());
  } else {
    for_items(0, ceil_div(batch, unit), workspace, item);
  }
}

// body(begin, end) over [0, size), in pieces for all threads if the weights are worth it.
template <class F>
void by_row(int64_t size, int64_t work, const F& body) {
  const int64_t pieces = work < kSerial ? 1 : smaller(size, threads());
  torch::stable::parallel_for(0, pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) body(size * p / pieces, size * (p + 1) / pieces);
  });
}

int64_t wide_bytes(const ChannelCall& call) { return call.x.shape.dtype == Dtype::float64 ? 8 : 4; }

void forward_together(const ChannelCall& call, const AttentionKernels& kernels) {
  const AttentionWhole& whole = call.whole;
  const AttentionShape& shape = call.x.shape;
  const AttentionNetwork& net = whole.network;
  const int64_t workspace = kernels.workspace_bytes(&shape);
  for (int k = 0; k < whole.apply.branches; ++k)
    split(shape, net.channels, 64, false, workspace,
          [&](int64_t b, int64_t begin, int64_t end, void* memory) {
            kernels.whole_pool(&whole, k, b, begin, end, memory);
          });
  if (net.weight2 != nullptr)
    by_row(net.hidden, call.rows * net.hidden * net.inputs,
           [&](int64_t begin, int64_t end) { kernels.hidden(&whole, begin, end); });
  by_row(net.channels, call.rows * net.channels * (net.weight2 != nullptr ? net.hidden : net.inputs),
         [&](int64_t begin, int64_t end) { kernels.logits(&whole, begin, end); });
  AttentionApply apply = whole.apply;
  for (int k = 0; k < apply.branches; ++k) apply.gate[k] = call.gate(k, whole.logits, wide_bytes(call));
  split(shape, shape.rows, 16, false, workspace, [&](int64_t b, int64_t begin, int64_t end, void* memory) {
    kernels.apply(&apply, b, begin, end, memory);
  });
}

void backward_together(const ChannelCall& call, const AttentionWholeBackward& problem,
                       const AttentionKernels& kernels) {
  const AttentionWhole& whole = problem.forward;
  const AttentionShape& shape = call.x.shape;
  const AttentionNetwork& net = whole.network;
  const int64_t workspace = kernels.workspace_bytes(&shape), item = wide_bytes(call);
  for (int k = 0; k < whole.apply.branches; ++k) {
    AttentionReduce reduce = {};
    reduce.shape = shape;
    reduce.gate = call.gate(k, whole.logits, item);
    reduce.x = whole.apply.x[k];
    reduce.grad = problem.grad;
    reduce.result = whole.apply.relu ? whole.apply.result : nullptr;
    (call.x.channels_last ? reduce.grad_column : reduce.grad_row) =
        static_cast<char*>(problem.grad_logits) + k * shape.batch * net.channels * item;
    split(shape, shape.rows, 16, call.x.channels_last, workspace,
          [&](int64_t b, int64_t begin, int64_t end, void* memory) {
            kernels.reduce(&reduce, b, begin, end, memory);
          });
  }
  const Tensor statistics = call.x.empty({call.rows, call.width}, call.x.wide());
  if (net.weight2 != nullptr)
    by_row(net.hidden, call.rows * net.hidden * net.channels,
           [&](int64_t begin, int64_t end) { kernels.hidden_gradient(&problem, begin, end); });
  by_row(net.inputs, call.rows * net.hidden * net.inputs, [&](int64_t begin, int64_t end) {
    kernels.statistics_gradient(&problem, begin, end, statistics.mutable_data_ptr());
  });
  for (int k = 0; k < whole.apply.branches; ++k)
    split(shape, shape.rows, 16, false, workspace, [&](int64_t b, int64_t begin, int64_t end, void* memory) {
      kernels.whole_input(&problem, statistics.const_data_ptr(), k, b, begin, end, memory);
    });
}

ChannelTensors channel_attention(const std::vector<Tensor>& maps, const Tensor& weight1,
                                 const MaybeTensor& bias1, const MaybeTensor& weight2,
                                 const MaybeTensor& bias2, int64_t statistics, bool shared, bool count_ties,
                                 const MaybeTensor& residual, int64_t activation, bool relu) {
  ChannelCall call("channel_attention", maps, weight1, bias1, weight2, bias2, statistics, shared, count_ties,
                   residual, activation, relu);
  const FeatureMap& x = call.x;
  AttentionWhole& whole = call.whole;
  const bool maximum = whole.network.maximum;
  const Tensor result = x.like();
  const Tensor values = x.empty({call.rows, call.width}, x.wide());
  const Tensor place = maximum ? x.empty({call.rows, x.channels}, aoti_torch_dtype_int32())
                               : x.empty({0}, aoti_torch_dtype_int32());
  const Tensor hidden =
      weight2.has_value() ? x.empty({call.rows, call.hidden_width}, x.wide()) : x.empty({0}, x.wide());
  const Tensor logits = x.empty({call.rows, x.channels}, x.wide());
  whole.apply.result = result.mutable_data_ptr();
  whole.statistics = values.mutable_data_ptr();
  whole.place = maximum ? place.mutable_data_ptr<int32_t>() : nullptr;
  whole.hidden = weight2.has_value() ? hidden.mutable_data_ptr() : nullptr;
  whole.logits = logits.mutable_data_ptr();
  const AttentionKernels& kernels = FASTREID_KERNELS(attention_kernels);
  if (call.together()) {
    forward_together(call, kernels);
  } else if (x.batch > 0) {
    by_unit(call, kernels.whole_workspace_bytes(&whole, call.unit),
            [&](int64_t begin, int64_t end, void* memory) { kernels.whole(&whole, begin, end, memory); });
  }
  return {result, values, place, hidden, logits};
}

ChannelBackTensors channel_attention_backward(const Tensor& grad, const std::vector<Tensor>& maps,
                                              const MaybeTensor& result, const Tensor& weight1,
                                              const MaybeTensor& bias1, const MaybeTensor& weight2,
                                              const MaybeTensor& bias2, const Tensor& values,
                                              const Tensor& place, const Tensor& hidden, const Tensor& logits,
                                              int64_t statistics, bool shared, bool count_ties,
                                              int64_t activation, bool with_weights) {
  ChannelCall call("channel_attention_backward", maps, weight1, bias1, weight2, bias2, statistics, shared,
                   count_ties, {}, activation, result.has_value());
  const FeatureMap& x = call.x;
  AttentionWholeBackward problem = {};
  AttentionWhole& whole = problem.forward;
  whole = call.whole;
  const auto mutable_values = [&](const char* argument, const Tensor& t, int64_t count,
                                  bool integers = false) {
    return const_cast<void*>(x.values(argument, t, call.rows, count, integers));
  };
  whole.apply.result = const_cast<void*>(x.same("result", result));
  whole.statistics = mutable_values("statistics", values, call.rows * call.width);
  if (whole.network.maximum)
    whole.place = static_cast<int32_t*>(mutable_values("place", place, call.rows * x.channels, true));
  if (weight2.has_value()) whole.hidden = mutable_values("hidden", hidden, call.rows * call.hidden_width);
  whole.logits = mutable_values("logits", logits, call.rows * x.channels);
  problem.grad = x.same("grad", grad);
  const Tensor grad_logits = x.empty({call.rows, x.channels}, x.wide());
  const Tensor grad_hidden =
      weight2.has_value() ? x.empty({call.rows, call.hidden_width}, x.wide()) : x.empty({0}, x.wide());
  problem.grad_logits = grad_logits.mutable_data_ptr();
  problem.grad_hidden = weight2.has_value() ? grad_hidden.mutable_data_ptr() : nullptr;
  std::vector<Tensor> grad_maps;
  for (size_t k = 0; k < maps.size(); ++k) {
    grad_maps.push_back(x.like());
    problem.grad_x[k] = grad_maps[k].mutable_data_ptr();
  }
  const AttentionKernels& kernels = FASTREID_KERNELS(attention_kernels);
  if (call.together()) {
    backward_together(call, problem, kernels);
  } else if (x.batch > 0) {
    by_unit(call, kernels.whole_workspace_bytes(&whole, call.unit),
            [&](int64_t begin, int64_t end, void* memory) {
              kernels.whole_backward(&problem, begin, end, memory);
            });
  }

  const AttentionNetwork& net = whole.network;
  const auto gradient = [&](bool wanted, const std::vector<int64_t>& sizes) {
    return x.empty(with_weights && wanted ? sizes : std::vector<int64_t>{0}, x.wide());
  };
  const Tensor grad_weight1 = gradient(true, {net.hidden, net.inputs});
  const Tensor grad_bias1 = gradient(bias1.has_value(), {net.hidden});
  const Tensor grad_weight2 = gradient(weight2.has_value(), {x.channels, net.hidden});
  const Tensor grad_bias2 = gradient(bias2.has_value(), {x.channels});
  if (with_weights) {
    const auto at = [](const Tensor& t) { return t.numel() > 0 ? t.mutable_data_ptr() : nullptr; };
    const AttentionWeightGradients to = {at(grad_weight1), at(grad_bias1), at(grad_weight2), at(grad_bias2)};
    by_row(net.hidden, call.rows * net.hidden * net.inputs,
           [&](int64_t begin, int64_t end) { kernels.weight_gradients(&problem, &to, 1, begin, end); });
    if (weight2.has_value())
      by_row(x.channels, call.rows * x.channels * net.hidden,
             [&](int64_t begin, int64_t end) { kernels.weight_gradients(&problem, &to, 2, begin, end); });
  }
  return {grad_maps, grad_weight1, grad_bias1, grad_weight2, grad_bias2};
}

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_FRAGMENT(fastreid, m) {
  // Statistics: 1 the mean, 2 the maximum, 3 both. What was not asked for comes back with shape (0,).
  m.def(
      "attention_pool(Tensor x, int channel, int spatial, bool count_ties) -> (Tensor, Tensor, Tensor, "
      "Tensor, "
      "Tensor, Tensor)");
  // activation: 0 sigmoid, 1 relu, 2 linear, 3 sigmoid of relu
  m.def(
      "attention_apply(Tensor[] x, Tensor[] channel, Tensor[] spatial, Tensor? shift, Tensor? full, Tensor? "
      "residual, "
      "int activation, bool relu) -> Tensor");
  m.def(
      "attention_reduce(Tensor x, Tensor grad, Tensor? result, Tensor? channel, Tensor? spatial, Tensor? "
      "shift, "
      "Tensor? full, int activation, bool with_map) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "attention_input(Tensor x, Tensor? grad, Tensor? result, Tensor? channel, Tensor? spatial, Tensor? "
      "shift, "
      "Tensor? full, int activation, Tensor? channel_mean, Tensor? channel_top, Tensor? spatial_mean, "
      "Tensor? "
      "spatial_top, Tensor? channel_place, Tensor? spatial_place, Tensor? channel_max, Tensor? spatial_max, "
      "bool "
      "count_ties) -> Tensor");
  m.def(
      "channel_attention(Tensor[] x, Tensor weight1, Tensor? bias1, Tensor? weight2, Tensor? bias2, int "
      "statistics, "
      "bool shared, bool count_ties, Tensor? residual, int activation, bool relu) -> (Tensor, Tensor, "
      "Tensor, Tensor, "
      "Tensor)");
  m.def(
      "channel_attention_backward(Tensor grad, Tensor[] x, Tensor? result, Tensor weight1, Tensor? bias1, "
      "Tensor? "
      "weight2, Tensor? bias2, Tensor values, Tensor place, Tensor hidden, Tensor logits, int statistics, "
      "bool shared, "
      "bool count_ties, int activation, bool with_weights) -> (Tensor[], Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(fastreid, CPU, m) {
  m.impl("attention_pool", TORCH_BOX(&fastreid::attention_pool));
  m.impl("attention_apply", TORCH_BOX(&fastreid::attention_apply));
  m.impl("attention_reduce", TORCH_BOX(&fastreid::attention_reduce));
  m.impl("attention_input", TORCH_BOX(&fastreid::attention_input));
  m.impl("channel_attention", TORCH_BOX(&fastreid::channel_attention));
  m.impl("channel_attention_backward", TORCH_BOX(&fastreid::channel_attention_backward));
}
