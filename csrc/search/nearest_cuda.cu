// SPDX-License-Identifier: Apache-2.0
// CUDA kernels of nearest.h: products of a slab of x and a chunk of y at a time (common/screen.cuh), from which a block
// for each row picks what may still be among the k nearest (common/topk.cuh); at the end of a slab that is measured
// exactly and sorted.
#include "search/nearest.h"

#include "common/screen.cuh"
#include "common/topk.cuh"

namespace fastreid {
namespace {

// A slab's buffers and its products have about this much room each. Less on the emulated device, so that small cases
// have several slabs and chunks.
#ifdef FASTREID_EMULATION
constexpr int64_t kSlabBytes = 1;
constexpr int64_t kProducts = 2 * kTile * kTile;
#else
constexpr int64_t kSlabBytes = int64_t{64} << 20;
constexpr int64_t kProducts = int64_t{1} << 24;
#endif
constexpr int64_t kSlabRows = 4096;
constexpr int64_t kFarCapacity = 64 + kSelectStep;
constexpr int kSharedEntries = 1024;  // as many are sorted in shared memory, more where they lie
constexpr int kSelectGroups = kSelectThreads / kExactLanes;

// Everything a block needs to know about a slab, and, where it works on one, about a chunk.
template <class S>
struct Search {
  ExactRows<S> x, y;
  Screened packed_x;  // of the slab
  Screened packed_y;
  Frame frame;
  Candidates near, far;
  const float* product;
  int64_t product_columns;
  int64_t first_row;
  int64_t first_column, columns;  // of the chunk
  int64_t depth, packed_depth, y_rows;
  bool exclude_self;
  double* squared;
  int64_t* index;
  double* farthest;
};

// The exact values of all entries in place of their scores. away: negated, so that the largest come first.
template <class S>
__device__ __forceinline__ void measure_entries(const Search<S>& s, int64_t row, double* value, const int32_t* index,
                                int count, bool away) {
  const int group = threadIdx.x / kExactLanes;
  for (int first = 0; first < count; first += kSelectGroups) {
    const int e = first + group;
    const double d2 = exact_distance(s.x, row, s.y, index[e < count ? e : 0], s.depth);
    if (e < count && threadIdx.x % kExactLanes == 0) value[e] = away ? -d2 : d2;
  }
  __syncthreads();
}

// Makes room in a buffer. Where too many entries lie within the bound of the k-th, measures them exactly and keeps
// the k best.
template <class S>
__device__ __forceinline__ void make_room(const Search<S>& s, int64_t row, float bound, bool away, Buffer& buffer) {
  compact(buffer, bound);
  if (buffer.count <= buffer.capacity - kSelectStep) return;
  measure_entries(s, row, buffer.value, buffer.index, buffer.count, away);
  sort_ascending(buffer.value, buffer.index, buffer.count);
  const int kept = static_cast<int>(smaller(buffer.count, buffer.k));
  const double factor = screen_factor(s.frame, s.x.inverse != nullptr);
  const double half = s.packed_x.half[row - s.first_row], scale = factor * factor / 2;
  const double worst = buffer.value[kept - 1];
  __syncthreads();
  for (int e = threadIdx.x; e < kept; e += kSelectThreads) {
    const double d2 = buffer.value[e] * scale;
    buffer.value[e] = static_cast<double>(static_cast<float>(away ? -(half + d2) : half - d2));
  }
  buffer.count = kept;
  const float limit = static_cast<float>(away ? -(half + worst * scale) : half - worst * scale) - bound;
  if (kept == buffer.k && limit > buffer.threshold) buffer.threshold = limit;
  __syncthreads();
}

template <class S>
__device__ __forceinline__ float bound_of(const Search<S>& s, int64_t r) {
  return screen_bound(s.frame, s.packed_x.norm[r], s.packed_x.error[r], s.x.inverse != nullptr,
                      s.packed_depth);
}

// Offers the chunk's columns to row blockIdx.x of the slab.
template <class S>
__global__ void select_kernel(Search<S> s) {
  const int64_t r = blockIdx.x, row = s.first_row + r;
  if (s.x.inverse && s.x.inverse[row] == 0) return;  // at distance 2 from everything: finish_kernel knows
  const float bound = bound_of(s, r);
  Buffer near(s.near, r, s.first_column == 0), far(s.far, s.farthest ? r : 0, s.first_column == 0);
  const float* const product = s.product + r * s.product_columns;
  for (int64_t first = 0; first < s.columns; first += kSelectStep) {
    float score[kSelectItems];
    unsigned offered = 0, self = 0;
    const int32_t column = static_cast<int32_t>(s.first_column + first + threadIdx.x);
#pragma unroll
    for (int i = 0; i < kSelectItems; ++i) {
      const int64_t c = first + i * kSelectThreads + threadIdx.x, j = s.first_column + c;
      score[i] = 0;
      if (c >= s.columns) continue;
      score[i] = product[c] - s.packed_y.half[j];
      offered |= 1u << i;
      if (j == row) self |= 1u << i;
    }
    offer(near, score, column, s.exclude_self ? offered & ~self : offered,
          [&](Buffer& buffer) { make_room(s, row, bound, false, buffer); });
    if (!s.farthest) continue;
#pragma unroll
    for (int i = 0; i < kSelectItems; ++i) score[i] = -score[i];
    offer(far, score, column, offered, [&](Buffer& buffer) { make_room(s, row, bound, true, buffer); });
  }
  near.save(s.near, r);
  if (s.farthest) far.save(s.far, r);
}

// The results of row blockIdx.x of the slab.
template <class S>
__global__ __launch_bounds__(kSelectThreads) void finish_kernel(Search<S> s) {
  __shared__ double shared_value[kSharedEntries];
  __shared__ int32_t shared_index[kSharedEntries];
  const int64_t r = blockIdx.x, row = s.first_row + r, k = s.near.k;
  double* const squared = s.squared + row * k;
  int64_t* const index = s.index + row * k;
  if (s.x.inverse && s.x.inverse[row] == 0) {
    for (int64_t e = threadIdx.x; e < k; e += kSelectThreads) {
      squared[e] = 2;
      index[e] = e + (s.exclude_self && e >= row ? 1 : 0);
    }
    if (s.farthest && threadIdx.x == 0) s.farthest[row] = 2;
    return;
  }
  const float bound = bound_of(s, r);
  Buffer near(s.near, r, false);
  compact(near, bound);
  double* value = near.value;
  int32_t* entry = near.index;
  if (near.count <= kSharedEntries) {
    value = shared_value;
    entry = shared_index;
    for (int e = threadIdx.x; e < near.count; e += kSelectThreads) entry[e] = near.index[e];
    __syncthreads();
  }
  measure_entries(s, row, value, entry, near.count, false);
  sort_ascending(value, entry, near.count);
  for (int64_t e = threadIdx.x; e < k; e += kSelectThreads) {
    squared[e] = e < near.count ? value[e] : NAN;
    index[e] = e < near.count ? entry[e] : -1;
  }
  if (!s.farthest) return;
  Buffer far(s.far, r, false);
  compact(far, bound);
  measure_entries(s, row, far.value, far.index, far.count, false);
  double most = -1;
  for (int e = threadIdx.x; e < far.count; e += kSelectThreads)
    most = far.value[e] > most ? far.value[e] : most;
  most = block_reduce(most, -1.0, Maximum{});
  if (threadIdx.x == 0) s.farthest[row] = far.count > 0 ? most : NAN;
}

// ---- the host's part ----

// What lives where, from sizes alone.
struct Plan {
  int64_t packed_depth, near_capacity, far_capacity;
  int64_t slab_rows, chunk_columns;  // whole tiles
  Frame frame;
  Screened x, y;
  double *x_square, *x_inverse, *y_square, *y_inverse;
  Candidates near, far;
  float* product;
  int64_t bytes;

  Plan(const NearestProblem& p, bool farthest, void* scratch) {
    packed_depth = Screened::depth_of(p.depth, p.angular);
    near_capacity = Candidates::capacity_for(p.k, p.y_rows);
    far_capacity = farthest ? round_up(smaller(p.y_rows, kFarCapacity), 2) : 0;
    const int64_t x_padded = round_up(p.x_rows, kTile), y_padded = round_up(p.y_rows, kTile);
    const int64_t row_bytes = Candidates::row_bytes(near_capacity) + Candidates::row_bytes(far_capacity);
    const int64_t most = larger(kSlabBytes / row_bytes / kTile * kTile, kTile);
    slab_rows = smaller(smaller(most, kSlabRows), x_padded);
    chunk_columns = smaller(larger(kProducts / slab_rows / kTile * kTile, kTile), y_padded);
    // Offsets first: the sizes are asked for without memory.
    char* const begin = reinterpret_cast<char*>(round_up(reinterpret_cast<int64_t>(scratch), kAlignment));
    char* memory = begin;
    const auto take = [&](int64_t n) {
      char* const at = memory;
      memory += round_up(n, kAlignment);
      return at;
    };
    frame.lay_out(take(Frame::bytes(p.depth)), p.depth);
    y_square = reinterpret_cast<double*>(take(p.y_rows * 8));
    y_inverse = p.angular ? reinterpret_cast<double*>(take(p.y_rows * 8)) : nullptr;
    y.lay_out(take(Screened::bytes(p.y_rows, packed_depth)), p.y_rows, packed_depth);
    x_square = y_square, x_inverse = y_inverse, x = y;
    if (!p.same) {
      x_square = reinterpret_cast<double*>(take(p.x_rows * 8));
      x_inverse = p.angular ? reinterpret_cast<double*>(take(p.x_rows * 8)) : nullptr;
      x.lay_out(take(Screened::bytes(slab_rows, packed_depth)), slab_rows, packed_depth);
    }
    near.k = p.k;
    near.capacity = near_capacity;
    near.lay_out(take(slab_rows * Candidates::row_bytes(near_capacity)), slab_rows);
    far.k = 1;
    far.capacity = far_capacity;
    far.lay_out(take(slab_rows * Candidates::row_bytes(far_capacity)), slab_rows);
    product = reinterpret_cast<float*>(take(slab_rows * chunk_columns * 4));
    bytes = memory - begin + kAlignment;
  }

  static constexpr int64_t kAlignment = 128;
};

dim3 grid(int64_t blocks) { return dim3(static_cast<unsigned>(blocks)); }

template <class S>
cudaError_t run(const NearestProblem& p, const Plan& plan, const NearestResult& out, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  // Runs nothing after the first error.
  const auto then = [&](auto kernel, dim3 blocks, dim3 threads, size_t shared, auto... arguments) {
    if (error == cudaSuccess) error = launch(kernel, blocks, threads, shared, stream, arguments...);
  };
  ExactRows<S> x{static_cast<const S*>(p.x.data), p.x.row_stride, p.x.column_stride, plan.x_inverse};
  ExactRows<S> y{static_cast<const S*>(p.y.data), p.y.row_stride, p.y.column_stride, plan.y_inverse};
  then(frame_kernel, dim3(1), dim3(1), 0, plan.frame);
  then(measure_kernel<S>, grid(ceil_div(p.y_rows, kMeasureRows)), dim3(kMeasureThreads), 0, y, p.y_rows,
       p.depth, plan.y_square, plan.y_inverse, plan.frame.longest);
  if (!p.same)
    then(measure_kernel<S>, grid(ceil_div(p.x_rows, kMeasureRows)), dim3(kMeasureThreads), 0, x, p.x_rows,
         p.depth, plan.x_square, plan.x_inverse, plan.frame.longest);
  then(centre_kernel<S>, grid(ceil_div(p.depth, kCentreColumns)), dim3(kCentreColumns, kCentreGroups), 0, y,
       p.y_rows, p.depth, plan.frame.centre);
  then(pack_kernel<S>, grid(round_up(p.y_rows, kTile) / kPackRows), dim3(kPackThreads), 0, y, int64_t{0},
       p.y_rows, p.depth, plan.packed_depth, plan.y_square, plan.frame, true, plan.y);

  for (int64_t row = 0; row < p.x_rows; row += plan.slab_rows) {
    const int64_t rows = smaller(plan.slab_rows, p.x_rows - row), tiles = ceil_div(rows, kTile);
    Search<S> s{x,
                y,
                plan.x,
                plan.y,
                plan.frame,
                plan.near,
                plan.far,
                plan.product,
                plan.chunk_columns,
                row,
                0,
                0,
                p.depth,
                plan.packed_depth,
                p.y_rows,
                p.exclude_self,
                out.squared,
                out.index,
                out.farthest};
    if (p.same) {
      s.packed_x = plan.y.from(row, plan.packed_depth);
    } else {
      then(pack_kernel<S>, grid(tiles * kTile / kPackRows), dim3(kPackThreads), 0, x, row, rows, p.depth,
           plan.packed_depth, plan.x_square, plan.frame, false, plan.x);
    }
    for (int64_t column = 0; column < p.y_rows; column += plan.chunk_columns) {
      s.first_column = column;
      s.columns = smaller(plan.chunk_columns, p.y_rows - column);
      const dim3 blocks(static_cast<unsigned>(ceil_div(s.columns, kTile)), static_cast<unsigned>(tiles));
      then(tile_kernel, blocks, dim3(kTileThreads), size_t{kTileBytes}, s.packed_x.packed,
           plan.y.packed + column * plan.packed_depth, plan.packed_depth, plan.product, plan.chunk_columns);
      then(select_kernel<S>, grid(rows), dim3(kSelectThreads), 0, s);
    }
    then(finish_kernel<S>, grid(rows), dim3(kSelectThreads), 0, s);
  }
  return error;
}

}  // namespace

namespace cuda {

int64_t nearest_scratch(const NearestProblem& problem, bool farthest) {
  return Plan(problem, farthest, nullptr).bytes;
}

int launch_nearest(const NearestProblem& problem, void* scratch, const NearestResult& result, void* stream) {
  if (problem.x_rows == 0) return cudaSuccess;
  const Plan plan(problem, result.farthest != nullptr, scratch);
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  switch (problem.dtype) {
    case Dtype::float32:
      return run<float>(problem, plan, result, on);
    case Dtype::float64:
      return run<double>(problem, plan, result, on);
    case Dtype::bfloat16:
      return run<__nv_bfloat16>(problem, plan, result, on);
    case Dtype::float16:
      return run<__half>(problem, plan, result, on);
  }
  return cudaErrorInvalidValue;
}

}  // namespace cuda
}  // namespace fastreid
