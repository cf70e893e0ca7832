// SPDX-License-Identifier: Apache-2.0
// Schemas, and the CPU side. The Python function has checked the arguments in its own words; the checks here are a
// backstop that keeps a direct call inside its memory.
#include "search/nearest_ops.h"

#include <torch/csrc/stable/library.h>

#include "common/items.h"

namespace fastreid {
namespace {

void run_phases(const NearestProblem& p, const NearestResult& result, void* state, int64_t part,
                int64_t parts) {
  const NearestKernels& kernels = FASTREID_KERNELS(nearest_kernels);
  const int64_t workspace = kernels.workspace_bytes(&p, result.farthest != nullptr);
  for (int i = 0; i < kNearestPhases; ++i) {
    const NearestPhase phase = static_cast<NearestPhase>(i);
    int64_t first = 0, last = kernels.items(&p, phase);
    if (phase < NearestPhase::sweep && part > 0) continue;
    if (phase > NearestPhase::sweep && part < parts - 1) continue;
    if (phase == NearestPhase::sweep) {
      first = last * part / parts;
      last = last * (part + 1) / parts;
    }
    for_items(first, last, workspace, [&](int64_t item, void* memory) {
      kernels.run(&p, &result, phase, item, item + 1, state, memory);
    });
  }
}

std::tuple<Tensor, Tensor, Tensor> nearest(const Tensor& x, const Tensor& y, int64_t k, bool angular,
                                           bool same, bool exclude_self, bool farthest) {
  const NearestProblem p = nearest_problem(x, y, k, angular, same, exclude_self, has_pairs());
  const NearestTensors tensors(x, k, farthest);
  if (p.x_rows == 0) return tensors.all();
  Workspace state(FASTREID_KERNELS(nearest_kernels).state_bytes(&p, farthest));
  run_phases(p, tensors.result(), state.data(), 0, 1);
  return tensors.all();
}

// x and y, or all rows of x and y among themselves.
NearestProblem problem_of(const Tensor& x, const Tensor& y, int64_t k, bool angular, bool same, bool joined,
                          bool exclude_self) {
  return joined ? joined_problem(x, y, k, angular, has_pairs())
                : nearest_problem(x, y, k, angular, same, exclude_self, has_pairs());
}

int64_t nearest_state(const Tensor& x, const Tensor& y, int64_t k, bool angular, bool same, bool joined,
                      bool farthest) {
  const NearestProblem p = problem_of(x, y, k, angular, same, joined, false);
  return FASTREID_KERNELS(nearest_kernels).state_bytes(&p, farthest) + 64;
}

void nearest_part(const Tensor& x, const Tensor& y, bool angular, bool same, bool joined, bool exclude_self,
                  int64_t part, int64_t parts, const Tensor& state, const Tensor& squared,
                  const Tensor& index, const Tensor& farthest) {
  FASTREID_CHECK(squared.dim() == 2 && squared.is_contiguous() &&
                     squared.scalar_type() == torch::headeronly::ScalarType::Double,
                 kNearestOp, "squared", "another tensor", "a contiguous float64 tensor (N, k)");
  const NearestProblem p = problem_of(x, y, squared.size(1), angular, same, joined, exclude_self);
  FASTREID_CHECK(squared.size(0) == p.x_rows, kNearestOp, "squared", shown(squared.size(0)) + " rows",
                 shown(p.x_rows));
  FASTREID_CHECK(index.dim() == 2 && index.size(0) == p.x_rows && index.size(1) == p.k &&
                     index.is_contiguous() && index.scalar_type() == torch::headeronly::ScalarType::Long,
                 kNearestOp, "index", "another tensor", "a contiguous int64 tensor of the shape of squared");
  const bool far = farthest.numel() > 0;
  FASTREID_CHECK(!far || (farthest.numel() == p.x_rows && farthest.is_contiguous() &&
                          farthest.scalar_type() == torch::headeronly::ScalarType::Double),
                 kNearestOp, "farthest", "another tensor", "a contiguous float64 tensor (N,) or (0,)");
  FASTREID_CHECK(0 <= part && part < parts, kNearestOp, "part", shown(part), "0 to " + shown(parts - 1));
  const int64_t bytes = FASTREID_KERNELS(nearest_kernels).state_bytes(&p, far);
  const int64_t given = state.numel() * static_cast<int64_t>(state.element_size());
  FASTREID_CHECK(state.is_contiguous() && given == bytes + 64, kNearestOp, "state", shown(given) + " bytes",
                 shown(bytes + 64) + ", those of nearest_state()");
  if (p.x_rows == 0) return;
  const auto address = reinterpret_cast<uintptr_t>(state.mutable_data_ptr());
  const NearestResult result = {squared.mutable_data_ptr<double>(), index.mutable_data_ptr<int64_t>(),
                                far ? farthest.mutable_data_ptr<double>() : nullptr};
  run_phases(p, result, reinterpret_cast<void*>((address + 63) / 64 * 64), part, parts);
}

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_FRAGMENT(fastreid, m) {
  // angular: directions are compared (cosine, arccos). same: y is x. farthest: (0,) where not wanted.
  m.def(
      "nearest(Tensor x, Tensor y, int k, bool angular, bool same, bool exclude_self, bool farthest) -> "
      "(Tensor squared, Tensor index, Tensor farthest)");
  // The same in `parts` calls, part 0 to parts - 1 in this order on one state of nearest_state() bytes, so that a
  // caller can report progress and be interrupted between them. joined: all rows of x and y among themselves, which
  // must have the same strides.
  m.def(
      "nearest_state(Tensor x, Tensor y, int k, bool angular, bool same, bool joined, bool farthest) -> int");
  m.def(
      "nearest_part(Tensor x, Tensor y, bool angular, bool same, bool joined, bool exclude_self, int part, "
      "int parts, "
      "Tensor(a!) state, Tensor(b!) squared, Tensor(c!) index, Tensor(d!) farthest) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(fastreid, CPU, m) {
  m.impl("nearest", TORCH_BOX(&fastreid::nearest));
  m.impl("nearest_state", TORCH_BOX(&fastreid::nearest_state));
  m.impl("nearest_part", TORCH_BOX(&fastreid::nearest_part));
}
