// SPDX-License-Identifier: Apache-2.0
// From torch's tensors to the problem of ranking.h, for both registration files.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "common/check.h"
#include "common/sizes.h"
#include "common/tensors.h"
#include "ranking/ranking.h"

namespace fastreid {

using torch::stable::Tensor;

inline constexpr const char* kRankingOp = "rank_metrics";

// One call: its problem, and the results it fills, on the device of distance.
class RankingCall {
 public:
  RankingCall(const Tensor& distance, const Tensor& members, const Tensor& begin, const Tensor& end,
              const std::optional<Tensor>& query_camids, const std::optional<Tensor>& gallery_camids,
              int64_t camera_rule, int64_t ap_rule, int64_t max_rank)
      : max_rank(max_rank) {
    FASTREID_CHECK(distance.dim() == 2, kRankingOp, "distance", shown(distance.dim()) + " dimensions", "2");
    FASTREID_CHECK(camera_rule == 0 || camera_rule == 1, kRankingOp, "camera_rule", shown(camera_rule),
                   "0 or 1");
    FASTREID_CHECK(ap_rule == 0 || ap_rule == 1, kRankingOp, "ap", shown(ap_rule), "0 or 1");
    FASTREID_CHECK(max_rank >= 1, kRankingOp, "max_rank", shown(max_rank), "at least 1");
    problem.distance = distance.const_data_ptr();
    problem.dtype = dtype_of(kRankingOp, "distance", distance);
    problem.row_stride = distance.stride(0);
    problem.column_stride = distance.stride(1);
    const int64_t queries = problem.queries = distance.size(0);
    const int64_t gallery = problem.gallery = distance.size(1);
    problem.members = integers("members", members, gallery, distance);
    problem.begin = integers("begin", begin, queries, distance);
    problem.end = integers("end", end, queries, distance);
    problem.camera_rule = static_cast<CameraRule>(camera_rule);
    problem.ap_rule = static_cast<ApRule>(ap_rule);
    if (problem.camera_rule == CameraRule::same_pid) {
      FASTREID_CHECK(query_camids && gallery_camids, kRankingOp, "camids", "none", "a tensor for each side");
      problem.query_camids = integers("query_camids", *query_camids, queries, distance);
      problem.gallery_camids = integers("gallery_camids", *gallery_camids, gallery, distance);
    }
    cmc = empty(distance, {max_rank}, aoti_torch_dtype_float64());
    means = empty(distance, {2}, aoti_torch_dtype_float64());
    reals = empty(distance, {2, queries}, aoti_torch_dtype_float64());
    counts = empty(distance, {4, queries}, aoti_torch_dtype_int64());
    double* real = reals.mutable_data_ptr<double>();
    int64_t* count = counts.mutable_data_ptr<int64_t>();
    rows = {real, real + queries, count, count + queries, count + 2 * queries, count + 3 * queries};
  }

  // Contiguous, uninitialised. Through the C shim: torch::stable::new_empty costs 2 us more.
  static Tensor empty(const Tensor& like, const std::vector<int64_t>& shape, int32_t dtype) {
    std::vector<int64_t> strides(shape.size(), 1);
    for (size_t d = shape.size() - 1; d > 0; --d) strides[d - 1] = strides[d] * larger(shape[d], 1);
    int32_t device;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
    AtenTensorHandle handle;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(),
                                                           strides.data(), dtype, device,
                                                           like.get_device_index(), &handle));
    return Tensor(handle);
  }

  std::tuple<Tensor, Tensor, Tensor, Tensor> results() const { return {cmc, means, reals, counts}; }

  RankingProblem problem{};
  RankingRows rows{};
  int64_t max_rank;
  Tensor cmc;     // (max_rank,) float64
  Tensor means;   // (2,) float64: mAP, mINP
  Tensor reals;   // (2, Q) float64: AP, INP
  Tensor counts;  // (4, Q) int64: first rank, relevant entries, status, non-finite entries

 private:
  static const int64_t* integers(const char* argument, const Tensor& tensor, int64_t size,
                                 const Tensor& distance) {
    const bool right = tensor.is_cpu() == distance.is_cpu() &&
                       tensor.get_device_index() == distance.get_device_index() &&
                       tensor.scalar_type() == torch::headeronly::ScalarType::Long && tensor.dim() == 1 &&
                       tensor.size(0) == size && tensor.is_contiguous();
    FASTREID_CHECK(right, kRankingOp, argument, "another tensor",
                   "a contiguous int64 tensor of shape " + shown({size}) + " on the device of distance");
    return tensor.const_data_ptr<int64_t>();
  }
};

}  // namespace fastreid
