// SPDX-License-Identifier: Apache-2.0
// The CUDA side of fastreid::rank_features. What the labels hold is not looked at (they are on the device): that is the
// Python function's promise. Schemas are in feature_ranking_ops.cpp.
#include "ranking/feature_ranking_ops.h"

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

namespace fastreid {
namespace {

std::tuple<Tensor, Tensor, Tensor> run(const Tensor& x, const Tensor& y, bool angular,
                                       const RankingArguments& arguments) {
  check_features(x, y);
  const int32_t device = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const RankingCall call(arguments, x.size(0), y.size(0));
  const FeatureRankingProblem p = feature_ranking_problem(x, y, angular, false, call);
  // From torch's allocator, so that the block is not reused before the stream is done with it.
  const int64_t bytes = cuda::feature_ranking_scratch(p);
  const Tensor scratch = empty_on(x, {ceil_div(bytes, 8)}, aoti_torch_dtype_float64());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  STD_CUDA_CHECK(static_cast<cudaError_t>(
      cuda::launch_feature_ranking(p, scratch.mutable_data_ptr(), call.rows, stream)));
  return {call.reals, call.counts, call.shares};
}

FASTREID_RANK_FEATURES(run)

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_IMPL(fastreid, CUDA, m) { m.impl("rank_features", TORCH_BOX(&fastreid::rank_features)); }
