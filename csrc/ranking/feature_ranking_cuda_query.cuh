// SPDX-License-Identifier: Apache-2.0
// One query of feature_ranking_cuda.cu: its matches, measured and sorted, and the results that follow from how many
// entries lie in front of each. Everything is for a whole block, of any size.
//
// The rank of match m is count[0] + ... + count[m], where count[m] entries lie directly in front of it, itself included.
#pragma once

#include "common/exact.cuh"
#include "common/topk.cuh"
#include "ranking/feature_ranking.h"

namespace fastreid {
namespace {

// The matches of several queries, by row of a slab or by block.
struct Kept {
  double* value;   // (rows, capacity) exact distances, ascending, ties by index
  int32_t* index;  // (rows, capacity)
  int32_t* count;  // (rows, capacity)
  float* high;     // (rows, capacity) a score above this is surely in front of the match
  float* low;      // (rows, capacity) a score below this is surely behind it; never rises
  int64_t* ranks;  // (rows, capacity) in the place of these two, where matches have no scores
  int32_t* size;   // (rows,) matches
  unsigned* seen;  // (rows, words) other identities with a kept entry in front of the first match
  int64_t capacity, words;

  static int64_t row_bytes(int64_t capacity, int64_t words) { return capacity * 24 + 4 + words * 4; }
  void lay_out(char* memory, int64_t rows) {
    value = reinterpret_cast<double*>(memory);
    index = reinterpret_cast<int32_t*>(value + rows * capacity);
    count = index + rows * capacity;
    high = reinterpret_cast<float*>(count + rows * capacity);
    low = high + rows * capacity;
    ranks = reinterpret_cast<int64_t*>(high);
    size = reinterpret_cast<int32_t*>(low + rows * capacity);
    seen = reinterpret_cast<unsigned*>(size + rows);
  }
};

// What every block needs to know.
template <class S>
struct Queries {
  ExactRows<S> x, y;
  int64_t queries;
  int64_t gallery;
  int64_t depth;
  int64_t max_rank;
  Relevance rules;
  ApRule ap_rule;
  CmcRule cmc_rule;
  RankingRows out;

  // Entries with the pid of q.
  __device__ int64_t group(int64_t q) const { return rules.end[q] - rules.begin[q]; }
};

// Sorted matches of one query, in memory that the block shares.
struct Sorted {
  const double* value;
  const int32_t* index;
  int32_t* count;
  int64_t size;

  // Matches in front of (d2, g).
  __device__ int64_t position(double d2, int64_t g) const {
    int64_t first = 0;
    for (int64_t n = size; n > 0;) {
      const int64_t half = n / 2, middle = first + half;
      const bool in_front = value[middle] < d2 || (value[middle] == d2 && index[middle] < g);
      first = in_front ? middle + 1 : first;
      n = in_front ? n - half - 1 : half;
    }
    return first;
  }
};

// Marks the identity of g, an entry in front of the first match.
__device__ __forceinline__ void see(const Relevance& rules, int64_t own, int64_t g, unsigned* seen) {
  const int64_t identity = rules.gallery_identity[g];
  if (identity != own) atomicOr(&seen[identity >> 5], 1u << (identity & 31));
}

// found(g, d2) for the n entries g = entry(0), entry(1) ..., each by one thread. The whole block calls it.
template <class S, class Entry, class Found>
__device__ __forceinline__ void measure_each(const Queries<S>& s, int64_t q, int64_t n, Entry entry,
                                             Found found) {
  const int64_t groups = blockDim.x / kExactLanes, group = threadIdx.x / kExactLanes;
  for (int64_t first = 0; first < n; first += groups) {
    const int64_t e = first + group;
    const int64_t g = entry(e < n ? e : 0);
    const double d2 = exact_distance(s.x, q, s.y, g, s.depth);
    if (e < n && threadIdx.x % kExactLanes == 0) found(e, g, d2);
  }
  __syncthreads();
}

// The matches of q, sorted; returns how many. count: minus the entries that a rule drops because of their pid, which
// are counted later like all others. The arrays have room for all images of q's identity.
template <int kThreads, class S>
__device__ __forceinline__ int64_t find_matches(const Queries<S>& s, int64_t q, double* value, int32_t* index,
                                                int32_t* count) {
  __shared__ int kept, dropped;
  const uint64_t* const excluded = excluded_row(s.rules, q);
  const int64_t group = s.group(q);
  if (threadIdx.x == 0) kept = dropped = 0;
  __syncthreads();
  for (int64_t m = threadIdx.x; m < group; m += blockDim.x) {
    const int64_t g = s.rules.members[s.rules.begin[q] + m];
    if (is_excluded(excluded, g)) continue;
    // The dropped ones from the far end.
    const int64_t at =
        drops_same_pid(s.rules, q, g) ? group - 1 - atomicAdd(&dropped, 1) : atomicAdd(&kept, 1);
    index[at] = static_cast<int32_t>(g);
    count[at] = 0;
  }
  __syncthreads();
  const int64_t size = kept, others = size > 0 ? dropped : 0;
  measure_each(
      s, q, size, [&](int64_t e) { return index[e]; }, [&](int64_t e, int64_t, double d2) { value[e] = d2; });
  sort_ascending<kThreads>(value, index, size);
  const Sorted sorted{value, index, count, size};
  measure_each(
      s, q, others, [&](int64_t e) { return index[group - 1 - e]; },
      [&](int64_t, int64_t g, double d2) {
        const int64_t at = sorted.position(d2, g);
        if (at < size) atomicSub(&count[at], 1);
      });
  return size;
}

__device__ __forceinline__ void clear_seen(unsigned* seen, int64_t words) {
  for (int64_t w = threadIdx.x; w < words; w += blockDim.x) seen[w] = 0;
}

// The results of q. ranks: room for `size` of them.
template <class S>
__device__ __forceinline__ void write_results(const Queries<S>& s, int64_t q, const int32_t* count,
                                              int64_t size, const unsigned* seen, int64_t words,
                                              int64_t* ranks) {
  __shared__ double terms[kMaxBlockThreads];
  __shared__ int sums[kMaxBlockThreads / kWarpSize];
  const int thread = threadIdx.x, warp = thread / kWarpSize, warps = blockDim.x / kWarpSize;
  int64_t before = 0;
  double sum = 0;
  for (int64_t first = 0; first < size; first += blockDim.x) {
    const int64_t e = first + thread;
    const int scanned = warp_scan(e < size ? count[e] : 0, Sum{});
    if (thread % kWarpSize == kWarpSize - 1) sums[warp] = scanned;
    __syncthreads();
    int64_t rank = before + scanned;
    for (int w = 0; w < warps; ++w) {
      if (w < warp) rank += sums[w];
      before += sums[w];
    }
    if (e < size) {
      ranks[e] = rank;
      terms[thread] = precision_term(e + 1, rank, s.ap_rule);
    }
    __syncthreads();
    const int64_t n = smaller(size - first, blockDim.x);
    for (int64_t i = 0; thread == 0 && i < n; ++i) sum += terms[i];
    __syncthreads();
  }
  int64_t others = 0;
  for (int64_t w = thread; size > 0 && w < words; w += blockDim.x) others += __popc(seen[w]);
  if (words > 0) others = block_reduce(others, int64_t{0}, Sum{});
  if (thread != 0) return;
  write_query(s.out, q, size, s.group(q) > 0, size > 0 ? ranks[0] : 0, size > 0 ? ranks[size - 1] : 0, sum);
  s.out.nonfinite[q] = 0;
  if (s.cmc_rule == CmcRule::unique_pid && size > 0) s.out.cmc_rank[q] = 1 + others;
  if (s.cmc_rule == CmcRule::all_hits) write_all_hits(s.out.cmc + q * s.max_rank, s.max_rank, ranks, size);
}

}  // namespace
}  // namespace fastreid
