// SPDX-License-Identifier: Apache-2.0
// The CUDA side of the attention ops. Schemas are in attention_ops.cpp; channel_attention is the CPU's alone, on a device
// the Python function makes it of these.
#include "attention/attention_ops.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <cuda_runtime_api.h>

namespace fastreid {
namespace {

void* current_stream(const Tensor& x) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return stream;
}

// From torch's allocator, so that the block is not reused before the stream is done with it.
Tensor scratch_of(const FeatureMap& x, int64_t bytes) {
  return x.empty({ceil_div(bytes, 8)}, aoti_torch_dtype_float64());
}

void check(int error) { STD_CUDA_CHECK(static_cast<cudaError_t>(error)); }

PoolTensors attention_pool(const Tensor& map, int64_t channel, int64_t spatial, bool count_ties) {
  const FeatureMap x("attention_pool", map);
  const torch::stable::accelerator::DeviceGuard guard(map.get_device_index());
  PoolCall call(x, channel, spatial, count_ties);
  if (x.batch == 0) return call.tensors;
  const Tensor scratch = scratch_of(x, cuda::attention_pool_scratch(x.shape, call.to));
  check(cuda::launch_attention_pool(x.shape, map.const_data_ptr(), call.to, scratch.mutable_data_ptr(),
                                    current_stream(map)));
  return call.tensors;
}

Tensor attention_apply(const std::vector<Tensor>& maps, const std::vector<Tensor>& channel,
                       const std::vector<Tensor>& spatial, const MaybeTensor& shift, const MaybeTensor& full,
                       const MaybeTensor& residual, int64_t activation, bool relu) {
  const FeatureMap x("attention_gate", first_of("attention_gate", maps));
  const torch::stable::accelerator::DeviceGuard guard(x.tensor.get_device_index());
  AttentionApply problem = apply_problem(x, maps, channel, spatial, shift, full, residual, activation, relu);
  Tensor result = x.like();
  if (x.batch == 0) return result;
  problem.result = result.mutable_data_ptr();
  check(cuda::launch_attention_apply(problem, current_stream(x.tensor)));
  return result;
}

ReduceTensors attention_reduce(const Tensor& map, const Tensor& grad, const MaybeTensor& result,
                               const MaybeTensor& channel, const MaybeTensor& spatial,
                               const MaybeTensor& shift, const MaybeTensor& full, int64_t activation,
                               bool with_map) {
  const torch::stable::accelerator::DeviceGuard guard(map.get_device_index());
  ReduceCall call(map, grad, result, channel, spatial, shift, full, activation, with_map);
  if (call.x.batch == 0) return call.tensors;
  const Tensor scratch = scratch_of(call.x, cuda::attention_reduce_scratch(call.problem));
  check(cuda::launch_attention_reduce(call.problem, scratch.mutable_data_ptr(), current_stream(map)));
  return call.tensors;
}

Tensor attention_input(const Tensor& map, const MaybeTensor& grad, const MaybeTensor& result,
                       const MaybeTensor& channel, const MaybeTensor& spatial, const MaybeTensor& shift,
                       const MaybeTensor& full, int64_t activation, const MaybeTensor& channel_mean,
                       const MaybeTensor& channel_top, const MaybeTensor& spatial_mean,
                       const MaybeTensor& spatial_top, const Tensor& channel_place,
                       const Tensor& spatial_place, const Tensor& channel_max, const Tensor& spatial_max,
                       bool count_ties) {
  const torch::stable::accelerator::DeviceGuard guard(map.get_device_index());
  InputCall call(map, grad, result, channel, spatial, shift, full, activation, channel_mean, channel_top,
                 spatial_mean, spatial_top, channel_place, spatial_place, channel_max, spatial_max,
                 count_ties);
  if (call.x.batch > 0) check(cuda::launch_attention_input(call.problem, current_stream(map)));
  return call.tensor;
}

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_IMPL(fastreid, CUDA, m) {
  m.impl("attention_pool", TORCH_BOX(&fastreid::attention_pool));
  m.impl("attention_apply", TORCH_BOX(&fastreid::attention_apply));
  m.impl("attention_reduce", TORCH_BOX(&fastreid::attention_reduce));
  m.impl("attention_input", TORCH_BOX(&fastreid::attention_input));
}
