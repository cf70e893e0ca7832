// SPDX-License-Identifier: Apache-2.0
// common/screen.cuh: products of packed rows are what they should be, and no score is off by more than its
// bound. The ops cannot show the former: with products of nothing but NaN they are still right, only slow.
#include <algorithm>

#include "common/screen.cuh"
#include "testing.h"

namespace {

using namespace fastreid;

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, std::size_t shared,
         Arguments... arguments) {
  CHECK_EQUAL(launch(kernel, blocks, threads, shared, nullptr, arguments...), cudaSuccess);
}

__global__ void bounds_kernel(Frame frame, Screened x, bool angular, int64_t packed_depth, int64_t rows,
                              float* out) {
  for (int64_t i = threadIdx.x; i < rows; i += blockDim.x)
    out[i] = screen_bound(frame, x.norm[i], x.error[i], angular, packed_depth);
}

std::size_t fit(int64_t n) { return static_cast<std::size_t>(n); }

struct Memory {
  void* data;
  explicit Memory(int64_t bytes) { cudaMalloc(&data, fit(bytes)); }
  ~Memory() { cudaFree(data); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  char* bytes() const { return static_cast<char*>(data); }
};

void check(int64_t rows, int64_t depth, bool angular) {
  testing::Trying trying(rows, " x ", depth, angular ? " angular" : "");
  testing::Random random(static_cast<unsigned>(depth));
  std::vector<float> values(fit(rows * depth));
  for (float& value : values) value = static_cast<float>(random.uniform(0, 5));
  const int64_t packed_depth = Screened::depth_of(depth), padded = round_up(rows, kTile);
  std::vector<double> square(fit(rows)), inverse(fit(rows));
  const Memory of_frame(Frame::bytes(depth)), of_rows(Screened::bytes(rows, packed_depth));
  Frame frame;
  frame.lay_out(of_frame.bytes(), depth);
  Screened packed;
  packed.lay_out(of_rows.bytes(), rows, packed_depth);
  const ExactRows<float> x{values.data(), depth, 1, angular ? inverse.data() : nullptr};
  const auto blocks = [](int64_t n, int64_t each) { return dim3(static_cast<unsigned>(ceil_div(n, each))); };
  run(frame_kernel, 1, 1, 0, frame);
  run(measure_kernel<float>, blocks(rows, kMeasureRows), kMeasureThreads, 0, x, rows, depth, square.data(),
      angular ? inverse.data() : nullptr, frame.longest);
  run(centre_kernel<float>, blocks(depth, kCentreColumns), dim3(kCentreColumns, kCentreGroups), 0, x, rows,
      depth, frame.centre);
  run(pack_kernel<float>, blocks(padded, kPackRows), kPackThreads, 0, x, int64_t{0}, rows, depth,
      packed_depth, square.data(), frame, true, packed);
  std::vector<float> bound(fit(rows)), product(fit(padded * padded), NAN);
  run(bounds_kernel, 1, 32, 0, frame, packed, angular, packed_depth, rows, bound.data());
  const auto tiles = static_cast<unsigned>(padded / kTile);
  run(tile_kernel, dim3(tiles, tiles), kTileThreads, std::size_t{kTileBytes}, packed.packed, packed.packed,
      packed_depth, product.data(), padded);

  double longest = 0;
  for (const double s : square) longest = std::max(longest, s);
  const double factor = angular ? 1 : std::exp2(-std::floor(std::log2(std::sqrt(longest))));
  std::vector<double> moved(fit(rows * depth));
  for (int64_t i = 0; i < rows; ++i) {
    const double scale = angular ? 1 / std::sqrt(square[fit(i)]) : 1;
    for (int64_t k = 0; k < depth; ++k)
      moved[fit(i * depth + k)] = (values[fit(i * depth + k)] * scale - frame.centre[k]) * factor;
  }
  double worst = 0, share = 0;  // how far off; of the bound
  bool numbers = true;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < rows; ++j) {
      double rounded = 0, given = 0, half = 0;
      for (int64_t k = 0; k < packed_depth; ++k)
        rounded += static_cast<double>(__half2float(packed.packed[i * packed_depth + k])) *
                   static_cast<double>(__half2float(packed.packed[j * packed_depth + k]));
      for (int64_t k = 0; k < depth; ++k) {
        given += moved[fit(i * depth + k)] * moved[fit(j * depth + k)];
        half += moved[fit(j * depth + k)] * moved[fit(j * depth + k)] / 2;
      }
      const double got = product[fit(i * padded + j)];
      numbers = numbers && std::isfinite(got);
      worst = std::max(worst, std::fabs(got - rounded));
      share = std::max(share, std::fabs(got - packed.half[j] - (given - half)) / bound[fit(i)]);
    }
  }
  CHECK(numbers);
  CHECK(worst < 1e-5);
  CHECK(share < 1);
  // A bound a hundred times as wide as anything seen would be right, and of no use.
  if (rows > 1) CHECK(share > 0.01);
}

CASE(products_and_bounds) {
  for (const int64_t depth : {1, 32, 33, 100, 200}) check(140, depth, depth % 2 == 0);
  check(1, 5, false);
}

}  // namespace
