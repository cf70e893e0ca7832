// SPDX-License-Identifier: Apache-2.0
// The CUDA side: the current device's stream, memory from torch's allocator. Sizes of sparse results are waited for.
#include "rerank/rerank_ops.h"

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

namespace fastreid {
namespace {

using torch::stable::accelerator::DeviceGuard;

void* stream_of(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return stream;
}

void check(int error) { STD_CUDA_CHECK(static_cast<cudaError_t>(error)); }

Tensor bytes_like(const Tensor& like, int64_t bytes, bool zero, void* stream) {
  const Tensor memory = rerank_empty(like, {ceil_div(larger(bytes, 8), 8)}, aoti_torch_dtype_int64());
  if (zero)
    check(cudaMemsetAsync(memory.mutable_data_ptr(), 0, static_cast<size_t>(memory.numel()) * 8,
                          static_cast<cudaStream_t>(stream)));
  return memory;
}

// Row sizes become offsets; returns the last of them.
int64_t scanned(const Tensor& begin, void* stream) {
  int64_t* const offsets = begin.mutable_data_ptr<int64_t>();
  const int64_t rows = begin.size(0) - 1;
  int64_t total = 0;
  check(cuda::launch_rerank_scan(offsets, rows, stream));
  cudaStream_t on = static_cast<cudaStream_t>(stream);
  check(cudaMemcpyAsync(&total, offsets + rows, sizeof(total), cudaMemcpyDeviceToHost, on));
  check(cudaStreamSynchronize(on));
  return total;
}

// launch(begin, column, value), first for the sizes, then for the entries.
template <class F>
SparseTensors two_passes(const Tensor& like, int64_t rows, void* stream, const F& launch) {
  const Tensor begin = rerank_empty(like, {rows + 1}, aoti_torch_dtype_int64());
  int64_t* const offsets = begin.mutable_data_ptr<int64_t>();
  check(launch(offsets, nullptr, nullptr));
  const int64_t entries = scanned(begin, stream);
  const Tensor column = rerank_empty(like, {entries}, aoti_torch_dtype_int32());
  const Tensor value = rerank_empty(like, {entries}, aoti_torch_dtype_float32());
  if (entries > 0)
    check(launch(offsets, column.mutable_data_ptr<int32_t>(), value.mutable_data_ptr<float>()));
  return {begin, column, value};
}

std::tuple<Tensor, Tensor, Tensor> rerank_select(const Tensor& query_gallery, const Tensor& query_query,
                                                 const Tensor& gallery_gallery, int64_t k) {
  const DeviceGuard guard(query_gallery.get_device_index());
  const RerankMatrices matrices = rerank_matrices(query_gallery, query_query, gallery_gallery);
  const int64_t points = matrices.queries + matrices.gallery;
  FASTREID_CHECK(1 <= k && k <= points, kRerankOp, "k", shown(k), "1 to " + shown(points));
  const Tensor index = rerank_empty(query_gallery, {points, k}, aoti_torch_dtype_int32());
  const Tensor distance = rerank_empty(query_gallery, {points, k}, aoti_torch_dtype_float64());
  const Tensor farthest = rerank_empty(query_gallery, {points}, aoti_torch_dtype_float64());
  check(cuda::launch_rerank_select(matrices, k, index.mutable_data_ptr<int32_t>(),
                                   distance.mutable_data_ptr<double>(), farthest.mutable_data_ptr<double>(),
                                   stream_of(query_gallery)));
  return {index, distance, farthest};
}

SparseTensors rerank_encode(const Tensor& index, const Tensor& distance,
                            const std::optional<Tensor>& farthest, const std::optional<Tensor>& x,
                            const std::optional<Tensor>& inverse, const std::optional<Tensor>& query_gallery,
                            const std::optional<Tensor>& query_query,
                            const std::optional<Tensor>& gallery_gallery, int64_t half, int64_t power,
                            bool to_half, const std::optional<Tensor>& more) {
  FASTREID_CHECK(!more, kRerankOp, "more", "a tensor", "none: on a device the rows of x are in one piece");
  const DeviceGuard guard(index.get_device_index());
  const RerankEncodeCall call(index, distance, farthest, x, inverse, query_gallery, query_query,
                              gallery_gallery, half, power);
  const RerankLists& lists = call.lists;
  void* const stream = stream_of(index);
  const Tensor memory = bytes_like(index, lists.points * (lists.listed + half + 2) * 4, false, stream);
  RerankSets sets{};
  sets.whole = static_cast<int32_t*>(memory.mutable_data_ptr());
  sets.half = sets.whole + lists.points * lists.listed;
  sets.whole_count = sets.half + lists.points * half;
  sets.half_count = sets.whole_count + lists.points;
  if (lists.points > 0) check(cuda::launch_rerank_reciprocal(lists, sets, stream));
  const Tensor scratch = bytes_like(index, cuda::rerank_encode_scratch(lists), false, stream);
  return two_passes(index, lists.points, stream, [&](int64_t* begin, int32_t* column, float* value) {
    return lists.points == 0
               ? 0
               : cuda::launch_rerank_encode(lists, call.pairs, sets, to_half, scratch.mutable_data_ptr(),
                                            begin, column, value, stream);
  });
}

SparseTensors rerank_merge(const Tensor& begin, const Tensor& column, const Tensor& value,
                           const Tensor& index, const std::optional<Tensor>& weight, double divisor,
                           bool to_half) {
  const DeviceGuard guard(begin.get_device_index());
  const RerankMerge merge = rerank_merging(begin, column, value, index, weight, divisor, to_half);
  const int64_t rows = index.size(0);
  void* const stream = stream_of(begin);
  const Tensor place = rerank_empty(begin, {rows + 1}, aoti_torch_dtype_int64());
  check(cuda::launch_rerank_merge_sizes(merge, rows, place.mutable_data_ptr<int64_t>(), stream));
  const Tensor marks = bytes_like(begin, scanned(place, stream) * 4, false, stream);
  return two_passes(begin, rows, stream, [&](int64_t* offsets, int32_t* to_column, float* to_value) {
    return cuda::launch_rerank_merge(merge, rows, place.const_data_ptr<int64_t>(),
                                     static_cast<int32_t*>(marks.mutable_data_ptr()), offsets, to_column,
                                     to_value, stream);
  });
}

SparseTensors rerank_invert(const Tensor& begin, const Tensor& column, const Tensor& value, int64_t row_begin,
                            int64_t row_end, int64_t columns) {
  const DeviceGuard guard(begin.get_device_index());
  const RerankSparse rows = rerank_sparse(begin, column, value, columns);
  rerank_range(begin, row_begin, row_end);
  void* const stream = stream_of(begin);
  const Tensor offsets = bytes_like(begin, (columns + 1) * 8, true, stream);
  int64_t* const to_begin = offsets.mutable_data_ptr<int64_t>();
  check(cuda::launch_rerank_invert(rows, row_begin, row_end, columns, to_begin, nullptr, nullptr, nullptr,
                                   stream));
  const int64_t entries = scanned(offsets, stream);
  const Tensor cursor = torch::stable::clone(offsets);
  const Tensor row = rerank_empty(begin, {entries}, aoti_torch_dtype_int32());
  const Tensor to_value = rerank_empty(begin, {entries}, aoti_torch_dtype_float32());
  if (entries > 0)
    check(cuda::launch_rerank_invert(rows, row_begin, row_end, columns, to_begin,
                                     cursor.mutable_data_ptr<int64_t>(), row.mutable_data_ptr<int32_t>(),
                                     to_value.mutable_data_ptr<float>(), stream));
  return {offsets, row, to_value};
}

void rerank_blend(const Tensor& result, const Tensor& distance, const std::optional<Tensor>& divisor,
                  const Tensor& begin, const Tensor& column, const Tensor& value,
                  const Tensor& inverted_begin, const Tensor& inverted_row, const Tensor& inverted_value,
                  int64_t first_row, double lambda, int64_t power, bool half, bool clamp) {
  const DeviceGuard guard(result.get_device_index());
  const RerankBlend blend = rerank_blending(result, distance, divisor, lambda, power);
  const int64_t count = result.size(0), gallery = result.size(1);
  const RerankQueries queries =
      rerank_queries({begin, column, value}, {inverted_begin, inverted_row, inverted_value}, first_row, count,
                     gallery, 0, half, clamp);
  void* const stream = stream_of(result);
  const Tensor scratch = bytes_like(result, cuda::rerank_overlap_scratch(count, gallery), true, stream);
  check(cuda::launch_rerank_blend(queries, blend, count, scratch.mutable_data_ptr(), stream));
}

SparseTensors rerank_overlap(const Tensor& begin, const Tensor& column, const Tensor& value,
                             const Tensor& inverted_begin, const Tensor& inverted_row,
                             const Tensor& inverted_value, int64_t first_row, int64_t count, int64_t gallery,
                             int64_t overlap, bool half, bool clamp) {
  const DeviceGuard guard(begin.get_device_index());
  const RerankQueries queries =
      rerank_queries({begin, column, value}, {inverted_begin, inverted_row, inverted_value}, first_row, count,
                     gallery, overlap, half, clamp);
  void* const stream = stream_of(begin);
  const Tensor scratch = bytes_like(begin, cuda::rerank_overlap_scratch(count, gallery), true, stream);
  return two_passes(begin, count, stream, [&](int64_t* offsets, int32_t* to_column, float* to_value) {
    return cuda::launch_rerank_overlap(queries, count, scratch.mutable_data_ptr(), offsets, to_column,
                                       to_value, stream);
  });
}

std::tuple<Tensor, Tensor> rerank_head(const Tensor& values, int64_t k) {
  const DeviceGuard guard(values.get_device_index());
  rerank_heads(values, k);
  const int64_t count = values.size(0), columns = values.size(1);
  void* const stream = stream_of(values);
  const Tensor value = rerank_empty(values, {count, k}, aoti_torch_dtype_float32());
  const Tensor index = rerank_empty(values, {count, k}, aoti_torch_dtype_int64());
  const Tensor scratch = bytes_like(values, count * k * 4, false, stream);
  check(cuda::launch_rerank_head(values.const_data_ptr<float>(), count, columns, k,
                                 scratch.mutable_data_ptr(), value.mutable_data_ptr<float>(),
                                 index.mutable_data_ptr<int64_t>(), stream));
  return {value, index};
}

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_IMPL(fastreid, CUDA, m) {
  m.impl("rerank_select", TORCH_BOX(&fastreid::rerank_select));
  m.impl("rerank_encode", TORCH_BOX(&fastreid::rerank_encode));
  m.impl("rerank_merge", TORCH_BOX(&fastreid::rerank_merge));
  m.impl("rerank_invert", TORCH_BOX(&fastreid::rerank_invert));
  m.impl("rerank_blend", TORCH_BOX(&fastreid::rerank_blend));
  m.impl("rerank_overlap", TORCH_BOX(&fastreid::rerank_overlap));
  m.impl("rerank_head", TORCH_BOX(&fastreid::rerank_head));
}
