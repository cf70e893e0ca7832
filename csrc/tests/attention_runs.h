// SPDX-License-Identifier: Apache-2.0
// How the cases of test_attention.cpp run a pass: the CPU kernels in every instruction set and in parts, the CUDA kernels
// on the emulated device.
#pragma once

#include "attention_oracle.h"
#include "every.h"

namespace {

using namespace fastreid;
using namespace testing;

// Height of the positions and how many share an entry of a full gate, along y and x.
struct Size {
  int64_t batch, rows, columns;
  int64_t height = 1, factor_y = 1, factor_x = 1;
};

AttentionShape shape_of(const Size& size, Type type) {
  return {size.batch, size.rows, size.columns, static_cast<Dtype>(type)};
}

// Single entries, odd sizes, rows past a warp and past a block, tiles of columns, chunks of rows, more samples than the
// emulation's grid has.
constexpr Size kSizes[] = {{1, 1, 1},
                           {2, 1, 5},
                           {2, 7, 1},
                           {1, 3, 33},
                           {3, 33, 17, 1},
                           {1, 20, 64, 8, 4, 2},
                           {5, 6, 24, 4, 2, 3},
                           {2, 4, 48, 6},
                           {1, 150, 8, 4, 1, 2},
                           {1, 70, 300, 10, 5, 6},
                           {1, 5, 1100, 11, 11, 100}};

// body(begin, end) over [0, size), in `parts`.
template <typename Body>
void in_parts(int64_t size, int parts, Body body) {
  for (int64_t part = 0; part < parts; ++part)
    if (size * part / parts < size * (part + 1) / parts) body(size * part / parts, size * (part + 1) / parts);
}

// run(parts) on the CPU in every instruction set: the same bits everywhere; compare(result) once for each.
template <typename Run, typename Compare>
void check_cpu(Run run, Compare compare) {
  bool compared = false;
  auto first = run(1);
  for_every_isa([&] {
    const auto got = run(1);
    if (!compared || !got.same_bits(first)) compare(got);
    compared = true;
    CHECK(got.same_bits(first));
    for (const int parts : {2, 3}) CHECK(run(parts).same_bits(first));
  });
}

// run() on the emulated device; with `orders` in every order of its threads: the same bits.
template <typename Run, typename Compare>
void check_device([[maybe_unused]] Run run, [[maybe_unused]] Compare compare, [[maybe_unused]] bool orders) {
#ifdef FASTREID_EMULATED
  Trying trying("emulated device");
  const auto first = run();
  compare(first);
  if (orders) for_every_order([&] { CHECK(run().same_bits(first)); });
#endif
}

}  // namespace
