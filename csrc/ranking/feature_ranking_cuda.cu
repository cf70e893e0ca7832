// SPDX-License-Identifier: Apache-2.0
// CUDA kernels of feature_ranking.h: products of a slab of queries and a chunk of the gallery at a time
// (common/screen.cuh). A block for each query has measured the matches exactly and sorted them before
// (feature_ranking_cuda_query.cuh); then blocks put every score in front of the match it belongs to, and measure exactly
// those that lie within the bound of a match. A query with more matches than fit is measured exactly against the whole
// gallery instead.
#include "common/launch.cuh"
#include "common/screen.cuh"
#include "common/topk.cuh"
#include "ranking/feature_ranking.h"
#include "ranking/feature_ranking_cuda_query.cuh"

namespace fastreid {
namespace {

constexpr int64_t kMatches = kEmulated ? 144 : 1024;  // images of a query's identity that a slab has room for
constexpr int64_t kSlabBytes = kEmulated ? 1 : int64_t{32} << 20;
constexpr int64_t kSlabRows = 4096;
constexpr int64_t kProducts = int64_t{1} << 24;
constexpr int64_t kChunkColumns = kEmulated ? 3 * kTile : kProducts;
constexpr int64_t kPartColumns = kEmulated ? 2 * kTile : 16384;  // of a chunk, for one block
constexpr int64_t kLargeBytes = int64_t{64} << 20;
constexpr int64_t kLargeBlocks = 1024;
constexpr int kLargeThreads = kEmulated ? 64 : 512;
constexpr int kPending = kSelectStep + kSelectStep / 2;  // undecided entries measured at a time

// And what those that work on a slab need, or on a chunk of the gallery too.
template <class S>
struct Ranking : Queries<S> {
  Screened packed_x;  // of the slab
  Screened packed_y;
  Frame frame;
  Kept slab, large;
  const float* product;
  int64_t product_columns;
  int64_t first_row;
  int64_t first_column, columns;  // of the chunk
  int64_t packed_depth;
};

// ---- queries of a slab, a block for each row ----

template <class S>
__global__ __launch_bounds__(kSelectThreads) void matches_kernel(Ranking<S> s) {
  __shared__ double value[kMatches];
  __shared__ int32_t index[kMatches], count[kMatches];
  const int64_t r = blockIdx.x, q = s.first_row + r;
  const Kept& slab = s.slab;
  const int64_t size =
      s.group(q) <= slab.capacity ? find_matches<kSelectThreads>(s, q, value, index, count) : 0;
  if (threadIdx.x == 0) slab.size[r] = static_cast<int32_t>(size);
  clear_seen(slab.seen + r * slab.words, slab.words);
  const bool angular = s.x.inverse != nullptr;
  // A row of zeros has no scores (common/screen.cuh): it is measured against everything.
  const float bound =
      angular && s.x.inverse[q] == 0
          ? INFINITY
          : screen_bound(s.frame, s.packed_x.norm[r], s.packed_x.error[r], angular, s.packed_depth);
  const double factor = screen_factor(s.frame, angular), half = s.packed_x.half[r];
  for (int64_t m = threadIdx.x; m < size; m += kSelectThreads) {
    const int64_t at = r * slab.capacity + m;
    const double score = half - value[m] * (factor * factor / 2);
    slab.value[at] = value[m];
    slab.index[at] = index[m];
    slab.count[at] = count[m];
    slab.high[at] = bound < INFINITY ? static_cast<float>(score + bound) : INFINITY;
    slab.low[at] = bound < INFINITY ? static_cast<float>(score - bound) : -INFINITY;
  }
}

// Counts the columns of part blockIdx.y of the chunk.
template <class S>
__global__ __launch_bounds__(kSelectThreads, 6) void count_kernel(Ranking<S> s) {
  __shared__ float high[kMatches], low[kMatches];
  __shared__ int32_t count[kMatches];
  __shared__ int32_t pending[kPending];
  __shared__ int waiting;
  const int64_t r = blockIdx.x, q = s.first_row + r, base = r * s.slab.capacity;
  const int size = s.slab.size[r];
  if (size == 0) return;
  for (int m = threadIdx.x; m < size; m += kSelectThreads) {
    high[m] = s.slab.high[base + m];
    low[m] = s.slab.low[base + m];
    count[m] = 0;
  }
  if (threadIdx.x == 0) waiting = 0;
  __syncthreads();
  const Sorted sorted{s.slab.value + base, s.slab.index + base, count, size};
  const float lowest = low[size - 1];
  const uint64_t* const excluded = excluded_row(s.rules, q);
  const bool by_identity = s.slab.words > 0;
  unsigned* const seen = s.slab.seen + r * s.slab.words;
  const int64_t own = by_identity ? s.rules.gallery_identity[sorted.index[0]] : -1;
  const float* const product = s.product + r * s.product_columns;

  const auto decide = [&](int n) {
    measure_each(
        s, q, n, [&](int64_t e) { return pending[e]; },
        [&](int64_t, int64_t g, double d2) {
          const int64_t at = sorted.position(d2, g);
          if (at < size) atomicAdd(&count[at], 1);
          if (at == 0 && by_identity) see(s.rules, own, g, seen);
        });
  };

  const int64_t begin = blockIdx.y * kPartColumns, end = smaller(s.columns, begin + kPartColumns);
  for (int64_t first = begin; first < end; first += kSelectStep) {
    float score[kSelectItems];
#pragma unroll
    for (int i = 0; i < kSelectItems; ++i) {
      const int64_t c = first + i * kSelectThreads + threadIdx.x;
      score[i] = c < end ? product[c] - s.packed_y.half[s.first_column + c] : 0;
    }
#pragma unroll
    for (int i = 0; i < kSelectItems; ++i) {
      const int64_t c = first + i * kSelectThreads + threadIdx.x, g = s.first_column + c;
      // Comparisons so that NaN, where the bound is infinite, is undecided.
      if (c >= end || score[i] < lowest || is_excluded(excluded, g)) continue;
      int at = 0;  // matches that the entry is surely behind
      for (int n = size - 1; n > 0;) {
        const int half = n / 2;
        const bool behind = score[i] < low[at + half];
        at = behind ? at + half + 1 : at;
        n = behind ? n - half - 1 : half;
      }
      if (!(score[i] > high[at])) {
        pending[atomicAdd(&waiting, 1)] = static_cast<int32_t>(g);
        continue;
      }
      atomicAdd(&count[at], 1);
      if (at == 0 && by_identity) see(s.rules, own, g, seen);
    }
    __syncthreads();
    const int n = waiting;
    __syncthreads();
    if (n <= kPending - kSelectStep && first + kSelectStep < end) continue;
    if (threadIdx.x == 0) waiting = 0;
    decide(n);
  }
  for (int m = threadIdx.x; m < size; m += kSelectThreads)
    if (count[m] != 0) atomicAdd(&s.slab.count[base + m], count[m]);
}

template <class S>
__global__ __launch_bounds__(kSelectThreads) void finish_kernel(Ranking<S> s) {
  __shared__ int64_t ranks[kMatches];
  const int64_t r = blockIdx.x, q = s.first_row + r;
  const Kept& slab = s.slab;
  if (s.group(q) > slab.capacity) return;
  write_results(s, q, slab.count + r * slab.capacity, slab.size[r], slab.seen + r * slab.words, slab.words,
                ranks);
}

// ---- queries that have no room in a slab, one after the other ----

template <class S>
__global__ __launch_bounds__(kLargeThreads, 1) void large_kernel(Ranking<S> s) {
  const Kept& large = s.large;
  const int64_t base = blockIdx.x * large.capacity;
  double* const value = large.value + base;
  int32_t *const index = large.index + base, *const count = large.count + base;
  unsigned* const seen = large.seen + blockIdx.x * large.words;
  for (int64_t q = blockIdx.x; q < s.queries; q += gridDim.x) {
    if (s.group(q) <= s.slab.capacity) continue;
    const uint64_t* const excluded = excluded_row(s.rules, q);
    clear_seen(seen, large.words);
    const int64_t size = find_matches<kLargeThreads>(s, q, value, index, count);
    const Sorted sorted{value, index, count, size};
    const int64_t own = large.words > 0 && size > 0 ? s.rules.gallery_identity[index[0]] : -1;
    measure_each(
        s, q, size > 0 ? s.gallery : 0, [](int64_t e) { return e; },
        [&](int64_t, int64_t g, double d2) {
          if (is_excluded(excluded, g)) return;
          const int64_t at = sorted.position(d2, g);
          if (at < size) atomicAdd(&count[at], 1);
          if (at == 0 && large.words > 0) see(s.rules, own, g, seen);
        });
    write_results(s, q, count, size, seen, large.words, large.ranks + base);
    __syncthreads();
  }
}

// ---- the host's part ----

// Parts of equal size, no larger than `most`, in whole tiles.
int64_t even(int64_t total, int64_t most) { return round_up(ceil_div(total, ceil_div(total, most)), kTile); }

// What lives where, from sizes alone.
struct Plan {
  int64_t packed_depth, slab_rows, chunk_columns, large_blocks = 0;
  Frame frame;
  Screened x, y;
  double *x_square, *x_inverse = nullptr, *y_square, *y_inverse = nullptr;
  Kept slab{}, large{};
  float* product;
  int64_t bytes;

  Plan(const FeatureRankingProblem& p, void* scratch) {
    packed_depth = Screened::depth_of(p.depth);
    slab.words = large.words = p.cmc_rule == CmcRule::unique_pid ? ceil_div(p.gallery, 32) : 0;
    slab.capacity = smaller(p.gallery, kMatches);
    const int64_t row_bytes = Kept::row_bytes(slab.capacity, slab.words);
    slab_rows = even(p.queries, larger(smaller(kSlabBytes / row_bytes, kSlabRows) / kTile * kTile, kTile));
    chunk_columns =
        even(p.gallery, smaller(larger(kProducts / slab_rows / kTile * kTile, kTile), kChunkColumns));
    const int64_t packed_bytes = Screened::bytes(p.gallery, packed_depth);
    if (p.gallery > slab.capacity) {
      large.capacity = p.gallery;
      // In proportion where the gallery is large.
      const int64_t room = larger(kLargeBytes, packed_bytes / 16);
      large_blocks =
          smaller(smaller(room / Kept::row_bytes(large.capacity, large.words), kLargeBlocks), p.queries);
      large_blocks = larger(large_blocks, 1);
    }

    // The sizes are asked for without memory: addresses as numbers.
    const int64_t begin = round_up(reinterpret_cast<int64_t>(scratch), kAlignment);
    int64_t next = begin;
    const auto take = [&](int64_t n) {
      char* const at = reinterpret_cast<char*>(next);
      next += round_up(n, kAlignment);
      return at;
    };
    const auto numbers = [&](int64_t n) { return reinterpret_cast<double*>(take(n * 8)); };
    frame.lay_out(take(Frame::bytes(p.depth)), p.depth);
    x_square = numbers(p.queries), y_square = numbers(p.gallery);
    if (p.angular) x_inverse = numbers(p.queries), y_inverse = numbers(p.gallery);
    y.lay_out(take(packed_bytes), p.gallery, packed_depth);
    x.lay_out(take(Screened::bytes(slab_rows, packed_depth)), slab_rows, packed_depth);
    slab.lay_out(take(slab_rows * row_bytes), slab_rows);
    if (large_blocks > 0)
      large.lay_out(take(large_blocks * Kept::row_bytes(large.capacity, large.words)), large_blocks);
    product = reinterpret_cast<float*>(take(slab_rows * chunk_columns * 4));
    bytes = next - begin + kAlignment;
  }

  static constexpr int64_t kAlignment = 128;
};

dim3 grid(int64_t x, int64_t y = 1) { return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y)); }

// One call's launches. Nothing is launched after the first error.
template <class S>
class Run {
 public:
  Run(const FeatureRankingProblem& problem, const Plan& memory, const RankingRows& rows, void* on)
      : p(problem), plan(memory), stream(static_cast<cudaStream_t>(on)) {
    s.x = {static_cast<const S*>(p.x.data), p.x.row_stride, p.x.column_stride, plan.x_inverse};
    s.y = {static_cast<const S*>(p.y.data), p.y.row_stride, p.y.column_stride, plan.y_inverse};
    s.packed_x = plan.x, s.packed_y = plan.y;
    s.frame = plan.frame;
    s.slab = plan.slab, s.large = plan.large;
    s.product = plan.product, s.product_columns = plan.chunk_columns;
    s.queries = p.queries, s.gallery = p.gallery;
    s.depth = p.depth, s.packed_depth = plan.packed_depth;
    s.max_rank = p.max_rank;
    s.rules = p.relevance, s.ap_rule = p.ap_rule, s.cmc_rule = p.cmc_rule;
    s.out = rows;
  }

  cudaError_t all() {
    then(frame_kernel, dim3(1), dim3(1), 0, plan.frame);
    measure(s.y, p.gallery, plan.y_square, plan.y_inverse);
    measure(s.x, p.queries, plan.x_square, plan.x_inverse);
    then(centre_kernel<S>, grid(ceil_div(p.depth, kCentreColumns)), dim3(kCentreColumns, kCentreGroups), 0,
         s.y, p.gallery, p.depth, plan.frame.centre);
    pack(s.y, 0, p.gallery, plan.y_square, true, plan.y);
    for (int64_t row = 0; row < p.queries; row += plan.slab_rows)
      slab(row, smaller(plan.slab_rows, p.queries - row));
    if (plan.large_blocks > 0) then(large_kernel<S>, grid(plan.large_blocks), dim3(kLargeThreads), 0, s);
    return error;
  }

 private:
  template <class Kernel, class... Arguments>
  void then(Kernel kernel, dim3 blocks, dim3 threads, size_t shared, Arguments... arguments) {
    if (error == cudaSuccess) error = launch(kernel, blocks, threads, shared, stream, arguments...);
  }
  void measure(const ExactRows<S>& rows, int64_t count, double* square, double* inverse) {
    then(measure_kernel<S>, grid(ceil_div(count, kMeasureRows)), dim3(kMeasureThreads), 0, rows, count,
         p.depth, square, inverse, plan.frame.longest);
  }
  void pack(const ExactRows<S>& rows, int64_t first, int64_t count, const double* square, bool largest,
            const Screened& to) {
    then(pack_kernel<S>, grid(round_up(count, kTile) / kPackRows), dim3(kPackThreads), 0, rows, first, count,
         p.depth, plan.packed_depth, square, plan.frame, largest, to);
  }

  void slab(int64_t row, int64_t rows) {
    s.first_row = row;
    pack(s.x, row, rows, plan.x_square, false, plan.x);
    then(matches_kernel<S>, grid(rows), dim3(kSelectThreads), 0, s);
    for (int64_t column = 0; column < p.gallery; column += plan.chunk_columns) {
      s.first_column = column;
      s.columns = smaller(plan.chunk_columns, p.gallery - column);
      then(tile_kernel, grid(ceil_div(s.columns, kTile), ceil_div(rows, kTile)), dim3(kTileThreads),
           size_t{kTileBytes}, plan.x.packed, plan.y.packed + column * plan.packed_depth, plan.packed_depth,
           plan.product, plan.chunk_columns);
      then(count_kernel<S>, grid(rows, ceil_div(s.columns, kPartColumns)), dim3(kSelectThreads), 0, s);
    }
    then(finish_kernel<S>, grid(rows), dim3(kSelectThreads), 0, s);
  }

  const FeatureRankingProblem& p;
  const Plan& plan;
  cudaStream_t stream;
  Ranking<S> s{};
  cudaError_t error = cudaSuccess;
};

}  // namespace

namespace cuda {

int64_t feature_ranking_scratch(const FeatureRankingProblem& problem) {
  return problem.queries == 0 ? 0 : Plan(problem, nullptr).bytes;
}

int launch_feature_ranking(const FeatureRankingProblem& problem, void* scratch, const RankingRows& rows,
                           void* stream) {
  if (problem.cmc_rule == CmcRule::single_gallery_shot) return cudaErrorNotSupported;
  if (problem.queries == 0) return cudaSuccess;
  const Plan plan(problem, scratch);
  switch (problem.dtype) {
    case Dtype::float32:
      return Run<float>(problem, plan, rows, stream).all();
    case Dtype::float64:
      return Run<double>(problem, plan, rows, stream).all();
    case Dtype::bfloat16:
      return Run<__nv_bfloat16>(problem, plan, rows, stream).all();
    case Dtype::float16:
      return Run<__half>(problem, plan, rows, stream).all();
  }
  return cudaErrorInvalidValue;
}

}  // namespace cuda
}  // namespace fastreid
