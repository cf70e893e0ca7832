// SPDX-License-Identifier: Apache-2.0
// What every registration file reads off torch's tensors. Never included by a kernel.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "common/check.h"
#include "common/dtype.h"
#include "common/sizes.h"

namespace fastreid {

inline Dtype dtype_of(const char* op, const char* argument, const torch::stable::Tensor& tensor) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return Dtype::float32;
    case ScalarType::Double:
      return Dtype::float64;
    case ScalarType::BFloat16:
      return Dtype::bfloat16;
    case ScalarType::Half:
      return Dtype::float16;
    default:
      refuse(op, argument, "another dtype", "float32, float64, bfloat16 or float16");
  }
}

// A contiguous, uninitialised tensor on the device of `like`. Through the C shim: torch::stable::new_empty costs 2 us
// more.
inline torch::stable::Tensor empty_on(const torch::stable::Tensor& like, const std::vector<int64_t>& shape,
                                      int32_t dtype) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t d = shape.size(); d-- > 1;) strides[d - 1] = strides[d] * larger(shape[d], 1);
  int32_t device;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(),
                                                  strides.data(), dtype, device, like.get_device_index(),
                                                  &handle));
  return torch::stable::Tensor(handle);
}

}  // namespace fastreid
