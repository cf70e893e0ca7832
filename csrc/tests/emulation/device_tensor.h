// SPDX-License-Identifier: Apache-2.0
// Tensor cores (16 x 16 x 16, bfloat16 into float32) and asynchronous copies to shared memory, for device.h.
//
// A fragment is spread over the warp as on the device, eight elements of half a row (or column) in each lane, and
// every operation is a collective of the whole warp. Copies are made no earlier than the thread waits for them, so
// that one not waited for is seen as the NaN that shared memory starts with.
#pragma once

#include <vector>

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int kM, int kN, int kK, class T, class Layout = void>
struct fragment {
  static_assert(kM == 16 && kN == 16 && kK == 16, "the shape that is emulated");
  static_assert(std::is_same_v<Use, accumulator> ? std::is_same_v<T, float> && std::is_void_v<Layout>
                : std::is_same_v<Use, matrix_a>
                    ? std::is_same_v<T, __nv_bfloat16> && std::is_same_v<Layout, row_major>
                    : std::is_same_v<T, __nv_bfloat16> && std::is_same_v<Layout, col_major>,
                "the layouts that are emulated");
  T part[8];
};
template <class T>
using accumulator_fragment = fragment<accumulator, 16, 16, 16, T>;

namespace emulated {

using fastreid::emulation::Collective;
using fastreid::emulation::Site;

inline unsigned line() { return fastreid::emulation::lane() / 2; }
inline unsigned start() { return fastreid::emulation::lane() % 2 * 8; }

// The lanes must agree on the matrix.
template <class T>
void agree(const T* address, unsigned stride, Site site) {
  const std::uint64_t bits = reinterpret_cast<std::uint64_t>(address) ^ std::uint64_t{stride} << 48;
  const std::uint64_t* given = fastreid::emulation::exchange(Collective::match, ~0u, bits, site);
  for (int i = 0; i < 32; ++i)
    if (given[i] != bits) fastreid::emulation::fail(site, "lanes name different matrices");
  if (stride * sizeof(T) % 16 != 0 || reinterpret_cast<std::uintptr_t>(address) % 16 != 0)
    fastreid::emulation::fail(site, "matrix is not aligned");
}

template <class Use, class Layout>
void gather(const fragment<Use, 16, 16, 16, __nv_bfloat16, Layout>& from, float (*to)[16], Site site) {
  for (int part = 0; part < 2; ++part) {
    std::uint64_t bits;
    std::memcpy(&bits, reinterpret_cast<const char*>(from.part) + 8 * part, 8);
    const std::uint64_t* given = fastreid::emulation::exchange(Collective::shuffle, ~0u, bits, site);
    for (int i = 0; i < 32; ++i)
      for (int e = 0; e < 4; ++e) {
        const auto half = static_cast<std::uint32_t>(given[i] >> (16 * e) & 0xffffu);
        to[i / 2][i % 2 * 8 + part * 4 + e] = fastreid::emulation::from_bits<float>(half << 16);
      }
  }
}

}  // namespace emulated

template <class T>
void fill_fragment(accumulator_fragment<T>& to, T value) {
  for (T& element : to.part) element = value;
}

template <class Use, class Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, __nv_bfloat16, Layout>& to, const __nv_bfloat16* from,
                      unsigned stride, FASTREID_AT) {
  emulated::agree(from, stride, site);
  for (unsigned i = 0; i < 8; ++i) to.part[i] = from[emulated::line() * stride + emulated::start() + i];
}

static inline void mma_sync(accumulator_fragment<float>& to,
                            const fragment<matrix_a, 16, 16, 16, __nv_bfloat16, row_major>& a,
                            const fragment<matrix_b, 16, 16, 16, __nv_bfloat16, col_major>& b,
                            const accumulator_fragment<float>& c, FASTREID_AT) {
  float rows[16][16], columns[16][16];
  emulated::gather(a, rows, site);
  emulated::gather(b, columns, site);
  for (unsigned i = 0; i < 8; ++i) {
    float sum = c.part[i];
    for (int k = 0; k < 16; ++k) sum += rows[emulated::line()][k] * columns[emulated::start() + i][k];
    to.part[i] = sum;
  }
}

static inline void store_matrix_sync(float* to, const accumulator_fragment<float>& from, unsigned stride,
                                     layout_t layout, FASTREID_AT) {
  if (layout != mem_row_major) fastreid::emulation::fail(site, "only rows are emulated");
  emulated::agree(to, stride, site);
  for (unsigned i = 0; i < 8; ++i) to[emulated::line() * stride + emulated::start() + i] = from.part[i];
}

}  // namespace nvcuda::wmma

namespace fastreid::emulation {

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
};
struct Copies {
  std::vector<std::vector<Copy>> committed;  // not yet waited for
  std::vector<Copy> open;
};
// Of the running thread. Blocks run one after the other: what a block left behind is lost, as on the device.
inline Copies& copies() {
  static std::vector<Copies> all(1024);
  static uint3 block{};
  if (block.x != here->block.x || block.y != here->block.y || block.z != here->block.z) {
    for (Copies& each : all) each = Copies{};
    block = here->block;
  }
  return all[here->thread.x + here->block_dim.x * (here->thread.y + here->block_dim.y * here->thread.z)];
}

}  // namespace fastreid::emulation

FASTREID_DEVICE void __pipeline_memcpy_async(void* to, const void* from, std::size_t bytes, FASTREID_AT) {
  const auto both = reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from);
  if ((bytes != 4 && bytes != 8 && bytes != 16) || both % bytes != 0)
    fastreid::emulation::fail(site, "asynchronous copy of another size or not aligned");
  fastreid::emulation::copies().open.push_back({to, from, bytes});
}
FASTREID_DEVICE void __pipeline_commit() {
  fastreid::emulation::Copies& own = fastreid::emulation::copies();
  own.committed.push_back(std::move(own.open));
  own.open.clear();
}
FASTREID_DEVICE void __pipeline_wait_prior(std::size_t prior) {
  fastreid::emulation::Copies& own = fastreid::emulation::copies();
  while (own.committed.size() > prior) {
    for (const fastreid::emulation::Copy& each : own.committed.front())
      std::memcpy(each.to, each.from, each.bytes);
    own.committed.erase(own.committed.begin());
  }
}
