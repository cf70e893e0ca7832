// SPDX-License-Identifier: Apache-2.0
// Spatial and channel attention: statistics of a feature map, the map times gates made of them, and what the two
// need backwards. Torch-free: raw pointers, int64 sizes.
//
// Shapes: a map is (batch, rows, columns), contiguous. NCHW: rows are channels, columns are positions; channels_last:
//     rows are positions, columns are channels. Whatever belongs to a row is (batch, rows), to a column (batch,
//     columns), both in the compute type (double for float64, else float). All sizes at least 1, rows and columns
//     below 2^31.
// NaN: a NaN in a row or column makes its mean and maximum NaN; its place is then that of the first NaN. Gates pass
//     NaN and Inf on as x * gate does.
// Ties: the place of a maximum is its lowest index; with count_ties it is the number of equal maxima, and the
//     gradient is split evenly among them.
// Determinism: CPU, the same bits for any number of threads and on avx2 and avx512; baseline may differ in the
//     network's products alone. CUDA, the same bits in every call.
// Memory: CPU, workspace_bytes() for each thread: some vectors of a row's or column's length. CUDA,
//     *_scratch() bytes on the device. Never a gate of the map's size.
//
// How: every statistic that is asked for comes out of one read of the map, a gate is applied in one read and one
// write, a backward call reads the map and the gradient once. attention_unit() goes further: statistics, a network
// of one or two layers and the gate for a few samples at a time, so that the second read of the map finds it in
// the cache.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace fastreid {

// The gate is the activation of its logit. sigmoid_relu: sigmoid(max(logit, 0)), in [0.5, 1).
enum class GateActivation : int { sigmoid = 0, relu = 1, linear = 2, sigmoid_relu = 3 };

constexpr int kMaxBranches = 8;

struct AttentionShape {
  int64_t batch;
  int64_t rows;
  int64_t columns;
  Dtype dtype;  // of maps; everything that belongs to a row or column is in the compute type
};

// Results of one read of a map; null is not computed. A place goes with its maximum.
struct AttentionPool {
  void* row_mean;
  void* row_max;
  int32_t* row_place;
  void* column_mean;
  void* column_max;
  int32_t* column_place;
  bool count_ties;
};

// Logits of one gate. One of: row; column; row and column (logit = row * column + row_shift + column_shift, either
// shift may be null); full.
struct AttentionGate {
  const void* row;
  const void* column;
  const void* row_shift;     // (batch, rows)
  const void* column_shift;  // (batch, columns)
  // A map of full_height x full_width positions, of the map's dtype and order (NCHW or channels_last), read at
  // (y * full_height / height, x * full_width / width), the nearest entry. height = n * full_height, width likewise.
  const void* full;
  int64_t height, width, full_height, full_width;
  bool channels_last;
  GateActivation activation;
};

// result = sum over branches of x * gate, + residual, then relu. branches in [1, 8]; more than one: row gates only, or
// column gates only.
struct AttentionApply {
  AttentionShape shape;
  int branches;
  const void* x[kMaxBranches];
  AttentionGate gate[kMaxBranches];
  const void* residual;  // null: none
  bool relu;
  bool stream;  // the result is not expected back from the cache (CPU)
  void* result;
};

// Gradients of the logits of one branch and, if asked for, of its map through the gate alone. One read of x and grad.
struct AttentionReduce {
  AttentionShape shape;
  AttentionGate gate;
  const void* x;
  const void* grad;    // of the result
  const void* result;  // with relu: grad counts where it is above zero; else null
  bool stream;
  // null is not computed
  void* grad_row;
  void* grad_column;
  void* grad_row_shift;
  void* grad_column_shift;
  void* grad_full;  // the map's dtype
  void* grad_x;
};

// The gradient of one branch's map: through the gate (grad null: nothing comes through it) and through its statistics.
struct AttentionInput {
  AttentionShape shape;
  AttentionGate gate;
  const void* grad;
  const void* result;  // as in AttentionReduce
  // Gradients of the statistics, null: none. With count_ties the map itself and the maxima are needed too.
  const void* grad_row_mean;
  const void* grad_row_max;
  const void* grad_column_mean;
  const void* grad_column_max;
  const int32_t* row_place;
  const int32_t* column_place;
  bool count_ties;
  const void* x;
  const void* row_max;
  const void* column_max;
  bool stream;
  void* grad_x;
};

// logits = W2 relu(W1 s + b1) + b2, or W1 s + b1 without W2. s is the mean or the maximum over a channel's positions, or
// both, the mean first; shared: logits = f(mean) + f(maximum) instead, f the same network. All compute type, row-major.
struct AttentionNetwork {
  int64_t channels;
  int64_t inputs;  // channels, or 2 * channels
  int64_t hidden;  // rows of W1; channels without W2
  bool mean, maximum, shared;
  const void* weight1;  // (hidden, inputs)
  const void* bias1;    // (hidden), or null
  const void* weight2;  // (channels, hidden), or null
  const void* bias2;    // (channels), or null
};

// Channel attention as a whole. `apply.gate` holds no pointers but height, width, channels_last and activation.
// Everything below is (branches * batch, ...), branch by branch, compute type.
struct AttentionWhole {
  AttentionApply apply;
  AttentionNetwork network;
  bool count_ties;
  void* statistics;  // (.., mean and maximum * channels)
  int32_t* place;    // (.., channels), null without maximum
  void* hidden;      // (.., shared ? 2 : 1, hidden) after relu; null without W2
  void* logits;      // (.., channels)
};

struct AttentionWholeBackward {
  AttentionWhole forward;  // as it was; apply.result is the forward's result (read with relu only)
  const void* grad;
  void* grad_logits;  // (.., channels): results that the weights' gradients are made of
  void* grad_hidden;  // as `hidden`, before relu; null without W2
  void* grad_x[kMaxBranches];
};

struct AttentionWeightGradients {  // null is not computed
  void* weight1;
  void* bias1;
  void* weight2;
  void* bias2;
};

struct AttentionKernels {
  int64_t (*workspace_bytes)(const AttentionShape* shape);  // of all functions below, 64-byte aligned
  // One sample. Row statistics alone: rows [row_begin, row_end); column statistics alone: columns [column_begin,
  // column_end); both: everything.
  void (*pool)(const AttentionShape* shape, const void* x, const AttentionPool* to, int64_t sample,
               int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end, void* workspace);
  void (*apply)(const AttentionApply* problem, int64_t sample, int64_t row_begin, int64_t row_end,
                void* workspace);
  // Row gates and full gates: rows [row_begin, row_end) (full: NCHW only, else everything); others: everything.
  void (*reduce)(const AttentionReduce* problem, int64_t sample, int64_t row_begin, int64_t row_end,
                 void* workspace);
  void (*input)(const AttentionInput* problem, int64_t sample, int64_t row_begin, int64_t row_end,
                void* workspace);
  // Channel attention of samples [begin, end), all branches.
  int64_t (*whole_workspace_bytes)(const AttentionWhole* problem, int64_t samples);
  void (*whole)(const AttentionWhole* problem, int64_t begin, int64_t end, void* workspace);
  void (*whole_backward)(const AttentionWholeBackward* problem, int64_t begin, int64_t end, void* workspace);
  // The same in parts, for batches smaller than the number of threads; to the same bits. Forward: the statistics of
  // channels [begin, end) of one sample of one branch, units of the hidden layer (if there is one), logits; then apply().
  void (*whole_pool)(const AttentionWhole* problem, int branch, int64_t sample, int64_t begin, int64_t end,
                     void* workspace);
  void (*hidden)(const AttentionWhole* problem, int64_t begin, int64_t end);
  void (*logits)(const AttentionWhole* problem, int64_t begin, int64_t end);
  // Backward, after reduce(): units of the hidden layer, inputs of the network, rows of the map. grad_statistics is
  // (branches * batch, mean and maximum * channels).
  void (*hidden_gradient)(const AttentionWholeBackward* problem, int64_t begin, int64_t end);
  void (*statistics_gradient)(const AttentionWholeBackward* problem, int64_t begin, int64_t end,
                              void* grad_statistics);
  void (*whole_input)(const AttentionWholeBackward* problem, const void* grad_statistics, int branch,
                      int64_t sample, int64_t row_begin, int64_t row_end, void* workspace);
  // Rows [begin, end) of layer 1's or layer 2's gradients.
  void (*weight_gradients)(const AttentionWholeBackward* problem, const AttentionWeightGradients* to,
                           int layer, int64_t begin, int64_t end);
};
FASTREID_DECLARE_KERNELS(AttentionKernels, attention_kernels)

namespace cuda {
// All pointers on the device, `stream` a cudaStream_t; `scratch` of the stated bytes, 16-byte aligned, not cleared.
// Return the cudaError_t of the launches, 0 for success. One launch each, at most one more that adds up partial sums.
int64_t attention_pool_scratch(const AttentionShape& shape, const AttentionPool& to);
int launch_attention_pool(const AttentionShape& shape, const void* x, const AttentionPool& to, void* scratch,
                          void* stream);
int launch_attention_apply(const AttentionApply& problem, void* stream);
int64_t attention_reduce_scratch(const AttentionReduce& problem);
int launch_attention_reduce(const AttentionReduce& problem, void* scratch, void* stream);
int launch_attention_input(const AttentionInput& problem, void* stream);
}  // namespace cuda

}  // namespace fastreid
