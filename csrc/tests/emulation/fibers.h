// SPDX-License-Identifier: Apache-2.0
// Stack switching for device.cpp, announced to the sanitizers. FASTREID_EMULATION_ASAN and _TSAN come from
// CMake, because this code itself is compiled without them.
#pragma once

#include <cuda_runtime.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "context.h"

#ifdef FASTREID_EMULATION_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef FASTREID_EMULATION_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace fastreid::emulation {

cudaError_t remember(cudaError_t error);       // for cudaGetLastError; returns its argument
std::size_t shared_limit(const void* kernel);  // 48 KiB unless cudaFuncSetAttribute has raised it
void forget_copies();  // before a block: what the one before it did not wait for is lost

namespace {

#ifdef FASTREID_EMULATION_ASAN
constexpr bool kHasAddressSanitizer = true;
#else
constexpr bool kHasAddressSanitizer = false;
#endif

constexpr std::size_t kStackBytes =
    256 * 1024;  // touched page by page, so idle stacks cost address space only

struct Fiber {
  Context context;
  char* stack;
  void* asan_stack;
  void* tsan_fiber;
};

Fiber scheduler;
#ifdef FASTREID_EMULATION_ASAN
const void* scheduler_stack;
std::size_t scheduler_stack_bytes;
#endif

bool is_made(const Fiber& fiber) { return fiber.stack != nullptr; }

void make_fiber(Fiber& fiber, void (*body)()) {
  constexpr std::size_t kGuardPage = 4096;
  void* memory = mmap(nullptr, kStackBytes + kGuardPage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuardPage, PROT_NONE) != 0) {
    std::perror("emulation: stack of a CUDA thread");
    std::abort();
  }
  fiber.stack = static_cast<char*>(memory) + kGuardPage;
  prepare_context(&fiber.context, fiber.stack, kStackBytes, body);
#ifdef FASTREID_EMULATION_TSAN
  fiber.tsan_fiber = __tsan_create_fiber(0);
#endif
}

// From the scheduler into a fiber; comes back when the fiber leaves.
void enter(Fiber& fiber) {
#ifdef FASTREID_EMULATION_TSAN
  scheduler.tsan_fiber = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(fiber.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef FASTREID_EMULATION_ASAN
  __sanitizer_start_switch_fiber(&scheduler.asan_stack, fiber.stack, kStackBytes);
#endif
  switch_context(&scheduler.context, &fiber.context);
#ifdef FASTREID_EMULATION_ASAN
  __sanitizer_finish_switch_fiber(scheduler.asan_stack, nullptr, nullptr);
#endif
}

// From a fiber to the scheduler; comes back when the fiber is entered again.
void leave(Fiber& fiber) {
#ifdef FASTREID_EMULATION_TSAN
  __tsan_switch_to_fiber(scheduler.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef FASTREID_EMULATION_ASAN
  __sanitizer_start_switch_fiber(&fiber.asan_stack, scheduler_stack, scheduler_stack_bytes);
#endif
  switch_context(&fiber.context, &scheduler.context);
#ifdef FASTREID_EMULATION_ASAN
  __sanitizer_finish_switch_fiber(fiber.asan_stack, nullptr, nullptr);
#endif
}

// First thing on a new fiber's stack.
void enter_fiber() {
#ifdef FASTREID_EMULATION_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

// What the running fiber (or scheduler) has done so far happens before what follows an acquire of the same
// object.
void release([[maybe_unused]] std::uint64_t* object) {
#ifdef FASTREID_EMULATION_TSAN
  __tsan_release(object);
#endif
}
void acquire([[maybe_unused]] std::uint64_t* object) {
#ifdef FASTREID_EMULATION_TSAN
  __tsan_acquire(object);
#endif
}

}  // namespace
}  // namespace fastreid::emulation
