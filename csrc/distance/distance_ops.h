// SPDX-License-Identifier: Apache-2.0
// From torch's tensors to the problems of distance.h, for both registration files. Leading dimensions must be
// equal (the Python function has broadcast them as 0-stride views); a batch item is then an offset into each tensor.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "common/check.h"
#include "common/sizes.h"
#include "common/tensors.h"
#include "distance/distance.h"

namespace fastreid {

using torch::stable::Tensor;

inline constexpr const char* kDistanceOp = "pairwise_distance";

// A (..., rows, columns) tensor as one matrix for each batch item.
class Matrices {
 public:
  Matrices(const char* argument, const Tensor& tensor, const Tensor& like)
      : data_(static_cast<const char*>(tensor.const_data_ptr())),
        size_(static_cast<int64_t>(tensor.element_size())) {
    const int64_t dims = tensor.dim();
    FASTREID_CHECK(dims >= 2 && dims == like.dim(), kDistanceOp, argument, shown(dims) + " dimensions",
                   "as many as x, at least 2");
    FASTREID_CHECK(tensor.scalar_type() == like.scalar_type(), kDistanceOp, argument, "another dtype",
                   "the dtype of x");
    FASTREID_CHECK(tensor.is_cpu() == like.is_cpu() && tensor.get_device_index() == like.get_device_index(),
                   kDistanceOp, argument, "another device", "the device of x");
    for (int64_t d = 0; d < dims - 2; ++d) {
      FASTREID_CHECK(tensor.size(d) == like.size(d), kDistanceOp, argument, shown(tensor.size(d)),
                     shown(like.size(d)) + " as in x, in dimension " + shown(d));
      sizes_.push_back(tensor.size(d));
      strides_.push_back(tensor.stride(d));
    }
    rows = tensor.size(dims - 2);
    columns = tensor.size(dims - 1);
    row_stride_ = tensor.stride(dims - 2);
    column_stride_ = tensor.stride(dims - 1);
  }

  DistanceMatrix item(int64_t index) const {
    int64_t offset = 0;
    for (size_t d = sizes_.size(); d-- > 0; index /= sizes_[d]) offset += index % sizes_[d] * strides_[d];
    return {data_ + offset * size_, row_stride_, column_stride_};
  }

  const std::vector<int64_t>& batch_shape() const { return sizes_; }

  int64_t rows, columns;

 private:
  const char* data_;
  int64_t size_, row_stride_, column_stride_;
  std::vector<int64_t> sizes_, strides_;
};

struct DistanceCall {
  DistanceCall(const Tensor& x_tensor, const Tensor& y_tensor, int64_t metric)
      : x("x", x_tensor, x_tensor),
        y("y", y_tensor, x_tensor),
        item_size(static_cast<int64_t>(x_tensor.element_size())) {
    FASTREID_CHECK(0 <= metric && metric <= 3, kDistanceOp, "metric", shown(metric), "0 to 3");
    FASTREID_CHECK(x.columns == y.columns, kDistanceOp, "y", shown({y.rows, y.columns}),
                   "rows of length " + shown(x.columns) + " as in x");
    FASTREID_CHECK(x.columns >= 1, kDistanceOp, "x", shown({x.rows, x.columns}),
                   "rows of at least one element");
    for (int64_t size : x.batch_shape()) batch *= size;
    problem = {
        {}, {}, x.rows, y.rows, x.columns, static_cast<Metric>(metric), dtype_of(kDistanceOp, "x", x_tensor)};
  }

  DistanceProblem item(int64_t index) const {
    DistanceProblem one = problem;
    one.x = x.item(index);
    one.y = y.item(index);
    return one;
  }

  // (*batch, rows, columns), contiguous, uninitialised. Through the C shim: torch::stable::new_empty costs 2
  // us more.
  Tensor empty(const Tensor& like, int64_t rows, int64_t columns) const {
    std::vector<int64_t> shape = x.batch_shape();
    shape.push_back(rows);
    shape.push_back(columns);
    return empty(like, shape, like_dtype(like));
  }

  static int32_t like_dtype(const Tensor& like) {
    int32_t dtype;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
    return dtype;
  }

  static Tensor empty(const Tensor& like, const std::vector<int64_t>& shape, int32_t dtype) {
    std::vector<int64_t> strides(shape.size(), 1);
    for (size_t d = shape.size() - 1; d > 0; --d) strides[d - 1] = strides[d] * larger(shape[d], 1);
    int32_t device;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
    AtenTensorHandle handle;
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(),
                                                    strides.data(), dtype, device, like.get_device_index(),
                                                    &handle));
    return Tensor(handle);
  }

  Matrices x, y;
  int64_t item_size;
  int64_t batch = 1;
  DistanceProblem problem;
};

struct DistanceGradCall {
  DistanceGradCall(const Tensor& grad_tensor, const Tensor& distance_tensor, const Tensor& x, const Tensor& y,
                   int64_t metric)
      : forward(x, y, metric), grad("grad", grad_tensor, x), distance("distance", distance_tensor, x) {
    for (const Matrices* matrix : {&grad, &distance})
      FASTREID_CHECK(matrix->rows == forward.x.rows && matrix->columns == forward.y.rows, kDistanceOp,
                     matrix == &grad ? "grad" : "distance", shown({matrix->rows, matrix->columns}),
                     shown({forward.x.rows, forward.y.rows}));
  }

  DistanceGradProblem item(int64_t index) const {
    return {forward.item(index), grad.item(index), distance.item(index)};
  }

  DistanceCall forward;
  Matrices grad, distance;
};

}  // namespace fastreid
