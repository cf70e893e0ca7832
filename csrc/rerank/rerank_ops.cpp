// SPDX-License-Identifier: Apache-2.0
// Schemas, and the CPU side: rows split over threads, blocks of sparse rows put together.
#include "rerank/rerank_ops.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastreid {
namespace {

// Rows for which waking another thread pays, and numbers of a block's sparse rows at most.
constexpr int64_t kRows = 256;
constexpr int64_t kBlockEntries = int64_t{1} << 17;

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;

Memory allocate(int64_t bytes) {
  void* memory = std::aligned_alloc(64, static_cast<size_t>(round_up(larger(bytes, 64), 64)));
  if (memory == nullptr) throw std::bad_alloc();
  return Memory(memory);
}
Memory zeros(int64_t bytes) {
  Memory memory = allocate(bytes);
  std::memset(memory.get(), 0, static_cast<size_t>(bytes));
  return memory;
}
template <class T>
T* as(const Memory& memory) {
  return static_cast<T*>(memory.get());
}

// A result of hundreds of megabytes that nobody has touched comes page by page from the system, which takes longer
// than computing it; in pages of 2 MiB it does not.
void in_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + static_cast<uintptr_t>(bytes)) / kPage * kPage;
  // A hint: where it is refused, all is as before.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Sparse rows that are made block by block, in any order.
class SparseRows {
 public:
  explicit SparseRows(const Tensor& like, int64_t rows)
      : like_(like), rows_(rows), begin_(rerank_empty(like, {rows + 1}, aoti_torch_dtype_int64())) {}

  // Where a block's row counts go.
  int64_t* counts(int64_t first) { return begin_.mutable_data_ptr<int64_t>() + 1 + first; }

  void resize(int64_t blocks) { blocks_.resize(static_cast<size_t>(blocks)); }
  void keep(int64_t block, const int32_t* column, const float* value, int64_t entries) {
    Block& kept = blocks_[static_cast<size_t>(block)];
    const size_t bytes = static_cast<size_t>(entries) * 4;
    kept.entries = entries;
    kept.memory = allocate(entries * 8);
    std::memcpy(kept.memory.get(), column, bytes);
    std::memcpy(as<float>(kept.memory) + entries, value, bytes);
  }

  SparseTensors finish() {
    int64_t* const begin = begin_.mutable_data_ptr<int64_t>();
    begin[0] = 0;
    for (int64_t r = 0; r < rows_; ++r) begin[r + 1] += begin[r];
    const Tensor column = rerank_empty(like_, {begin[rows_]}, aoti_torch_dtype_int32());
    const Tensor value = rerank_empty(like_, {begin[rows_]}, aoti_torch_dtype_float32());
    int32_t* to_column = column.mutable_data_ptr<int32_t>();
    float* to_value = value.mutable_data_ptr<float>();
    for (Block& block : blocks_) {
      const size_t bytes = static_cast<size_t>(block.entries) * 4;
      if (bytes == 0) continue;
      std::memcpy(to_column, block.memory.get(), bytes);
      std::memcpy(to_value, as<float>(block.memory) + block.entries, bytes);
      to_column += block.entries;
      to_value += block.entries;
      block.memory.reset();
    }
    return {begin_, column, value};
  }

 private:
  struct Block {
    Memory memory;
    int64_t entries = 0;
  };
  Tensor like_;
  int64_t rows_;
  Tensor begin_;
  std::vector<Block> blocks_;
};

// Calls function(first block, last block) on several threads.
template <class F>
void in_blocks(int64_t rows, int64_t block, const F& function) {
  const int64_t blocks = ceil_div(rows, block);
  torch::stable::parallel_for(0, blocks, larger(1, kRows / block), [&](int64_t first, int64_t last) {
    if (first < last) function(first, last);
  });
}

std::tuple<Tensor, Tensor, Tensor> rerank_select(const Tensor& query_gallery, const Tensor& query_query,
                                                 const Tensor& gallery_gallery, int64_t k) {
  const RerankMatrices matrices = rerank_matrices(query_gallery, query_query, gallery_gallery);
  const int64_t queries = matrices.queries, points = queries + matrices.gallery;
  FASTREID_CHECK(1 <= k && k <= points, kRerankOp, "k", shown(k), "1 to " + shown(points));
  const Tensor index = rerank_empty(query_gallery, {points, k}, aoti_torch_dtype_int32());
  const Tensor distance = rerank_empty(query_gallery, {points, k}, aoti_torch_dtype_float64());
  const Tensor farthest = rerank_empty(query_gallery, {points}, aoti_torch_dtype_float64());
  const RerankKernels& kernels = FASTREID_KERNELS(rerank_kernels);
  const auto part = [&](int64_t begin, int64_t end, int64_t tile) {
    in_blocks(end - begin, tile, [&](int64_t first, int64_t last) {
      const Memory scratch = allocate(kernels.select_bytes(tile, k));
      for (int64_t b = first; b < last; ++b)
        kernels.select(&matrices, begin + b * tile, smaller(end, begin + (b + 1) * tile), k, scratch.get(),
                       index.mutable_data_ptr<int32_t>(), distance.mutable_data_ptr<double>(),
                       farthest.mutable_data_ptr<double>());
    });
  };
  part(0, queries, 256);
  part(queries, points, 1024);
  return {index, distance, farthest};
}

SparseTensors rerank_encode(const Tensor& index, const Tensor& distance,
                            const std::optional<Tensor>& farthest, const std::optional<Tensor>& x,
                            const std::optional<Tensor>& inverse, const std::optional<Tensor>& query_gallery,
                            const std::optional<Tensor>& query_query,
                            const std::optional<Tensor>& gallery_gallery, int64_t half, int64_t power,
                            bool to_half, const std::optional<Tensor>& more) {
  const RerankEncodeCall call(index, distance, farthest, x, inverse, query_gallery, query_query,
                              gallery_gallery, half, power, more);
  const RerankLists& lists = call.lists;
  const int64_t points = lists.points, row = call.largest_row;
  const RerankKernels& kernels = FASTREID_KERNELS(rerank_kernels);
  const Memory memory = allocate(points * (lists.listed + lists.half + 2) * 4);
  RerankSets sets{};
  sets.whole = as<int32_t>(memory);
  sets.half = sets.whole + points * lists.listed;
  sets.whole_count = sets.half + points * lists.half;
  sets.half_count = sets.whole_count + points;
  torch::stable::parallel_for(
      0, points, kRows, [&](int64_t first, int64_t last) { kernels.reciprocal(&lists, first, last, &sets); });

  SparseRows rows(index, points);
  const int64_t block = larger(1, smaller(kRows, kBlockEntries / row));
  rows.resize(ceil_div(points, block));
  in_blocks(points, block, [&](int64_t first, int64_t last) {
    const Memory marks = zeros(points * 4), wide = allocate((call.pairs.depth + row) * 8);
    const Memory entries = allocate(block * row * 8);
    int32_t* const column = as<int32_t>(entries);
    float* const value = as<float>(entries) + block * row;
    for (int64_t b = first; b < last; ++b) {
      const int64_t begin = b * block, end = smaller(points, begin + block);
      const int64_t n =
          kernels.encode(&lists, &call.pairs, &sets, to_half, begin, end, as<int32_t>(marks),
                         begin - first * block, as<double>(wide), column, value, rows.counts(begin));
      rows.keep(b, column, value, n);
    }
  });
  return rows.finish();
}

SparseTensors rerank_merge(const Tensor& begin, const Tensor& column, const Tensor& value,
                           const Tensor& index, const std::optional<Tensor>& weight, double divisor,
                           bool to_half) {
  const RerankMerge merge = rerank_merging(begin, column, value, index, weight, divisor, to_half);
  const int64_t count = index.size(0), terms = merge.terms;
  const RerankKernels& kernels = FASTREID_KERNELS(rerank_kernels);
  SparseRows rows(begin, count);
  rows.resize(ceil_div(count, kRows));
  in_blocks(count, kRows, [&](int64_t first, int64_t last) {
    Memory entries, scratch;
    int64_t room = -1, widest = -1;
    for (int64_t b = first; b < last; ++b) {
      int64_t total = 0, largest = 0;
      const int64_t row = b * kRows, end = smaller(count, row + kRows);
      for (int64_t r = row; r < end; ++r) {
        int64_t size = 0;
        for (int64_t t = 0; t < terms; ++t) {
          const int64_t from = merge.index[r * terms + t];
          size += merge.source.begin[from + 1] - merge.source.begin[from];
        }
        total += size;
        largest = larger(largest, size);
      }
      if (total > room) entries = allocate(total * 8), room = total;
      if (largest > widest) scratch = allocate(largest * 16), widest = largest;
      int32_t* const to_column = as<int32_t>(entries);
      float* const to_value = as<float>(entries) + room;
      const int64_t n = kernels.merge(&merge, row, end, scratch.get(), to_column, to_value, rows.counts(row));
      rows.keep(b, to_column, to_value, n);
    }
  });
  return rows.finish();
}

SparseTensors rerank_invert(const Tensor& begin, const Tensor& column, const Tensor& value, int64_t row_begin,
                            int64_t row_end, int64_t columns) {
  const RerankSparse rows = rerank_sparse(begin, column, value, columns);
  rerank_range(begin, row_begin, row_end);
  const int64_t entries = rows.begin[row_end] - rows.begin[row_begin];
  const Tensor to_begin = rerank_empty(begin, {columns + 1}, aoti_torch_dtype_int64());
  const Tensor to_row = rerank_empty(begin, {entries}, aoti_torch_dtype_int32());
  const Tensor to_value = rerank_empty(begin, {entries}, aoti_torch_dtype_float32());
  const RerankKernels& kernels = FASTREID_KERNELS(rerank_kernels);
  int64_t* const offset = to_begin.mutable_data_ptr<int64_t>();
  // Every thread reads all columns and takes its own: cheaper than putting partial results together.
  const Memory memory = zeros(columns * 8);
  int64_t* const cursor = as<int64_t>(memory);
  const int64_t grain = larger(4096, ceil_div(columns, 8));
  torch::stable::parallel_for(0, columns, grain, [&](int64_t first, int64_t last) {
    kernels.count_columns(&rows, row_begin, row_end, first, last, cursor + first);
  });
  offset[0] = 0;
  for (int64_t c = 0; c < columns; ++c) {
    offset[c + 1] = offset[c] + cursor[c];
    cursor[c] = offset[c];
  }
  torch::stable::parallel_for(0, columns, grain, [&](int64_t first, int64_t last) {
    kernels.fill_columns(&rows, row_begin, row_end, first, last, cursor + first,
                         to_row.mutable_data_ptr<int32_t>(), to_value.mutable_data_ptr<float>());
  });
  return {to_begin, to_row, to_value};
}

void rerank_blend(const Tensor& result, const Tensor& distance, const std::optional<Tensor>& divisor,
                  const Tensor& begin, const Tensor& column, const Tensor& value,
                  const Tensor& inverted_begin, const Tensor& inverted_row, const Tensor& inverted_value,
                  int64_t first_row, double lambda, int64_t power, bool half, bool clamp) {
  const RerankBlend blend = rerank_blending(result, distance, divisor, lambda, power);
  const int64_t count = result.size(0), gallery = result.size(1);
  const RerankQueries queries =
      rerank_queries({begin, column, value}, {inverted_begin, inverted_row, inverted_value}, first_row, count,
                     gallery, 0, half, clamp);
  const RerankKernels& kernels = FASTREID_KERNELS(rerank_kernels);
  in_large_pages(blend.result, count * gallery * 4);
  torch::stable::parallel_for(0, count, larger(1, 32768 / larger(gallery, 1)),
                              [&](int64_t first, int64_t last) {
                                const Memory scratch = zeros(gallery * 12 + 4);
                                kernels.blend(&queries, &blend, first, last, scratch.get());
                              });
}

SparseTensors rerank_overlap(const Tensor& begin, const Tensor& column, const Tensor& value,
                             const Tensor& inverted_begin, const Tensor& inverted_row,
                             const Tensor& inverted_value, int64_t first_row, int64_t count, int64_t gallery,
                             int64_t overlap, bool half, bool clamp) {
  const RerankQueries queries =
      rerank_queries({begin, column, value}, {inverted_begin, inverted_row, inverted_value}, first_row, count,
                     gallery, overlap, half, clamp);
  const RerankKernels& kernels = FASTREID_KERNELS(rerank_kernels);
  SparseRows rows(begin, count);
  constexpr int64_t kBlock = 64;
  // A row may overlap with everything; what it really has is copied out of `room` before that is full.
  const int64_t room = larger(gallery, kBlockEntries);
  rows.resize(ceil_div(count, kBlock));
  in_blocks(count, kBlock, [&](int64_t first, int64_t last) {
    const Memory scratch = zeros(gallery * 12 + 4), entries = allocate(room * 8);
    std::vector<int32_t> columns;
    std::vector<float> values;
    for (int64_t b = first; b < last; ++b) {
      const int64_t end = smaller(count, (b + 1) * kBlock);
      columns.clear(), values.clear();
      for (int64_t row = b * kBlock; row < end;) {
        int32_t* const to_column = as<int32_t>(entries);
        float* const to_value = as<float>(entries) + room;
        const int64_t stopped =
            kernels.overlap(&queries, row, end, room, scratch.get(), to_column, to_value, rows.counts(row));
        int64_t n = 0;
        for (int64_t r = row; r < stopped; ++r) n += rows.counts(row)[r - row];
        columns.insert(columns.end(), to_column, to_column + n);
        values.insert(values.end(), to_value, to_value + n);
        row = stopped;
      }
      rows.keep(b, columns.data(), values.data(), static_cast<int64_t>(columns.size()));
    }
  });
  return rows.finish();
}

std::tuple<Tensor, Tensor> rerank_head(const Tensor& values, int64_t k) {
  rerank_heads(values, k);
  const int64_t count = values.size(0), columns = values.size(1);
  const Tensor value = rerank_empty(values, {count, k}, aoti_torch_dtype_float32());
  const Tensor index = rerank_empty(values, {count, k}, aoti_torch_dtype_int64());
  const RerankKernels& kernels = FASTREID_KERNELS(rerank_kernels);
  torch::stable::parallel_for(0, count, larger(1, 32768 / columns), [&](int64_t first, int64_t last) {
    const Memory scratch = allocate(kernels.select_bytes(1, k));
    kernels.head(values.const_data_ptr<float>(), columns, first, last, columns, k, scratch.get(),
                 value.mutable_data_ptr<float>(), index.mutable_data_ptr<int64_t>());
  });
  return {value, index};
}

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_FRAGMENT(fastreid, m) {
  // Sparse matrices are (begin int64, column int32, value float32), indices into points int32, distances float64.
  m.def(
      "rerank_select(Tensor query_gallery, Tensor query_query, Tensor gallery_gallery, int k) -> "
      "(Tensor index, Tensor distance, Tensor farthest)");
  // more: CPU, the rest of the rows of x, with the same strides.
  m.def(
      "rerank_encode(Tensor index, Tensor distance, Tensor? farthest, Tensor? x, Tensor? inverse, "
      "Tensor? query_gallery, Tensor? query_query, Tensor? gallery_gallery, int half, int power, bool "
      "to_half, Tensor? more=None) -> "
      "(Tensor begin, Tensor column, Tensor value)");
  m.def(
      "rerank_merge(Tensor begin, Tensor column, Tensor value, Tensor index, Tensor? weight, float divisor, "
      "bool to_half) -> (Tensor begin, Tensor column, Tensor value)");
  m.def(
      "rerank_invert(Tensor begin, Tensor column, Tensor value, int row_begin, int row_end, int columns) -> "
      "(Tensor begin, Tensor row, Tensor value)");
  m.def(
      "rerank_blend(Tensor(a!) result, Tensor distance, Tensor? divisor, Tensor begin, Tensor column, Tensor "
      "value, "
      "Tensor inverted_begin, Tensor inverted_row, Tensor inverted_value, int first_row, float lambda_value, "
      "int power, bool half, bool clamp) -> ()");
  // overlap: 0 sums of minima, as Jaccard distances; 1 sums of products, as 1 - sum
  m.def(
      "rerank_overlap(Tensor begin, Tensor column, Tensor value, Tensor inverted_begin, Tensor inverted_row, "
      "Tensor inverted_value, int first_row, int rows, int gallery, int overlap, bool half, bool clamp) -> "
      "(Tensor begin, Tensor column, Tensor value)");
  m.def("rerank_head(Tensor values, int k) -> (Tensor value, Tensor index)");
}

STABLE_TORCH_LIBRARY_IMPL(fastreid, CPU, m) {
  m.impl("rerank_select", TORCH_BOX(&fastreid::rerank_select));
  m.impl("rerank_encode", TORCH_BOX(&fastreid::rerank_encode));
  m.impl("rerank_merge", TORCH_BOX(&fastreid::rerank_merge));
  m.impl("rerank_invert", TORCH_BOX(&fastreid::rerank_invert));
  m.impl("rerank_blend", TORCH_BOX(&fastreid::rerank_blend));
  m.impl("rerank_overlap", TORCH_BOX(&fastreid::rerank_overlap));
  m.impl("rerank_head", TORCH_BOX(&fastreid::rerank_head));
}
