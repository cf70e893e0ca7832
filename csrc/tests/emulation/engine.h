// SPDX-License-Identifier: Apache-2.0
// What device.cpp does for device.h and the tests: run a kernel's threads and let them meet.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <source_location>

namespace fastreid::emulation {

struct Indices {
  uint3 thread{}, block{};
  dim3 block_dim{}, grid_dim{};
};
extern const Indices* here;  // of the running thread

using Site = std::source_location;

enum class Collective {
  barrier,
  warp_barrier,
  shuffle,
  shuffle_up,
  shuffle_down,
  shuffle_xor,
  vote,
  match,
  reduce
};

void barrier(Site site);
int barrier_count(bool predicate, Site site);
void warp_barrier(unsigned mask, Site site);
// Gives `bits` to the lanes of `mask`; returns what the 32 lanes gave (all ones for lanes outside the mask).
const std::uint64_t* exchange(Collective kind, unsigned mask, std::uint64_t bits, Site site);
unsigned lane();
void fence();
void* dynamic_shared_memory();
[[noreturn]] void fail(Site site, const char* message);

// The running thread's asynchronous copies, in groups: the next one to make before all but the last `prior`
// groups are complete; false where these are.
struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
};
void copy_later(const Copy& copy);
void commit_copies();
bool next_copy(std::size_t prior, Copy* copy);

// Which runnable thread goes next: the lowest, the highest, or one drawn from a generator that starts at
// `seed`.
enum class Order { forward, reverse, seeded };
void set_order(Order order, std::uint64_t seed = 1);

using Entry = void (*)(const void* arguments);
cudaError_t run(const cudaLaunchConfig_t& config, const void* kernel, Entry entry, const void* arguments);

}  // namespace fastreid::emulation
