// SPDX-License-Identifier: Apache-2.0
// The tests' own half-precision arithmetic, against values written down from the formats' definitions.
#include "values.h"

#include "testing.h"

namespace {

using testing::decode;
using testing::encode;
using testing::kBfloat16;
using testing::kFloat16;

CASE(known_encodings) {
  CHECK_EQUAL(encode(1.0, kFloat16), 0x3c00);
  CHECK_EQUAL(encode(-2.0, kFloat16), 0xc000);
  CHECK_EQUAL(encode(65504.0, kFloat16), 0x7bff);
  CHECK_EQUAL(encode(65519.9, kFloat16), 0x7bff);
  CHECK_EQUAL(encode(65520.0, kFloat16), 0x7c00);
  CHECK_EQUAL(encode(0x1p-24, kFloat16), 0x0001);
  CHECK_EQUAL(encode(0x1p-25, kFloat16), 0x0000);
  CHECK_EQUAL(encode(0x1.8p-25, kFloat16), 0x0001);
  CHECK_EQUAL(encode(-0.0, kFloat16), 0x8000);
  CHECK_EQUAL(encode(1.0 + 0x1p-11, kFloat16), 0x3c00);
  CHECK_EQUAL(encode(1.0 + 0x3p-11, kFloat16), 0x3c02);
  CHECK_EQUAL(encode(1.0, kBfloat16), 0x3f80);
  CHECK_EQUAL(encode(3.140625, kBfloat16), 0x4049);
  CHECK_EQUAL(encode(-INFINITY, kBfloat16), 0xff80);
}

CASE(every_number_comes_back) {
  for (const auto& format : {kFloat16, kBfloat16}) {
    for (unsigned bits = 0; bits < 65536; ++bits) {
      const double value = decode(static_cast<std::uint16_t>(bits), format);
      if (!std::isnan(value)) CHECK_EQUAL(encode(value, format), bits);
    }
  }
}

}  // namespace
