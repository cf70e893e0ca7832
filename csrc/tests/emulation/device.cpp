// SPDX-License-Identifier: Apache-2.0
// The scheduler behind device.h: one fiber per CUDA thread, one block at a time, one launch at a time.
//
// This file is compiled without sanitizers and tells them what happens instead: ASan the stack switches, TSan
// that every fiber is a thread and that only barriers (and the start and end of a block) order memory. It
// keeps to plain arrays: an inline function of the standard library could be linked from an instrumented file.
#include <unistd.h>

#include "engine.h"
#include "fibers.h"

namespace fastreid::emulation {

const Indices* here = nullptr;

namespace {

constexpr int kMaxThreads = 1024, kWarp = 32, kMasksPerWarp = 64;

enum class State { runnable, waiting, returned };

struct Thread {
  Fiber fiber;
  Indices indices;
  State state;
  Collective kind;
  Site site;
  unsigned mask;
  std::uint64_t given;
  std::uint64_t received[kWarp];
};

// What TSan is told to order by. Two objects in turn: with one, a thread that runs ahead to the next barrier
// would add its later accesses before a slower thread has left this barrier, and races between the two would
// not be seen.
struct Sync {
  std::uint64_t object[2];
  int phase;
};
struct MaskSync {
  unsigned mask;
  Sync sync;
};

Thread threads[kMaxThreads];
Thread* current = nullptr;
int thread_count = 0;
std::uint64_t ready[kMaxThreads / 64];  // one bit per runnable thread
int at_barrier = 0, votes = 0, vote_results[2];
Sync block_sync;
MaskSync warp_syncs[kMaxThreads / kWarp][kMasksPerWarp];
std::uint64_t start_of_block, end_of_block;
Entry entry;
const void* entry_arguments;
unsigned char* dynamic_memory = nullptr;
Order order = Order::forward;
std::uint64_t random_state = 1;

const char* name(Collective kind) {
  constexpr const char* kNames[] = {"__syncthreads",  "__syncwarp",       "__shfl_sync",
                                    "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync",
                                    "a warp vote",    "__match_any_sync", "__reduce_sync"};
  return kNames[static_cast<int>(kind)];
}

int index_of(const Thread& thread) { return static_cast<int>(&thread - threads); }

bool same_place(const Thread& a, const Thread& b) {
  return a.kind == b.kind && a.mask == b.mask && a.site.line() == b.site.line() &&
         a.site.column() == b.site.column() && std::strcmp(a.site.file_name(), b.site.file_name()) == 0;
}

void make_ready(Thread& thread) {
  thread.state = State::runnable;
  ready[index_of(thread) / 64] |= std::uint64_t{1} << (index_of(thread) % 64);
}

// splitmix64 (Steele, Lea, Flood 2014).
std::uint64_t draw() {
  std::uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// The next thread to run, or -1 where none can.
int pick() {
  constexpr int kWords = kMaxThreads / 64;
  if (order == Order::reverse) {
    for (int w = kWords - 1; w >= 0; --w) {
      if (ready[w] != 0) return w * 64 + 63 - __builtin_clzll(ready[w]);
    }
    return -1;
  }
  const int first =
      order == Order::forward ? 0 : static_cast<int>(draw() % static_cast<unsigned>(thread_count));
  for (int i = 0; i <= kWords; ++i) {
    const int w = (first / 64 + i) % kWords;
    std::uint64_t bits = ready[w];
    if (i == 0) bits &= ~std::uint64_t{0} << (first % 64);
    if (bits != 0) return w * 64 + __builtin_ctzll(bits);
  }
  return -1;
}

void print_indices(const std::uint64_t* members) {
  const auto has = [&](int i) { return i < thread_count && (members[i / 64] >> (i % 64) & 1u) != 0; };
  const char* comma = "";
  for (int i = 0; i < thread_count; ++i) {
    if (!has(i)) continue;
    int last = i;
    while (has(last + 1)) ++last;
    std::fprintf(stderr, last > i ? "%s%d-%d" : "%s%d", comma, i, last);
    comma = ", ";
    i = last;
  }
}

[[noreturn]] void stop() {
  std::fflush(nullptr);
  _exit(70);
}

// Nobody can run and not all have returned: says who waits where for whom.
[[noreturn]] void report_deadlock() {
  const uint3 block = threads[0].indices.block;
  std::fprintf(stderr, "emulation: deadlock in block (%u, %u, %u) of %d threads:\n", block.x, block.y,
               block.z, thread_count);
  std::uint64_t members[kMaxThreads / 64], seen[kMaxThreads / 64] = {};
  for (int i = 0; i < thread_count; ++i) {
    if ((seen[i / 64] >> (i % 64) & 1u) != 0) continue;
    std::memset(members, 0, sizeof members);
    for (int j = i; j < thread_count; ++j) {
      const bool together = threads[i].state == State::returned
                                ? threads[j].state == State::returned
                                : threads[j].state == State::waiting && same_place(threads[i], threads[j]);
      if (together) members[j / 64] |= std::uint64_t{1} << (j % 64);
    }
    for (int w = 0; w < kMaxThreads / 64; ++w) seen[w] |= members[w];
    if (threads[i].state == State::returned) {
      std::fprintf(stderr, "  the kernel's end: threads ");
    } else {
      std::fprintf(stderr, "  %s:%d: %s", threads[i].site.file_name(),
                   static_cast<int>(threads[i].site.line()), name(threads[i].kind));
      if (threads[i].kind != Collective::barrier) std::fprintf(stderr, " with mask 0x%08x", threads[i].mask);
      std::fprintf(stderr, ": threads ");
    }
    print_indices(members);
    std::fputc('\n', stderr);
  }
  stop();
}

void wait(Collective kind, unsigned mask, Site site) {
  current->kind = kind;
  current->mask = mask;
  current->site = site;
  current->state = State::waiting;
  ready[index_of(*current) / 64] &= ~(std::uint64_t{1} << (index_of(*current) % 64));
}

// Waits at a warp collective; the lane that completes it hands every member what all have given.
void meet(Collective kind, unsigned mask, std::uint64_t bits, Site site) {
  if ((mask >> lane() & 1u) == 0) fail(site, "the mask of a warp collective leaves out the calling lane");
  wait(kind, mask, site);
  current->given = bits;
  Thread* warp = current - lane();
  bool complete = true;
  for (int i = 0; i < kWarp && complete; ++i) {
    if ((mask >> i & 1u) == 0) continue;
    const Thread& other = warp[i];
    complete = index_of(other) < thread_count && other.state == State::waiting && same_place(other, *current);
  }
  if (complete) {
    for (int i = 0; i < kWarp; ++i) {
      if ((mask >> i & 1u) == 0) continue;
      for (int j = 0; j < kWarp; ++j)
        warp[i].received[j] = (mask >> j & 1u) != 0 ? warp[j].given : ~std::uint64_t{0};
      make_ready(warp[i]);
    }
  }
}

Sync& sync_of(unsigned mask, Site site) {
  for (MaskSync& entry : warp_syncs[index_of(*current) / kWarp]) {
    if (entry.mask == 0) entry.mask = mask;
    if (entry.mask == mask) return entry.sync;
  }
  fail(site, "more __syncwarp masks in one warp than the emulation keeps");
}

void fiber_main() {
  enter_fiber();
  for (;;) {  // one turn per block
    acquire(&start_of_block);
    entry(entry_arguments);
    release(&end_of_block);
    current->state = State::returned;
    ready[index_of(*current) / 64] &= ~(std::uint64_t{1} << (index_of(*current) % 64));
    leave(current->fiber);
  }
}

void run_block(const cudaLaunchConfig_t& config, uint3 block) {
  const dim3 size = config.blockDim;
  if (config.dynamicSmemBytes > 0) std::memset(dynamic_memory, 0xff, config.dynamicSmemBytes);
  for (int i = 0; i < thread_count; ++i) {
    Thread& thread = threads[i];
    if (!is_made(thread.fiber)) make_fiber(thread.fiber, fiber_main);
    const auto index = static_cast<unsigned>(i);
    thread.indices = {
        {index % size.x, index / size.x % size.y, index / (size.x * size.y)}, block, size, config.gridDim};
    make_ready(thread);
  }
  at_barrier = votes = 0;
  forget_copies();
  release(&start_of_block);
  for (int next = pick(); next >= 0; next = pick()) {
    current = &threads[next];
    here = &current->indices;
    enter(current->fiber);
  }
  for (int i = 0; i < thread_count; ++i) {
    if (threads[i].state != State::returned) report_deadlock();
  }
  acquire(&end_of_block);
}

}  // namespace

void fail(Site site, const char* message) {
  std::fprintf(stderr, "emulation: %s:%d: %s (thread %d)\n", site.file_name(), static_cast<int>(site.line()),
               message, current ? index_of(*current) : -1);
  stop();
}

unsigned lane() { return static_cast<unsigned>(index_of(*current) % kWarp); }

void fence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

void* dynamic_shared_memory() { return dynamic_memory; }

void set_order(Order new_order, std::uint64_t seed) {
  order = new_order;
  random_state = seed;
}

int barrier_count(bool predicate, Site site) {
  const int phase = block_sync.phase;
  release(&block_sync.object[phase]);
  wait(Collective::barrier, 0, site);
  votes += predicate ? 1 : 0;
  if (++at_barrier == thread_count) {
    for (int i = 0; i < thread_count; ++i) {
      if (!same_place(threads[i], *current)) report_deadlock();
    }
    for (int i = 0; i < thread_count; ++i) make_ready(threads[i]);
    vote_results[phase] = votes;
    at_barrier = votes = 0;
    block_sync.phase = 1 - phase;
  }
  leave(current->fiber);
  acquire(&block_sync.object[phase]);
  return vote_results[phase];
}

void barrier(Site site) { barrier_count(false, site); }

void warp_barrier(unsigned mask, Site site) {
  Sync& sync = sync_of(mask, site);
  const int phase = sync.phase;
  release(&sync.object[phase]);
  meet(Collective::warp_barrier, mask, 0, site);
  if (current->state == State::runnable) sync.phase = 1 - phase;  // the last to come turns the page
  leave(current->fiber);
  acquire(&sync.object[phase]);
}

const std::uint64_t* exchange(Collective kind, unsigned mask, std::uint64_t bits, Site site) {
  meet(kind, mask, bits, site);
  leave(current->fiber);
  return current->received;
}

cudaError_t run(const cudaLaunchConfig_t& config, const void* kernel, Entry new_entry,
                const void* arguments) {
  const dim3 grid = config.gridDim, block = config.blockDim;
  const std::uint64_t block_size = std::uint64_t{block.x} * block.y * block.z;
  const bool grid_fits =
      grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x < 1u << 31 && grid.y < 1u << 16 && grid.z < 1u << 16;
  if (!grid_fits || block_size == 0 || block_size > kMaxThreads || block.z > 64)
    return remember(cudaErrorInvalidConfiguration);
  if (config.dynamicSmemBytes > shared_limit(kernel)) return remember(cudaErrorInvalidValue);

  thread_count = static_cast<int>(block_size);
  entry = new_entry;
  entry_arguments = arguments;
  // Exactly as large as asked for, so that ASan sees the first byte past it; without ASan a few guard bytes
  // do what they can.
  constexpr std::size_t kGuard = kHasAddressSanitizer ? 0 : 64;
  dynamic_memory = static_cast<unsigned char*>(std::malloc(config.dynamicSmemBytes + kGuard));
  std::memset(dynamic_memory + config.dynamicSmemBytes, 0x5a, kGuard);
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) run_block(config, {x, y, z});
    }
  }
  for (std::size_t i = 0; i < kGuard; ++i) {
    if (dynamic_memory[config.dynamicSmemBytes + i] != 0x5a)
      fail(Site::current(), "a kernel wrote past the end of its dynamic shared memory");
  }
  std::free(dynamic_memory);
  dynamic_memory = nullptr;
  current = nullptr;
  here = nullptr;
  return cudaSuccess;
}

}  // namespace fastreid::emulation
