// SPDX-License-Identifier: Apache-2.0
// The CUDA side of fastreid::nearest. Schemas are in nearest_ops.cpp.
#include "search/nearest_ops.h"

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

namespace fastreid {
namespace {

std::tuple<Tensor, Tensor, Tensor> nearest(const Tensor& x, const Tensor& y, int64_t k, bool angular,
                                           bool same, bool exclude_self, bool farthest) {
  const NearestProblem p = nearest_problem(x, y, k, angular, same, exclude_self, false);
  const int32_t device = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const NearestTensors tensors(x, k, farthest);
  if (p.x_rows == 0) return tensors.all();
  // From torch's allocator, so that the block is not reused before the stream is done with it.
  const int64_t bytes = cuda::nearest_scratch(p, farthest);
  const Tensor scratch = empty_on(x, {ceil_div(bytes, 8)}, aoti_torch_dtype_float64());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  STD_CUDA_CHECK(static_cast<cudaError_t>(
      cuda::launch_nearest(p, scratch.mutable_data_ptr(), tensors.result(), stream)));
  return tensors.all();
}

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_IMPL(fastreid, CUDA, m) { m.impl("nearest", TORCH_BOX(&fastreid::nearest)); }
