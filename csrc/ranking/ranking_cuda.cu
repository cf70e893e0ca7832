// SPDX-License-Identifier: Apache-2.0
// CUDA kernels of ranking.h: one block per query, relevant entries in shared memory, integer counts only
// until the end.
#include "common/launch.cuh"
#include "ranking/ranking.h"

namespace fastreid {
namespace {

constexpr int kThreads = 256;
// Relevant entries in shared memory at a time, one for each thread. A query with more members than this goes
// through the row once per chunk, and its ranks lie in global scratch.
constexpr int kChunk = kThreads;
// Counters in shared memory have 32 bits (64-bit ones are not native there); they are emptied this often.
constexpr int64_t kSegment = int64_t{1} << 30;
constexpr int64_t kLargeBytes = int64_t{64} << 20;
constexpr int64_t kLargeBlocks = 1024;
constexpr int64_t kSmallBlocks = int64_t{1} << 20;
// Blocks that mark identities have a bit for each in global memory: no more of them than run at a time.
constexpr int64_t kMarkingBlocks = 4096;

// Order-preserving integers, as in ranking_cpu.cpp: -0.0 is 0.0, every NaN the largest key.
template <class Bits_, class Signed, class Key_, Key_ infinity>
struct Layout {
  using Bits = Bits_;
  using Key = Key_;
  static constexpr Key kMagnitude = static_cast<Key>(static_cast<Bits>(~Bits{0}) >> 1);
  static constexpr Key kNan = static_cast<Key>((~uint64_t{0}) >> (65 - 8 * sizeof(Key)));

  static __device__ bool nonfinite(Bits bits) { return (static_cast<Signed>(bits) & kMagnitude) >= infinity; }

  static __device__ Key key(Bits bits) {
    const Key value = static_cast<Signed>(bits);
    const Key magnitude = value & kMagnitude;
    if (magnitude > infinity) return kNan;
    return magnitude == 0 ? 0 : value < 0 ? value ^ kMagnitude : value;
  }
};
using Float32 = Layout<uint32_t, int32_t, int32_t, 0x7f800000>;
using Float64 = Layout<uint64_t, int64_t, int64_t, 0x7ff0000000000000>;
using Bfloat16 = Layout<uint16_t, int16_t, int32_t, 0x7f80>;
using Float16 = Layout<uint16_t, int16_t, int32_t, 0x7c00>;

template <class Key>
__device__ bool in_front(Key key_a, int64_t index_a, Key key_b, int64_t index_b) {
  return key_a < key_b || (key_a == key_b && index_a < index_b);
}

// Number of the n sorted entries in front of (k, i).
template <class Key>
__device__ int position(const Key* key, const int64_t* index, int n, Key k, int64_t i) {
  int low = 0;
  while (n > 0) {
    const int half = n / 2;
    const bool right = in_front(key[low + half], index[low + half], k, i);
    low = right ? low + half + 1 : low;
    n = right ? n - half - 1 : half;
  }
  return low;
}

// 1 + the other pids with a kept entry in front of the first relevant one, (first_key, first_index). `seen`
// has a bit for each identity; nothing is left of it.
template <class T>
__device__ int64_t unique_rank(const RankingProblem& problem, const typename T::Bits* row,
                               const uint64_t* excluded, typename T::Key first_key, int64_t first_index,
                               unsigned* seen) {
  const int64_t* identity = problem.relevance.gallery_identity;
  const int64_t own = identity[first_index];
  for (int64_t w = threadIdx.x; w < ceil_div(problem.gallery, 32); w += kThreads) seen[w] = 0;
  __syncthreads();
  int64_t others = 0;
  for (int64_t j = threadIdx.x; j < problem.gallery; j += kThreads) {
    if (!in_front(T::key(row[j * problem.column_stride]), j, first_key, first_index)) continue;
    if (identity[j] == own || is_excluded(excluded, j)) continue;
    const unsigned bit = 1u << (identity[j] & 31);
    others += !(atomicOr(&seen[identity[j] >> 5], bit) & bit);
  }
  return 1 + block_reduce(others, int64_t{0}, Sum{});
}

// Queries with at most kChunk members where !large, the others where large: so neither kernel needs to know
// on the host how many members the largest identity has.
template <class T>
__global__ void ranking_kernel(RankingProblem problem, RankingRows result, bool large, int64_t* scratch,
                               unsigned* marks) {
  using Key = typename T::Key;
  using Bits = typename T::Bits;
  __shared__ Key unsorted_key[kChunk];
  __shared__ Key key[kChunk];
  __shared__ int64_t unsorted_index[kChunk];
  __shared__ int64_t index[kChunk];
  __shared__ int64_t total_ahead[kChunk];
  __shared__ int64_t shared_ranks[kChunk];
  __shared__ double terms[kThreads];
  __shared__ unsigned ahead[kChunk];    // row entries, by the relevant entry they lie directly in front of
  __shared__ unsigned dropped[kChunk];  // of these, the ones that a rule drops because of their pid
  __shared__ unsigned before[kChunk];   // of these, the relevant ones
  __shared__ Key first_key;             // the first relevant entry of all chunks
  __shared__ int64_t first_index;
  __shared__ int size;

  const int thread = threadIdx.x;
  const int64_t stride = problem.column_stride;
  const Relevance& rules = problem.relevance;
  int64_t* ranks = large ? scratch + blockIdx.x * problem.gallery : shared_ranks;

  for (int64_t q = blockIdx.x; q < problem.queries; q += gridDim.x) {
    const int64_t begin = rules.begin[q], end = rules.end[q];
    if ((end - begin > kChunk) != large) continue;
    const Bits* row = static_cast<const Bits*>(problem.distance) + q * problem.row_stride;
    const uint64_t* excluded = excluded_row(rules, q);
    int64_t relevant = 0;
    int64_t nonfinite = 0;

    for (int64_t chunk = begin; chunk == begin || chunk < end; chunk += kChunk) {
      if (thread == 0) size = 0;
      __syncthreads();
      if (chunk + thread < end) {
        const int64_t g = rules.members[chunk + thread];
        if (!drops_member(rules, q, g)) {
          const int slot = atomicAdd(&size, 1);  // any order: sorted next
          unsorted_key[slot] = T::key(row[g * stride]);
          unsorted_index[slot] = g;
        }
      }
      __syncthreads();
      const int n = size;
      ahead[thread] = dropped[thread] = before[thread] = 0;
      total_ahead[thread] = 0;
      if (thread < n) {
        int place = 0;
        for (int i = 0; i < n; ++i) {
          place += in_front(unsorted_key[i], unsorted_index[i], unsorted_key[thread], unsorted_index[thread]);
        }
        key[place] = unsorted_key[thread];
        index[place] = unsorted_index[thread];
      }
      __syncthreads();
      if (thread == 0 && n > 0 && (relevant == 0 || in_front(key[0], index[0], first_key, first_index))) {
        first_key = key[0];
        first_index = index[0];
      }

      for (int64_t segment = 0; segment < problem.gallery; segment += kSegment) {
        const int64_t stop = min(segment + kSegment, problem.gallery);
        for (int64_t j = segment + thread; j < stop; j += kThreads) {
          const Bits bits = row[j * stride];
          if (chunk == begin) nonfinite += T::nonfinite(bits);
          const Key k = T::key(bits);
          if (n > 0 && !in_front(key[n - 1], index[n - 1], k, j) && !is_excluded(excluded, j)) {
            atomicAdd(&ahead[position(key, index, n, k, j)], 1u);
          }
        }
        __syncthreads();
        total_ahead[thread] += ahead[thread];
        ahead[thread] = 0;
        __syncthreads();
      }
      for (int64_t m = begin + thread; n > 0 && m < end; m += kThreads) {
        const int64_t g = rules.members[m];
        if (is_excluded(excluded, g)) continue;
        const int place = position(key, index, n, T::key(row[g * stride]), g);
        if (place < n) atomicAdd(drops_same_pid(rules, q, g) ? &dropped[place] : &before[place], 1u);
      }
      __syncthreads();
      if (thread < n) {
        int64_t rank = 0, order = 0;
        for (int i = 0; i <= thread; ++i) {
          rank += total_ahead[i] - dropped[i];
          order += before[i];
        }
        ranks[order - 1] = rank;
      }
      relevant += n;
      __syncthreads();
    }

    nonfinite = block_reduce(nonfinite, int64_t{0}, Sum{});
    double sum = 0;
    for (int64_t first = 0; first < relevant; first += kThreads) {
      const int64_t n = first + thread;
      if (n < relevant) terms[thread] = precision_term(n + 1, ranks[n], problem.ap_rule);
      __syncthreads();
      if (thread == 0) {
        const int64_t count = min(relevant - first, static_cast<int64_t>(kThreads));
        for (int i = 0; i < count; ++i) sum += terms[i];
      }
      __syncthreads();
    }
    int64_t cmc_rank = relevant > 0 ? ranks[0] : 0;
    if (problem.cmc_rule == CmcRule::unique_pid && cmc_rank > 1) {
      unsigned* seen = marks + blockIdx.x * (2 * ceil_div(problem.gallery, 64));
      cmc_rank = unique_rank<T>(problem, row, excluded, first_key, first_index, seen);
    }
    if (thread == 0) {
      result.nonfinite[q] = nonfinite;
      write_query(result, q, relevant, begin < end, relevant > 0 ? ranks[0] : 0,
                  relevant > 0 ? ranks[relevant - 1] : 0, sum);
      result.cmc_rank[q] = cmc_rank;
      if (problem.cmc_rule == CmcRule::all_hits) {
        write_all_hits(result.cmc + q * problem.max_rank, problem.max_rank, ranks, relevant);
      }
    }
    __syncthreads();  // ranks are read before the next query writes them
  }
}

// Of n values, `stride` apart.
__device__ double ordered_sum(const double* values, int64_t n, int64_t stride, double* sums) {
  double sum = 0;
  for (int64_t q = threadIdx.x; q < n; q += kRankingLanes) sum += values[q * stride];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int half = kRankingLanes / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  const double total = sums[0];
  __syncthreads();
  return total;
}

__global__ void ranking_summary_kernel(int64_t queries, int64_t max_rank, InvalidRule invalid_rule,
                                       RankingRows rows, double* cmc, double* means) {
  __shared__ double sums[kRankingLanes];
  __shared__ unsigned long long tile[kRankingLanes];
  // The counts lie where the fractions will.
  unsigned long long* counts = reinterpret_cast<unsigned long long*>(cmc);
  for (int64_t k = threadIdx.x; k < max_rank; k += kRankingLanes) counts[k] = 0;
  __syncthreads();
  int64_t valid = 0;
  for (int64_t q = threadIdx.x; q < queries; q += kRankingLanes) {
    if (rows.status[q] != kValid) continue;
    ++valid;
    if (!rows.cmc && rows.cmc_rank[q] <= max_rank) atomicAdd(&counts[rows.cmc_rank[q] - 1], 1ull);
  }
  valid = block_reduce(valid, int64_t{0}, Sum{});
  const double divisor = ranking_divisor(invalid_rule, queries, valid);

  unsigned long long matched = 0;
  for (int64_t first = 0; first < max_rank && !rows.cmc; first += kRankingLanes) {
    const int64_t k = first + threadIdx.x;
    tile[threadIdx.x] = k < max_rank ? counts[k] : 0;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int i = 0; i < kRankingLanes; ++i) tile[i] = matched += tile[i];
    }
    __syncthreads();
    if (k < max_rank) cmc[k] = cmc_entry(static_cast<double>(tile[threadIdx.x]), divisor);
  }
  double shares = 0;
  for (int64_t k = 0; k < max_rank && rows.cmc; ++k) {
    shares += ordered_sum(rows.cmc + k, queries, max_rank, sums);
    if (threadIdx.x == 0) cmc[k] = cmc_entry(shares, divisor);
  }
  const double ap = ordered_sum(rows.ap, queries, 1, sums);
  const double inp = ordered_sum(rows.inp, queries, 1, sums);
  if (threadIdx.x == 0) {
    means[0] = ap / divisor;
    means[1] = inp / divisor;
  }
}

int64_t large_blocks(int64_t queries, int64_t gallery) {
  if (gallery <= kChunk) return 0;
  int64_t blocks = kLargeBytes / (gallery * 8);
  blocks = blocks < 1 ? 1 : blocks > kLargeBlocks ? kLargeBlocks : blocks;
  return blocks < queries ? blocks : queries;
}

bool marks_identities(const RankingProblem& problem) { return problem.cmc_rule == CmcRule::unique_pid; }

int64_t small_blocks(const RankingProblem& problem) {
  int64_t limit = kSmallBlocks;
  if (marks_identities(problem))
    limit = smaller(kMarkingBlocks, larger(1, kLargeBytes / (problem.gallery / 8 + 1)));
  return smaller(problem.queries, limit);
}

// The bits of all blocks, in 64-bit words; the scratch begins with the ranks of the large kernel.
int64_t mark_words(const RankingProblem& problem) {
  if (!marks_identities(problem)) return 0;
  const int64_t blocks = larger(small_blocks(problem), large_blocks(problem.queries, problem.gallery));
  return blocks * ceil_div(problem.gallery, 64);
}

template <class T>
cudaError_t launch_both(const RankingProblem& problem, int64_t* scratch, const RankingRows& result,
                        cudaStream_t stream) {
  const int64_t large = large_blocks(problem.queries, problem.gallery);
  unsigned* marks = reinterpret_cast<unsigned*>(scratch + large * problem.gallery);
  const unsigned blocks = static_cast<unsigned>(small_blocks(problem));
  const cudaError_t error = launch(ranking_kernel<T>, dim3(blocks), dim3(kThreads), 0, stream, problem,
                                   result, false, nullptr, marks);
  if (error != cudaSuccess || large == 0) return error;
  return launch(ranking_kernel<T>, dim3(static_cast<unsigned>(large)), dim3(kThreads), 0, stream, problem,
                result, true, scratch, marks);
}

}  // namespace

namespace cuda {

int64_t ranking_scratch(const RankingProblem& problem) {
  return (large_blocks(problem.queries, problem.gallery) * problem.gallery + mark_words(problem)) * 8;
}

int launch_ranking(const RankingProblem& problem, void* scratch, const RankingRows& result, void* stream) {
  if (problem.cmc_rule == CmcRule::single_gallery_shot) return cudaErrorNotSupported;  // CPU only
  if (problem.queries == 0) return cudaSuccess;
  int64_t* ranks = static_cast<int64_t*>(scratch);
  cudaStream_t on = static_cast<cudaStream_t>(stream);
  switch (problem.dtype) {
    case Dtype::float32:
      return launch_both<Float32>(problem, ranks, result, on);
    case Dtype::float64:
      return launch_both<Float64>(problem, ranks, result, on);
    case Dtype::bfloat16:
      return launch_both<Bfloat16>(problem, ranks, result, on);
    case Dtype::float16:
      return launch_both<Float16>(problem, ranks, result, on);
  }
  return cudaErrorInvalidValue;
}

int launch_ranking_summary(int64_t queries, int64_t max_rank, InvalidRule invalid_rule,
                           const RankingRows& rows, double* cmc, double* means, void* stream) {
  return launch(ranking_summary_kernel, dim3(1), dim3(kRankingLanes), 0, static_cast<cudaStream_t>(stream),
                queries, max_rank, invalid_rule, rows, cmc, means);
}

}  // namespace cuda
}  // namespace fastreid
