// SPDX-License-Identifier: Apache-2.0
// k-reciprocal re-ranking (Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", 2017) in
// sparse form. Torch-free: raw pointers, int64 sizes.
//
// Shapes: points = queries, then gallery; lists (points, listed) of each point's neighbours, nearest first; sparse
//     matrices of points x points in compressed rows (begin (rows + 1,) int64, column int32, value float32).
// NaN: none may come in. All distances zero give weights 1 / n; an empty reciprocal set gives an empty row.
// Ties: lists are taken as they are; selections are ordered by (value, index); -0.0 equals 0.0.
// Determinism: float64 weights and float32 sums in one fixed order (ascending column, or rank): the same bits for
//     any thread count, block size and instruction set; CUDA may differ in the last places.
// Memory: never points x points. The lists and the sparse matrices; for each thread 4 bytes a point (encoding) or 12
//     bytes a gallery entry (overlap), 8 bytes for each entry that a block of rows may have, and 2.5 KiB for each of
//     256 (1,024) lists while they are selected from matrices (more where k > 21).
//
// How: with lists of about k1 neighbours, a row of the reciprocal encoding V has some 16 entries, about 54 after
// local query expansion. min(V[q,t], V[g,t]) is not zero only where column t holds both, so an inverted index
// (columns of V over the gallery) gives all overlaps of a query without looking at the other pairs.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "common/isa.h"

namespace fastreid {

// Element (i, j) at data[i * row_stride + j * column_stride].
struct RerankMatrix {
  const void* data;
  Dtype dtype;
  int64_t row_stride;
  int64_t column_stride;
};

// Compressed rows: entries begin[r] to begin[r + 1] - 1 of row r, columns ascending.
struct RerankSparse {
  const int64_t* begin;
  const int32_t* column;
  const float* value;
};

// The three distance matrices that the original takes. Point i's list is read down column i of
// [[query_query, query_gallery], [query_gallery^T, gallery_gallery]], as there; the sign is dropped (it squares).
struct RerankMatrices {
  RerankMatrix query_gallery;
  RerankMatrix query_query;
  RerankMatrix gallery_gallery;
  int64_t queries;
  int64_t gallery;
};

// Lists, and what a distance enters as: w = (distance / farthest[i])^power. With Euclidean distances power is 2, with
// squared ones 1.
struct RerankLists {
  const int32_t* index;    // (points, listed)
  const double* distance;  // (points, listed)
  const double* farthest;  // (points,), 0 counts as 1; null: no division
  int64_t points;
  int64_t listed;
  int64_t half;  // entries of the half list, at most `listed`
  int power;     // 1 or 2
};

// Where the distance of a pair comes from that is in neither's list: features (squared Euclidean, of rows times
// `inverse` where that is not null), or the matrices where x.data is null.
struct RerankPairs {
  RerankMatrix
      x;  // (points, depth), float32 or float64; CPU: rows from `split` on at `more`, if that is not null
  const void* more;
  int64_t split;
  const double* inverse;
  int64_t depth;
  RerankMatrices matrices;
};

// Mutual neighbours in rank order, filled by reciprocal(): rows of `listed` and of `half` places, and how many are
// taken.
struct RerankSets {
  int32_t* whole;
  int32_t* whole_count;
  int32_t* half;
  int32_t* half_count;
};

// Row r of the result: sum over n of weight[r][n] * source row index[r][n], divided by `divisor`.
struct RerankMerge {
  RerankSparse source;
  const int32_t* index;  // (rows, terms)
  const float* weight;   // (rows, terms), null: 1
  int64_t terms;
  float divisor;
  bool to_half;  // round the result to float16 values
};

enum class RerankOverlap : int { minimum = 0, product = 1 };

struct RerankQueries {
  RerankSparse rows;      // of V; row q of the call is row first_row + q here
  RerankSparse inverted;  // columns of V: gallery entry and value
  int64_t first_row;
  int64_t gallery;
  RerankOverlap overlap;
  bool half;   // Jaccard distances and their sums in float16, one rounding after another
  bool clamp;  // negative Jaccard distances become 0
};

// F = J * (1 - lambda) + w * lambda in float32, w = (distance / divisor[q])^power.
struct RerankBlend {
  const float* distance;  // (rows, gallery), rows `stride` apart
  int64_t stride;
  const double* divisor;  // (rows,), 0 counts as 1; null: none
  int power;
  double lambda;
  float* result;  // (rows, gallery) contiguous; may be `distance`
};

struct RerankKernels {
  // The k nearest of points [first, last), all queries or all gallery, and the largest distance of each (an
  // infinity or NaN counts as larger than any number). Bytes needed at `scratch` for `points` of them, 64-byte
  // aligned.
  int64_t (*select_bytes)(int64_t points, int64_t k);
  void (*select)(const RerankMatrices* matrices, int64_t first, int64_t last, int64_t k, void* scratch,
                 int32_t* index, double* distance, double* farthest);
  void (*reciprocal)(const RerankLists* lists, int64_t first, int64_t last, const RerankSets* sets);
  // Rows [first, last) of V, packed one after another; returns the number of entries, counts (last - first,). A row
  // has at most min(points, listed * (half + 1)) of them. marks (points,) zero before the first call, `tag` 0 then
  // and the number of rows done since; `wide` holds depth numbers and one for each entry of a row.
  int64_t (*encode)(const RerankLists* lists, const RerankPairs* pairs, const RerankSets* sets, bool to_half,
                    int64_t first, int64_t last, int32_t* marks, int64_t tag, double* wide, int32_t* column,
                    float* value, int64_t* counts);
  // Likewise; at most as many entries as the rows that are merged have together. Two times that many bytes * 8 at
  // `scratch` for the largest row.
  int64_t (*merge)(const RerankMerge* merge, int64_t first, int64_t last, void* scratch, int32_t* column,
                   float* value, int64_t* counts);
  // The columns [first, last) of rows [row_begin, row_end): how many entries each has, then the entries, each at
  // cursor[column - first]++; rows are counted from row_begin.
  void (*count_columns)(const RerankSparse* rows, int64_t row_begin, int64_t row_end, int64_t first,
                        int64_t last, int64_t* counts);
  void (*fill_columns)(const RerankSparse* rows, int64_t row_begin, int64_t row_end, int64_t first,
                       int64_t last, int64_t* cursor, int32_t* row, float* value);
  // Rows [first, last) of the final distances. scratch: 12 bytes a gallery entry and 4 more; the first 4 a
  // gallery entry are zero, before and after.
  void (*blend)(const RerankQueries* queries, const RerankBlend* blend, int64_t first, int64_t last,
                void* scratch);
  // Rows [first, last) of the overlaps that are not zero, ascending: Jaccard distances (minimum) or
  // 1 - sum of products. Stops before a row whose entries might not fit `room`; returns the row it stopped at.
  int64_t (*overlap)(const RerankQueries* queries, int64_t first, int64_t last, int64_t room, void* scratch,
                     int32_t* column, float* value, int64_t* counts);
  // The k smallest of each row of values (rows, columns), in the order (value, index).
  void (*head)(const float* values, int64_t stride, int64_t first, int64_t last, int64_t columns, int64_t k,
               void* scratch, float* value, int64_t* index);
};
FASTREID_DECLARE_KERNELS(RerankKernels, rerank_kernels)

// All pointers on the device, `stream` a cudaStream_t; the cudaError_t of the launches comes back. A sparse result
// takes three calls: with `column` null the sizes of row r go to begin[r + 1]; scan() makes offsets of them, the last
// of which the caller waits for; then column and value are filled.
namespace cuda {
int launch_rerank_scan(int64_t* begin, int64_t rows, void* stream);
int launch_rerank_select(const RerankMatrices& matrices, int64_t k, int32_t* index, double* distance,
                         double* farthest, void* stream);
int launch_rerank_reciprocal(const RerankLists& lists, const RerankSets& sets, void* stream);
int64_t rerank_encode_scratch(const RerankLists& lists);
int launch_rerank_encode(const RerankLists& lists, const RerankPairs& pairs, const RerankSets& sets,
                         bool to_half, void* scratch, int64_t* begin, int32_t* column, float* value,
                         void* stream);
// Sizes of the rows that are merged, as of a sparse result: `place` after scan(). `marks` has one number for each.
int launch_rerank_merge_sizes(const RerankMerge& merge, int64_t rows, int64_t* place, void* stream);
int launch_rerank_merge(const RerankMerge& merge, int64_t rows, const int64_t* place, int32_t* marks,
                        int64_t* begin, int32_t* column, float* value, void* stream);
// `begin` (columns + 1,) zero before the first call; `cursor` a copy of it for the second, null in the first.
int launch_rerank_invert(const RerankSparse& rows, int64_t row_begin, int64_t row_end, int64_t columns,
                         int64_t* begin, int64_t* cursor, int32_t* row, float* value, void* stream);
// Scratch for blend and overlap, zero before.
int64_t rerank_overlap_scratch(int64_t rows, int64_t gallery);
int launch_rerank_blend(const RerankQueries& queries, const RerankBlend& blend, int64_t rows, void* scratch,
                        void* stream);
int launch_rerank_overlap(const RerankQueries& queries, int64_t rows, void* scratch, int64_t* begin,
                          int32_t* column, float* value, void* stream);
// `scratch`: 4 * rows * k bytes.
int launch_rerank_head(const float* values, int64_t rows, int64_t columns, int64_t k, void* scratch,
                       float* value, int64_t* index, void* stream);
}  // namespace cuda

}  // namespace fastreid
