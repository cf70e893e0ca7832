// SPDX-License-Identifier: Apache-2.0
// From torch's tensors to the problems of attention.h, for both registration files.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <optional>
#include <tuple>
#include <vector>

#include "attention/attention.h"
#include "common/tensors.h"

namespace fastreid {

using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;
using PoolTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using ReduceTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
using ChannelTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
using ChannelBackTensors = std::tuple<std::vector<Tensor>, Tensor, Tensor, Tensor, Tensor>;

constexpr int64_t kMean = 1, kMaximum = 2;
inline constexpr const char* kPoolOp = "attention_pool";
inline constexpr const char* kApplyOp = "attention_apply";
inline constexpr const char* kReduceOp = "attention_reduce";
inline constexpr const char* kInputOp = "attention_input";

inline bool dense_as(const Tensor& t, bool channels_last) {
  const int64_t b = t.size(0), c = t.size(1), h = t.size(2), w = t.size(3);
  const int64_t dense[] = {c * h * w, channels_last ? 1 : h * w, channels_last ? c * w : w,
                           channels_last ? c : 1};
  for (int64_t d = 0; d < 4; ++d)
    if (t.size(d) > 1 && t.stride(d) != dense[d] && b > 0) return false;
  return true;
}

// Asks for large pages under memory that is about to be written for the first time: the system hands out a result of
// 100 MB in 25,000 small pages otherwise, which takes longer than to fill it. A hint; nothing depends on it.
inline void large_pages(void* memory, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr int64_t kLarge = int64_t(2) << 20;
  const int64_t first = round_up(reinterpret_cast<intptr_t>(memory), kLarge);
  const int64_t last = (reinterpret_cast<intptr_t>(memory) + bytes) / kLarge * kLarge;
  if (last - first >= 4 * kLarge)
    madvise(reinterpret_cast<void*>(first), static_cast<size_t>(last - first), MADV_HUGEPAGE);
#else
  static_cast<void>(memory), static_cast<void>(bytes);
#endif
}

// A feature map (B, C, H, W), contiguous or channels_last.
class FeatureMap {
 public:
  FeatureMap(const char* op, const Tensor& x) : tensor(x), op_(op) {
    FASTREID_CHECK(x.dim() == 4, op, "x", shown(x.dim()) + " dimensions", "(B, C, H, W)");
    batch = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
    constexpr int64_t kMost = (int64_t(1) << 31) - 1;
    FASTREID_CHECK(channels >= 1 && height >= 1 && width >= 1 && channels <= kMost && height * width <= kMost,
                   op, "x", "shape " + shown({batch, channels, height, width}),
                   "C and H * W from 1 to 2^31 - 1");
    channels_last = !dense_as(x, false);
    FASTREID_CHECK(!channels_last || dense_as(x, true), op, "x", "other strides",
                   "a contiguous or channels_last map");
    const int64_t positions = height * width;
    shape = {batch, channels_last ? positions : channels, channels_last ? channels : positions,
             dtype_of(op, "x", x)};
  }

  int32_t wide() const {
    return shape.dtype == Dtype::float64 ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
  }
  int32_t own() const {
    int32_t dtype;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
    return dtype;
  }
  Tensor empty(const std::vector<int64_t>& sizes, int32_t dtype) const {
    return empty_on(tensor, sizes, dtype);
  }
  // Of the shape (B, C, h, w), in the memory order of x.
  Tensor map(int64_t h, int64_t w) const {
    const int64_t sizes[] = {batch, channels, h, w};
    const int64_t c = larger(channels, 1);
    const int64_t strides[] = {c * h * w, channels_last ? 1 : h * w, channels_last ? c * w : w,
                               channels_last ? c : 1};
    int32_t device;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &device));
    AtenTensorHandle handle;
    TORCH_ERROR_CODE_CHECK(
        aoti_torch_empty_strided(4, sizes, strides, own(), device, tensor.get_device_index(), &handle));
    const Tensor result(handle);
    if (tensor.is_cpu())
      large_pages(result.mutable_data_ptr(), result.numel() * static_cast<int64_t>(result.element_size()));
    return result;
  }
  Tensor like() const { return map(height, width); }

  // On the same device.
  bool beside(const Tensor& other) const {
    return other.is_cpu() == tensor.is_cpu() && other.get_device_index() == tensor.get_device_index();
  }

  // Another map of the same kind.
  const void* same(const char* argument, const Tensor& other) const {
    bool equal = other.dim() == 4 && other.scalar_type() == tensor.scalar_type() && beside(other);
    for (int64_t d = 0; equal && d < 4; ++d) equal = other.size(d) == tensor.size(d);
    FASTREID_CHECK(equal && dense_as(other, channels_last), op_, argument, "another kind of map",
                   "the shape, dtype, device and memory order of x");
    return other.const_data_ptr();
  }
  const void* same(const char* argument, const MaybeTensor& other) const {
    return other.has_value() ? same(argument, *other) : nullptr;
  }

  // Values of the compute type (or int32): `count` of them in all, `first` along the first dimension. Copied where they
  // are not contiguous; the copy lives as long as this object.
  const void* values(const char* argument, const Tensor& t, int64_t first, int64_t count,
                     bool integers = false) const {
    int32_t dtype;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &dtype));
    FASTREID_CHECK(dtype == (integers ? aoti_torch_dtype_int32() : wide()), op_, argument, "another dtype",
                   integers ? "int32" : "float64 for a float64 map, else float32");
    FASTREID_CHECK(t.dim() >= 1 && t.size(0) == first && t.numel() == count && beside(t), op_, argument,
                   shown(t.numel()) + " values",
                   shown(count) + " in " + shown(first) + " rows, on the device of x");
    if (t.is_contiguous()) return t.const_data_ptr();
    kept_.push_back(torch::stable::contiguous(t));
    return kept_.back().const_data_ptr();
  }
  const void* values(const char* argument, const MaybeTensor& t, int64_t first, int64_t count,
                     bool integers = false) const {
    return t.has_value() ? values(argument, *t, first, count, integers) : nullptr;
  }

  Tensor tensor;
  int64_t batch, channels, height, width;
  bool channels_last;
  AttentionShape shape;

 private:
  const char* op_;
  mutable std::vector<Tensor> kept_;
};

inline GateActivation activation_of(const char* op, int64_t value) {
  FASTREID_CHECK(value >= 0 && value <= 3, op, "activation", shown(value), "0 to 3");
  return static_cast<GateActivation>(value);
}

// The gate of one branch; `channel` and `spatial` become rows or columns by the memory order of the map.
template <class Channel, class Spatial>
AttentionGate gate_of(const char* op, const FeatureMap& x, const Channel& channel, const Spatial& spatial,
                      const MaybeTensor& shift, const MaybeTensor& full, int64_t activation) {
  AttentionGate gate = {};
  const void* by_channel = x.values("channel", channel, x.batch, x.batch * x.channels);
  const void* by_position = x.values("spatial", spatial, x.batch, x.batch * x.height * x.width);
  const void* shifts = x.values("shift", shift, x.batch, x.batch * x.channels);
  gate.row = x.channels_last ? by_position : by_channel;
  gate.column = x.channels_last ? by_channel : by_position;
  (x.channels_last ? gate.column_shift : gate.row_shift) = shifts;
  gate.height = gate.full_height = x.height;
  gate.width = gate.full_width = x.width;
  gate.channels_last = x.channels_last;
  gate.activation = activation_of(op, activation);
  FASTREID_CHECK(shifts == nullptr || (by_channel != nullptr && by_position != nullptr), op, "shift",
                 "a shift", "none without channel and spatial");
  if (full.has_value()) {
    const Tensor& t = *full;
    const bool fits = t.dim() == 4 && t.size(0) == x.batch && t.size(1) == x.channels && t.size(2) >= 1 &&
                      t.size(3) >= 1 && x.height % t.size(2) == 0 && x.width % t.size(3) == 0;
    FASTREID_CHECK(fits && by_channel == nullptr && by_position == nullptr, op, "full", "another shape",
                   "(B, C, h, w), h a divisor of H and w of W, and no other logits");
    FASTREID_CHECK(t.scalar_type() == x.tensor.scalar_type() && dense_as(t, x.channels_last), op, "full",
                   "another kind of map", "the dtype and memory order of x");
    gate.full = t.const_data_ptr();
    gate.full_height = t.size(2);
    gate.full_width = t.size(3);
  }
  return gate;
}

// What attention_pool returns, and where its kernel writes.
struct PoolCall {
  PoolCall(const FeatureMap& x, int64_t channel, int64_t spatial, bool count_ties) {
    FASTREID_CHECK(channel >= 0 && channel <= 3 && spatial >= 0 && spatial <= 3 && channel + spatial > 0,
                   kPoolOp, "channel", shown({channel, spatial}),
                   "0 to 3 for channel and spatial, one of them above 0");
    const auto one = [&](bool wanted, bool by_channel, int32_t dtype) {
      if (!wanted) return x.empty({0}, dtype);
      return by_channel ? x.empty({x.batch, x.channels}, dtype)
                        : x.empty({x.batch, x.height, x.width}, dtype);
    };
    const int32_t whole = aoti_torch_dtype_int32();
    tensors = {one(channel & kMean, true, x.wide()),     one(channel & kMaximum, true, x.wide()),
               one(channel & kMaximum, true, whole),     one(spatial & kMean, false, x.wide()),
               one(spatial & kMaximum, false, x.wide()), one(spatial & kMaximum, false, whole)};
    const auto at = [](bool wanted, const Tensor& t) { return wanted ? t.mutable_data_ptr() : nullptr; };
    void* by_channel[] = {at(channel & kMean, std::get<0>(tensors)),
                          at(channel & kMaximum, std::get<1>(tensors)),
                          at(channel & kMaximum, std::get<2>(tensors))};
    void* by_position[] = {at(spatial & kMean, std::get<3>(tensors)),
                           at(spatial & kMaximum, std::get<4>(tensors)),
                           at(spatial & kMaximum, std::get<5>(tensors))};
    void** const row = x.channels_last ? by_position : by_channel;
    void** const column = x.channels_last ? by_channel : by_position;
    to = {row[0],    row[1],    static_cast<int32_t*>(row[2]),
          column[0], column[1], static_cast<int32_t*>(column[2]),
          count_ties};
  }
  PoolTensors tensors;
  AttentionPool to;
};

inline AttentionApply apply_problem(const FeatureMap& x, const std::vector<Tensor>& maps,
                                    const std::vector<Tensor>& channel, const std::vector<Tensor>& spatial,
                                    const MaybeTensor& shift, const MaybeTensor& full,
                                    const MaybeTensor& residual, int64_t activation, bool relu) {
  constexpr const char* op = kApplyOp;
  const size_t count = maps.size();
  FASTREID_CHECK(channel.empty() || channel.size() == count, op, "channel",
                 shown(static_cast<int64_t>(channel.size())), "one for each map");
  FASTREID_CHECK(spatial.empty() || spatial.size() == count, op, "spatial",
                 shown(static_cast<int64_t>(spatial.size())), "one for each map");
  FASTREID_CHECK(!channel.empty() || !spatial.empty() || full.has_value(), op, "channel", "no logits",
                 "channel, spatial or full");
  FASTREID_CHECK(count == 1 || (!full.has_value() && (channel.empty() || spatial.empty())), op, "x",
                 "several maps", "channel or spatial logits alone for several maps");
  AttentionApply problem = {};
  problem.shape = x.shape;
  problem.branches = static_cast<int>(count);
  for (size_t k = 0; k < count; ++k) {
    problem.x[k] = x.same("x", maps[k]);
    problem.gate[k] =
        gate_of(op, x, channel.empty() ? MaybeTensor() : MaybeTensor(channel[k]),
                spatial.empty() ? MaybeTensor() : MaybeTensor(spatial[k]), shift, full, activation);
  }
  problem.residual = x.same("residual", residual);
  problem.relu = relu;
  return problem;
}

inline const Tensor& first_of(const char* op, const std::vector<Tensor>& maps) {
  FASTREID_CHECK(!maps.empty() && maps.size() <= kMaxBranches, op, "x",
                 shown(static_cast<int64_t>(maps.size())) + " maps", "1 to 8 maps");
  return maps[0];
}

// What attention_reduce returns, and its problem.
struct ReduceCall {
  ReduceCall(const Tensor& map, const Tensor& grad, const MaybeTensor& result, const MaybeTensor& channel,
             const MaybeTensor& spatial, const MaybeTensor& shift, const MaybeTensor& full,
             int64_t activation, bool with_map)
      : x(kReduceOp, map) {
    constexpr const char* op = kReduceOp;
    problem.shape = x.shape;
    problem.gate = gate_of(op, x, channel, spatial, shift, full, activation);
    FASTREID_CHECK(channel.has_value() || spatial.has_value() || full.has_value(), op, "channel", "no logits",
                   "channel, spatial or full");
    problem.x = map.const_data_ptr();
    problem.grad = x.same("grad", grad);
    problem.result = x.same("result", result);
    const auto like = [&](const MaybeTensor& value, bool by_channel) {
      if (!value.has_value()) return x.empty({0}, x.wide());
      return by_channel ? x.empty({x.batch, x.channels}, x.wide())
                        : x.empty({x.batch, x.height, x.width}, x.wide());
    };
    tensors = {with_map ? x.like() : x.empty({0}, x.own()), like(channel, true), like(spatial, false),
               like(shift, true),
               full.has_value() ? x.map(full->size(2), full->size(3)) : x.empty({0}, x.own())};
    const auto at = [](bool wanted, const Tensor& t) { return wanted ? t.mutable_data_ptr() : nullptr; };
    problem.grad_x = at(with_map, std::get<0>(tensors));
    void* const by_channel = at(channel.has_value(), std::get<1>(tensors));
    void* const by_position = at(spatial.has_value(), std::get<2>(tensors));
    problem.grad_row = x.channels_last ? by_position : by_channel;
    problem.grad_column = x.channels_last ? by_channel : by_position;
    (x.channels_last ? problem.grad_column_shift : problem.grad_row_shift) =
        at(shift.has_value(), std::get<3>(tensors));
    problem.grad_full = at(full.has_value(), std::get<4>(tensors));
  }
  FeatureMap x;
  AttentionReduce problem = {};
  ReduceTensors tensors;
};

// What attention_input returns, and its problem.
struct InputCall {
  InputCall(const Tensor& map, const MaybeTensor& grad, const MaybeTensor& result, const MaybeTensor& channel,
            const MaybeTensor& spatial, const MaybeTensor& shift, const MaybeTensor& full, int64_t activation,
            const MaybeTensor& channel_mean, const MaybeTensor& channel_top, const MaybeTensor& spatial_mean,
            const MaybeTensor& spatial_top, const MaybeTensor& channel_place,
            const MaybeTensor& spatial_place, const MaybeTensor& channel_max, const MaybeTensor& spatial_max,
            bool count_ties)
      : x(kInputOp, map), tensor(x.like()) {
    problem.shape = x.shape;
    problem.gate = gate_of(kInputOp, x, channel, spatial, shift, full, activation);
    problem.grad = x.same("grad", grad);
    problem.result = x.same("result", result);
    const int64_t channels = x.batch * x.channels, positions = x.batch * x.height * x.width;
    const bool flip = x.channels_last;
    const auto put = [&](const MaybeTensor& mean, const MaybeTensor& top, const MaybeTensor& place,
                         const MaybeTensor& maximum, int64_t count, bool row) {
      (row ? problem.grad_row_mean : problem.grad_column_mean) = x.values("mean", mean, x.batch, count);
      (row ? problem.grad_row_max : problem.grad_column_max) = x.values("maximum", top, x.batch, count);
      if (!top.has_value()) return;
      FASTREID_CHECK(place.has_value() && maximum.has_value(), kInputOp, "place", "none",
                     "the places of the maxima");
      (row ? problem.row_place : problem.column_place) =
          static_cast<const int32_t*>(x.values("place", place, x.batch, count, true));
      (row ? problem.row_max : problem.column_max) = x.values("maximum", maximum, x.batch, count);
    };
    put(channel_mean, channel_top, channel_place, channel_max, channels, !flip);
    put(spatial_mean, spatial_top, spatial_place, spatial_max, positions, flip);
    problem.count_ties = count_ties;
    problem.x = map.const_data_ptr();
    problem.grad_x = tensor.mutable_data_ptr();
  }
  FeatureMap x;
  Tensor tensor;
  AttentionInput problem = {};
};

}  // namespace fastreid
