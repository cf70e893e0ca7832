// SPDX-License-Identifier: Apache-2.0
// Shares out work of uneven size: whichever thread is free takes the next item. For registration files only.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>
#include <vector>

#include "common/sizes.h"

namespace fastreid {

// 64-byte aligned memory for one thread, uninitialised.
class Workspace {
 public:
  explicit Workspace(int64_t bytes) : memory_(static_cast<size_t>(bytes) + 64) {}
  void* data() {
    const auto address = reinterpret_cast<uintptr_t>(memory_.data());
    return reinterpret_cast<void*>((address + 63) / 64 * 64);
  }

 private:
  struct Byte {
    Byte() {}  // leaves it as it is: a vector of chars would be filled with zeros
    char value;
  };
  std::vector<Byte> memory_;
};

// Calls body(item, workspace) for each item in [first, last), on as many threads as torch has.
template <class F>
void for_items(int64_t first, int64_t last, int64_t workspace_bytes, const F& body) {
  if (first >= last) return;
  std::atomic<int64_t> next{first};
  const int64_t threads = smaller(last - first, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    Workspace workspace(workspace_bytes);
    for (int64_t item = next.fetch_add(1); item < last; item = next.fetch_add(1))
      body(item, workspace.data());
  });
}

}  // namespace fastreid
