// SPDX-License-Identifier: Apache-2.0
// The launchers of attention.h. Kernels, by what they sum: attention_cuda_pool.cuh, _map.cuh (nothing), _reduce.cuh and
// _full.cuh.
#include "common/launch.cuh"

#include "attention/attention.h"
#include "attention/attention_cuda_full.cuh"
#include "attention/attention_cuda_gate.cuh"
#include "attention/attention_cuda_map.cuh"
#include "attention/attention_cuda_pool.cuh"
#include "attention/attention_cuda_reduce.cuh"

namespace fastreid::cuda {

int64_t attention_pool_scratch(const AttentionShape& shape, const AttentionPool& to) {
  return with_type(shape.dtype, [&](auto type) { return pool_scratch<decltype(type)>(shape, to); });
}

int launch_attention_pool(const AttentionShape& shape, const void* x, const AttentionPool& to, void* scratch,
                          void* stream) {
  return with_type(shape.dtype, [&](auto type) -> int {
    using T = decltype(type);
    const bool vectors = all_aligned<T>(shape.columns, x);
    const auto run = vectors         ? to.count_ties ? run_pool<T, true, true> : run_pool<T, true, false>
                     : to.count_ties ? run_pool<T, false, true>
                                     : run_pool<T, false, false>;
    return run(shape, static_cast<const T*>(x), to, static_cast<char*>(scratch),
               static_cast<cudaStream_t>(stream));
  });
}

int launch_attention_apply(const AttentionApply& problem, void* stream) {
  return with_type(problem.shape.dtype, [&](auto type) -> int {
    return run_apply<decltype(type)>(problem, static_cast<cudaStream_t>(stream));
  });
}

int64_t attention_reduce_scratch(const AttentionReduce& problem) {
  if (problem.gate.full != nullptr || problem.gate.column == nullptr) return 0;
  return with_type(problem.shape.dtype,
                   [&](auto type) { return ReduceWork<decltype(type)>(problem).bytes(); });
}

int launch_attention_reduce(const AttentionReduce& problem, void* scratch, void* stream) {
  return with_type(problem.shape.dtype, [&](auto type) -> int {
    using T = decltype(type);
    const auto on = static_cast<cudaStream_t>(stream);
    switch (kind_of(problem.gate)) {
      case GateKind::row:
        return run_reduce_rows<T>(problem, on);
      case GateKind::column:
        return run_reduce_tiles<T, GateKind::column>(problem, static_cast<char*>(scratch), on);
      case GateKind::outer:
        return run_reduce_tiles<T, GateKind::outer>(problem, static_cast<char*>(scratch), on);
      default:
        return run_reduce_full<T>(problem, on);
    }
  });
}

int launch_attention_input(const AttentionInput& problem, void* stream) {
  return with_type(problem.shape.dtype, [&](auto type) -> int {
    return run_input<decltype(type)>(problem, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace fastreid::cuda
