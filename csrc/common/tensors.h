// SPDX-License-Identifier: Apache-2.0
// What every registration file reads off torch's tensors. Never included by a kernel.
#pragma once

#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include "common/check.h"
#include "common/dtype.h"

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

}  // namespace fastreid
