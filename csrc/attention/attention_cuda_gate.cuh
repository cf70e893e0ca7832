// SPDX-License-Identifier: Apache-2.0
// What the kernels of attention_cuda.cu share: 16-byte accesses, gates and their slopes, and how threads are laid over
// a map.
//
// Threads always own 16 bytes of neighbouring columns, also where memory is not aligned and they load them one by one:
// so the order of every sum, and with it every bit, follows from the shape and the dtype alone.
#pragma once

#include "common/launch.cuh"

#include <cmath>

#include "attention/attention.h"
#include "common/sizes.h"

namespace fastreid {
namespace {

constexpr int kThreads = 256;
// At least so many blocks on a multiprocessor. Said, it keeps ptxas from spilling for more.
constexpr int kBlocks = 2;
// The emulation strides over its grids, to be tested there.
constexpr int64_t kMaxGridX = kEmulated ? 3 : 0x7fffffff, kMaxGridY = kEmulated ? 2 : 65535;

// Entries of one 16-byte access.
template <typename T>
constexpr int kWide = 16 / static_cast<int>(sizeof(T));

template <typename T>
struct Pack {
  T value[kWide<T>];
};

template <typename T>
__device__ __forceinline__ int entries(int64_t column, int64_t columns) {
  return static_cast<int>(smaller(columns - column, kWide<T>));
}

// Whether entry v is one of `count`. Where memory is aligned there are all or none.
__device__ __forceinline__ bool is_one(int v, int count, bool aligned) { return aligned || v < count; }

// The first `count` (at least one) entries at `from`; zeros behind them.
template <typename T>
__device__ __forceinline__ Pack<T> load(const T* from, int count, bool aligned) {
  Pack<T> pack;
  if (aligned) {
    const uint4 bits = *reinterpret_cast<const uint4*>(from);
    memcpy(&pack, &bits, sizeof bits);
    return pack;
  }
#pragma unroll
  for (int v = 0; v < kWide<T>; ++v) pack.value[v] = v < count ? from[v] : narrow<T>(0);
  return pack;
}

template <typename T>
__device__ __forceinline__ void store(T* to, const accumulator_t<T> (&value)[kWide<T>], int count,
                                      bool aligned) {
  Pack<T> pack;
#pragma unroll
  for (int v = 0; v < kWide<T>; ++v) pack.value[v] = narrow<T>(value[v]);
  if (aligned) {
    uint4 bits;
    memcpy(&bits, &pack, sizeof bits);
    __stcg(reinterpret_cast<uint4*>(to), bits);  // a plain store may come out as four
    return;
  }
#pragma unroll
  for (int v = 0; v < kWide<T>; ++v)
    if (v < count) to[v] = pack.value[v];
}

// n / divisor for n below 2^31 by a multiplication (Granlund and Montgomery, 1994).
struct Divider {
  unsigned divisor, multiplier, shift;

  explicit Divider(int64_t by) : divisor(static_cast<unsigned>(by)), shift(0) {
    while ((uint64_t{1} << shift) < divisor) ++shift;
    multiplier = static_cast<unsigned>(((((uint64_t{1} << shift) - divisor) << 32) / divisor) + 1);
  }
  __device__ __forceinline__ unsigned quotient(unsigned n) const {
    return (__umulhi(n, multiplier) + n) >> shift;
  }
};

__device__ __forceinline__ float exponential(float z) { return expf(z); }
__device__ __forceinline__ double exponential(double z) { return exp(z); }

// 1 / d for 1 <= d < 2^32, as good as a division, without the call for subnormal numbers that a division has.
__device__ __forceinline__ float reciprocal(float d) {
  const float near = __fdividef(1.0f, d);
  return __fmaf_rn(near, __fmaf_rn(-d, near, 1.0f), near);
}
__device__ __forceinline__ double reciprocal(double d) { return 1 / d; }

template <typename A>
struct Gate {
  A value, slope;  // d value / d logit
};

// Only what is used of it is computed.
template <typename A>
__device__ __forceinline__ Gate<A> gate_of(A z, GateActivation activation) {
  const bool rectified = z < 0;  // false for NaN, which goes through
  if (activation == GateActivation::linear) return {z, A(1)};
  if (activation == GateActivation::relu) return {rectified ? A(0) : z, z > 0 ? A(1) : A(0)};
  if (activation == GateActivation::sigmoid_relu && rectified) z = 0;
  // exp of nothing above zero: finite, and small gates keep their digits.
  const A e = exponential(z < 0 ? z : -z), inverse = reciprocal(1 + e);
  const A slope = e * inverse * inverse;
  return {z < 0 ? e * inverse : inverse,
          activation == GateActivation::sigmoid_relu && !(z > 0) && z == z ? A(0) : slope};
}

template <typename T>
struct Gates {
  using A = accumulator_t<T>;
  const A *row, *column, *row_shift, *column_shift;
  const T* full;
  Divider width, block_height,
      block_width;  // of a position: its line; of a line, of a place in it: the entry's
  int full_width, full_size;
  bool same;  // an entry for every position
  GateActivation activation;

  explicit Gates(const AttentionGate& g)
      : row(static_cast<const A*>(g.row)),
        column(static_cast<const A*>(g.column)),
        row_shift(static_cast<const A*>(g.row_shift)),
        column_shift(static_cast<const A*>(g.column_shift)),
        full(static_cast<const T*>(g.full)),
        width(full == nullptr ? 1 : g.width),
        block_height(full == nullptr ? 1 : g.height / g.full_height),
        block_width(full == nullptr ? 1 : g.width / g.full_width),
        full_width(static_cast<int>(g.full_width)),
        full_size(static_cast<int>(g.full_height * g.full_width)),
        same(g.height == g.full_height && g.width == g.full_width),
        activation(g.activation) {}

  // The entry of a position.
  __device__ __forceinline__ int entry(int64_t position) const {
    const unsigned p = static_cast<unsigned>(position), y = width.quotient(p), x = p - y * width.divisor;
    return static_cast<int>(block_height.quotient(y) * full_width + block_width.quotient(x));
  }
};

enum class GateKind { row, column, outer, full, full_last };

// Rows of a thread in the elementwise kernels, loads under way at a time: what registers allow.
template <typename T, GateKind kKind>
constexpr int kRowsEach = sizeof(T) == 4 && kKind != GateKind::full ? 4 : 2;

inline GateKind kind_of(const AttentionGate& g) {
  if (g.full != nullptr) return g.channels_last ? GateKind::full_last : GateKind::full;
  return g.row == nullptr ? GateKind::column : g.column == nullptr ? GateKind::row : GateKind::outer;
}

// The logits of one thread's columns: what does not depend on the row is read once.
template <typename T, GateKind kKind>
struct Logits {
  using A = accumulator_t<T>;
  static constexpr int kCount = kWide<T>;
  A factor[kCount], shift[kCount];
  int entry[kCount];

  __device__ __forceinline__ void read_columns(const Gates<T>& g, const AttentionShape& shape, int64_t sample,
                                               int64_t column, int count) {
    const int64_t at = sample * shape.columns + column;
#pragma unroll
    for (int v = 0; v < kCount; ++v) {
      const bool there = v < count;
      if constexpr (kKind == GateKind::column || kKind == GateKind::outer)
        factor[v] = there ? g.column[at + v] : A(0);
      if constexpr (kKind == GateKind::outer)
        shift[v] = there && g.column_shift != nullptr ? g.column_shift[at + v] : A(0);
      if constexpr (kKind == GateKind::full) entry[v] = there && !g.same ? g.entry(column + v) : 0;
    }
  }

  __device__ __forceinline__ void read_row(const Gates<T>& g, const AttentionShape& shape, int64_t sample,
                                           int64_t row, int64_t column, int count, bool aligned,
                                           A (&z)[kCount]) const {
    const int64_t at = sample * shape.rows + row;
    if constexpr (kKind == GateKind::outer) {
      const A by = g.row[at], plus = g.row_shift == nullptr ? A(0) : g.row_shift[at];
#pragma unroll
      for (int v = 0; v < kCount; ++v) z[v] = by * factor[v] + plus + shift[v];
    } else {
      static_assert(kKind == GateKind::full || kKind == GateKind::full_last);
      constexpr bool kLast = kKind == GateKind::full_last;
      const T* from =
          g.full + (kLast ? (sample * g.full_size + g.entry(row)) * shape.columns : at * g.full_size);
      if (kLast || g.same) {
        const Pack<T> pack = load(from + column, count, aligned);
#pragma unroll
        for (int v = 0; v < kCount; ++v) z[v] = widen(pack.value[v]);
      } else {
#pragma unroll
        for (int v = 0; v < kCount; ++v) z[v] = widen(from[entry[v]]);
      }
    }
  }
};

// Gates of a thread's columns in one row after the other.
template <typename T, GateKind kKind>
struct RowGates {
  using A = accumulator_t<T>;
  static constexpr int kCount = kWide<T>;
  Logits<T, kKind> logits;

  __device__ __forceinline__ void read_columns(const Gates<T>& g, const AttentionShape& shape, int64_t sample,
                                               int64_t column, int count) {
    logits.read_columns(g, shape, sample, column, count);
    if constexpr (kKind == GateKind::column) {
#pragma unroll
      for (int v = 0; v < kCount; ++v) logits.factor[v] = gate_of(logits.factor[v], g.activation).value;
    }
  }

  __device__ __forceinline__ void read_row(const Gates<T>& g, const AttentionShape& shape, int64_t sample,
                                           int64_t row, int64_t column, int count, bool aligned,
                                           A (&gate)[kCount]) const {
    if constexpr (kKind == GateKind::row) {
      const A value = gate_of(g.row[sample * shape.rows + row], g.activation).value;
#pragma unroll
      for (int v = 0; v < kCount; ++v) gate[v] = value;
    } else if constexpr (kKind == GateKind::column) {
#pragma unroll
      for (int v = 0; v < kCount; ++v) gate[v] = logits.factor[v];
    } else {
      logits.read_row(g, shape, sample, row, column, count, aligned, gate);
#pragma unroll
      for (int v = 0; v < kCount; ++v) gate[v] = gate_of(gate[v], g.activation).value;
    }
  }
};

// Threads side by side over as much of the rows as a block covers: no statistic, no order.
struct ElementGrid {
  Divider lanes, tiles;
  int depth, chunk_rows;  // rows side by side, rows of a block

  ElementGrid(const AttentionShape& shape, int wide, int rows_each)
      : lanes(1), tiles(ceil_div(ceil_div(shape.columns, wide), kThreads)), depth(1), chunk_rows(1) {
    lanes = Divider(ceil_div(ceil_div(shape.columns, wide), tiles.divisor));
    depth = kThreads / static_cast<int>(lanes.divisor);
    chunk_rows = depth * rows_each;
  }
  dim3 grid(const AttentionShape& shape) const {
    return dim3(static_cast<unsigned>(tiles.divisor * ceil_div(shape.rows, chunk_rows)),
                static_cast<unsigned>(smaller(shape.batch, kMaxGridY)));
  }
  dim3 block() const {
    return dim3(static_cast<unsigned>(round_up(static_cast<int64_t>(depth) * lanes.divisor, kWarpSize)));
  }
};

// A thread's place: `count` columns from `column` on, rows row, row + depth, ..., `rows` of them.
template <typename T, int kRows>
struct Element {
  int64_t row, column;
  int count, rows;

  __device__ __forceinline__ Element(const ElementGrid& grid, const AttentionShape& shape) {
    const unsigned slot = grid.lanes.quotient(threadIdx.x), chunk = grid.tiles.quotient(blockIdx.x);
    const int64_t lane = threadIdx.x - slot * grid.lanes.divisor,
                  tile = blockIdx.x - chunk * grid.tiles.divisor;
    row = static_cast<int64_t>(chunk) * grid.chunk_rows + slot;
    column = (tile * grid.lanes.divisor + lane) * kWide<T>;
    count = entries<T>(column, shape.columns);
    rows = 0;
#pragma unroll
    for (int i = 0; i < kRows; ++i) rows += row + i * grid.depth < shape.rows;
    if (static_cast<int>(slot) >= grid.depth || count <= 0) rows = 0;
  }
};

// The thread's part of a map whose first entry of the thread is at `from`, all loads before the first use.
template <typename T, int kRows>
__device__ __forceinline__ void load_rows(Pack<T> (&pack)[kRows], const T* from, int64_t step, int rows,
                                          int count, bool aligned) {
  if (aligned) {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      if (i < rows) pack[i] = load(from + i * step, count, true);
  } else {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      if (i < rows) pack[i] = load(from + i * step, count, false);
  }
}

// One row for some neighbouring threads, a power of two up to a warp, or for a block.
constexpr int kRowThreads = 128;
constexpr int kRowUnroll = 4;

inline int row_lanes(int64_t columns, int wide) {
  const int64_t vectors = ceil_div(columns, wide);
  if (vectors > 8 * kWarpSize) return kRowThreads;
  int lanes = 1;
  while (lanes < kWarpSize && lanes * kRowUnroll < vectors) lanes *= 2;
  return lanes;
}

inline dim3 row_grid(int64_t items, int lanes) {
  return dim3(static_cast<unsigned>(smaller(ceil_div(items, kRowThreads / lanes), kMaxGridX)));
}

// A tile of columns and a chunk of rows for a block; a warp or less beside each other, each thread with kEach times 16
// bytes of a row. What a row or column has in several blocks is added up by a second launch, in the order of the
// blocks.
constexpr int64_t kMaxChunks = 64;  // one thread adds them up
constexpr int64_t kWantedBlocks =
    1024;  // several for each multiprocessor, so that none waits long for the last

struct TileGrid {
  int lanes, slots;  // threads beside each other, rows at a time
  int64_t wide;      // columns of a tile
  Divider tiles;
  int64_t chunks, chunk_rows;

  // At least 4 lanes: join_rows.
  TileGrid(const AttentionShape& shape, int wide_access, int each) : lanes(4), tiles(1) {
    const int64_t vectors = ceil_div(shape.columns, wide_access);
    while (lanes < kWarpSize && lanes * each < vectors) lanes *= 2;
    slots = kThreads / lanes;
    wide = static_cast<int64_t>(lanes) * each * wide_access;
    tiles = Divider(ceil_div(shape.columns, wide));
    const int64_t beside = smaller(kWantedBlocks, shape.batch * tiles.divisor);
    const int64_t wanted = smaller(kMaxChunks, ceil_div(kWantedBlocks, beside));
    chunk_rows = round_up(larger(ceil_div(shape.rows, wanted), 2 * slots), slots);
    chunks = ceil_div(shape.rows, chunk_rows);
  }
  dim3 grid(const AttentionShape& shape) const {
    return dim3(static_cast<unsigned>(tiles.divisor * chunks),
                static_cast<unsigned>(smaller(shape.batch, kMaxGridY)));
  }
};

// A thread's place: 16 bytes from `column` on and every so many columns, rows row, row + slots, ..., `rows` of them.
struct TilePlace {
  int64_t chunk, tile, column;
  int lane, slot, row, columns, rows;  // columns: from `column` to the end of the map
  int turns;                           // rows of the thread with the most, the same for the block

  __device__ __forceinline__ TilePlace(const TileGrid& grid, const AttentionShape& shape, int wide) {
    const unsigned c = grid.tiles.quotient(blockIdx.x);
    chunk = c, tile = blockIdx.x - c * grid.tiles.divisor;
    lane = static_cast<int>(threadIdx.x) % grid.lanes, slot = static_cast<int>(threadIdx.x) / grid.lanes;
    column = tile * grid.wide + static_cast<int64_t>(lane) * wide;
    columns = static_cast<int>(shape.columns - column);
    const int64_t begin = chunk * grid.chunk_rows;
    const int here = static_cast<int>(smaller(grid.chunk_rows, shape.rows - begin));
    row = static_cast<int>(begin) + slot;
    rows = slot < here ? (here - slot - 1) / grid.slots + 1 : 0;
    turns = (here - 1) / grid.slots + 1;
  }
};

inline bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

template <typename T, typename... Maps>
bool all_aligned(int64_t columns, const Maps*... maps) {
  return columns % kWide<T> == 0 && (aligned(maps) && ...);
}

// body(T{}) with the dtype's type.
template <typename Body>
auto with_type(Dtype dtype, Body body) {
  switch (dtype) {
    case Dtype::float64:
      return body(double{});
    case Dtype::bfloat16:
      return body(__nv_bfloat16{});
    case Dtype::float16:
      return body(__half{});
    default:
      return body(float{});
  }
}

}  // namespace
}  // namespace fastreid
