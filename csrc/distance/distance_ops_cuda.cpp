// SPDX-License-Identifier: Apache-2.0
// The CUDA side of fastreid::pairwise_distance and its gradient. Schemas are in distance_ops.cpp.
#include "distance/distance_ops.h"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cuda_runtime_api.h>

namespace fastreid {
namespace {

void* current_stream(const Tensor& x) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return stream;
}

// From torch's allocator, so that the block is not reused before the stream is done with it.
Tensor scratch_of(const Tensor& x, int64_t bytes) {
  return DistanceCall::empty(x, std::vector<int64_t>{ceil_div(bytes, 8)}, aoti_torch_dtype_float64());
}

Tensor pairwise_distance(const Tensor& x, const Tensor& y, int64_t metric) {
  const DistanceCall call(x, y, metric);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const DistanceProblem& p = call.problem;
  Tensor result = call.empty(x, p.x_rows, p.y_rows);
  if (result.numel() == 0) return result;
  Tensor scratch = scratch_of(x, cuda::distance_scratch(p));
  char* const out = static_cast<char*>(result.mutable_data_ptr());
  for (int64_t item = 0; item < call.batch; ++item)
    STD_CUDA_CHECK(static_cast<cudaError_t>(
        cuda::launch_distance(call.item(item), scratch.mutable_data_ptr(),
                              out + item * p.x_rows * p.y_rows * call.item_size, current_stream(x))));
  return result;
}

Tensor pairwise_distance_backward(const Tensor& grad, const Tensor& distance, const Tensor& x,
                                  const Tensor& y, int64_t metric) {
  const DistanceGradCall call(grad, distance, x, y, metric);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const DistanceProblem& p = call.forward.problem;
  Tensor result = call.forward.empty(x, p.x_rows, p.depth);
  if (result.numel() == 0) return result;
  Tensor scratch = scratch_of(x, cuda::distance_gradient_scratch({p, {}, {}}));
  char* const out = static_cast<char*>(result.mutable_data_ptr());
  for (int64_t item = 0; item < call.forward.batch; ++item)
    STD_CUDA_CHECK(static_cast<cudaError_t>(cuda::launch_distance_gradient(
        call.item(item), scratch.mutable_data_ptr(), out + item * p.x_rows * p.depth * call.forward.item_size,
        current_stream(x))));
  return result;
}

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_IMPL(fastreid, CUDA, m) {
  m.impl("pairwise_distance", TORCH_BOX(&fastreid::pairwise_distance));
  m.impl("pairwise_distance_backward", TORCH_BOX(&fastreid::pairwise_distance_backward));
}
