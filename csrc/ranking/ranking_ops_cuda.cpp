// SPDX-License-Identifier: Apache-2.0
// The CUDA side: the current device's stream, memory from torch's allocator. What the labels hold is not
// looked at (they are on the device): that is the Python function's promise.
#include "ranking/ranking_ops.h"

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

namespace fastreid {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> rank_metrics(const Tensor& distance, const Tensor& members,
                                                        const Tensor& begin, const Tensor& end,
                                                        const std::optional<Tensor>& query_camids,
                                                        const std::optional<Tensor>& gallery_camids,
                                                        int64_t camera_rule, int64_t ap, int64_t max_rank) {
  const int32_t device = distance.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const RankingCall call(distance, members, begin, end, query_camids, gallery_camids, camera_rule, ap,
                         max_rank);
  const RankingProblem& p = call.problem;
  const int64_t bytes = cuda::ranking_scratch(p.queries, p.gallery);
  const Tensor scratch = RankingCall::empty(distance, {bytes / 8}, aoti_torch_dtype_int64());
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  STD_CUDA_CHECK(
      static_cast<cudaError_t>(cuda::launch_ranking(p, scratch.mutable_data_ptr(), call.rows, stream)));
  STD_CUDA_CHECK(static_cast<cudaError_t>(
      cuda::launch_ranking_summary(p.queries, max_rank, call.rows, call.cmc.mutable_data_ptr<double>(),
                                   call.means.mutable_data_ptr<double>(), stream)));
  return call.results();
}

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_IMPL(fastreid, CUDA, m) { m.impl("rank_metrics", TORCH_BOX(&fastreid::rank_metrics)); }
