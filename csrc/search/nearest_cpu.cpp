// SPDX-License-Identifier: Apache-2.0
// CPU kernels of nearest.h, compiled once per instruction set.
#include "search/nearest.h"

#include "common/exact.h"
#include "common/screen.h"
#include "common/sizes.h"
#include "common/topk.h"
#include "search/nearest_cpu_state.h"

namespace fastreid::FASTREID_ISA {
namespace {

// One thread's work on one call.
template <class S>
class Run {
 public:
  Run(const NearestProblem& problem, const NearestResult& result, State& state, void* workspace)
      : p(problem), out(result), s(state), x(rows_of(p.x)), y(rows_of(p.y)) {
    char* memory = static_cast<char*>(workspace);
    prepared = reinterpret_cast<double*>(memory);
    memory += round_up(p.depth * 8, 64);
    score = reinterpret_cast<float*>(memory);
    memory += kPanel * kPanel * 4;
    list.value = reinterpret_cast<double*>(memory);
    memory += round_up(list_size(p) * 8, 64);
    list.index = reinterpret_cast<int32_t*>(memory);
  }

  static ExactRows<S> rows_of(const NearestRows& r) {
    return {static_cast<const S*>(r.data), r.row_stride, r.column_stride, static_cast<const S*>(r.more),
            r.split};
  }

  static int64_t list_size(const NearestProblem& p) {
    return larger(direct(p) ? kDirectRows : Candidates::capacity_for(p.k, p.y_rows), kFarCapacity);
  }
  static int64_t workspace_bytes(const NearestProblem& p) {
    return round_up(p.depth * 8, 64) + kPanel * kPanel * 4 + round_up(list_size(p) * 12, 64) + 64;
  }

  void measure(int64_t item) {
    const int64_t of_y = ceil_div(p.y_rows, kMeasured);
    if (item < of_y) {
      s.y.measure(y, p.depth, item * kMeasured, smaller(p.y_rows, (item + 1) * kMeasured));
    } else {
      item -= of_y;
      s.x.measure(x, p.depth, item * kMeasured, smaller(p.x_rows, (item + 1) * kMeasured));
    }
  }

  void find_frame() {
    s.frame.find_centre(y, p.y_rows, p.depth, angular(p));
    s.frame.find_factor(s.x, s.y, angular(p));
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
    for (int64_t i = 0; i < p.x_rows; ++i) s.bound[i] = s.frame.bound(s.x, i, p.depth);
    s.save(p);
  }

  void sweep(int64_t first_panel, int64_t y_begin, int64_t y_end) {
    const int64_t panels = s.x.padded / kPanel, last_panel = smaller(panels, first_panel + kBlockPanels);
    for (int64_t j = y_begin; j < y_end; ++j) {
      for (int64_t i = first_panel; i < last_panel; ++i) {
        if (p.same && j < i) continue;
        visit(i, j);
      }
    }
  }

  void direct_sweep(int64_t row, int64_t first, int64_t last) {
    const double inverse = s.x.inverse ? s.x.inverse[row] : 1.0;
    exact_prepare(x.row(row), x.column_stride, p.depth, inverse, p.angular, prepared);
    for (int64_t j = first; j < last; ++j) list.index[j - first] = static_cast<int32_t>(j);
    exact_distances(prepared, inverse, y, s.y.inverse, p.depth, list.index, last - first, list.value);
    double far = -1;
    for (int64_t e = 0; e < last - first; ++e) far = list.value[e] > far ? list.value[e] : far;
    const int64_t room = p.k + kDirectRows;
    const Lock lock(s.locks + row);
    Ordered best = {s.best + row * room, s.best_at + row * room};
    int64_t n = s.best_count[row];
    for (int64_t e = 0; e < last - first; ++e) {
      if (p.exclude_self && list.index[e] == row) continue;
      best.value[n] = list.value[e];
      best.index[n++] = list.index[e];
    }
    best.select(n, p.k);
    s.best_count[row] = static_cast<int32_t>(smaller(n, p.k));
    s.best_far[row] = far > s.best_far[row] ? far : s.best_far[row];
  }

  void finish(int64_t row) {
    if (direct(p)) {
      const int64_t room = p.k + kDirectRows;
      const Ordered best = {s.best + row * room, s.best_at + row * room};
      emit(row, best, s.best_count[row]);
      if (out.farthest) out.farthest[row] = s.best_far[row];
      return;
    }
    s.near.compact(row, s.bound[row]);
    prepare(row);
    const int64_t n = measure_exactly(row, s.near);
    list.select(n, p.k);
    emit(row, list, smaller(n, p.k));
    if (out.farthest) {
      s.far.compact(row, s.bound[row]);
      const int64_t m = measure_exactly(row, s.far);
      double far = -1;
      for (int64_t e = 0; e < m; ++e) far = list.value[e] > far ? list.value[e] : far;
      out.farthest[row] = m > 0 ? far : __builtin_nan("");
    }
  }

 private:
  // The products of one panel of x with one of y, offered to the rows of x and, where x is y, to those of y.
  void visit(int64_t i, int64_t j) {
    const int64_t rows = smaller(kPanel, p.x_rows - i * kPanel);
    product(s.x.panels + i * s.x.words * kPanel, s.y.panels + j * s.y.words * kPanel, s.x.words,
            static_cast<int>(rows), p.pairs, score);
    {
      const Lock lock(s.locks + i);
      s.far.capacity > 0 ? offer_rows<true>(i, j, rows) : offer_rows<false>(i, j, rows);
    }
    if (!p.same || i == j) return;
    const Lock lock(s.locks + j);
    s.far.capacity > 0 ? offer_columns<true>(i, j, rows) : offer_columns<false>(i, j, rows);
  }

  // Three registers against one limit, or three limits: bit c is column c of the panel.
  static uint64_t reaching(const Vec<float>* value, Vec<float> a, Vec<float> b, Vec<float> c) {
    constexpr int kL = kLanes<float>;
    return static_cast<uint64_t>(at_least(value[0], a)) | static_cast<uint64_t>(at_least(value[1], b)) << kL |
           static_cast<uint64_t>(at_least(value[2], c)) << 2 * kL;
  }

  // To row r of panel i: the columns of panel j.
  template <bool kFar>
  void offer_rows(int64_t i, int64_t j, int64_t rows) {
    constexpr int kL = kLanes<float>;
    const float* const half = s.y.half + j * kPanel;
    const Vec<float> half0 = load(half), half1 = load(half + kL), half2 = load(half + 2 * kL);
    const int64_t columns = smaller(kPanel, p.y_rows - j * kPanel);
    const uint64_t real = (uint64_t{1} << columns) - 1;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = i * kPanel + r;
      float* const at = score + r * kPanel;
      const Vec<float> value[3] = {load(at) - half0, load(at + kL) - half1, load(at + 2 * kL) - half2};
      const Vec<float> near = splat(s.near.threshold[row]);
      uint64_t hits = reaching(value, near, near, near), misses = 0;
      if (kFar) {
        const Vec<float> far = splat(s.far.threshold[row]);
        const Vec<float> away[3] = {-value[0], -value[1], -value[2]};
        misses = reaching(away, far, far, far) & real;
      }
      if ((hits | misses) == 0) continue;
      alignas(64) float values[kPanel];
      for (int v = 0; v < 3; ++v) store(values + v * kL, value[v]);
      for (hits &= real; hits != 0; hits &= hits - 1) {
        const int c = __builtin_ctzll(hits);
        if (p.exclude_self && j * kPanel + c == row) continue;
        offer(s.near, row, values[c], j * kPanel + c, false);
      }
      for (; misses != 0; misses &= misses - 1) {
        const int c = __builtin_ctzll(misses);
        offer(s.far, row, -values[c], j * kPanel + c, true);
      }
    }
  }

  // To the rows of panel j, which are columns here: row r of panel i. Thresholds past the last row are infinite.
  template <bool kFar>
  void offer_columns(int64_t i, int64_t j, int64_t rows) {
    constexpr int kL = kLanes<float>;
    const float* const near = s.near.threshold + j * kPanel;
    const float* const far = s.far.threshold + j * kPanel;
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t column = i * kPanel + r;
      const Vec<float> half = splat(s.x.half[column]);
      float* const at = score + r * kPanel;
      const Vec<float> value[3] = {load(at) - half, load(at + kL) - half, load(at + 2 * kL) - half};
      uint64_t hits = reaching(value, load(near), load(near + kL), load(near + 2 * kL)), misses = 0;
      if (kFar) {
        const Vec<float> away[3] = {-value[0], -value[1], -value[2]};
        misses = reaching(away, load(far), load(far + kL), load(far + 2 * kL));
      }
      if ((hits | misses) == 0) continue;
      alignas(64) float values[kPanel];
      for (int v = 0; v < 3; ++v) store(values + v * kL, value[v]);
      for (; hits != 0; hits &= hits - 1) {
        const int c = __builtin_ctzll(hits);
        offer(s.near, j * kPanel + c, values[c], column, false);
      }
      for (; misses != 0; misses &= misses - 1) {
        const int c = __builtin_ctzll(misses);
        offer(s.far, j * kPanel + c, -values[c], column, true);
      }
    }
  }

  void offer(Candidates& to, int64_t row, float value, int64_t column, bool away) {
    if (!(value >= to.threshold[row])) return;  // it rose while this tile was read
    if (to.full(row)) {
      to.compact(row, s.bound[row]);
      if (to.count[row] > to.capacity - 8) settle(to, row, away);
      if (!(value >= to.threshold[row])) return;
    }
    to.push(row, value, column);
  }

  // Too many rows lie within the bound of the k-th: measures them exactly and keeps the k best.
  void settle(Candidates& from, int64_t row, bool away) {
    prepare(row);
    const int64_t n = measure_exactly(row, from);
    if (away)
      for (int64_t e = 0; e < n; ++e) list.value[e] = -list.value[e];
    list.select(n, from.k);
    const int64_t kept = smaller(n, from.k);
    const double scale = s.frame.factor * s.frame.factor / 2, half = s.x.half[row];
    float worst = kInfinity;
    for (int64_t e = 0; e < kept; ++e) {
      const double d2 = list.value[e] * scale;
      const float value = static_cast<float>(away ? -(half + d2) : half - d2);
      from.score[row * from.capacity + e] = value;
      from.index[row * from.capacity + e] = list.index[e];
      worst = value < worst ? value : worst;
    }
    from.count[row] = static_cast<int32_t>(kept);
    const float limit = worst - s.bound[row];
    if (kept == from.k && limit > from.threshold[row]) from.threshold[row] = limit;
  }

  void prepare(int64_t row) {
    const double inverse = s.x.inverse ? s.x.inverse[row] : 1.0;
    exact_prepare(x.row(row), x.column_stride, p.depth, inverse, p.angular, prepared);
  }

  int64_t measure_exactly(int64_t row, const Candidates& from) {
    const int64_t n = from.count[row];
    const int32_t* const index = from.index + row * from.capacity;
    for (int64_t e = 0; e < n; ++e) list.index[e] = index[e];
    exact_distances(prepared, s.x.inverse ? s.x.inverse[row] : 1.0, y, s.y.inverse, p.depth, list.index, n,
                    list.value);
    return n;
  }

  void emit(int64_t row, const Ordered& from, int64_t n) {
    for (int64_t e = 0; e < p.k; ++e) {
      out.squared[row * p.k + e] = e < n ? from.value[e] : __builtin_nan("");
      out.index[row * p.k + e] = e < n ? from.index[e] : -1;
    }
  }

  const NearestProblem& p;
  const NearestResult& out;
  State& s;
  const ExactRows<S> x, y;
  double* prepared;  // (depth,) one row of x
  float* score;      // (kPanel, kPanel)
  Ordered list;      // candidates measured exactly
};

// ---- items ----

struct Sweep {
  int64_t blocks, cuts;  // of x, of y
  explicit Sweep(const NearestProblem& p) {
    blocks = ceil_div(ceil_div(p.x_rows, kPanel), kBlockPanels);
    const int64_t most = ceil_div(ceil_div(p.y_rows, kPanel), kMinPanels);
    cuts = p.same ? 1 : larger(1, smaller(most, ceil_div(kTasks, larger(blocks, 1))));
  }
};

int64_t items(const NearestProblem* p, NearestPhase phase) {
  const int64_t y_panels = ceil_div(p->y_rows, kPanel), x_panels = ceil_div(p->x_rows, kPanel);
  switch (phase) {
    case NearestPhase::measure:
      // Distances between directions need lengths, and so does the scale of packed rows.
      if (direct(*p) && !p->angular) return 0;
      return ceil_div(p->y_rows, kMeasured) + (p->same ? 0 : ceil_div(p->x_rows, kMeasured));
    case NearestPhase::pack:
      return direct(*p) ? 0 : y_panels + (p->same ? 0 : x_panels);
    case NearestPhase::frame:
    case NearestPhase::limits:
      return direct(*p) ? 0 : 1;
    case NearestPhase::sweep:
      if (direct(*p)) return p->x_rows * ceil_div(p->y_rows, kDirectRows);
      return Sweep(*p).blocks * Sweep(*p).cuts;
    case NearestPhase::finish:
      return ceil_div(p->x_rows, kMeasured);
    default:
      return 1;
  }
}

void start(const NearestProblem& p, State& s) {
  for (int64_t i = 0; i < round_up(p.x_rows, kPanel); ++i) s.locks[i] = 0;
  if (direct(p)) {
    for (int64_t i = 0; i < p.x_rows; ++i) s.best_count[i] = 0, s.best_far[i] = -1;
    return;
  }
  s.near.clear(p.x_rows, s.x.padded);
  s.far.clear(p.x_rows, s.x.padded);
}

template <class S>
void run_typed(const NearestProblem& p, const NearestResult& result, NearestPhase phase, int64_t first,
               int64_t last, State& state, void* workspace) {
  Run<S> run(p, result, state, workspace);
  const Sweep cut(p);
  const int64_t y_panels = ceil_div(p.y_rows, kPanel);
  for (int64_t item = first; item < last; ++item) {
    switch (phase) {
      case NearestPhase::start:
        start(p, state);
        break;
      case NearestPhase::measure:
        run.measure(item);
        break;
      case NearestPhase::frame:
        run.find_frame();
        break;
      case NearestPhase::pack:
        run.pack(item);
        break;
      case NearestPhase::limits:
        run.find_limits();
        break;
      case NearestPhase::sweep:
        if (direct(p)) {
          const int64_t pieces = ceil_div(p.y_rows, kDirectRows), begin = item % pieces * kDirectRows;
          run.direct_sweep(item / pieces, begin, smaller(p.y_rows, begin + kDirectRows));
        } else {
          const int64_t block = item / cut.cuts, part = item % cut.cuts;
          const int64_t begin = p.same ? block * kBlockPanels : y_panels * part / cut.cuts;
          run.sweep(block * kBlockPanels, begin, y_panels * (part + 1) / cut.cuts);
        }
        break;
      case NearestPhase::finish:
        for (int64_t row = item * kMeasured; row < smaller(p.x_rows, (item + 1) * kMeasured); ++row)
          run.finish(row);
        break;
    }
  }
}

void run(const NearestProblem* problem, const NearestResult* result, NearestPhase phase, int64_t first,
         int64_t last, void* memory, void* workspace) {
  State state;
  State::lay_out(*problem, result->farthest != nullptr, static_cast<char*>(memory), &state);
  if (phase > NearestPhase::frame) state.restore(*problem);
  switch (problem->dtype) {
    case Dtype::float32:
      return run_typed<float>(*problem, *result, phase, first, last, state, workspace);
    case Dtype::float64:
      return run_typed<double>(*problem, *result, phase, first, last, state, workspace);
    case Dtype::bfloat16:
      return run_typed<BFloat16>(*problem, *result, phase, first, last, state, workspace);
    case Dtype::float16:
      return run_typed<Float16>(*problem, *result, phase, first, last, state, workspace);
  }
}

int64_t state_bytes(const NearestProblem* problem, bool farthest) {
  State state;
  return State::lay_out(*problem, farthest, nullptr, &state);
}

int64_t workspace_bytes(const NearestProblem* problem, bool) { return Run<float>::workspace_bytes(*problem); }

}  // namespace

extern const NearestKernels nearest_kernels = {state_bytes, workspace_bytes, items, run};

}  // namespace fastreid::FASTREID_ISA
