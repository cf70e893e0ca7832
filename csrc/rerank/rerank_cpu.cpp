// SPDX-License-Identifier: Apache-2.0
// CPU kernels of rerank.h, compiled once per instruction set. The parts: selection (rerank_cpu_select.h), encoding
// (rerank_cpu_encode.h), overlaps and blend (rerank_cpu_blend.h); here are the sums and the inverse of sparse rows.
#include "rerank/rerank.h"

#include "rerank/rerank_cpu_blend.h"
#include "rerank/rerank_cpu_encode.h"
#include "rerank/rerank_cpu_select.h"

namespace fastreid::FASTREID_ISA {
namespace {

// a + weight * b, both ascending; returns the entries of the sum. No branch depends on which is ahead.
int64_t add_rows(const int32_t* a_column, const float* a_value, int64_t a_size, const int32_t* b_column,
                 const float* b_value, int64_t b_size, float weight, int32_t* column, float* value) {
  int64_t a = 0, b = 0, n = 0;
  while (a < a_size && b < b_size) {
    const int32_t left = a_column[a], right = b_column[b];
    const bool from_a = left <= right, from_b = right <= left;
    column[n] = from_a ? left : right;
    value[n++] = (from_a ? a_value[a] : 0.0f) + (from_b ? weight * b_value[b] : 0.0f);
    a += from_a;
    b += from_b;
  }
  for (; a < a_size; ++a) column[n] = a_column[a], value[n++] = a_value[a];
  for (; b < b_size; ++b) column[n] = b_column[b], value[n++] = weight * b_value[b];
  return n;
}

int64_t merge(const RerankMerge* merge, int64_t first, int64_t last, void* scratch, int32_t* column,
              float* value, int64_t* counts) {
  const RerankSparse& source = merge->source;
  const int64_t terms = merge->terms;
  int64_t total = 0;
  for (int64_t r = first; r < last; ++r) {
    const int32_t* index = merge->index + r * terms;
    int64_t room = 0;
    for (int64_t t = 0; t < terms; ++t) room += source.begin[index[t] + int64_t{1}] - source.begin[index[t]];
    int32_t* columns[2] = {static_cast<int32_t*>(scratch), static_cast<int32_t*>(scratch) + room};
    float* values[2] = {reinterpret_cast<float*>(columns[1] + room),
                        reinterpret_cast<float*>(columns[1] + room) + room};
    int64_t n = 0;
    int from = 0;
    for (int64_t t = 0; t < terms; ++t) {
      const int64_t begin = source.begin[index[t]], end = source.begin[index[t] + int64_t{1}];
      const float weight = merge->weight ? merge->weight[r * terms + t] : 1.0f;
      n = add_rows(columns[from], values[from], n, source.column + begin, source.value + begin, end - begin,
                   weight, columns[1 - from], values[1 - from]);
      from = 1 - from;
    }
    int64_t kept = 0;
    for (int64_t e = 0; e < n; ++e) {
      const float sum = values[from][e] / merge->divisor;
      const float rounded = merge->to_half ? half_rounded(sum) : sum;
      column[total + kept] = columns[from][e];
      value[total + kept] = rounded;
      kept += rounded != 0;
    }
    counts[r - first] = kept;
    total += kept;
  }
  return total;
}

void count_columns(const RerankSparse* rows, int64_t row_begin, int64_t row_end, int64_t first, int64_t last,
                   int64_t* counts) {
  for (int64_t e = rows->begin[row_begin]; e < rows->begin[row_end]; ++e) {
    const int64_t column = rows->column[e];
    if (first <= column && column < last) ++counts[column - first];
  }
}

void fill_columns(const RerankSparse* rows, int64_t row_begin, int64_t row_end, int64_t first, int64_t last,
                  int64_t* cursor, int32_t* row, float* value) {
  for (int64_t r = row_begin; r < row_end; ++r) {
    for (int64_t e = rows->begin[r]; e < rows->begin[r + 1]; ++e) {
      const int64_t column = rows->column[e];
      if (column < first || column >= last) continue;
      const int64_t at = cursor[column - first]++;
      row[at] = static_cast<int32_t>(r - row_begin);
      value[at] = rows->value[e];
    }
  }
}

}  // namespace

extern const RerankKernels rerank_kernels = {select_bytes,  select,       reciprocal, encode,  merge,
                                             count_columns, fill_columns, blend,      overlap, head};

}  // namespace fastreid::FASTREID_ISA
