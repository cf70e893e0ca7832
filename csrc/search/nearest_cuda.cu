// SPDX-License-Identifier: Apache-2.0
// CUDA kernels of nearest.h: products of a slab of x and a chunk of y at a time (common/screen.cuh), from
// which a block for each row picks what may still be among the k nearest (common/topk.cuh); at the end of a
// slab that is measured exactly and sorted. For a few rows of x nothing is packed, and the place of products
// is taken by exact distances.
#include "search/nearest.h"

#include "common/launch.cuh"
#include "common/screen.cuh"
#include "common/topk.cuh"

namespace fastreid {
namespace {

// A slab's buffers and its products have about this much room each. Less on the emulated device, so that
// small cases have several slabs and chunks.
constexpr int64_t kSlabBytes = kEmulated ? 1 : int64_t{64} << 20;
constexpr int64_t kProducts = int64_t{1} << 24;
constexpr int64_t kChunkColumns = kEmulated ? 2 * kTile : kProducts;
constexpr int64_t kSlabRows = 4096;
constexpr int64_t kDirect =
    8;  // fewer rows of x than this are compared exactly with all of y, which reads y once
constexpr int kDirectThreads = 256;
constexpr int kDirectColumns = kDirectThreads / kExactLanes;
constexpr int64_t kFarCapacity = 64 + kSelectStep;
constexpr int kSharedEntries = 1024;  // as many are sorted in shared memory, more where they lie
constexpr int kSelectGroups = kSelectThreads / kExactLanes;

// Everything a block needs to know about a slab, and, where it works on one, about a chunk.
template <class S>
struct Search {
  ExactRows<S> x, y;
  Screened packed_x;  // of the slab; null where direct, and the products are then -d2
  Screened packed_y;
  Frame frame;
  Candidates near, far;
  const float* product;
  int64_t product_columns;
  int64_t first_row;
  int64_t first_column, columns;  // of the chunk
  int64_t depth, packed_depth;
  bool exclude_self;
  double* squared;
  int64_t* index;
  double* farthest;

  __device__ bool direct() const { return packed_y.packed == nullptr; }
};

// The exact values of all entries in place of their scores. away: negated, so that the largest come first.
template <class S>
__device__ __forceinline__ void measure_entries(const Search<S>& s, int64_t row, double* value,
                                                const int32_t* index, int count, bool away) {
  const int group = threadIdx.x / kExactLanes;
  for (int first = 0; first < count; first += kSelectGroups) {
    const int e = first + group;
    const double d2 = exact_distance(s.x, row, s.y, index[e < count ? e : 0], s.depth);
    if (e < count && threadIdx.x % kExactLanes == 0) value[e] = away ? -d2 : d2;
  }
  __syncthreads();
}

// Makes room in a buffer. Where too many entries lie within the bound of the k-th, measures them exactly and
// keeps the k best.
template <class S>
__device__ __forceinline__ void make_room(const Search<S>& s, int64_t row, float bound, bool away,
                                          Buffer& buffer) {
  compact(buffer, bound);
  if (buffer.count <= buffer.capacity - kSelectStep) return;
  measure_entries(s, row, buffer.value, buffer.index, buffer.count, away);
  sort_ascending(buffer.value, buffer.index, buffer.count);
  const int kept = static_cast<int>(smaller(buffer.count, buffer.k));
  const double factor = s.direct() ? 1 : screen_factor(s.frame, s.x.inverse != nullptr);
  const double half = s.direct() ? 0 : s.packed_x.half[row - s.first_row];
  const double scale = s.direct() ? 1 : factor * factor / 2;
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
  if (s.direct()) return 0;  // rounding to float32 keeps the order, and equal scores are looked at exactly
  return screen_bound(s.frame, s.packed_x.norm[r], s.packed_x.error[r], s.x.inverse != nullptr,
                      s.packed_depth);
}

// Direct: the scores of a chunk, for all rows of x. A group of lanes for each row of y.
template <class S>
__global__ void direct_kernel(Search<S> s, int64_t x_rows, float* score) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kDirectColumns + threadIdx.x / kExactLanes;
  for (int64_t i = 0; i < x_rows; ++i) {
    const double d2 = exact_distance(s.x, i, s.y, s.first_column + (c < s.columns ? c : 0), s.depth);
    if (c < s.columns && threadIdx.x % kExactLanes == 0)
      score[i * s.product_columns + c] = static_cast<float>(-d2);
  }
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
      score[i] = s.direct() ? product[c] : product[c] - s.packed_y.half[j];
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

bool direct(const NearestProblem& p) { return !p.same && p.x_rows < kDirect; }

// Parts of equal size, no larger than `most`, in whole tiles.
int64_t even(int64_t total, int64_t most) { return round_up(ceil_div(total, ceil_div(total, most)), kTile); }

// What lives where, from sizes alone.
struct Plan {
  int64_t packed_depth, slab_rows, chunk_columns;
  Frame frame;
  Screened x{}, y{};
  double *x_square = nullptr, *x_inverse = nullptr, *y_square = nullptr, *y_inverse = nullptr;
  Candidates near, far;
  float* product;
  int64_t bytes;

  Plan(const NearestProblem& p, bool farthest, void* scratch) {
    packed_depth = Screened::depth_of(p.depth);
    near.k = p.k;
    near.capacity = Candidates::capacity_for(p.k, p.y_rows);
    far.k = 1;
    far.capacity = farthest ? round_up(smaller(p.y_rows, kFarCapacity), 2) : 0;
    const int64_t row_bytes = Candidates::row_bytes(near.capacity) + Candidates::row_bytes(far.capacity);
    const int64_t most = larger(smaller(kSlabBytes / row_bytes, kSlabRows) / kTile * kTile, kTile);
    slab_rows = direct(p) ? p.x_rows : even(p.x_rows, most);
    chunk_columns =
        even(p.y_rows, smaller(larger(kProducts / slab_rows / kTile * kTile, kTile), kChunkColumns));

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
    if (p.angular) {
      y_inverse = numbers(p.y_rows);
      x_inverse = p.same ? y_inverse : numbers(p.x_rows);
    }
    if (!direct(p)) {
      y_square = numbers(p.y_rows);
      x_square = p.same ? y_square : numbers(p.x_rows);
      y.lay_out(take(Screened::bytes(p.y_rows, packed_depth)), p.y_rows, packed_depth);
      if (!p.same) x.lay_out(take(Screened::bytes(slab_rows, packed_depth)), slab_rows, packed_depth);
    }
    near.lay_out(take(slab_rows * Candidates::row_bytes(near.capacity)), slab_rows);
    far.lay_out(take(slab_rows * Candidates::row_bytes(far.capacity)), slab_rows);
    product = reinterpret_cast<float*>(take(slab_rows * chunk_columns * 4));
    bytes = next - begin + kAlignment;
  }

  static constexpr int64_t kAlignment = 128;
};

dim3 grid(int64_t blocks) { return dim3(static_cast<unsigned>(blocks)); }

// One call's launches. Nothing is launched after the first error.
template <class S>
class Run {
 public:
  Run(const NearestProblem& problem, const Plan& memory, const NearestResult& result, void* on)
      : p(problem), plan(memory), stream(static_cast<cudaStream_t>(on)) {
    s.x = {static_cast<const S*>(p.x.data), p.x.row_stride, p.x.column_stride, plan.x_inverse};
    s.y = {static_cast<const S*>(p.y.data), p.y.row_stride, p.y.column_stride, plan.y_inverse};
    s.packed_y = plan.y;
    s.frame = plan.frame;
    s.near = plan.near, s.far = plan.far;
    s.product = plan.product, s.product_columns = plan.chunk_columns;
    s.depth = p.depth, s.packed_depth = plan.packed_depth;
    s.exclude_self = p.exclude_self;
    s.squared = result.squared, s.index = result.index, s.farthest = result.farthest;
  }

  cudaError_t all() {
    prepare();
    for (int64_t row = 0; row < p.x_rows; row += plan.slab_rows)
      slab(row, smaller(plan.slab_rows, p.x_rows - row));
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

  void prepare() {
    then(frame_kernel, dim3(1), dim3(1), 0, plan.frame);
    if (p.angular || !direct(p)) {
      measure(s.y, p.y_rows, plan.y_square, plan.y_inverse);
      if (!p.same) measure(s.x, p.x_rows, plan.x_square, plan.x_inverse);
    }
    if (direct(p)) return;
    then(centre_kernel<S>, grid(ceil_div(p.depth, kCentreColumns)), dim3(kCentreColumns, kCentreGroups), 0,
         s.y, p.y_rows, p.depth, plan.frame.centre);
    pack(s.y, 0, p.y_rows, plan.y_square, true, plan.y);
  }

  void slab(int64_t row, int64_t rows) {
    s.first_row = row;
    s.packed_x = p.same ? plan.y.from(row, plan.packed_depth) : plan.x;
    if (!p.same && !direct(p)) pack(s.x, row, rows, plan.x_square, false, plan.x);
    for (int64_t column = 0; column < p.y_rows; column += plan.chunk_columns) {
      s.first_column = column;
      s.columns = smaller(plan.chunk_columns, p.y_rows - column);
      if (direct(p)) {
        then(direct_kernel<S>, grid(ceil_div(s.columns, kDirectColumns)), dim3(kDirectThreads), 0, s, rows,
             plan.product);
      } else {
        const dim3 tiles(static_cast<unsigned>(ceil_div(s.columns, kTile)),
                         static_cast<unsigned>(ceil_div(rows, kTile)));
        then(tile_kernel, tiles, dim3(kTileThreads), size_t{kTileBytes}, s.packed_x.packed,
             plan.y.packed + column * plan.packed_depth, plan.packed_depth, plan.product, plan.chunk_columns);
      }
      then(select_kernel<S>, grid(rows), dim3(kSelectThreads), 0, s);
    }
    then(finish_kernel<S>, grid(rows), dim3(kSelectThreads), 0, s);
  }

  const NearestProblem& p;
  const Plan& plan;
  cudaStream_t stream;
  Search<S> s{};
  cudaError_t error = cudaSuccess;
};

}  // namespace

namespace cuda {

int64_t nearest_scratch(const NearestProblem& problem, bool farthest) {
  return Plan(problem, farthest, nullptr).bytes;
}

int launch_nearest(const NearestProblem& problem, void* scratch, const NearestResult& result, void* stream) {
  if (problem.x_rows == 0) return cudaSuccess;
  const Plan plan(problem, result.farthest != nullptr, scratch);
  switch (problem.dtype) {
    case Dtype::float32:
      return Run<float>(problem, plan, result, stream).all();
    case Dtype::float64:
      return Run<double>(problem, plan, result, stream).all();
    case Dtype::bfloat16:
      return Run<__nv_bfloat16>(problem, plan, result, stream).all();
    case Dtype::float16:
      return Run<__half>(problem, plan, result, stream).all();
  }
  return cudaErrorInvalidValue;
}

}  // namespace cuda
}  // namespace fastreid
