// SPDX-License-Identifier: Apache-2.0
// The two CMC rules that look at the identities ahead of a match: unique_pid and single_gallery_shot. Part of
// ranking_cpu.cpp.
#pragma once

#include "ranking/ranking_cpu_count.h"

namespace fastreid::FASTREID_ISA {
namespace {

// A probability below this is taken as 0, so that no product is a denormal number.
constexpr double kNoProbability = 1e-280;

// One thread's working memory: everything by identity, except the lists, which are by relevant entry.
struct Identities {
  uint64_t* seen;   // one bit for each
  int64_t* size;    // entries
  int64_t* kept;    // of these, the ones not excluded
  int64_t* ahead;   // of these, the ones ahead of the relevant entry at hand
  int64_t* active;  // identities with an entry ahead of the last relevant one, ascending
  int64_t* head;    // newest entry between relevant entry n - 1 and relevant entry n, or -1
  int64_t* next;    // the next older one
  int64_t* who;     // its identity
  double* odds;     // (2, max_rank)
  int64_t kept_class;
};

int64_t identity_words(int64_t gallery) { return ceil_div(gallery, 64); }

// Words of working memory; 0 where the rule looks at no identity.
int64_t identity_scratch(const RankingProblem& problem, int64_t largest) {
  switch (problem.cmc_rule) {
    case CmcRule::unique_pid:
      return identity_words(problem.gallery);
    case CmcRule::single_gallery_shot:
      return identity_words(problem.gallery) + 6 * problem.gallery + largest + 2 * problem.max_rank;
    default:
      return 0;
  }
}

Identities lay_out(const RankingProblem& problem, int64_t largest, int64_t* words) {
  const int64_t gallery = problem.gallery;
  Identities of{};
  of.kept_class = -1;
  if (problem.cmc_rule != CmcRule::unique_pid && problem.cmc_rule != CmcRule::single_gallery_shot) return of;
  of.seen = reinterpret_cast<uint64_t*>(words);
  for (int64_t w = 0; w < identity_words(gallery); ++w) of.seen[w] = 0;
  if (problem.cmc_rule == CmcRule::unique_pid) return of;
  of.size = words + identity_words(gallery);
  of.kept = of.size + gallery;
  of.ahead = of.kept + gallery;
  of.active = of.ahead + gallery;
  of.next = of.active + gallery;
  of.who = of.next + gallery;
  of.head = of.who + gallery;
  of.odds = reinterpret_cast<double*>(of.head + largest);
  for (int64_t i = 0; i < gallery; ++i) of.size[i] = of.ahead[i] = 0;
  for (int64_t g = 0; g < gallery; ++g) ++of.size[problem.relevance.gallery_identity[g]];
  for (int64_t i = 0; i < gallery; ++i) of.kept[i] = of.size[i];
  return of;
}

bool mark(uint64_t* seen, int64_t identity) {
  const uint64_t bit = uint64_t{1} << (identity & 63);
  const bool first = !(seen[identity >> 6] & bit);
  seen[identity >> 6] |= bit;
  return first;
}

// 1 + the other pids with a kept entry ahead of the first relevant one.
template <class T>
int64_t unique_rank(const RankingProblem& problem, const Row<T>& row,
                    const Relevant<typename T::Key>& relevant, const Identities& of) {
  if (relevant.ahead[0] == 1) return 1;
  const int64_t* identity = problem.relevance.gallery_identity;
  const int64_t own = identity[relevant.index[0]];
  int64_t others = 0;
  visit_ahead(row, relevant, 0, [&](int64_t g, typename T::Key) {
    if (identity[g] != own) others += mark(of.seen, identity[g]);
  });
  for (int64_t w = 0; w < identity_words(problem.gallery); ++w) of.seen[w] = 0;
  return 1 + others;
}

void count_kept(const RankingProblem& problem, int64_t q, Identities& of) {
  const uint64_t* excluded = excluded_row(problem.relevance, q);
  if (!excluded || problem.relevance.query_class[q] == of.kept_class) return;
  of.kept_class = problem.relevance.query_class[q];
  for (int64_t i = 0; i < problem.gallery; ++i) of.kept[i] = of.size[i];
  for (int64_t w = 0; w < problem.relevance.excluded_words; ++w) {
    for (uint64_t bits = excluded[w]; bits; bits &= bits - 1) {
      --of.kept[problem.relevance.gallery_identity[w * 64 + __builtin_ctzll(bits)]];
    }
  }
}

// row[k] += the probability that the rank is k + 1, given how many of each identity's entries lie ahead.
void add_expectation(const Identities& of, int64_t n_active, int64_t max_rank, double* row) {
  double* now = of.odds;
  double* then = of.odds + max_rank;
  int64_t certain = 0, length = 1;  // now[length] and on are 0
  now[0] = 1;
  for (int64_t i = 0; i < n_active; ++i) {
    const int64_t ahead = of.ahead[of.active[i]], kept = of.kept[of.active[i]];
    certain += ahead == kept;
    if (certain == max_rank) return;
    if (ahead == 0 || ahead == kept) continue;
    const double yes = static_cast<double>(ahead) / static_cast<double>(kept);
    const double no = static_cast<double>(kept - ahead) / static_cast<double>(kept);
    const bool grows = length < max_rank;
    const double last = now[length - 1] * yes;
    const double first = now[0] * no;
    then[0] = first < kNoProbability ? 0 : first;
    const double* __restrict from = now;
    double* __restrict to = then;
    for (int64_t k = 1; k < length; ++k) {
      const double sum = from[k] * no + from[k - 1] * yes;
      to[k] = sum < kNoProbability ? 0 : sum;
    }
    if (grows) then[length++] = last < kNoProbability ? 0 : last;
    double* swap = now;
    now = then, then = swap;
  }
  for (int64_t k = 0; k < length && k + certain < max_rank; ++k) row[k + certain] += now[k];
}

// row[k] += the random galleries that hold the n-th relevant entry at rank k + 1.
void add_draws(const RankingProblem& problem, int64_t q, int64_t own, int64_t relevant, int64_t n,
               const Identities& of, int64_t n_active, double* row) {
  for (int64_t repeat = 0; repeat < problem.repeats; ++repeat) {
    const uint64_t counter = gallery_counter(problem.seed, problem.first_query + q, repeat);
    if (drawn_entry(counter, own, relevant) != n) continue;
    int64_t rank = 1;
    for (int64_t i = 0; i < n_active && rank <= problem.max_rank; ++i) {
      const int64_t identity = of.active[i];
      if (of.ahead[identity] > 0)
        rank += drawn_entry(counter, identity, of.kept[identity]) < of.ahead[identity];
    }
    if (rank <= problem.max_rank) row[rank - 1] += 1;
  }
}

// The query's row of RankingRows::cmc.
template <class T>
void sample_galleries(const RankingProblem& problem, int64_t q, const Row<T>& row,
                      const Relevant<typename T::Key>& relevant, Identities& of, double* cmc) {
  for (int64_t k = 0; k < problem.max_rank; ++k) cmc[k] = 0;
  if (relevant.size == 0) return;
  const int64_t* identity = problem.relevance.gallery_identity;
  const int64_t own = identity[relevant.index[0]];
  count_kept(problem, q, of);
  for (int64_t n = 0; n < relevant.size; ++n) of.head[n] = -1;
  int64_t entries = 0;
  visit_ahead(row, relevant, relevant.size - 1, [&](int64_t g, typename T::Key key) {
    if (identity[g] == own) return;
    const int64_t n = relevant.position(key, g);
    mark(of.seen, identity[g]);
    of.who[entries] = identity[g];
    of.next[entries] = of.head[n];
    of.head[n] = entries++;
  });
  int64_t n_active = 0;
  for (int64_t w = 0; w < identity_words(problem.gallery); ++w) {
    for (uint64_t bits = of.seen[w]; bits; bits &= bits - 1) {
      of.active[n_active++] = w * 64 + __builtin_ctzll(bits);
    }
    of.seen[w] = 0;
  }
  for (int64_t n = 0; n < relevant.size; ++n) {
    for (int64_t e = of.head[n]; e >= 0; e = of.next[e]) ++of.ahead[of.who[e]];
    if (problem.repeats > 0) {
      add_draws(problem, q, own, relevant.size, n, of, n_active, cmc);
    } else {
      add_expectation(of, n_active, problem.max_rank, cmc);
    }
  }
  for (int64_t i = 0; i < n_active; ++i) of.ahead[of.active[i]] = 0;
  const double divisor = static_cast<double>(problem.repeats > 0 ? problem.repeats : relevant.size);
  for (int64_t k = 0; k < problem.max_rank; ++k) cmc[k] /= divisor;
}

}  // namespace
}  // namespace fastreid::FASTREID_ISA
