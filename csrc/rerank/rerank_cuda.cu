// SPDX-License-Identifier: Apache-2.0
// CUDA kernels of rerank.h: a block for each row, sets and sums in global scratch. Sums have the CPU kernels' order,
// and no multiply is fused into an addition, so that only float64 weights may differ.
#include <cmath>

#include "common/launch.cuh"
#include "common/sizes.h"
#include "rerank/rerank.h"

namespace fastreid {
namespace {

constexpr int kThreads = 128;
constexpr int kScanThreads = 1024;
constexpr int64_t kBlocks = 1024;
constexpr int64_t kScratchBytes = int64_t{256} << 20;

// Sum over the threads up to this one; *total over all.
__device__ int64_t block_scan(int64_t value, int64_t* total) {
  __shared__ int64_t partial[kMaxBlockThreads / kWarpSize];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  int64_t sum = warp_scan(value, Sum{});
  if (lane == kWarpSize - 1) partial[warp] = sum;
  __syncthreads();
  int64_t all = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarpSize; ++w) {
    if (w < warp) sum += partial[w];
    all += partial[w];
  }
  __syncthreads();
  *total = all;
  return sum;
}

__global__ void rerank_scan_kernel(int64_t* begin, int64_t rows) {
  int64_t before = 0, total;
  if (threadIdx.x == 0) begin[0] = 0;
  for (int64_t first = 0; first < rows; first += blockDim.x) {
    const int64_t r = first + threadIdx.x;
    const int64_t sum = block_scan(r < rows ? begin[r + 1] : 0, &total);
    if (r < rows) begin[r + 1] = before + sum;
    before += total;
  }
}

__device__ double element(const RerankMatrix& m, int64_t i, int64_t j) {
  const int64_t at = i * m.row_stride + j * m.column_stride;
  switch (m.dtype) {
    case Dtype::float32:
      return static_cast<const float*>(m.data)[at];
    case Dtype::float64:
      return static_cast<const double*>(m.data)[at];
    case Dtype::bfloat16:
      return widen(static_cast<const __nv_bfloat16*>(m.data)[at]);
    default:
      return widen(static_cast<const __half*>(m.data)[at]);
  }
}

// The distance of points i and j as it stands in column i.
__device__ double matrix_distance(const RerankMatrices& m, int64_t i, int64_t j) {
  const int64_t q = m.queries;
  return fabs(j < q && i < q ? element(m.query_query, j, i)
              : j < q        ? element(m.query_gallery, j, i - q)
              : i < q        ? element(m.query_gallery, i, j - q)
                             : element(m.gallery_gallery, j - q, i - q));
}

// One thread for each list, neighbouring lists side by side: they read one row of a matrix at a time.
__global__ void rerank_select_kernel(RerankMatrices matrices, int64_t k, int32_t* index, double* distance,
                                     double* farthest) {
  const int64_t points = matrices.queries + matrices.gallery;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < points;
       i += gridDim.x * int64_t{blockDim.x}) {
    int32_t* const own = index + i * k;
    double* const held = distance + i * k;
    int64_t n = 0;
    double largest = 0;
    for (int64_t j = 0; j < points; ++j) {
      const double found = static_cast<float>(matrix_distance(matrices, i, j));
      if (found > largest || found != found) largest = found;  // a NaN stays
      if (n == k && !(found < held[k - 1])) continue;
      int64_t place = n < k ? n++ : k - 1;
      for (; place > 0 && held[place - 1] > found; --place)
        held[place] = held[place - 1], own[place] = own[place - 1];
      held[place] = found;
      own[place] = static_cast<int32_t>(j);
    }
    farthest[i] = largest;
  }
}

__device__ int64_t place_in(const int32_t* list, int64_t n, int64_t point) {
  for (int64_t p = 0; p < n; ++p) {
    if (list[p] == point) return p;
  }
  return n;
}

__global__ void rerank_reciprocal_kernel(RerankLists lists, RerankSets sets) {
  const int64_t listed = lists.listed, half = lists.half;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < lists.points;
       i += gridDim.x * int64_t{blockDim.x}) {
    int32_t whole = 0, near = 0;
    for (int64_t p = 0; p < listed; ++p) {
      const int32_t j = lists.index[i * listed + p];
      const int64_t place = place_in(lists.index + j * listed, listed, i);
      if (place == listed) continue;
      sets.whole[i * listed + whole++] = j;
      if (p < half && place < half) sets.half[i * half + near++] = j;
    }
    sets.whole_count[i] = whole;
    sets.half_count[i] = near;
  }
}

// Squared distance of two rows, by a warp.
template <class T>
__device__ double feature_distance(const RerankPairs& pairs, int64_t i, int64_t j) {
  const T* const x = static_cast<const T*>(pairs.x.data);
  const double a = pairs.inverse ? pairs.inverse[i] : 1, b = pairs.inverse ? pairs.inverse[j] : 1;
  double sum = 0;
  for (int64_t d = threadIdx.x % kWarpSize; d < pairs.depth; d += kWarpSize) {
    const double one = x[i * pairs.x.row_stride + d * pairs.x.column_stride] * a;
    const double other = x[j * pairs.x.row_stride + d * pairs.x.column_stride] * b;
    sum += (one - other) * (one - other);
  }
  sum = warp_reduce(sum, Sum{});
  return a == 0 || b == 0 ? 2.0 : sum;
}

// What point i's row weighs column j with before exp(), by a warp.
__device__ double weight_of(const RerankLists& lists, const RerankPairs& pairs, int64_t i, int64_t j) {
  const int64_t place = place_in(lists.index + i * lists.listed, lists.listed, j);
  double distance;
  if (place < lists.listed) {
    distance = lists.distance[i * lists.listed + place];
  } else if (pairs.x.data == nullptr) {
    distance = matrix_distance(pairs.matrices, i, j);
  } else {
    distance = pairs.x.dtype == Dtype::float64 ? feature_distance<double>(pairs, i, j)
                                               : feature_distance<float>(pairs, i, j);
  }
  const double largest = lists.farthest ? lists.farthest[i] : 1;
  const double ratio = distance / (largest > 0 ? largest : 1);
  return lists.power == 2 ? ratio * ratio : ratio;
}

__device__ float half_rounded(float x) { return __half2float(__float2half_rn(x)); }

// `slots` places for each block: those of the mutual neighbours, then a half set's for each of them (-1: empty).
__global__ void rerank_encode_kernel(RerankLists lists, RerankPairs pairs, RerankSets sets, bool to_half,
                                     int64_t slots, double* scratch, int64_t* begin, int32_t* column,
                                     float* value) {
  double* const w = scratch + blockIdx.x * slots * 2;
  int32_t* const first =
      reinterpret_cast<int32_t*>(w);  // before w is filled: is a place the first of its value?
  int32_t* const raw = reinterpret_cast<int32_t*>(w + slots);
  int32_t* const sorted = raw + slots;
  const int64_t half = lists.half;
  for (int64_t i = blockIdx.x; i < lists.points; i += gridDim.x) {
    const int32_t* own = sets.whole + i * lists.listed;
    const int64_t size = sets.whole_count[i], taken = size * (half + 1);
    for (int64_t e = threadIdx.x; e < size; e += kThreads) {
      const int32_t* theirs = sets.half + own[e] * half;
      const int64_t count = sets.half_count[own[e]];
      int64_t common = 0;
      for (int64_t t = 0; t < count; ++t) common += place_in(own, size, theirs[t]) < size;
      const bool joins = 3 * common > 2 * count;
      raw[e] = own[e];
      for (int64_t t = 0; t < half; ++t) raw[size + e * half + t] = joins && t < count ? theirs[t] : -1;
    }
    __syncthreads();
    int64_t n = 0;
    for (int64_t s = threadIdx.x; s < taken; s += kThreads) {
      first[s] = raw[s] >= 0 && place_in(raw, s, raw[s]) == s;
      n += first[s];
    }
    n = block_reduce(n, int64_t{0}, Sum{});
    if (column == nullptr) {
      if (threadIdx.x == 0) begin[i + 1] = n;
      continue;
    }
    for (int64_t s = threadIdx.x; s < taken; s += kThreads) {
      if (!first[s]) continue;
      int64_t rank = 0;
      for (int64_t other = 0; other < taken; ++other) rank += first[other] && raw[other] < raw[s];
      sorted[rank] = raw[s];
    }
    __syncthreads();
    for (int64_t e = threadIdx.x / kWarpSize; e < n; e += kThreads / kWarpSize) {
      const double found = weight_of(lists, pairs, i, sorted[e]);
      if (threadIdx.x % kWarpSize == 0) w[e] = found;
    }
    __syncthreads();
    double smallest = INFINITY, sum = 0;
    for (int64_t e = threadIdx.x; e < n; e += kThreads) smallest = w[e] < smallest ? w[e] : smallest;
    smallest = block_reduce(smallest, static_cast<double>(INFINITY), Minimum{});
    for (int64_t e = threadIdx.x; e < n; e += kThreads) sum += w[e] = exp(smallest - w[e]);
    sum = block_reduce(sum, 0.0, Sum{});
    for (int64_t e = threadIdx.x; e < n; e += kThreads) {
      const float weight = static_cast<float>(w[e] / sum);
      column[begin[i] + e] = sorted[e];
      value[begin[i] + e] = to_half ? half_rounded(weight) : weight;
    }
    __syncthreads();
  }
}

__global__ void rerank_merge_sizes_kernel(RerankMerge merge, int64_t rows, int64_t* place) {
  for (int64_t r = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; r < rows;
       r += gridDim.x * int64_t{blockDim.x}) {
    int64_t size = 0;
    for (int64_t t = 0; t < merge.terms; ++t) {
      const int64_t from = merge.index[r * merge.terms + t];
      size += merge.source.begin[from + 1] - merge.source.begin[from];
    }
    place[r + 1] = size;
  }
}

// The first of n ascending columns that is not below `column`.
__device__ int64_t lower_bound(const int32_t* columns, int64_t n, int32_t column) {
  int64_t low = 0;
  while (n > 0) {
    const int64_t middle = n / 2;
    const bool right = columns[low + middle] < column;
    low = right ? low + middle + 1 : low;
    n = right ? n - middle - 1 : middle;
  }
  return low;
}

// marks: for each entry of the rows to be merged twice the number of new columns in front of it in its own row, and
// one more if its own column is new, that is in no earlier row.
__global__ void rerank_merge_kernel(RerankMerge merge, int64_t rows, const int64_t* place, int32_t* marks,
                                    int64_t* begin, int32_t* column, float* value) {
  const RerankSparse& source = merge.source;
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const int32_t* index = merge.index + r * merge.terms;
    int64_t at = place[r], total = 0;
    for (int64_t t = 0; t < merge.terms; ++t) {
      const int64_t from = source.begin[index[t]], size = source.begin[index[t] + int64_t{1}] - from;
      int64_t ahead = 0;
      for (int64_t base = 0; base < size; base += kThreads) {
        const int64_t e = base + threadIdx.x;
        bool fresh = e < size;
        int64_t position = 0, own = at;
        float sum = 0;
        // In the second call the marks are there, and every row counts.
        const int64_t stop = column == nullptr ? t : merge.terms;
        if (column != nullptr && fresh) fresh = marks[at + e] & 1;
        own = place[r];
        for (int64_t u = 0; fresh && u < stop; ++u) {
          const int64_t other = source.begin[index[u]], count = source.begin[index[u] + int64_t{1}] - other;
          const int64_t low = lower_bound(source.column + other, count, source.column[from + e]);
          const bool there = low < count && source.column[other + low] == source.column[from + e];
          if (column == nullptr) {
            fresh = !there;
          } else {
            if (low < count) position += marks[own + low] >> 1;
            if (low == count && count > 0)
              position += (marks[own + count - 1] >> 1) + (marks[own + count - 1] & 1);
            const float weight = merge.weight ? merge.weight[r * merge.terms + u] : 1.0f;
            if (there) sum = __fadd_rn(sum, __fmul_rn(weight, source.value[other + low]));
          }
          own += count;
        }
        if (column == nullptr) {
          int64_t found;
          const int64_t upto = block_scan(fresh, &found);
          if (e < size) marks[at + e] = static_cast<int32_t>((ahead + upto - fresh) * 2 + fresh);
          ahead += found;
        } else if (fresh) {
          const float mean = __fdiv_rn(sum, merge.divisor);
          column[begin[r] + position] = source.column[from + e];
          value[begin[r] + position] = merge.to_half ? half_rounded(mean) : mean;
        }
      }
      at += size;
      total += ahead;
    }
    if (column == nullptr && threadIdx.x == 0) begin[r + 1] = total;
    __syncthreads();
  }
}

using Counter = unsigned long long;

// Sizes where row is null; else entries, in any order.
__global__ void rerank_invert_kernel(RerankSparse rows, int64_t row_begin, int64_t row_end, int64_t* count,
                                     int32_t* row, float* value) {
  const int64_t warps = gridDim.x * int64_t{blockDim.x} / kWarpSize;
  for (int64_t r = row_begin + (blockIdx.x * int64_t{blockDim.x} + threadIdx.x) / kWarpSize; r < row_end;
       r += warps) {
    for (int64_t e = rows.begin[r] + threadIdx.x % kWarpSize; e < rows.begin[r + 1]; e += kWarpSize) {
      const Counter at = atomicAdd(reinterpret_cast<Counter*>(count + rows.column[e]), Counter{1});
      if (row == nullptr) continue;
      row[at] = static_cast<int32_t>(r - row_begin);
      value[at] = rows.value[e];
    }
  }
}

// Each column by row, which makes the order of the atomics disappear: heap sort, one thread each.
__global__ void rerank_invert_sort_kernel(int64_t columns, const int64_t* begin, int32_t* row, float* value) {
  for (int64_t c = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; c < columns;
       c += gridDim.x * int64_t{blockDim.x}) {
    int32_t* const rows = row + begin[c];
    float* const values = value + begin[c];
    const int64_t n = begin[c + 1] - begin[c];
    for (int64_t step = n / 2 - 1 + n; step > 0; --step) {
      int64_t root = step - n, size = n;  // first the heap from its last parent up, then its top to the end
      if (root < 0) {
        size = step;
        root = 0;
        const int32_t r = rows[0];
        const float v = values[0];
        rows[0] = rows[size], values[0] = values[size];
        rows[size] = r, values[size] = v;
      }
      const int32_t r = rows[root];
      const float v = values[root];
      for (int64_t child = 2 * root + 1; child < size; root = child, child = 2 * root + 1) {
        if (child + 1 < size && rows[child] < rows[child + 1]) ++child;
        if (rows[child] <= r) break;
        rows[root] = rows[child], values[root] = values[child];
        rows[child] = r, values[child] = v;
      }
    }
  }
}

// Adds up a query's overlaps in `sum`, which is zero: column by column, each of which names a gallery entry once.
__device__ void add_overlaps(const RerankQueries& queries, int64_t query, float* sum) {
  const RerankSparse &rows = queries.rows, &inverted = queries.inverted;
  const int64_t row = queries.first_row + query;
  for (int64_t e = rows.begin[row]; e < rows.begin[row + 1]; ++e) {
    const float own = rows.value[e];
    const int64_t column = rows.column[e], end = inverted.begin[column + 1];
    for (int64_t f = inverted.begin[column] + threadIdx.x; f < end; f += kThreads) {
      const float theirs = inverted.value[f];
      const float part =
          queries.overlap == RerankOverlap::product ? __fmul_rn(own, theirs) : fminf(own, theirs);
      const float after = __fadd_rn(sum[inverted.column[f]], part);
      sum[inverted.column[f]] = queries.half ? half_rounded(after) : after;
    }
    __syncthreads();
  }
}

__device__ float jaccard(float minima, bool half, bool clamp) {
  const float below = __fsub_rn(2.0f, minima);
  const float ratio = __fdiv_rn(minima, half ? half_rounded(below) : below);
  const float distance = __fsub_rn(1.0f, half ? half_rounded(ratio) : ratio);
  return clamp && distance < 0 ? 0 : half ? half_rounded(distance) : distance;
}

__global__ void rerank_blend_kernel(RerankQueries queries, RerankBlend blend, int64_t rows, float* scratch) {
  const int64_t gallery = queries.gallery;
  float* const sum = scratch + blockIdx.x * gallery;
  const float lambda = static_cast<float>(blend.lambda), rest = static_cast<float>(1 - blend.lambda);
  for (int64_t q = blockIdx.x; q < rows; q += gridDim.x) {
    add_overlaps(queries, q, sum);
    const float largest = blend.divisor ? static_cast<float>(blend.divisor[q]) : 1.0f;
    for (int64_t g = threadIdx.x; g < gallery; g += kThreads) {
      const float minima = sum[g],
                  ratio = __fdiv_rn(blend.distance[q * blend.stride + g], largest > 0 ? largest : 1.0f);
      sum[g] = 0;
      const float w = __fmul_rn(blend.power == 2 ? __fmul_rn(ratio, ratio) : ratio, lambda);
      float part = rest;
      if (minima != 0 && queries.half) {
        part = half_rounded(__fmul_rn(jaccard(minima, true, queries.clamp), half_rounded(rest)));
      } else if (minima != 0) {
        part = __fmul_rn(jaccard(minima, false, queries.clamp), rest);
      } else if (queries.half) {
        part = half_rounded(rest);
      }
      blend.result[q * gallery + g] = __fadd_rn(part, w);
    }
    __syncthreads();
  }
}

__global__ void rerank_overlap_kernel(RerankQueries queries, int64_t rows, float* scratch, int64_t* begin,
                                      int32_t* column, float* value) {
  const int64_t gallery = queries.gallery;
  float* const sum = scratch + blockIdx.x * gallery;
  for (int64_t q = blockIdx.x; q < rows; q += gridDim.x) {
    add_overlaps(queries, q, sum);
    int64_t before = 0, found;
    for (int64_t base = 0; base < gallery; base += kThreads) {
      const int64_t g = base + threadIdx.x;
      const float total = g < gallery ? sum[g] : 0;
      if (g < gallery) sum[g] = 0;
      const int64_t upto = block_scan(total != 0, &found);
      if (column != nullptr && total != 0) {
        const int64_t at = begin[q] + before + upto - 1;
        column[at] = static_cast<int32_t>(g);
        value[at] = queries.overlap == RerankOverlap::product ? __fsub_rn(1.0f, total)
                                                              : jaccard(total, queries.half, queries.clamp);
      }
      before += found;
    }
    if (column == nullptr && threadIdx.x == 0) begin[q + 1] = before;
    __syncthreads();
  }
}

__device__ int32_t ordered(float value) {
  const int32_t bits = __float_as_int(value), magnitude = bits & 0x7fffffff;
  return bits < 0 ? -magnitude : magnitude;
}

// The k-th smallest key by bisection, those in front of it and the first of those equal to it in the order of their
// indices, then each to its rank.
__global__ void rerank_head_kernel(const float* values, int64_t rows, int64_t columns, int64_t k,
                                   int32_t* scratch, float* value, int64_t* index) {
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const float* row = values + r * columns;
    int32_t* const kept = scratch + r * k;
    int64_t low = -0x7fffffff, high = 0x7fffffff, below = 0;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      int64_t count = 0;
      for (int64_t j = threadIdx.x; j < columns; j += kThreads) count += ordered(row[j]) <= middle;
      count = block_reduce(count, int64_t{0}, Sum{});
      if (count >= k) {
        high = middle;
      } else {
        low = middle + 1;
        below = count;
      }
    }
    int64_t front = 0, equal = below, found;
    for (int64_t base = 0; base < columns; base += kThreads) {
      const int64_t j = base + threadIdx.x;
      const int64_t key = j < columns ? ordered(row[j]) : int64_t{1} << 40;
      const int64_t ahead = block_scan(key < low, &found);
      if (key < low) kept[front + ahead - 1] = static_cast<int32_t>(j);
      front += found;
      const int64_t same = block_scan(key == low, &found);
      if (key == low && equal + same <= k) kept[equal + same - 1] = static_cast<int32_t>(j);
      equal += found;
    }
    __syncthreads();
    for (int64_t e = threadIdx.x; e < k; e += kThreads) {
      const int32_t own = ordered(row[kept[e]]);
      int64_t rank = 0;
      for (int64_t o = 0; o < k; ++o) {
        const int32_t other = ordered(row[kept[o]]);
        rank += other < own || (other == own && kept[o] < kept[e]);
      }
      value[r * k + rank] = row[kept[e]];
      index[r * k + rank] = kept[e];
    }
    __syncthreads();
  }
}

dim3 grid_of(int64_t items) { return dim3(static_cast<unsigned>(smaller(items, int64_t{1} << 20))); }
dim3 grid_for(int64_t items) { return grid_of(ceil_div(items, kThreads)); }
int64_t encode_slots(const RerankLists& lists) { return lists.listed * (lists.half + 1); }
int64_t encode_blocks(const RerankLists& lists) {
  return smaller(lists.points, smaller(kBlocks, larger(1, kScratchBytes / (encode_slots(lists) * 16))));
}
int64_t overlap_blocks(int64_t rows, int64_t gallery) {
  return smaller(rows, smaller(kBlocks, larger(1, kScratchBytes / larger(1, gallery * 4))));
}

}  // namespace

namespace cuda {

int launch_rerank_scan(int64_t* begin, int64_t rows, void* stream) {
  return launch(rerank_scan_kernel, dim3(1), dim3(kScanThreads), 0, static_cast<cudaStream_t>(stream), begin,
                rows);
}

int launch_rerank_select(const RerankMatrices& matrices, int64_t k, int32_t* index, double* distance,
                         double* farthest, void* stream) {
  return launch(rerank_select_kernel, grid_for(matrices.queries + matrices.gallery), dim3(kThreads), 0,
                static_cast<cudaStream_t>(stream), matrices, k, index, distance, farthest);
}

int launch_rerank_reciprocal(const RerankLists& lists, const RerankSets& sets, void* stream) {
  return launch(rerank_reciprocal_kernel, grid_for(lists.points), dim3(kThreads), 0,
                static_cast<cudaStream_t>(stream), lists, sets);
}

int64_t rerank_encode_scratch(const RerankLists& lists) {
  return encode_blocks(lists) * encode_slots(lists) * 16;
}

int launch_rerank_encode(const RerankLists& lists, const RerankPairs& pairs, const RerankSets& sets,
                         bool to_half, void* scratch, int64_t* begin, int32_t* column, float* value,
                         void* stream) {
  return launch(rerank_encode_kernel, grid_of(encode_blocks(lists)), dim3(kThreads), 0,
                static_cast<cudaStream_t>(stream), lists, pairs, sets, to_half, encode_slots(lists),
                static_cast<double*>(scratch), begin, column, value);
}

int launch_rerank_merge_sizes(const RerankMerge& merge, int64_t rows, int64_t* place, void* stream) {
  if (rows == 0) return cudaSuccess;
  return launch(rerank_merge_sizes_kernel, grid_for(rows), dim3(kThreads), 0,
                static_cast<cudaStream_t>(stream), merge, rows, place);
}

int launch_rerank_merge(const RerankMerge& merge, int64_t rows, const int64_t* place, int32_t* marks,
                        int64_t* begin, int32_t* column, float* value, void* stream) {
  if (rows == 0) return cudaSuccess;
  return launch(rerank_merge_kernel, grid_of(rows), dim3(kThreads), 0, static_cast<cudaStream_t>(stream),
                merge, rows, place, marks, begin, column, value);
}

int launch_rerank_invert(const RerankSparse& rows, int64_t row_begin, int64_t row_end, int64_t columns,
                         int64_t* begin, int64_t* cursor, int32_t* row, float* value, void* stream) {
  if (row_begin == row_end) return cudaSuccess;
  cudaStream_t on = static_cast<cudaStream_t>(stream);
  const dim3 grid = grid_for((row_end - row_begin) * kWarpSize);
  const cudaError_t error = launch(rerank_invert_kernel, grid, dim3(kThreads), 0, on, rows, row_begin,
                                   row_end, cursor ? cursor : begin + 1, row, value);
  if (error != cudaSuccess || cursor == nullptr) return error;
  return launch(rerank_invert_sort_kernel, grid_for(columns), dim3(kThreads), 0, on, columns, begin, row,
                value);
}

int64_t rerank_overlap_scratch(int64_t rows, int64_t gallery) {
  return overlap_blocks(rows, gallery) * gallery * 4;
}

int launch_rerank_blend(const RerankQueries& queries, const RerankBlend& blend, int64_t rows, void* scratch,
                        void* stream) {
  if (rows == 0) return cudaSuccess;
  return launch(rerank_blend_kernel, grid_of(overlap_blocks(rows, queries.gallery)), dim3(kThreads), 0,
                static_cast<cudaStream_t>(stream), queries, blend, rows, static_cast<float*>(scratch));
}

int launch_rerank_overlap(const RerankQueries& queries, int64_t rows, void* scratch, int64_t* begin,
                          int32_t* column, float* value, void* stream) {
  if (rows == 0) return cudaSuccess;
  return launch(rerank_overlap_kernel, grid_of(overlap_blocks(rows, queries.gallery)), dim3(kThreads), 0,
                static_cast<cudaStream_t>(stream), queries, rows, static_cast<float*>(scratch), begin, column,
                value);
}

int launch_rerank_head(const float* values, int64_t rows, int64_t columns, int64_t k, void* scratch,
                       float* value, int64_t* index, void* stream) {
  if (rows == 0) return cudaSuccess;
  return launch(rerank_head_kernel, grid_of(rows), dim3(kThreads), 0, static_cast<cudaStream_t>(stream),
                values, rows, columns, k, static_cast<int32_t*>(scratch), value, index);
}

}  // namespace cuda
}  // namespace fastreid
