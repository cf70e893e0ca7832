// SPDX-License-Identifier: Apache-2.0
// CPU kernels of feature_ranking.h, compiled once per instruction set.
#include "ranking/feature_ranking.h"

#include "common/exact.h"
#include "common/screen.h"
#include "common/sizes.h"
#include "common/topk.h"
#include "ranking/feature_ranking_cpu_state.h"

namespace fastreid::FASTREID_ISA {
namespace {

template <class S>
class Run {
 public:
  Run(const FeatureRankingProblem& problem, const RankingRows& rows, State& state, void* workspace)
      : p(problem),
        out(rows),
        s(state),
        x{static_cast<const S*>(p.x.data), p.x.row_stride, p.x.column_stride},
        y{static_cast<const S*>(p.y.data), p.y.row_stride, p.y.column_stride},
        memory(static_cast<char*>(workspace)) {}

  static int64_t query_bytes(const FeatureRankingProblem& p) {
    const int64_t n = p.largest_group + 1;
    return round_up(n * 8, 64) * 3 + round_up(n * 4, 64) * 4 + round_up(ceil_div(p.identities, 64) * 8, 64);
  }
  static int64_t workspace_bytes(const FeatureRankingProblem& p) {
    return round_up(p.depth * 8, 64) + kPanel * kPanel * 4 + round_up(sizeof(Query) * kBlockRows, 64) +
           round_up((p.largest_group + 1) * 8, 64) * 2 + round_up((p.largest_group + 1) * 4, 64) +
           query_bytes(p) * kBlockRows;
  }

  void measure(int64_t item) {
    const int64_t of_y = ceil_div(p.gallery, kMeasured);
    if (item < of_y) {
      s.y.measure(y, p.depth, item * kMeasured, smaller(p.gallery, (item + 1) * kMeasured));
    } else {
      item -= of_y;
      s.x.measure(x, p.depth, item * kMeasured, smaller(p.queries, (item + 1) * kMeasured));
    }
  }

  void find_frame() {
    s.frame.find_centre(y, p.gallery, p.depth, p.angular);
    s.frame.find_factor(s.x, s.y, p.angular);
    *s.measured = 0;
    s.save(p);
  }

  void pack(int64_t item) {
    const int64_t of_y = s.y.padded / kPanel;
    if (item < of_y) {
      s.y.pack(y, p.depth, s.frame.centre, s.frame.factor, item, item + 1);
    } else {
      s.x.pack(x, p.depth, s.frame.centre, s.frame.factor, item - of_y, item - of_y + 1);
    }
  }

  void find_limits() {
    s.frame.find_largest(s.y);
    for (int64_t i = 0; i < p.queries; ++i) s.bound[i] = s.frame.bound(s.x, i, p.depth);
    s.save(p);
  }

  void rank(int64_t item) {
    lay_out();
    measured = 0;
    const int64_t first = item * kBlockRows, last = smaller(p.queries, first + kBlockRows);
    for (int64_t q = first; q < last; ++q) begin(query[q - first], q);
    for (int64_t j = 0; j < s.y.padded / kPanel; ++j) {
      for (int64_t i = first / kPanel; i * kPanel < last; ++i) {
        const int64_t rows = smaller(kPanel, last - i * kPanel);
        product(s.x.panels + i * s.x.words * kPanel, s.y.panels + j * s.y.words * kPanel, s.x.words,
                static_cast<int>(rows), p.pairs, score);
        for (int64_t r = 0; r < rows; ++r) count(query[i * kPanel + r - first], score + r * kPanel, j);
      }
    }
    for (int64_t q = first; q < last; ++q) end(query[q - first]);
    __atomic_fetch_add(s.measured, measured, __ATOMIC_RELAXED);
  }

  // Of the given matches, which are rows of y here.
  void distances(int64_t item) {
    lay_out();
    const GivenMatches& given = *p.given;
    for (int64_t q = item * kBlockRows; q < smaller(p.queries, (item + 1) * kBlockRows); ++q) {
      prepare(q);
      const int64_t end = given.offsets[q + 1];
      for (int64_t m = given.offsets[q]; m < end; m += kPending) {
        int32_t index[kPending];
        const int64_t n = smaller(kPending, end - m);
        for (int64_t i = 0; i < n; ++i) index[i] = static_cast<int32_t>(given.place[m + i]);
        measure_exactly(q, index, n, given.distance + m);
      }
    }
  }

 private:
  template <class T>
  static void take(char*& at, T*& pointer, int64_t bytes) {
    pointer = reinterpret_cast<T*>(at);
    at += round_up(bytes, 64);
  }

  void lay_out() {
    char* at = memory;
    const int64_t n = p.largest_group + 1;
    take(at, prepared, p.depth * 8);
    take(at, score, kPanel * kPanel * 4);
    take(at, query, static_cast<int64_t>(sizeof(Query)) * kBlockRows);
    take(at, list.value, n * 8);
    take(at, ranks, n * 8);
    take(at, list.index, n * 4);
    for (int64_t i = 0; i < kBlockRows; ++i) {
      Query& q = query[i];
      take(at, q.matches.value, n * 8);
      take(at, q.between, n * 8);
      take(at, q.ahead, n * 8);
      take(at, q.matches.index, n * 4);
      take(at, q.high, n * 4);
      take(at, q.low, n * 4);
      take(at, q.interval, n * 4);
      take(at, q.seen, ceil_div(p.identities, 64) * 8);
    }
  }

  // The matches of the query, measured and sorted, and their intervals.
  void begin(Query& q, int64_t row) {
    const Relevance& rules = p.relevance;
    q.row = row;
    q.excluded = excluded_row(rules, row);
    q.pending = 0;
    q.size = 0;
    q.intervals = 0;
    q.identity = -1;
    if (p.given) {
      begin_given(q);
    } else {
      for (int64_t m = rules.begin[row]; m < rules.end[row]; ++m) {
        const int64_t g = rules.members[m];
        if (p.identities > 0) q.identity = rules.gallery_identity[g];
        if (!drops_member(rules, row, g)) q.matches.index[q.size++] = static_cast<int32_t>(g);
      }
      if (q.size == 0) return;
      prepare(row);
      measure_exactly(row, q.matches.index, q.size, q.matches.value);
      q.matches.select(q.size, q.size);
    }
    for (int64_t w = 0; w < ceil_div(p.identities, 64); ++w) q.seen[w] = 0;
    for (int64_t m = 0; m <= q.size; ++m) q.between[m] = 0;

    const double scale = s.frame.factor * s.frame.factor / 2, half = s.x.half[row], bound = s.bound[row];
    for (int32_t m = 0; m < q.size; ++m) {
      const double exact = half - q.matches.value[m] * scale;
      // Where the bound is infinite `exact` may not even be a number.
      const bool bounded = bound < kInfinity;
      // A match of another part may lie far from these rows; the bound covers rounding at their distance.
      const double off = p.given ? bound + __builtin_fabs(exact) * 0x1p-22 : bound;
      const float high = bounded ? static_cast<float>(exact + off) : kInfinity;
      const float low = bounded ? static_cast<float>(exact - off) : -kInfinity;
      const bool joins = q.intervals > 0 && high >= q.low[q.intervals - 1];
      if (!joins) {
        q.high[q.intervals] = high;
        q.ahead[q.intervals++] = 0;
      }
      q.low[q.intervals - 1] = low;
      q.interval[m] = q.intervals - 1;
    }
  }

  void begin_given(Query& q) {
    const int64_t first = p.given->offsets[q.row];
    q.size = static_cast<int32_t>(p.given->offsets[q.row + 1] - first);
    for (int32_t m = 0; m < q.size; ++m) {
      q.matches.index[m] = static_cast<int32_t>(p.given->place[first + m]);
      q.matches.value[m] = p.given->value[first + m];
    }
    if (p.identities > 0) q.identity = p.identities;  // the own one is seen like all others
  }

  // Place of row g in the order of equal distances.
  int64_t place(int64_t g) const { return p.given ? p.given->gallery_place[g] : g; }

  // One row of a tile: 3 registers of scores against panel j.
  void count(Query& q, const float* product_row, int64_t j) {
    constexpr int kL = kLanes<float>;
    if (q.size == 0) return;
    const float* const half = s.y.half + j * kPanel;
    const Vec<float> v0 = load(product_row) - load(half), v1 = load(product_row + kL) - load(half + kL),
                     v2 = load(product_row + 2 * kL) - load(half + 2 * kL);
    const auto above = [&](float limit) {
      const Vec<float> at = splat(limit);
      return static_cast<uint64_t>(at_least(v0, at)) | static_cast<uint64_t>(at_least(v1, at)) << kL |
             static_cast<uint64_t>(at_least(v2, at)) << 2 * kL;
    };
    uint64_t reached = above(q.low[q.intervals - 1]);
    if (reached == 0) return;
    const uint64_t kept = kept_columns(q, j);
    const auto not_above = [&](float limit) {
      const Vec<float> at = splat(limit);
      return static_cast<uint64_t>(at_least(at, v0)) | static_cast<uint64_t>(at_least(at, v1)) << kL |
             static_cast<uint64_t>(at_least(at, v2)) << 2 * kL;
    };
    for (int32_t i = q.intervals - 1; reached != 0; --i) {
      const uint64_t under = not_above(q.high[i]), ahead = reached & ~under & kept;
      q.ahead[i] += __builtin_popcountll(ahead);
      for (uint64_t open = reached & under & kept; open != 0; open &= open - 1) {
        q.pending_index[q.pending] = static_cast<int32_t>(j * kPanel + __builtin_ctzll(open));
        q.pending_interval[q.pending++] = i;
        if (q.pending == kPending) decide(q);
      }
      if (i == 0) {
        if (q.identity >= 0)
          for (uint64_t each = ahead; each != 0; each &= each - 1) see(q, j * kPanel + __builtin_ctzll(each));
        break;
      }
      reached = above(q.low[i - 1]);
    }
  }

  // Real columns of panel j that the query's rules do not exclude.
  uint64_t kept_columns(const Query& q, int64_t j) const {
    const int64_t first = j * kPanel, columns = smaller(kPanel, p.gallery - first);
    uint64_t kept = (uint64_t{1} << columns) - 1;
    if (q.excluded) {
      const int64_t word = first >> 6, shift = first & 63;
      uint64_t bits = q.excluded[word] >> shift;
      if (shift + columns > 64) bits |= q.excluded[word + 1] << (64 - shift);
      kept &= ~bits;
    }
    return kept;
  }

  void see(Query& q, int64_t g) {
    const int64_t identity = p.relevance.gallery_identity[g];
    if (identity != q.identity) q.seen[identity >> 6] |= uint64_t{1} << (identity & 63);
  }

  // Measures the undecided entries and puts them in front of the match they belong to.
  void decide(Query& q) {
    double value[kPending];
    measured += q.pending;
    prepare(q.row);
    measure_exactly(q.row, q.pending_index, q.pending, value);
    for (int32_t e = 0; e < q.pending; ++e) {
      const int64_t g = q.pending_index[e], position = q.position(value[e], place(g));
      // Behind the last match of its interval it is ahead of the next ones by its score, and counted there.
      if (position < q.size && q.interval[position] == q.pending_interval[e]) ++q.between[position];
      if (position == 0 && q.identity >= 0) see(q, g);
    }
    q.pending = 0;
  }

  void end(Query& q) {
    const Relevance& rules = p.relevance;
    const int64_t row = q.row, begin = rules.begin[row], end = rules.end[row];
    if (q.pending > 0) decide(q);
    // Dropped entries with the query's pid were counted like all others.
    if (q.size > 0 && (p.given || q.size < end - begin)) {
      int64_t n = 0;
      for (int64_t m = begin; m < end; ++m) {
        const int64_t g = rules.members[m];
        if (drops_same_pid(rules, row, g) && !is_excluded(q.excluded, g))
          list.index[n++] = static_cast<int32_t>(g);
      }
      prepare(row);
      measure_exactly(row, list.index, n, list.value);
      for (int64_t m = 0; m < q.size; ++m) ranks[m] = 0;
      for (int64_t e = 0; e < n; ++e) {
        const int64_t position = q.position(list.value[e], place(list.index[e]));
        if (position < q.size) --ranks[position];
      }
      for (int64_t m = 1; m < q.size; ++m) ranks[m] += ranks[m - 1];
    } else {
      for (int64_t m = 0; m < q.size; ++m) ranks[m] = 0;
    }
    int64_t between = 0;
    for (int64_t m = 0; m < q.size; ++m) {
      if (m == 0 || q.interval[m] != q.interval[m - 1]) between = 0;
      between += q.between[m];
      ranks[m] += q.ahead[q.interval[m]] + between;
    }
    if (p.given) return end_given(q);
    write_query(out, row, ranks, q.size, begin < end, p.ap_rule);
    out.nonfinite[row] = 0;
    if (p.cmc_rule == CmcRule::unique_pid && q.size > 0) {
      int64_t others = 0;
      for (int64_t w = 0; w < ceil_div(p.identities, 64); ++w) others += __builtin_popcountll(q.seen[w]);
      out.cmc_rank[row] = 1 + others;
    }
    if (p.cmc_rule == CmcRule::all_hits)
      write_all_hits(out.cmc + row * p.max_rank, p.max_rank, ranks, q.size);
  }

  void end_given(const Query& q) {
    for (int32_t m = 0; m < q.size; ++m) p.given->counts[p.given->offsets[q.row] + m] = ranks[m];
    const int64_t words = ceil_div(p.identities, 64);
    for (int64_t w = 0; w < words; ++w) p.given->seen[q.row * words + w] = q.size > 0 ? q.seen[w] : 0;
  }

  void prepare(int64_t row) {
    const double inverse = s.x.inverse ? s.x.inverse[row] : 1.0;
    exact_prepare(x.row(row), x.column_stride, p.depth, inverse, p.angular, prepared);
  }

  // Squared distances of the prepared row.
  void measure_exactly(int64_t row, const int32_t* index, int64_t n, double* value) {
    exact_distances(prepared, s.x.inverse ? s.x.inverse[row] : 1.0, y, s.y.inverse, p.depth, index, n, value);
  }

  const FeatureRankingProblem& p;
  const RankingRows& out;
  State& s;
  const ExactRows<S> x, y;
  char* const memory;
  double* prepared = nullptr;  // (depth,) one query
  float* score = nullptr;      // (kPanel, kPanel)
  Query* query = nullptr;      // (kBlockRows,)
  Ordered list{};              // (largest_group + 1,)
  int64_t* ranks = nullptr;    // (largest_group + 1,)
  int64_t measured = 0;
};

int64_t items(const FeatureRankingProblem* p, FeatureRankingPhase phase) {
  switch (phase) {
    case FeatureRankingPhase::measure:
      return ceil_div(p->gallery, kMeasured) + ceil_div(p->queries, kMeasured);
    case FeatureRankingPhase::pack:
      return ceil_div(p->gallery, kPanel) + ceil_div(p->queries, kPanel);
    case FeatureRankingPhase::rank:
    case FeatureRankingPhase::distances:
      return ceil_div(p->queries, kBlockRows);
    default:
      return 1;
  }
}

template <class S>
void run_typed(const FeatureRankingProblem& p, const RankingRows& rows, FeatureRankingPhase phase,
               int64_t first, int64_t last, State& state, void* workspace) {
  Run<S> run(p, rows, state, workspace);
  for (int64_t item = first; item < last; ++item) {
    switch (phase) {
      case FeatureRankingPhase::measure:
        run.measure(item);
        break;
      case FeatureRankingPhase::frame:
        run.find_frame();
        break;
      case FeatureRankingPhase::pack:
        run.pack(item);
        break;
      case FeatureRankingPhase::limits:
        run.find_limits();
        break;
      case FeatureRankingPhase::rank:
        run.rank(item);
        break;
      case FeatureRankingPhase::distances:
        run.distances(item);
        break;
    }
  }
}

void run(const FeatureRankingProblem* problem, const RankingRows* rows, FeatureRankingPhase phase,
         int64_t first, int64_t last, void* memory, void* workspace) {
  State state;
  State::lay_out(*problem, static_cast<char*>(memory), &state);
  if (phase > FeatureRankingPhase::frame) state.restore(*problem);
  switch (problem->dtype) {
    case Dtype::float32:
      return run_typed<float>(*problem, *rows, phase, first, last, state, workspace);
    case Dtype::float64:
      return run_typed<double>(*problem, *rows, phase, first, last, state, workspace);
    case Dtype::bfloat16:
      return run_typed<BFloat16>(*problem, *rows, phase, first, last, state, workspace);
    case Dtype::float16:
      return run_typed<Float16>(*problem, *rows, phase, first, last, state, workspace);
  }
}

int64_t state_bytes(const FeatureRankingProblem* problem) {
  State state;
  return State::lay_out(*problem, nullptr, &state);
}

int64_t workspace_bytes(const FeatureRankingProblem* problem) {
  return Run<float>::workspace_bytes(*problem);
}

int64_t measured(const FeatureRankingProblem* problem, void* memory) {
  State state;
  State::lay_out(*problem, static_cast<char*>(memory), &state);
  return __atomic_load_n(state.measured, __ATOMIC_RELAXED);
}

}  // namespace

extern const FeatureRankingKernels feature_ranking_kernels = {state_bytes, workspace_bytes, items, measured,
                                                              run};

}  // namespace fastreid::FASTREID_ISA
