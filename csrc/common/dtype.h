// SPDX-License-Identifier: Apache-2.0
// The element types that kernels take.
#pragma once

namespace fastreid {

enum class Dtype : int { float32 = 0, float64 = 1, bfloat16 = 2, float16 = 3 };

}  // namespace fastreid
