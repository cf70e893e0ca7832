// SPDX-License-Identifier: Apache-2.0
// Schemas, and the CPU side. The Python functions have checked the arguments in their own words; the checks
// here are a backstop.
#include "distance/distance.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdlib>
#include <memory>
#include <new>

#include "common/sizes.h"
#include "distance/distance_ops.h"

namespace fastreid {
namespace {

// Below this many products one thread is done before a second has woken up.
constexpr double kSerial = 2e5;

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

std::unique_ptr<void, Free> allocate(int64_t bytes) {
  void* memory = std::aligned_alloc(64, static_cast<size_t>(round_up(larger(bytes, 64), 64)));
  if (memory == nullptr) throw std::bad_alloc();
  return std::unique_ptr<void, Free>(memory);
}

// Calls function(batch, begin, end) over [0, size) cut into at most `parts` pieces (multiples of `grain`) for
// each batch item.
template <class F>
void split(int64_t batch, int64_t size, int64_t grain, bool serial, const F& function) {
  const int64_t threads = serial ? 1 : torch::stable::get_num_threads();
  const int64_t wanted = batch == 1 ? threads : ceil_div(4 * threads, batch);
  const int64_t piece = round_up(ceil_div(size, smaller(wanted, ceil_div(size, grain))), grain);
  const int64_t parts = ceil_div(size, piece), tasks = batch * parts;
  torch::stable::parallel_for(0, tasks, serial ? tasks : 1, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t begin = task % parts * piece;
      function(task / parts, begin, smaller(size, begin + piece));
    }
  });
}

Tensor pairwise_distance(const Tensor& x, const Tensor& y, int64_t metric) {
  const DistanceCall call(x, y, metric);
  Tensor result = call.empty(x, call.problem.x_rows, call.problem.y_rows);
  const DistanceProblem& p = call.problem;
  if (result.numel() == 0) return result;
  const DistanceKernels& kernels = FASTREID_KERNELS(distance_kernels);
  // The longer side is cut: the other one is packed once for each piece.
  const bool by_column = p.y_rows >= p.x_rows;
  const double work = static_cast<double>(result.numel()) * static_cast<double>(p.depth);
  char* const out = static_cast<char*>(result.mutable_data_ptr());
  split(call.batch, by_column ? p.y_rows : p.x_rows, by_column ? 32 : 14, work < kSerial,
        [&](int64_t item, int64_t begin, int64_t end) {
          const DistanceProblem one = call.item(item);
          const int64_t rows = by_column ? p.x_rows : end - begin,
                        columns = by_column ? end - begin : p.y_rows;
          const auto workspace = allocate(kernels.workspace_bytes(&one, rows, columns));
          kernels.rectangle(&one, by_column ? 0 : begin, by_column ? p.x_rows : end, by_column ? begin : 0,
                            by_column ? end : p.y_rows, workspace.get(),
                            out + item * p.x_rows * p.y_rows * call.item_size);
        });
  return result;
}

Tensor pairwise_distance_backward(const Tensor& grad, const Tensor& distance, const Tensor& x,
                                  const Tensor& y, int64_t metric) {
  const DistanceGradCall call(grad, distance, x, y, metric);
  const DistanceProblem& p = call.forward.problem;
  Tensor result = call.forward.empty(x, p.x_rows, p.depth);
  if (result.numel() == 0) return result;
  const DistanceKernels& kernels = FASTREID_KERNELS(distance_kernels);
  const double work = static_cast<double>(result.numel()) * static_cast<double>(p.y_rows);
  char* const out = static_cast<char*>(result.mutable_data_ptr());
  split(call.forward.batch, p.x_rows, 32, work < kSerial, [&](int64_t item, int64_t begin, int64_t end) {
    const DistanceGradProblem one = call.item(item);
    const auto workspace = allocate(kernels.gradient_workspace_bytes(&one));
    kernels.gradient_rows(&one, begin, end, workspace.get(),
                          out + item * p.x_rows * p.depth * call.forward.item_size);
  });
  return result;
}

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_FRAGMENT(fastreid, m) {
  // metric: 0 euclidean, 1 sqeuclidean, 2 cosine, 3 arccos
  m.def("pairwise_distance(Tensor x, Tensor y, int metric) -> Tensor");
  // The gradient of x; that of y is the same with x and y exchanged and the two matrices transposed.
  m.def("pairwise_distance_backward(Tensor grad, Tensor distance, Tensor x, Tensor y, int metric) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(fastreid, CPU, m) {
  m.impl("pairwise_distance", TORCH_BOX(&fastreid::pairwise_distance));
  m.impl("pairwise_distance_backward", TORCH_BOX(&fastreid::pairwise_distance_backward));
}
