// SPDX-License-Identifier: Apache-2.0
// Overlaps of rows of V through its inverted index, Jaccard distances and the final blend. Only for rerank_cpu.cpp.
#pragma once

#include <cstdint>

#include "rerank/rerank.h"
#include "rerank/rerank_cpu_encode.h"

namespace fastreid::FASTREID_ISA {
namespace {

// One query's overlaps: a sum for each gallery entry, zero outside `touched`.
struct Overlaps {
  float* sum;        // (gallery,)
  int32_t* touched;  // (gallery + 1,): the place after the last one is written to as well
  float* held;       // (gallery,)
  int64_t count = 0;

  Overlaps(void* scratch, int64_t gallery)
      : sum(static_cast<float*>(scratch)),
        touched(reinterpret_cast<int32_t*>(sum + gallery)),
        held(reinterpret_cast<float*>(touched + gallery + 1)) {}

  // Column by column of the query's row, ascending: one order for every gallery entry's sum.
  template <RerankOverlap kOverlap, bool kHalf>
  void add(const RerankQueries& queries, int64_t query) {
    const RerankSparse &rows = queries.rows, &inverted = queries.inverted;
    const int64_t row = queries.first_row + query;
    int64_t n = 0;
    for (int64_t e = rows.begin[row]; e < rows.begin[row + 1]; ++e) {
      const float own = rows.value[e];
      if (own == 0) continue;
      const int64_t column = rows.column[e];
      for (int64_t f = inverted.begin[column]; f < inverted.begin[column + 1]; ++f) {
        const float theirs = inverted.value[f];
        const int64_t g = inverted.column[f];
        const float before = sum[g];
        touched[n] = static_cast<int32_t>(g);
        n += before == 0;
        const float part = kOverlap == RerankOverlap::product ? own * theirs : (own < theirs ? own : theirs);
        const float after = before + part;
        sum[g] = kHalf ? half_rounded(after) : after;
        n -= before == 0 && sum[g] == 0;
      }
    }
    count = n;
  }

  void find(const RerankQueries& queries, int64_t query) {
    if (queries.overlap == RerankOverlap::product) {
      add<RerankOverlap::product, false>(queries, query);
    } else if (queries.half) {
      add<RerankOverlap::minimum, true>(queries, query);
    } else {
      add<RerankOverlap::minimum, false>(queries, query);
    }
  }
};

inline float jaccard(float minima, bool half, bool clamp) {
  const float distance =
      half ? half_rounded(1 - half_rounded(minima / half_rounded(2 - minima))) : 1 - minima / (2 - minima);
  return clamp && distance < 0 ? 0 : distance;
}

struct Blending {
  float divisor, lambda, rest;
  bool squared, half;

  Blending(const RerankBlend& blend, int64_t query, bool half_)
      : lambda(static_cast<float>(blend.lambda)),
        rest(static_cast<float>(1 - blend.lambda)),
        squared(blend.power == 2),
        half(half_) {
    const float largest = blend.divisor ? static_cast<float>(blend.divisor[query]) : 1.0f;
    divisor = largest > 0 ? largest : 1.0f;
    if (half) rest = half_rounded(rest);
  }
  template <bool kSquared>
  float weight(float distance) const {
    const float ratio = distance / divisor;
    return kSquared ? ratio * ratio : ratio;
  }
  template <bool kSquared>
  void all(const float* distance, int64_t n, float* result) const {
    const float by = lambda, one = rest;
    for (int64_t g = 0; g < n; ++g) result[g] = one + weight<kSquared>(distance[g]) * by;
  }
  float final(float jaccard_distance, float distance) const {
    const float part = jaccard_distance * rest;
    const float w = squared ? weight<true>(distance) : weight<false>(distance);
    return (half ? half_rounded(part) : part) + w * lambda;
  }
};

void blend(const RerankQueries* queries, const RerankBlend* blend, int64_t first, int64_t last,
           void* scratch) {
  Overlaps overlaps(scratch, queries->gallery);
  for (int64_t q = first; q < last; ++q) {
    const float* const distance = blend->distance + q * blend->stride;
    float* const result = blend->result + q * queries->gallery;
    const Blending how(*blend, q, queries->half);
    overlaps.find(*queries, q);
    // Before the row is overwritten, which may be the distances themselves.
    for (int64_t t = 0; t < overlaps.count; ++t) {
      const int64_t g = overlaps.touched[t];
      overlaps.held[t] = how.final(jaccard(overlaps.sum[g], queries->half, queries->clamp), distance[g]);
      overlaps.sum[g] = 0;
    }
    if (how.squared) {
      how.all<true>(distance, queries->gallery, result);
    } else {
      how.all<false>(distance, queries->gallery, result);
    }
    for (int64_t t = 0; t < overlaps.count; ++t) result[overlaps.touched[t]] = overlaps.held[t];
  }
}

int64_t overlap(const RerankQueries* queries, int64_t first, int64_t last, int64_t room, void* scratch,
                int32_t* column, float* value, int64_t* counts) {
  Overlaps overlaps(scratch, queries->gallery);
  int64_t total = 0;
  for (int64_t q = first; q < last; ++q) {
    if (room - total < queries->gallery) return q;
    overlaps.find(*queries, q);
    sort_columns(overlaps.touched, overlaps.count);
    for (int64_t t = 0; t < overlaps.count; ++t) {
      const int64_t g = overlaps.touched[t];
      const float found = overlaps.sum[g];
      column[total] = static_cast<int32_t>(g);
      value[total++] = queries->overlap == RerankOverlap::product
                           ? 1 - found
                           : jaccard(found, queries->half, queries->clamp);
      overlaps.sum[g] = 0;
    }
    counts[q - first] = overlaps.count;
  }
  return last;
}

}  // namespace
}  // namespace fastreid::FASTREID_ISA
