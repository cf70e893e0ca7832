// SPDX-License-Identifier: Apache-2.0
// What lives from phase to phase of a call of nearest. Only for nearest_cpu.cpp.
#pragma once

#include "common/exact.h"
#include "common/screen.h"
#include "common/sizes.h"
#include "common/topk.h"
#include "search/nearest.h"

namespace fastreid::FASTREID_ISA {
namespace {

constexpr int64_t kMeasured = 128;  // rows measured, or finished, per item
constexpr int64_t kTasks = 64;      // pieces of the sweep wanted where x alone gives fewer
constexpr int64_t kMinPanels = 8;   // of y, for each of them
constexpr int64_t kFarCapacity = 64;
// With fewer rows than this in x nothing is packed: every distance is computed exactly, which reads y once.
constexpr int64_t kDirect = 8;
constexpr int64_t kDirectRows = 1024;  // of y, per item of such a sweep

bool direct(const NearestProblem& p) { return !p.same && p.x_rows < kDirect; }
bool angular(const NearestProblem& p) { return p.angular; }

// The order in memory of everything that lives from phase to phase.
struct State {
  Screened x, y;
  Frame frame;
  Candidates near, far;
  float* bound;    // (padded x,) of scores
  uint8_t* locks;  // one for each panel of x, or row where direct
  double* best;    // direct: (x_rows, k + kDirectRows) exact values so far, and the same of indices
  int32_t* best_at;
  int32_t* best_count;
  double* best_far;

  // Sets pointers, writes nothing. Returns the bytes used.
  static int64_t lay_out(const NearestProblem& p, bool farthest, char* memory, State* s) {
    char* const begin = memory;
    const int64_t padded = round_up(p.x_rows, kPanel);
    s->frame.centre = reinterpret_cast<double*>(memory);
    s->frame.factor = s->frame.max_norm = s->frame.max_error = 0;
    memory += round_up((p.depth + 4) * 8, 64);
    s->locks = reinterpret_cast<uint8_t*>(memory);
    memory += round_up(padded, 64);
    if (direct(p)) {
      const int64_t room = p.k + kDirectRows;
      s->best = reinterpret_cast<double*>(memory);
      memory += round_up(p.x_rows * room * 8, 64);
      s->best_at = reinterpret_cast<int32_t*>(memory);
      memory += round_up(p.x_rows * room * 4, 64);
      s->best_count = reinterpret_cast<int32_t*>(memory);
      memory += round_up(p.x_rows * 4, 64);
      s->best_far = reinterpret_cast<double*>(memory);
      memory += round_up(p.x_rows * 8, 64);
      s->x.lay_out(memory, p.x_rows, 0, false, p.angular);
      memory += Screened::bytes(p.x_rows, 0, false);
      s->y.lay_out(memory, p.y_rows, 0, false, p.angular);
      memory += Screened::bytes(p.y_rows, 0, false);
      return memory - begin;
    }
    s->bound = reinterpret_cast<float*>(memory);
    memory += round_up(padded * 4, 64);
    s->near.k = p.k;
    s->near.capacity = Candidates::capacity_for(p.k, p.y_rows);
    s->near.lay_out(memory, p.x_rows);
    memory += Candidates::bytes(p.x_rows, padded, s->near.capacity);
    s->far.k = 1;
    s->far.capacity = farthest ? kFarCapacity : 0;
    s->far.lay_out(memory, p.x_rows);
    memory += Candidates::bytes(p.x_rows, padded, s->far.capacity);
    s->y.lay_out(memory, p.y_rows, p.depth, p.pairs, p.angular);
    memory += Screened::bytes(p.y_rows, p.depth, p.pairs);
    if (p.same) {
      s->x = s->y;
    } else {
      s->x.lay_out(memory, p.x_rows, p.depth, p.pairs, p.angular);
      memory += Screened::bytes(p.x_rows, p.depth, p.pairs);
    }
    return memory - begin;
  }

  // The frame's numbers live behind the centre, since phases share memory and nothing else.
  double* numbers(const NearestProblem& p) const { return frame.centre + p.depth; }
  void save(const NearestProblem& p) const {
    double* const n = numbers(p);
    n[0] = frame.factor, n[1] = frame.max_norm, n[2] = frame.max_error;
  }
  void restore(const NearestProblem& p) {
    const double* const n = numbers(p);
    frame.factor = n[0], frame.max_norm = n[1], frame.max_error = n[2];
  }
};

struct Lock {
  explicit Lock(uint8_t* flag) : flag(flag) {
    while (__atomic_test_and_set(flag, __ATOMIC_ACQUIRE)) {
#if defined(__x86_64__)
      _mm_pause();
#endif
    }
  }
  ~Lock() { __atomic_clear(flag, __ATOMIC_RELEASE); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  uint8_t* flag;
};

}  // namespace
}  // namespace fastreid::FASTREID_ISA
