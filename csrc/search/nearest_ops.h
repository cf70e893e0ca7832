// SPDX-License-Identifier: Apache-2.0
// From torch's tensors to the problem of nearest.h, for both registration files.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <tuple>

#include "common/check.h"
#include "common/tensors.h"
#include "search/nearest.h"

namespace fastreid {

using torch::stable::Tensor;

inline constexpr const char* kNearestOp = "nearest";

inline NearestRows nearest_rows(const Tensor& rows) {
  return {rows.const_data_ptr(), rows.stride(0), rows.stride(1), nullptr, 0};
}

inline NearestProblem nearest_problem(const Tensor& x, const Tensor& y, int64_t k, bool angular, bool same,
                                      bool exclude_self, bool pairs) {
  FASTREID_CHECK(x.dim() == 2, kNearestOp, "x", shown(x.dim()) + " dimensions", "2");
  FASTREID_CHECK(y.dim() == 2, kNearestOp, "y", shown(y.dim()) + " dimensions", "2");
  FASTREID_CHECK(x.scalar_type() == y.scalar_type(), kNearestOp, "y", "another dtype", "the dtype of x");
  FASTREID_CHECK(x.is_cpu() == y.is_cpu() && x.get_device_index() == y.get_device_index(), kNearestOp, "y",
                 "another device", "the device of x");
  FASTREID_CHECK(x.size(1) == y.size(1) && x.size(1) >= 1, kNearestOp, "y", shown({y.size(0), y.size(1)}),
                 "rows of length " + shown(x.size(1)) + " as in x, at least 1");
  FASTREID_CHECK(y.size(0) < int64_t{1} << 31, kNearestOp, "y", shown(y.size(0)) + " rows",
                 "fewer than 2147483648");
  FASTREID_CHECK(!same || x.size(0) == y.size(0), kNearestOp, "same", "x and y of different sizes", "y is x");
  const int64_t most = y.size(0) - (exclude_self ? 1 : 0);
  FASTREID_CHECK(k >= 1 && (k <= most || x.size(0) == 0), kNearestOp, "k", shown(k), "1 to " + shown(most));
  return {nearest_rows(x),
          nearest_rows(y),
          x.size(0),
          y.size(0),
          x.size(1),
          k,
          dtype_of(kNearestOp, "x", x),
          angular,
          same,
          exclude_self,
          pairs};
}

// All rows of x and `more` among themselves.
inline NearestProblem joined_problem(const Tensor& x, const Tensor& more, int64_t k, bool angular,
                                     bool pairs) {
  FASTREID_CHECK(x.dim() == 2 && more.dim() == 2 && x.size(1) == more.size(1) && x.size(1) >= 1 &&
                     x.stride(0) == more.stride(0) && x.stride(1) == more.stride(1) &&
                     x.scalar_type() == more.scalar_type() && more.is_cpu() == x.is_cpu(),
                 kNearestOp, "more", "another tensor", "rows of the length, dtype, device and strides of x");
  const int64_t rows = x.size(0) + more.size(0);
  FASTREID_CHECK(rows < int64_t{1} << 31, kNearestOp, "x", shown(rows) + " rows", "fewer than 2147483648");
  FASTREID_CHECK(1 <= k && k <= rows, kNearestOp, "k", shown(k), "1 to " + shown(rows));
  const NearestRows all = {x.const_data_ptr(), x.stride(0), x.stride(1), more.const_data_ptr(), x.size(0)};
  return {all, all, rows, rows, x.size(1), k, dtype_of(kNearestOp, "x", x), angular, true, false, pairs};
}

// The three results, uninitialised, on the device of x.
struct NearestTensors {
  NearestTensors(const Tensor& x, int64_t k, bool farthest)
      : squared(empty_on(x, {x.size(0), k}, aoti_torch_dtype_float64())),
        index(empty_on(x, {x.size(0), k}, aoti_torch_dtype_int64())),
        far(empty_on(x, {farthest ? x.size(0) : 0}, aoti_torch_dtype_float64())),
        farthest(farthest) {}

  NearestResult result() const {
    return {squared.mutable_data_ptr<double>(), index.mutable_data_ptr<int64_t>(),
            farthest ? far.mutable_data_ptr<double>() : nullptr};
  }
  std::tuple<Tensor, Tensor, Tensor> all() const { return {squared, index, far}; }

  Tensor squared, index, far;
  bool farthest;
};

}  // namespace fastreid
