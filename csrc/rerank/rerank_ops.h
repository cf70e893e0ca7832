// SPDX-License-Identifier: Apache-2.0
// From torch's tensors to the problems of rerank.h, for both registration files. The Python functions have checked
// the arguments in their own words; the checks here keep a direct call inside its memory.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "common/check.h"
#include "common/sizes.h"
#include "common/tensors.h"
#include "rerank/rerank.h"

namespace fastreid {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using SparseTensors = std::tuple<Tensor, Tensor, Tensor>;  // begin, column, value

inline constexpr const char* kRerankOp = "rerank";
// Row marks and indices are int32, and marks count rows twice.
inline constexpr int64_t kRerankPoints = int64_t{1} << 30;

// Contiguous, uninitialised, on the device of `like`. Through the C shim: torch::stable::new_empty costs 2 us more.
inline Tensor rerank_empty(const Tensor& like, const std::vector<int64_t>& shape, int32_t dtype) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t d = shape.size(); d-- > 1;) strides[d - 1] = strides[d] * larger(shape[d], 1);
  int32_t device;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(),
                                                  strides.data(), dtype, device, like.get_device_index(),
                                                  &handle));
  return Tensor(handle);
}

// `tensor` is contiguous, of `type` and `shape` (-1: any size), on the device of `like`.
inline void rerank_check(const char* argument, const Tensor& tensor, const Tensor& like, ScalarType type,
                         const std::vector<int64_t>& shape) {
  bool right = tensor.is_cpu() == like.is_cpu() && tensor.get_device_index() == like.get_device_index() &&
               tensor.scalar_type() == type && tensor.dim() == static_cast<int64_t>(shape.size()) &&
               tensor.is_contiguous();
  for (size_t d = 0; right && d < shape.size(); ++d)
    right = shape[d] < 0 || tensor.size(static_cast<int64_t>(d)) == shape[d];
  std::string sizes;
  for (int64_t size : shape) sizes += (sizes.empty() ? "" : ", ") + (size < 0 ? "any" : shown(size));
  FASTREID_CHECK(right, kRerankOp, argument, "another tensor",
                 "a contiguous tensor of its dtype and shape (" + sizes + ") on the device of the others");
}

inline RerankMatrix rerank_matrix(const char* argument, const Tensor& tensor, const Tensor& like,
                                  int64_t rows, int64_t columns) {
  const bool right = tensor.is_cpu() == like.is_cpu() &&
                     tensor.get_device_index() == like.get_device_index() && tensor.dim() == 2 &&
                     tensor.size(0) == rows && tensor.size(1) == columns;
  FASTREID_CHECK(right, kRerankOp, argument, "another tensor", "a matrix of shape " + shown({rows, columns}));
  return {tensor.const_data_ptr(), dtype_of(kRerankOp, argument, tensor), tensor.stride(0), tensor.stride(1)};
}

inline RerankMatrices rerank_matrices(const Tensor& query_gallery, const Tensor& query_query,
                                      const Tensor& gallery_gallery) {
  FASTREID_CHECK(query_gallery.dim() == 2, kRerankOp, "query_gallery",
                 shown(query_gallery.dim()) + " dimensions", "2");
  const int64_t queries = query_gallery.size(0), gallery = query_gallery.size(1);
  FASTREID_CHECK(queries + gallery <= kRerankPoints, kRerankOp, "query_gallery", shown({queries, gallery}),
                 "at most 2^30 points");
  return {rerank_matrix("query_gallery", query_gallery, query_gallery, queries, gallery),
          rerank_matrix("query_query", query_query, query_gallery, queries, queries),
          rerank_matrix("gallery_gallery", gallery_gallery, query_gallery, gallery, gallery), queries,
          gallery};
}

// begin (rows + 1,), column and value of its last number. That the numbers themselves are in order is checked on the
// CPU only: on a device they would have to be waited for.
inline RerankSparse rerank_sparse(const Tensor& begin, const Tensor& column, const Tensor& value,
                                  int64_t columns) {
  rerank_check("begin", begin, begin, ScalarType::Long, {-1});
  FASTREID_CHECK(begin.size(0) >= 1, kRerankOp, "begin", "0 numbers", "one more than rows");
  rerank_check("column", column, begin, ScalarType::Int, {-1});
  rerank_check("value", value, begin, ScalarType::Float, {column.size(0)});
  const RerankSparse sparse{begin.const_data_ptr<int64_t>(), column.const_data_ptr<int32_t>(),
                            value.const_data_ptr<float>()};
  if (begin.is_cpu()) {
    const int64_t rows = begin.size(0) - 1;
    bool right = sparse.begin[0] == 0 && sparse.begin[rows] == column.size(0);
    for (int64_t r = 0; r < rows; ++r) right &= sparse.begin[r] <= sparse.begin[r + 1];
    FASTREID_CHECK(right, kRerankOp, "begin", "other numbers", "ascending offsets into column");
    for (int64_t e = 0; e < column.size(0); ++e) right &= 0 <= sparse.column[e] && sparse.column[e] < columns;
    FASTREID_CHECK(right, kRerankOp, "column", "other numbers", "columns below " + shown(columns));
  }
  return sparse;
}

// Every entry of an index list points at one of `points`.
inline const int32_t* rerank_index(const Tensor& index, const Tensor& like, int64_t rows, int64_t points) {
  rerank_check("index", index, like, ScalarType::Int, {rows, -1});
  const int32_t* data = index.const_data_ptr<int32_t>();
  if (index.is_cpu()) {
    bool right = true;
    const int64_t size = static_cast<int64_t>(index.numel());
    for (int64_t e = 0; e < size; ++e) right &= 0 <= data[e] && data[e] < points;
    FASTREID_CHECK(right, kRerankOp, "index", "other numbers", "indices below " + shown(points));
  }
  return data;
}

inline RerankMerge rerank_merging(const Tensor& begin, const Tensor& column, const Tensor& value,
                                  const Tensor& index, const std::optional<Tensor>& weight, double divisor,
                                  bool to_half) {
  RerankMerge merge{};
  merge.source = rerank_sparse(begin, column, value, kRerankPoints);
  FASTREID_CHECK(index.dim() == 2, kRerankOp, "index", shown(index.dim()) + " dimensions", "2");
  merge.terms = index.size(1);
  merge.index = rerank_index(index, begin, index.size(0), begin.size(0) - 1);
  if (weight) {
    rerank_check("weight", *weight, begin, ScalarType::Float, {index.size(0), merge.terms});
    merge.weight = weight->const_data_ptr<float>();
  }
  merge.divisor = static_cast<float>(divisor);
  merge.to_half = to_half;
  return merge;
}

inline void rerank_range(const Tensor& begin, int64_t first, int64_t last) {
  FASTREID_CHECK(0 <= first && first <= last && last <= begin.size(0) - 1, kRerankOp, "row_begin",
                 shown({first, last}), "a range of rows");
}

inline void rerank_heads(const Tensor& values, int64_t k) {
  rerank_check("values", values, values, ScalarType::Float, {-1, -1});
  const int64_t columns = values.size(1);
  FASTREID_CHECK(1 <= k && k <= columns && columns <= kRerankPoints, kRerankOp, "k", shown(k),
                 "1 to the columns of values, at most 2^30");
}

inline int rerank_power(int64_t power) {
  FASTREID_CHECK(power == 1 || power == 2, kRerankOp, "power", shown(power), "1 or 2");
  return static_cast<int>(power);
}

// The arguments of rerank_encode.
struct RerankEncodeCall {
  RerankEncodeCall(const Tensor& index, const Tensor& distance, const std::optional<Tensor>& farthest,
                   const std::optional<Tensor>& x, const std::optional<Tensor>& inverse,
                   const std::optional<Tensor>& query_gallery, const std::optional<Tensor>& query_query,
                   const std::optional<Tensor>& gallery_gallery, int64_t half, int64_t power,
                   const std::optional<Tensor>& more = std::nullopt) {
    FASTREID_CHECK(index.dim() == 2 && index.size(1) >= 1, kRerankOp, "index",
                   shown(index.dim()) + " dimensions", "(points, listed)");
    const int64_t points = index.size(0), listed = index.size(1);
    FASTREID_CHECK(points <= kRerankPoints, kRerankOp, "index", shown(points), "at most 2^30 points");
    FASTREID_CHECK(1 <= half && half <= listed, kRerankOp, "half", shown(half), "1 to " + shown(listed));
    rerank_check("distance", distance, index, ScalarType::Double, {points, listed});
    lists = {rerank_index(index, index, points, points),
             distance.const_data_ptr<double>(),
             nullptr,
             points,
             listed,
             half,
             rerank_power(power)};
    if (farthest) {
      rerank_check("farthest", *farthest, index, ScalarType::Double, {points});
      lists.farthest = farthest->const_data_ptr<double>();
    }
    if (x) {
      FASTREID_CHECK(x->dim() == 2, kRerankOp, "x", shown(x->dim()) + " dimensions", "2");
      pairs.depth = x->size(1);
      pairs.split = points - (more ? more->size(0) : 0);
      pairs.x = rerank_matrix("x", *x, index, pairs.split, pairs.depth);
      if (more) {
        const RerankMatrix rest = rerank_matrix("more", *more, index, more->size(0), pairs.depth);
        FASTREID_CHECK(rest.dtype == pairs.x.dtype && rest.row_stride == pairs.x.row_stride &&
                           rest.column_stride == pairs.x.column_stride,
                       kRerankOp, "more", "another layout", "the dtype and strides of x");
        pairs.more = rest.data;
      }
      FASTREID_CHECK(pairs.x.dtype == Dtype::float32 || pairs.x.dtype == Dtype::float64, kRerankOp, "x",
                     "another dtype", "float32 or float64");
      if (inverse) {
        rerank_check("inverse", *inverse, index, ScalarType::Double, {points});
        pairs.inverse = inverse->const_data_ptr<double>();
      }
    } else {
      FASTREID_CHECK(query_gallery && query_query && gallery_gallery, kRerankOp, "x", "none",
                     "features or three matrices");
      pairs.matrices = rerank_matrices(*query_gallery, *query_query, *gallery_gallery);
      FASTREID_CHECK(pairs.matrices.queries + pairs.matrices.gallery == points, kRerankOp, "query_gallery",
                     shown(pairs.matrices.queries + pairs.matrices.gallery) + " points", shown(points));
    }
    largest_row = points < listed * (half + 1) ? points : listed * (half + 1);
  }

  RerankLists lists{};
  RerankPairs pairs{};
  int64_t largest_row;
};

// The arguments that rerank_blend and rerank_overlap share.
inline RerankQueries rerank_queries(const SparseTensors& rows, const SparseTensors& inverted,
                                    int64_t first_row, int64_t count, int64_t gallery, int64_t overlap,
                                    bool half, bool clamp) {
  const int64_t points = std::get<0>(rows).size(0) - 1;
  FASTREID_CHECK(0 <= first_row && 0 <= count && first_row + count <= points, kRerankOp, "first_row",
                 shown(first_row), "rows that there are");
  FASTREID_CHECK(0 <= gallery && gallery < kRerankPoints, kRerankOp, "gallery", shown(gallery), "0 to 2^30");
  FASTREID_CHECK(overlap == 0 || overlap == 1, kRerankOp, "overlap", shown(overlap), "0 or 1");
  rerank_check("inverted", std::get<0>(inverted), std::get<0>(rows), ScalarType::Long, {-1});
  const auto sparse = [](const SparseTensors& t, int64_t columns) {
    return rerank_sparse(std::get<0>(t), std::get<1>(t), std::get<2>(t), columns);
  };
  return {sparse(rows, std::get<0>(inverted).size(0) - 1),
          sparse(inverted, gallery),
          first_row,
          gallery,
          static_cast<RerankOverlap>(overlap),
          half,
          clamp};
}

inline RerankBlend rerank_blending(const Tensor& result, const Tensor& distance,
                                   const std::optional<Tensor>& divisor, double lambda, int64_t power) {
  rerank_check("result", result, result, ScalarType::Float, {-1, -1});
  const int64_t rows = result.size(0), gallery = result.size(1);
  const RerankMatrix from = rerank_matrix("distance", distance, result, rows, gallery);
  FASTREID_CHECK(from.dtype == Dtype::float32 && (from.column_stride == 1 || gallery <= 1), kRerankOp,
                 "distance", "another dtype or layout", "float32 with rows in one piece");
  if (divisor) rerank_check("divisor", *divisor, result, ScalarType::Double, {rows});
  return {static_cast<const float*>(from.data),
          from.row_stride,
          divisor ? divisor->const_data_ptr<double>() : nullptr,
          rerank_power(power),
          lambda,
          result.mutable_data_ptr<float>()};
}

}  // namespace fastreid
