// SPDX-License-Identifier: Apache-2.0
// Which instruction set the CPU kernels run with.
//
// Every x_cpu.cpp is compiled once per instruction set, with FASTREID_ISA naming the namespace it lands in,
// and exports one table of function pointers. x.h declares the tables, the callers pick one:
//
//     struct DistanceKernels { void (*rows)(...); };
//     FASTREID_DECLARE_KERNELS(DistanceKernels, distance_kernels)      // x.h, inside namespace fastreid
//
//     namespace fastreid::FASTREID_ISA {                               // x_cpu.cpp
//     namespace { void rows(...) { ... } }
//     extern const DistanceKernels distance_kernels = {rows};
//     }
//
//     FASTREID_KERNELS(distance_kernels).rows(...);                    // x_ops.cpp, the Cython door, C++ tests
//
// Read the table once per call, not once per row, so that a set_isa() in another thread cannot mix two tables
// in one result.
#pragma once

namespace fastreid {

// avx512_bf16 is avx512 with products of bfloat16 pairs: no kernel file is compiled for it alone, the ops that have
// such a product ask has_pairs().
enum class Isa : int { baseline = 0, avx2 = 1, avx512 = 2, avx512_bf16 = 3 };

// The widest set that this processor, its operating system and this build support. FASTREID_ISA in the
// environment does not change it.
Isa best_isa();

// The set in use: best_isa(), capped by FASTREID_ISA=baseline|avx2|avx512|avx512_bf16 as it stood when the library was loaded.
Isa active_isa();

// Uses `isa` from now on; false (and no change) where the processor or the build lacks it. Safe to call from
// any thread.
bool set_isa(Isa isa);

// "baseline", "avx2", "avx512", "avx512_bf16".
const char* isa_name(Isa isa);

// active_isa() multiplies pairs of bfloat16.
static inline bool has_pairs() { return active_isa() == Isa::avx512_bf16; }

// Parses such a name into *isa; false if it is none of them.
bool parse_isa(const char* name, Isa* isa);

}  // namespace fastreid

// static: a plain template would leave a weak symbol in every object, compiled with that object's instruction
// set. The macro leaves pick_kernels to argument-dependent lookup, so it works with fastreid:: in front and without.
#if defined(__x86_64__)
namespace fastreid {
template <class Table>
static inline const Table& pick_kernels(const Table& baseline, const Table& avx2, const Table& avx512) {
  switch (active_isa()) {
    case Isa::avx512:
    case Isa::avx512_bf16:
      return avx512;
    case Isa::avx2:
      return avx2;
    default:
      return baseline;
  }
}
}  // namespace fastreid
#define FASTREID_DECLARE_KERNELS(type, name) \
  namespace baseline {                       \
  extern const type name;                    \
  }                                          \
  namespace avx2 {                           \
  extern const type name;                    \
  }                                          \
  namespace avx512 {                         \
  extern const type name;                    \
  }
#define FASTREID_KERNELS(name) \
  pick_kernels(::fastreid::baseline::name, ::fastreid::avx2::name, ::fastreid::avx512::name)
#else
namespace fastreid {
template <class Table>
static inline const Table& pick_kernels(const Table& baseline) {
  return baseline;
}
}  // namespace fastreid
#define FASTREID_DECLARE_KERNELS(type, name) \
  namespace baseline {                       \
  extern const type name;                    \
  }
#define FASTREID_KERNELS(name) pick_kernels(::fastreid::baseline::name)
#endif
