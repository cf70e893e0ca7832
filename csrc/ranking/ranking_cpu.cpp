// SPDX-License-Identifier: Apache-2.0
// CPU kernels of ranking.h, compiled once per instruction set.
#include "ranking/ranking.h"

#include "ranking/ranking_cpu_count.h"
#include "ranking/ranking_cpu_identities.h"
#include "ranking/ranking_cpu_keys.h"

namespace fastreid::FASTREID_ISA {
namespace {

// Finds the relevant entries, sorted; returns how many entries with the query's pid are dropped.
template <class T>
int64_t find_relevant(const Relevance& rules, int64_t q, const Row<T>& row,
                      Relevant<typename T::Key>& relevant) {
  relevant.size = 0;
  for (int64_t m = rules.begin[q]; m < rules.end[q]; ++m) {
    const int64_t g = rules.members[m];
    if (drops_member(rules, q, g)) continue;
    relevant.key[relevant.size] = row.key(g);
    relevant.index[relevant.size] = g;
    relevant.ahead[relevant.size] = 0;
    relevant.other[relevant.size] = 0;
    ++relevant.size;
  }
  relevant.sort();
  return rules.end[q] - rules.begin[q] - relevant.size;
}

// Takes the entries that a rule drops because of their pid out of ahead[]; the excluded ones never were in
// it.
template <class T>
void subtract_dropped(const Relevance& rules, int64_t q, const Row<T>& row,
                      const Relevant<typename T::Key>& relevant) {
  for (int64_t r = 0; r < relevant.size; ++r) relevant.other[r] = 0;
  for (int64_t m = rules.begin[q]; m < rules.end[q]; ++m) {
    const int64_t g = rules.members[m];
    if (is_excluded(row.excluded, g) || !drops_same_pid(rules, q, g)) continue;
    const int64_t position = relevant.position(row.key(g), g);
    if (position < relevant.size) ++relevant.other[position];
  }
  accumulate(relevant.other, relevant.size);
  for (int64_t r = 0; r < relevant.size; ++r) relevant.ahead[r] -= relevant.other[r];
}

template <class T>
void rank_query(const RankingProblem& problem, int64_t q, Relevant<typename T::Key>& relevant,
                Identities& identities, const RankingRows& result) {
  using Bits = typename T::Bits;
  const Relevance& rules = problem.relevance;
  const Row<T> row = {static_cast<const Bits*>(problem.distance) + q * problem.row_stride,
                      problem.column_stride, problem.gallery, excluded_row(rules, q)};
  const int64_t dropped = find_relevant(rules, q, row, relevant);
  const bool search = relevant.size >= kSearchFrom;
  result.nonfinite[q] = search ? count_by_searching(row, relevant) : count_by_comparing(row, relevant);
  if (dropped > 0 && relevant.size > 0) subtract_dropped(rules, q, row, relevant);

  const bool present = rules.begin[q] < rules.end[q];
  write_query(result, q, relevant.ahead, relevant.size, present, problem.ap_rule);
  switch (problem.cmc_rule) {
    case CmcRule::first_hit:
      break;
    case CmcRule::unique_pid:
      if (relevant.size > 0) result.cmc_rank[q] = unique_rank(problem, row, relevant, identities);
      break;
    case CmcRule::all_hits:
      write_all_hits(result.cmc + q * problem.max_rank, problem.max_rank, relevant.ahead, relevant.size);
      break;
    case CmcRule::single_gallery_shot:
      sample_galleries(problem, q, row, relevant, identities, result.cmc + q * problem.max_rank);
      break;
  }
}

// The relevant entries lie all over the row: asked for one query early, they are there when it is their turn.
template <class T>
void fetch_ahead(const RankingProblem& problem, int64_t q) {
  const char* row = static_cast<const char*>(problem.distance);
  const int64_t size = sizeof(typename T::Bits);
  for (int64_t m = problem.relevance.begin[q]; m < problem.relevance.end[q]; ++m) {
    const int64_t g = problem.relevance.members[m];
    __builtin_prefetch(row + (q * problem.row_stride + g * problem.column_stride) * size);
  }
}

template <class T>
void rank_queries(const RankingProblem& problem, int64_t first, int64_t last, void* scratch,
                  const RankingRows& result) {
  int64_t largest = 0;
  for (int64_t q = first; q < last; ++q) {
    largest = larger(largest, problem.relevance.end[q] - problem.relevance.begin[q]);
  }
  Relevant<typename T::Key> relevant;
  relevant.index = static_cast<int64_t*>(scratch);
  relevant.ahead = relevant.index + largest;
  relevant.other = relevant.ahead + largest;
  relevant.key = reinterpret_cast<typename T::Key*>(relevant.other + largest);
  Identities identities = lay_out(problem, largest, relevant.other + 2 * largest);
  for (int64_t q = first; q < last; ++q) {
    if (q + 1 < last) fetch_ahead<T>(problem, q + 1);
    rank_query<T>(problem, q, relevant, identities, result);
  }
}

int64_t scratch_bytes(const RankingProblem* problem, int64_t largest_group) {
  return (4 * largest_group + identity_scratch(*problem, largest_group)) * 8;
}

void rows(const RankingProblem* problem, int64_t first, int64_t last, void* scratch,
          const RankingRows* result) {
  switch (problem->dtype) {
    case Dtype::float32:
      return rank_queries<Float32>(*problem, first, last, scratch, *result);
    case Dtype::float64:
      return rank_queries<Float64>(*problem, first, last, scratch, *result);
    case Dtype::bfloat16:
      return rank_queries<Bfloat16>(*problem, first, last, scratch, *result);
    case Dtype::float16:
      return rank_queries<Float16>(*problem, first, last, scratch, *result);
  }
}

// Of `queries` values, `stride` apart.
double sum_in_lanes(const double* values, int64_t queries, int64_t stride) {
  double sums[kRankingLanes] = {};
  for (int64_t q = 0; q < queries; ++q) sums[q % kRankingLanes] += values[q * stride];
  for (int half = kRankingLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

void summary(int64_t queries, int64_t max_rank, InvalidRule invalid_rule, const RankingRows* rows,
             double* cmc, double* means) {
  int64_t valid = 0;
  for (int64_t k = 0; k < max_rank; ++k) cmc[k] = 0;
  for (int64_t q = 0; q < queries; ++q) {
    if (rows->status[q] != kValid) continue;
    ++valid;
    if (!rows->cmc && rows->cmc_rank[q] <= max_rank) cmc[rows->cmc_rank[q] - 1] += 1;
  }
  const double divisor = ranking_divisor(invalid_rule, queries, valid);
  double matched = 0;
  for (int64_t k = 0; k < max_rank; ++k) {
    matched += rows->cmc ? sum_in_lanes(rows->cmc + k, queries, max_rank) : cmc[k];
    cmc[k] = cmc_entry(matched, divisor);
  }
  means[0] = sum_in_lanes(rows->ap, queries, 1) / divisor;
  means[1] = sum_in_lanes(rows->inp, queries, 1) / divisor;
}

}  // namespace

extern const RankingKernels ranking_kernels = {scratch_bytes, rows, summary};

}  // namespace fastreid::FASTREID_ISA
