// SPDX-License-Identifier: Apache-2.0
// CPU kernels of ranking.h, compiled once per instruction set.
#include "ranking/ranking.h"

namespace fastreid::FASTREID_ISA {
namespace {

// Entries of the row that are turned into keys at a time: 8 or 16 KiB, which stay in the first-level cache
// while every relevant entry is counted against them.
constexpr int64_t kBlock = 2048;
// Relevant entries counted per pass over a block: eight counters and eight thresholds fit the registers of
// every set.
constexpr int kGroup = 8;
// Above this many relevant entries a binary search per gallery entry beats one comparison per relevant entry.
constexpr int64_t kSearchFrom = 256;

// Floating-point numbers as integers in the same order: flip the magnitude bits of negative ones, make -0.0
// into 0.0 and any NaN the largest key. No key is the smallest integer, so key - 1 never wraps.
template <class Bits_, class Signed_, class Key_, Key_ infinity>
struct Layout {
  typedef Bits_ Bits __attribute__((may_alias));
  using Signed = Signed_;
  using Key = Key_;
  static constexpr Key kMagnitude = static_cast<Key>(static_cast<Bits_>(~Bits_{0}) >> 1);
  static constexpr Key kNan = static_cast<Key>((~uint64_t{0}) >> (65 - 8 * sizeof(Key)));

  static Key nonfinite(Bits bits) { return (static_cast<Signed>(bits) & kMagnitude) >= infinity; }

  static Key key(Bits bits) {
    const Key value = static_cast<Signed>(bits);
    const Key magnitude = value & kMagnitude;
    Key ordered = value < 0 ? value ^ kMagnitude : value;
    ordered = magnitude == 0 ? 0 : ordered;
    return magnitude > infinity ? kNan : ordered;
  }
};
using Float32 = Layout<uint32_t, int32_t, int32_t, 0x7f800000>;
using Float64 = Layout<uint64_t, int64_t, int64_t, 0x7ff0000000000000>;
using Bfloat16 = Layout<uint16_t, int16_t, int32_t, 0x7f80>;
using Float16 = Layout<uint16_t, int16_t, int32_t, 0x7c00>;

template <class T>
int64_t read_keys(const typename T::Bits* row, int64_t stride, int64_t n, typename T::Key* keys) {
  typename T::Key nonfinite = 0;
  if (stride == 1) {
    for (int64_t j = 0; j < n; ++j) nonfinite += T::nonfinite(row[j]), keys[j] = T::key(row[j]);
  } else {
    for (int64_t j = 0; j < n; ++j)
      nonfinite += T::nonfinite(row[j * stride]), keys[j] = T::key(row[j * stride]);
  }
  return nonfinite;
}

// The relevant entries of one query in ascending (key, index) order, and what is counted for each of them.
template <class Key>
struct Relevant {
  int64_t* index;
  int64_t* ahead;  // entries not behind this one, itself included
  int64_t* dropped;
  Key* key;
  int64_t size;

  bool less(int64_t a, int64_t b) const {
    return key[a] < key[b] || (key[a] == key[b] && index[a] < index[b]);
  }

  void swap(int64_t a, int64_t b) {
    const Key k = key[a];
    const int64_t i = index[a];
    key[a] = key[b], index[a] = index[b];
    key[b] = k, index[b] = i;
  }

  void sift_down(int64_t root, int64_t count) {
    for (int64_t child = 2 * root + 1; child < count; root = child, child = 2 * root + 1) {
      if (child + 1 < count && less(child, child + 1)) ++child;
      if (!less(root, child)) return;
      swap(root, child);
    }
  }

  // Heap sort: in place, and never worse than n log n, whatever the input.
  void sort() {
    for (int64_t root = size / 2 - 1; root >= 0; --root) sift_down(root, size);
    for (int64_t last = size - 1; last > 0; --last) {
      swap(0, last);
      sift_down(0, last);
    }
  }

  // Number of relevant entries in front of (k, i).
  int64_t position(Key k, int64_t i) const {
    int64_t low = 0;
    for (int64_t count = size; count > 0;) {
      const int64_t half = count / 2;
      const int64_t middle = low + half;
      const bool in_front = key[middle] < k || (key[middle] == k && index[middle] < i);
      low = in_front ? middle + 1 : low;
      count = in_front ? count - half - 1 : half;
    }
    return low;
  }
};

template <class Key>
void count_at_most(const Key* keys, int64_t n, const Key* thresholds, int64_t* counts) {
  Key c0 = 0, c1 = 0, c2 = 0, c3 = 0, c4 = 0, c5 = 0, c6 = 0, c7 = 0;
  const Key t0 = thresholds[0], t1 = thresholds[1], t2 = thresholds[2], t3 = thresholds[3];
  const Key t4 = thresholds[4], t5 = thresholds[5], t6 = thresholds[6], t7 = thresholds[7];
  for (int64_t j = 0; j < n; ++j) {
    const Key k = keys[j];
    c0 += k <= t0, c1 += k <= t1, c2 += k <= t2, c3 += k <= t3;
    c4 += k <= t4, c5 += k <= t5, c6 += k <= t6, c7 += k <= t7;
  }
  counts[0] = c0, counts[1] = c1, counts[2] = c2, counts[3] = c3;
  counts[4] = c4, counts[5] = c5, counts[6] = c6, counts[7] = c7;
}

// Adds to ahead[] what the block's entries first .. first + n - 1 contribute: equal keys count up to the
// entry itself.
template <class Key>
void count_by_comparing(const Key* keys, int64_t first, int64_t n, const Relevant<Key>& relevant) {
  for (int64_t begin = 0; begin < relevant.size; begin += kGroup) {
    const int64_t group = relevant.size - begin < kGroup ? relevant.size - begin : kGroup;
    Key thresholds[kGroup];
    int64_t counts[kGroup];
    for (int64_t g = 0; g < kGroup; ++g) {
      const int64_t r = begin + (g < group ? g : 0);
      thresholds[g] = relevant.key[r] - (relevant.index[r] < first + n - 1);
    }
    count_at_most(keys, n, thresholds, counts);
    for (int64_t g = 0; g < group; ++g) {
      const int64_t r = begin + g;
      const int64_t last = relevant.index[r] - first;
      if (last >= 0 && last < n - 1) {
        const Key own = relevant.key[r];
        Key equal = 0;
        for (int64_t j = 0; j <= last; ++j) equal += keys[j] == own;
        counts[g] += equal;
      }
      relevant.ahead[r] += counts[g];
    }
  }
}

// The same as a histogram over the gaps between relevant entries; accumulate() makes it what ahead[] means.
template <class Key>
void count_by_searching(const Key* keys, int64_t first, int64_t n, const Relevant<Key>& relevant) {
  for (int64_t j = 0; j < n; ++j) {
    const int64_t position = relevant.position(keys[j], first + j);
    if (position < relevant.size) ++relevant.ahead[position];
  }
}

void accumulate(int64_t* counts, int64_t n) {
  for (int64_t i = 1; i < n; ++i) counts[i] += counts[i - 1];
}

// The float64 part, n ascending.
double average_precision(const int64_t* ranks, int64_t n_relevant, ApRule rule) {
  double sum = 0;
  for (int64_t n = 1; n <= n_relevant; ++n) {
    const int64_t rank = ranks[n - 1];
    const double precision = static_cast<double>(n) / static_cast<double>(rank);
    if (rule == ApRule::step) {
      sum += precision;
    } else {
      const double before = rank > 1 ? static_cast<double>(n - 1) / static_cast<double>(rank - 1) : 1.0;
      sum += (before + precision) * 0.5;
    }
  }
  return sum / static_cast<double>(n_relevant);
}

template <class T>
void rank_query(const RankingProblem& problem, int64_t q, Relevant<typename T::Key>& relevant,
                const RankingRows& result) {
  using Key = typename T::Key;
  using Bits = typename T::Bits;
  const Bits* row = static_cast<const Bits*>(problem.distance) + q * problem.row_stride;
  const int64_t stride = problem.column_stride;
  const int64_t begin = problem.begin[q], end = problem.end[q];
  const bool drops = problem.camera_rule == CameraRule::same_pid;

  relevant.size = 0;
  for (int64_t m = begin; m < end; ++m) {
    const int64_t g = problem.members[m];
    if (drops && problem.gallery_camids[g] == problem.query_camids[q]) continue;
    relevant.key[relevant.size] = T::key(row[g * stride]);
    relevant.index[relevant.size] = g;
    relevant.ahead[relevant.size] = 0;
    relevant.dropped[relevant.size] = 0;
    ++relevant.size;
  }
  relevant.sort();

  const bool search = relevant.size >= kSearchFrom;
  int64_t nonfinite = 0;
  Key keys[kBlock];
  for (int64_t first = 0; first < problem.gallery; first += kBlock) {
    const int64_t n = problem.gallery - first < kBlock ? problem.gallery - first : kBlock;
    nonfinite += read_keys<T>(row + first * stride, stride, n, keys);
    if (search) {
      count_by_searching(keys, first, n, relevant);
    } else {
      count_by_comparing(keys, first, n, relevant);
    }
  }
  if (search) accumulate(relevant.ahead, relevant.size);

  if (relevant.size > 0 && relevant.size < end - begin) {
    for (int64_t m = begin; m < end; ++m) {
      const int64_t g = problem.members[m];
      if (problem.gallery_camids[g] != problem.query_camids[q]) continue;
      const int64_t position = relevant.position(T::key(row[g * stride]), g);
      if (position < relevant.size) ++relevant.dropped[position];
    }
    accumulate(relevant.dropped, relevant.size);
    for (int64_t r = 0; r < relevant.size; ++r) relevant.ahead[r] -= relevant.dropped[r];
  }

  const int64_t size = relevant.size;
  const int64_t* ranks = relevant.ahead;
  result.nonfinite[q] = nonfinite;
  result.num_relevant[q] = size;
  result.status[q] = size > 0 ? kValid : begin < end ? kSameCameraOnly : kAbsentPid;
  result.first_rank[q] = size > 0 ? ranks[0] : 0;
  result.inp[q] = size > 0 ? static_cast<double>(size) / static_cast<double>(ranks[size - 1]) : 0.0;
  result.ap[q] = size > 0 ? average_precision(ranks, size, problem.ap_rule) : 0.0;
}

template <class T>
void rank_queries(const RankingProblem& problem, int64_t first, int64_t last, void* scratch,
                  const RankingRows& result) {
  int64_t largest = 0;
  for (int64_t q = first; q < last; ++q) {
    const int64_t size = problem.end[q] - problem.begin[q];
    largest = size > largest ? size : largest;
  }
  Relevant<typename T::Key> relevant;
  relevant.index = static_cast<int64_t*>(scratch);
  relevant.ahead = relevant.index + largest;
  relevant.dropped = relevant.ahead + largest;
  relevant.key = reinterpret_cast<typename T::Key*>(relevant.dropped + largest);
  for (int64_t q = first; q < last; ++q) rank_query<T>(problem, q, relevant, result);
}

int64_t scratch_bytes(int64_t largest_group) { return largest_group * 32; }

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

double mean(const double* values, int64_t queries, int64_t valid) {
  double sums[kRankingLanes] = {};
  for (int64_t q = 0; q < queries; ++q) sums[q % kRankingLanes] += values[q];
  for (int half = kRankingLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return valid > 0 ? sums[0] / static_cast<double>(valid) : 0.0;
}

void summary(int64_t queries, int64_t max_rank, const RankingRows* rows, double* cmc, double* means) {
  int64_t valid = 0;
  for (int64_t k = 0; k < max_rank; ++k) cmc[k] = 0;
  for (int64_t q = 0; q < queries; ++q) {
    if (rows->status[q] != kValid) continue;
    ++valid;
    if (rows->first_rank[q] <= max_rank) cmc[rows->first_rank[q] - 1] += 1;
  }
  double matched = 0;
  for (int64_t k = 0; k < max_rank; ++k) {
    matched += cmc[k];
    cmc[k] = valid > 0 ? matched / static_cast<double>(valid) : 0.0;
  }
  means[0] = mean(rows->ap, queries, valid);
  means[1] = mean(rows->inp, queries, valid);
}

}  // namespace

extern const RankingKernels ranking_kernels = {scratch_bytes, rows, summary};

}  // namespace fastreid::FASTREID_ISA
