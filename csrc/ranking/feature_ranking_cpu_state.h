// SPDX-License-Identifier: Apache-2.0
// What lives from phase to phase of a call of rank_features, and what is known of a query on the way. Only for
// feature_ranking_cpu.cpp.
#pragma once

#include "common/screen.h"
#include "common/sizes.h"
#include "common/topk.h"
#include "ranking/feature_ranking.h"

namespace fastreid::FASTREID_ISA {
namespace {

constexpr int64_t kMeasured = 128;                     // rows measured per item
constexpr int64_t kBlockRows = kBlockPanels * kPanel;  // queries per item of the ranking
constexpr int kPending = 16;                           // undecided entries of a query measured at a time

struct State {
  Screened x, y;
  Frame frame;
  float* bound;       // (queries,) of scores
  int64_t* measured;  // one number

  static int64_t lay_out(const FeatureRankingProblem& p, char* memory, State* s) {
    char* const begin = memory;
    s->frame.centre = reinterpret_cast<double*>(memory);
    s->frame.factor = s->frame.max_norm = s->frame.max_error = 0;
    memory += round_up((p.depth + 4) * 8, 64);
    s->measured = reinterpret_cast<int64_t*>(memory);
    memory += 64;
    s->bound = reinterpret_cast<float*>(memory);
    memory += round_up(p.queries * 4, 64);
    s->x.lay_out(memory, p.queries, p.depth, p.pairs, p.angular);
    memory += Screened::bytes(p.queries, p.depth, p.pairs);
    s->y.lay_out(memory, p.gallery, p.depth, p.pairs, p.angular);
    memory += Screened::bytes(p.gallery, p.depth, p.pairs);
    return memory - begin;
  }

  double* numbers(const FeatureRankingProblem& p) const { return frame.centre + p.depth; }
  void save(const FeatureRankingProblem& p) const {
    double* const n = numbers(p);
    n[0] = frame.factor, n[1] = frame.max_norm, n[2] = frame.max_error;
  }
  void restore(const FeatureRankingProblem& p) {
    const double* const n = numbers(p);
    frame.factor = n[0], frame.max_norm = n[1], frame.max_error = n[2];
  }
};

// What is known of one query while the gallery goes by.
struct Query {
  Ordered matches;    // exact, ascending
  int64_t* between;   // (matches + 1,) undecided entries by the match they turned out to lie in front of
  int64_t* ahead;     // (intervals,) entries surely ahead of every match of the interval
  float* high;        // (intervals,) scores above this are surely ahead
  float* low;         // (intervals,) scores below this are surely behind
  int32_t* interval;  // (matches,)
  uint64_t* seen;     // other identities with a kept entry ahead of the first match
  const uint64_t* excluded;
  int64_t row;
  int64_t identity;   // of the query, among gallery_identity; -1 where none is asked for
  int32_t size;       // matches
  int32_t intervals;  // nearest first
  int32_t pending;
  int32_t pending_index[kPending];
  int32_t pending_interval[kPending];

  // Matches in front of (value, g).
  int64_t position(double value, int64_t g) const {
    int64_t low_end = 0;
    for (int64_t count = size; count > 0;) {
      const int64_t half = count / 2, middle = low_end + half;
      const bool in_front =
          matches.value[middle] < value || (matches.value[middle] == value && matches.index[middle] < g);
      low_end = in_front ? middle + 1 : low_end;
      count = in_front ? count - half - 1 : half;
    }
    return low_end;
  }
};

}  // namespace
}  // namespace fastreid::FASTREID_ISA
