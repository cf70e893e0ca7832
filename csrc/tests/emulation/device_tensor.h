// SPDX-License-Identifier: Apache-2.0
// Tensor cores (16 x 16 x 16, float16 into float32) and asynchronous copies to shared memory, for device.h.
//
// A fragment is spread over the warp as on the device, eight elements of half a row (or column) in each lane,
// and every operation is a collective of the whole warp. Copies are made no earlier than the thread waits for
// them, so that one not waited for is seen as the NaN that shared memory starts with.
#pragma once

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
                    ? std::is_same_v<T, __half> && std::is_same_v<Layout, row_major>
                    : std::is_same_v<T, __half> && std::is_same_v<Layout, col_major>,
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

// Of the bits of a float16; NVIDIA's function for hosts is too slow for this many.
inline float widened(std::uint32_t half) {
  const float magnitude = (half & 0x7fffu) < 0x7c00u
                              ? fastreid::emulation::from_bits<float>((half & 0x7fffu) << 13) * 0x1p112f
                              : fastreid::emulation::from_bits<float>(0x7f800000u | (half & 0x3ffu) << 13);
  return (half & 0x8000u) != 0 ? -magnitude : magnitude;
}

template <class Use, class Layout>
void gather(const fragment<Use, 16, 16, 16, __half, Layout>& from, float (*to)[16], Site site) {
  for (int part = 0; part < 2; ++part) {
    std::uint64_t bits;
    std::memcpy(&bits, reinterpret_cast<const char*>(from.part) + 8 * part, 8);
    const std::uint64_t* given = fastreid::emulation::exchange(Collective::shuffle, ~0u, bits, site);
    for (int i = 0; i < 32; ++i)
      for (int e = 0; e < 4; ++e) {
        to[i / 2][i % 2 * 8 + part * 4 + e] =
            widened(static_cast<std::uint32_t>(given[i] >> (16 * e) & 0xffffu));
      }
  }
}

}  // namespace emulated

template <class T>
void fill_fragment(accumulator_fragment<T>& to, T value) {
  for (T& element : to.part) element = value;
}

template <class Use, class Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, __half, Layout>& to, const __half* from, unsigned stride,
                      FASTREID_AT) {
  emulated::agree(from, stride, site);
  for (unsigned i = 0; i < 8; ++i) to.part[i] = from[emulated::line() * stride + emulated::start() + i];
}

static inline void mma_sync(accumulator_fragment<float>& to,
                            const fragment<matrix_a, 16, 16, 16, __half, row_major>& a,
                            const fragment<matrix_b, 16, 16, 16, __half, col_major>& b,
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

FASTREID_DEVICE void __pipeline_memcpy_async(void* to, const void* from, std::size_t bytes, FASTREID_AT) {
  const auto both = reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from);
  if ((bytes != 4 && bytes != 8 && bytes != 16) || both % bytes != 0)
    fastreid::emulation::fail(site, "asynchronous copy of another size or not aligned");
  fastreid::emulation::copy_later({to, from, bytes});
}
FASTREID_DEVICE void __pipeline_commit() { fastreid::emulation::commit_copies(); }
FASTREID_DEVICE void __pipeline_wait_prior(std::size_t prior) {
  fastreid::emulation::Copy copy;
  while (fastreid::emulation::next_copy(prior, &copy)) std::memcpy(copy.to, copy.from, copy.bytes);
}
