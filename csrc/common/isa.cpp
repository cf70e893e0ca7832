// SPDX-License-Identifier: Apache-2.0
#include "common/isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace fastreid {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512", "avx512_bf16"};

Isa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // The features the CMake function compiles with; the builtins also ask whether the operating system saves
  // the wide registers.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) return Isa::avx512_bf16;
  return avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::baseline;
#else
  return Isa::baseline;
#endif
}

// A name that is none of the four leaves the best set in place; the Python modules refuse to load with it.
Isa start() {
  Isa cap;
  const char* name = std::getenv("FASTREID_ISA");
  if (name == nullptr || !parse_isa(name, &cap)) return best_isa();
  return static_cast<int>(cap) < static_cast<int>(best_isa()) ? cap : best_isa();
}

std::atomic<Isa>& active() {
  static std::atomic<Isa> isa{start()};
  return isa;
}

}  // namespace

Isa best_isa() {
  static const Isa best = detect();
  return best;
}

Isa active_isa() { return active().load(std::memory_order_relaxed); }

bool set_isa(Isa isa) {
  if (static_cast<int>(isa) < 0 || static_cast<int>(isa) > static_cast<int>(best_isa())) return false;
  active().store(isa, std::memory_order_relaxed);
  return true;
}

const char* isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

bool parse_isa(const char* name, Isa* isa) {
  for (int i = 0; i < 4; ++i) {
    if (std::strcmp(name, kNames[i]) == 0) {
      *isa = static_cast<Isa>(i);
      return true;
    }
  }
  return false;
}

}  // namespace fastreid
