// SPDX-License-Identifier: Apache-2.0
// The table of attention.h: from the element type at run time to the kernels of attention_cpu_*.h.
#include "attention/attention.h"

#include "attention/attention_cpu_network.h"

namespace fastreid::FASTREID_ISA {
namespace {

// function(S{}) with S the type of the map's elements.
template <class F>
auto with_type(Dtype dtype, const F& function) {
  switch (dtype) {
    case Dtype::float64:
      return function(double());
    case Dtype::bfloat16:
      return function(BFloat16());
    case Dtype::float16:
      return function(Float16());
    default:
      return function(float());
  }
}

int64_t workspace_bytes(const AttentionShape* shape) {
  return with_type(shape->dtype, [&](auto type) {
    using T = Compute<decltype(type)>;
    const int64_t gates = kMaxBranches * gate_bytes<T>(larger(shape->columns, kPack<T>));
    return larger(gates, larger(backward_bytes<T>(shape->columns), columns_bytes<T>(shape->columns)));
  });
}

void pool(const AttentionShape* shape, const void* x, const AttentionPool* to, int64_t sample,
          int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end, void* workspace) {
  with_type(shape->dtype, [&](auto type) {
    using S = decltype(type);
    using T = Compute<S>;
    const int64_t rows = shape->rows, columns = shape->columns;
    const PoolTo<T> row = {part<T>(to->row_mean, sample * rows), part<T>(to->row_max, sample * rows),
                           part<int32_t>(to->row_place, sample * rows), to->count_ties};
    const PoolTo<T> column = {part<T>(to->column_mean, sample * columns),
                              part<T>(to->column_max, sample * columns),
                              part<int32_t>(to->column_place, sample * columns), to->count_ties};
    pool_sample(static_cast<const S*>(x) + sample * rows * columns, rows, columns, row, row_begin, row_end,
                column, column_begin, column_end, workspace);
  });
}

void apply(const AttentionApply* problem, int64_t sample, int64_t row_begin, int64_t row_end,
           void* workspace) {
  with_type(problem->shape.dtype,
            [&](auto type) { apply_rows<decltype(type)>(*problem, sample, row_begin, row_end, workspace); });
}

void reduce(const AttentionReduce* problem, int64_t sample, int64_t row_begin, int64_t row_end,
            void* workspace) {
  with_type(problem->shape.dtype,
            [&](auto type) { Reduce<decltype(type)>(*problem, sample, workspace).run(row_begin, row_end); });
}

void input(const AttentionInput* problem, int64_t sample, int64_t row_begin, int64_t row_end,
           void* workspace) {
  with_type(problem->shape.dtype, [&](auto type) {
    using S = decltype(type);
    input_rows<S>(*problem, statistics_back<Compute<S>>(*problem, sample), sample, row_begin, row_end,
                  workspace);
  });
}

int64_t whole_workspace_bytes(const AttentionWhole* problem, int64_t samples) {
  const AttentionShape* shape = &problem->apply.shape;
  return with_type(shape->dtype, [&](auto type) {
    return round_up(network_bytes<Compute<decltype(type)>>(*problem, samples), 64) + workspace_bytes(shape);
  });
}

void whole_samples(const AttentionWhole* problem, int64_t begin, int64_t end, void* workspace) {
  with_type(problem->apply.shape.dtype,
            [&](auto type) { whole<decltype(type)>(*problem, begin, end, workspace); });
}

void whole_backward_samples(const AttentionWholeBackward* problem, int64_t begin, int64_t end,
                            void* workspace) {
  with_type(problem->forward.apply.shape.dtype,
            [&](auto type) { whole_backward<decltype(type)>(*problem, begin, end, workspace); });
}

void pool_channels(const AttentionWhole* problem, int branch, int64_t sample, int64_t begin, int64_t end,
                   void* workspace) {
  with_type(problem->apply.shape.dtype, [&](auto type) {
    using S = decltype(type);
    whole_pool<S>(*problem, Net<Compute<S>>(*problem), branch, sample, begin, end, workspace);
  });
}

void hidden(const AttentionWhole* problem, int64_t begin, int64_t end) {
  with_type(problem->apply.shape.dtype, [&](auto type) {
    const Net<Compute<decltype(type)>> net(*problem);
    net.each(problem->apply.branches, 0, net.batch, begin, end,
             [&](int64_t row, int64_t j) { net.hidden_unit(row, j); });
  });
}

void logits(const AttentionWhole* problem, int64_t begin, int64_t end) {
  with_type(problem->apply.shape.dtype, [&](auto type) {
    const Net<Compute<decltype(type)>> net(*problem);
    net.each(problem->apply.branches, 0, net.batch, begin, end,
             [&](int64_t row, int64_t c) { net.logit(row, c); });
  });
}

void hidden_back(const AttentionWholeBackward* problem, int64_t begin, int64_t end) {
  with_type(problem->forward.apply.shape.dtype, [&](auto type) {
    const Net<Compute<decltype(type)>> net(problem->forward);
    hidden_gradient(*problem, net, 0, net.batch, begin, end);
  });
}

void statistics_back_all(const AttentionWholeBackward* problem, int64_t begin, int64_t end,
                         void* grad_statistics) {
  with_type(problem->forward.apply.shape.dtype, [&](auto type) {
    using T = Compute<decltype(type)>;
    const Net<T> net(problem->forward);
    statistics_gradient(*problem, net, 0, net.batch, begin, end, static_cast<T*>(grad_statistics));
  });
}

void input_of_whole(const AttentionWholeBackward* problem, const void* grad_statistics, int branch,
                    int64_t sample, int64_t row_begin, int64_t row_end, void* workspace) {
  with_type(problem->forward.apply.shape.dtype, [&](auto type) {
    using S = decltype(type);
    using T = Compute<S>;
    const Net<T> net(problem->forward);
    const T* s =
        static_cast<const T*>(grad_statistics) + (branch * net.batch + sample) * net.parts * net.of.channels;
    whole_input<S>(*problem, net, s, branch, sample, row_begin, row_end, workspace);
  });
}

void weights(const AttentionWholeBackward* problem, const AttentionWeightGradients* to, int layer,
             int64_t begin, int64_t end) {
  with_type(problem->forward.apply.shape.dtype,
            [&](auto type) { weight_gradients<Compute<decltype(type)>>(*problem, *to, layer, begin, end); });
}

}  // namespace

extern const AttentionKernels attention_kernels = {workspace_bytes,
                                                   pool,
                                                   apply,
                                                   reduce,
                                                   input,
                                                   whole_workspace_bytes,
                                                   whole_samples,
                                                   whole_backward_samples,
                                                   pool_channels,
                                                   hidden,
                                                   logits,
                                                   hidden_back,
                                                   statistics_back_all,
                                                   input_of_whole,
                                                   weights};

}  // namespace fastreid::FASTREID_ISA
