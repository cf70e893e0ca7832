// SPDX-License-Identifier: Apache-2.0
// The CUDA side: the current device's stream, memory from torch's allocator. What the labels hold is not
// looked at (they are on the device): that is the Python function's promise.
#include "ranking/ranking_ops.h"

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

namespace fastreid {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> run(const RankingArguments& arguments) {
  const int32_t device = arguments.distance.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const RankingCall call = RankingCall::of_matrix(arguments);
  const RankingProblem& p = call.problem;
  FASTREID_CHECK(p.cmc_rule != CmcRule::single_gallery_shot, kRankingOp, "cmc",
                 "single_gallery_shot on a CUDA device", "it on the CPU, or another rule");
  const Tensor scratch =
      empty_on(arguments.distance, {cuda::ranking_scratch(p) / 8}, aoti_torch_dtype_int64());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  STD_CUDA_CHECK(
      static_cast<cudaError_t>(cuda::launch_ranking(p, scratch.mutable_data_ptr(), call.rows, stream)));
  STD_CUDA_CHECK(static_cast<cudaError_t>(cuda::launch_ranking_summary(
      p.queries, call.max_rank, p.invalid_rule, call.rows, call.cmc.mutable_data_ptr<double>(),
      call.means.mutable_data_ptr<double>(), stream)));
  return call.results();
}

std::tuple<Tensor, Tensor> summary(const Tensor& reals, const Tensor& counts, const Tensor& shares,
                                   int64_t invalid, int64_t max_rank) {
  const torch::stable::accelerator::DeviceGuard guard(reals.get_device_index());
  const RankingRows rows = summary_rows(reals, counts, shares, invalid, max_rank);
  const Tensor cmc = empty_on(reals, {max_rank}, aoti_torch_dtype_float64());
  const Tensor means = empty_on(reals, {2}, aoti_torch_dtype_float64());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(reals.get_device_index(), &stream));
  STD_CUDA_CHECK(static_cast<cudaError_t>(cuda::launch_ranking_summary(
      reals.size(1), max_rank, static_cast<InvalidRule>(invalid), rows, cmc.mutable_data_ptr<double>(),
      means.mutable_data_ptr<double>(), stream)));
  return {cmc, means};
}

FASTREID_RANK_METRICS(run)

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_IMPL(fastreid, CUDA, m) {
  m.impl("rank_metrics", TORCH_BOX(&fastreid::rank_metrics));
  m.impl("ranking_summary", TORCH_BOX(&fastreid::summary));
}
