// SPDX-License-Identifier: Apache-2.0
// From one stack to another. setcontext() would do everywhere, but asks the operating system for the signal
// mask each time, ten times the cost of the switch, and a block of 256 threads switches tens of thousands of
// times; so x86-64 has its own. (swapcontext() would not do: ASan's interceptor of that function clears the
// shadow of a stack that is in use.)
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)

extern "C" void fastreid_switch_stack(void** keep, void* next);
asm(R"(
.text
.type fastreid_switch_stack, @function
fastreid_switch_stack:
  endbr64
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastreid_switch_stack, .-fastreid_switch_stack
)");

namespace fastreid::emulation {
namespace {

using Context = void*;  // the stack pointer; what the calling convention preserves lies there

void prepare_context(Context* context, char* stack, std::size_t bytes, void (*body)()) {
  auto* top = reinterpret_cast<std::uint64_t*>(stack + bytes);
  *--top = 0;  // where body would return to; it never does, and debuggers stop here
  *--top = reinterpret_cast<std::uint64_t>(body);
  for (int i = 0; i < 6; ++i) *--top = 0;
  *context = top;
}

void switch_context(Context* from, Context* to) { fastreid_switch_stack(from, *to); }

}  // namespace
}  // namespace fastreid::emulation

#else

#include <ucontext.h>

namespace fastreid::emulation {
namespace {

using Context = ucontext_t;

void prepare_context(Context* context, char* stack, std::size_t bytes, void (*body)()) {
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = bytes;
  context->uc_link = nullptr;
  makecontext(context, body, 0);
}

__attribute__((noinline)) void switch_context(Context* from, Context* to) {
  volatile bool back = false;
  getcontext(from);
  if (back) return;
  back = true;
  setcontext(to);
}

}  // namespace
}  // namespace fastreid::emulation

#endif
