// SPDX-License-Identifier: Apache-2.0
// Which gallery entries count for a query, and what the ranks of its matches become: shared by the ops that
// find those ranks in different ways. Everything is static (see sizes.h) and runs on host and device.
//
// An entry is kept unless a rule drops it; a kept entry with the query's pid is relevant. Ranks are 1-based
// and count kept entries only.
#pragma once

#include <cstdint>

#include "common/sizes.h"

namespace fastreid {

// same_pid drops entries with the query's pid and camid (Market-1501); none looks at no camera. Rules that
// drop entries whatever their pid are bits of Relevance::excluded.
enum class CameraRule : int { same_pid = 0, none = 1 };
// Of the entries with the query's pid, cross drops those in the same clothes, same those in other clothes.
enum class ClothesRule : int { any = 0, cross = 1, same = 2 };
enum class ApRule : int { step = 0, trapezoid = 1 };
// What a query adds to the CMC. first_hit: 1 from the rank of the first match on. unique_pid: the same, where
// only the first kept entry of each pid counts. all_hits: the n-th of P matches, at rank r_n, adds 1/P from
// rank r_n - n + 1 on. single_gallery_shot: 1 from the rank of the match on in a gallery of one random kept
// entry of each pid, in the mean over all such galleries or over a number of them.
enum class CmcRule : int { first_hit = 0, unique_pid = 1, all_hits = 2, single_gallery_shot = 3 };
// Whether a query without a match is left out of every mean or counts as 0 in all of them.
enum class InvalidRule : int { skip = 0, zero = 1 };
// What became of a query: no gallery entry has its pid; or some have, but the rules drop them all.
enum RankingStatus : int64_t { kValid = 0, kAbsentPid = 1, kAllDropped = 2 };

struct Relevance {
  const int64_t* members;  // (gallery,) gallery indices, those of one pid side by side
  const int64_t* begin;    // (queries,) members[begin[q]] to members[end[q] - 1] have the pid of query q
  const int64_t* end;
  const int64_t* query_camids;  // (queries,) and (gallery,); null where the rule reads none
  const int64_t* gallery_camids;
  const int64_t* query_clothes;  // the same
  const int64_t* gallery_clothes;
  CameraRule camera_rule;
  ClothesRule clothes_rule;
  // Bit g & 63 of excluded[query_class[q] * excluded_words + (g >> 6)]: entry g is dropped for query q,
  // whatever its pid. Bits past the gallery are 0. Both null where nothing is.
  const int64_t* query_class;
  const uint64_t* excluded;
  int64_t excluded_words;
  // (gallery,) pids as 0, 1, ... below gallery; null where no rule reads them.
  const int64_t* gallery_identity;
};

// The words of `excluded` for query q, or null.
FASTREID_HOST_DEVICE static inline const uint64_t* excluded_row(const Relevance& r, int64_t q) {
  return r.excluded ? r.excluded + r.query_class[q] * r.excluded_words : nullptr;
}

FASTREID_HOST_DEVICE static inline bool is_excluded(const uint64_t* row, int64_t g) {
  return row && (row[g >> 6] >> (g & 63) & 1);
}

// Whether the rules about camera and clothes drop g, an entry with the pid of query q.
FASTREID_HOST_DEVICE static inline bool drops_same_pid(const Relevance& r, int64_t q, int64_t g) {
  if (r.camera_rule == CameraRule::same_pid && r.gallery_camids[g] == r.query_camids[q]) return true;
  if (r.clothes_rule == ClothesRule::any) return false;
  const bool same = r.gallery_clothes[g] == r.query_clothes[q];
  return same == (r.clothes_rule == ClothesRule::cross);
}

// Whether anything drops g, an entry with the pid of query q: if not, it is relevant.
FASTREID_HOST_DEVICE static inline bool drops_member(const Relevance& r, int64_t q, int64_t g) {
  return drops_same_pid(r, q, g) || is_excluded(excluded_row(r, q), g);
}

// Results by query; every one of them is written for every query.
struct RankingRows {
  double* ap;             // 0 for an invalid query
  double* inp;            // 0 for an invalid query
  int64_t* first_rank;    // of the first match; 0 for an invalid query
  int64_t* cmc_rank;      // the rank that the CMC counts: unique_pid's own, else first_rank
  int64_t* num_relevant;  // P
  int64_t* status;        // RankingStatus
  int64_t* nonfinite;     // NaN and +-Inf in the row, dropped entries included
  double* cmc;            // (queries, max_rank), what the query adds at each rank; null unless cmc_by_query()
};

// Whether a query adds to more than one rank, so that its share is kept as a row of RankingRows::cmc.
FASTREID_HOST_DEVICE static constexpr bool cmc_by_query(CmcRule rule) {
  return rule == CmcRule::all_hits || rule == CmcRule::single_gallery_shot;
}

// What the n-th match (from 1) at this rank adds to P * AP.
FASTREID_HOST_DEVICE static inline double precision_term(int64_t n, int64_t rank, ApRule rule) {
  const double precision = static_cast<double>(n) / static_cast<double>(rank);
  if (rule == ApRule::step) return precision;
  const double before = rank > 1 ? static_cast<double>(n - 1) / static_cast<double>(rank - 1) : 1.0;
  // Halving is exact, so a fused multiply-add in the caller would change nothing.
  return (before + precision) * 0.5;
}

// Everything of query q that follows from the number of its matches, the ranks of the first and the last of
// them and the sum of their precision terms, added in ascending order. present: the gallery has its pid.
// cmc_rank is the caller's where the rule is unique_pid.
FASTREID_HOST_DEVICE static inline void write_query(const RankingRows& rows, int64_t q, int64_t relevant,
                                                    bool present, int64_t first_rank, int64_t last_rank,
                                                    double sum) {
  rows.num_relevant[q] = relevant;
  rows.status[q] = relevant > 0 ? kValid : present ? kAllDropped : kAbsentPid;
  rows.first_rank[q] = rows.cmc_rank[q] = relevant > 0 ? first_rank : 0;
  rows.inp[q] = relevant > 0 ? static_cast<double>(relevant) / static_cast<double>(last_rank) : 0.0;
  rows.ap[q] = relevant > 0 ? sum / static_cast<double>(relevant) : 0.0;
}

// The same from all ranks, ascending.
FASTREID_HOST_DEVICE static inline void write_query(const RankingRows& rows, int64_t q, const int64_t* ranks,
                                                    int64_t relevant, bool present, ApRule rule) {
  double sum = 0;
  for (int64_t n = 0; n < relevant; ++n) sum += precision_term(n + 1, ranks[n], rule);
  write_query(rows, q, relevant, present, relevant > 0 ? ranks[0] : 0, relevant > 0 ? ranks[relevant - 1] : 0,
              sum);
}

// all_hits: the query's row of RankingRows::cmc from its ascending ranks. r_n - n never falls, so each entry
// is one division.
FASTREID_HOST_DEVICE static inline void write_all_hits(double* row, int64_t max_rank, const int64_t* ranks,
                                                       int64_t relevant) {
  for (int64_t k = 0; k < max_rank; ++k) row[k] = 0;
  for (int64_t n = 0, same = 1; n < relevant; ++n, ++same) {
    const int64_t k = ranks[n] - (n + 1);
    if (k >= max_rank) return;
    if (n + 1 < relevant && ranks[n + 1] - (n + 2) == k) continue;
    row[k] = static_cast<double>(same) / static_cast<double>(relevant);
    same = 0;
  }
}

}  // namespace fastreid
