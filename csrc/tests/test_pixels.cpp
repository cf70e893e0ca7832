// SPDX-License-Identifier: Apache-2.0
// pixels.h against its definitions, pixel by pixel: the place each value comes from, and the two colour conversions in
// double precision with a single rounding where Pillow's has one.
#include "pixels/pixels.h"

#include <algorithm>
#include <cmath>

#include "every.h"
#include "testing.h"

namespace {

using namespace fastreid;

constexpr float kUntouched = -12345.0f;

// What lands at (y, x) of the result, colour c, before scale and shift.
template <class T>
float landed(const Placement& p, const std::vector<T>& source, int64_t y, int64_t x, int c) {
  const int64_t row = y - p.down, column = x - p.right;
  if (row < 0 || row >= p.height || column < 0 || column >= p.width) return p.border[c];
  const int64_t from = p.mirrored ? p.width - 1 - column : column;
  return static_cast<float>(source[row * p.row_stride + from * p.pixel_stride + c]);
}

template <class T>
void check_place(testing::Random& random, int64_t height, int64_t width, int64_t pixel_stride) {
  Placement p = {};
  p.height = height, p.width = width, p.pixel_stride = pixel_stride;
  p.row_stride = width * pixel_stride + random.below(3);
  p.mirrored = random.below(2) == 1;
  p.planes = random.below(2) == 1;
  p.down = random.below(2 * height + 3) - height - 1;
  p.right = random.below(2 * width + 3) - width - 1;
  for (int c = 0; c < 3; ++c) {
    p.border[c] = static_cast<float>(random.uniform(0, 255));
    p.scale[c] = static_cast<float>(random.uniform(-2, 2));
    p.shift[c] = static_cast<float>(random.uniform(-2, 2));
  }
  // Not a byte more than the last pixel's three colours, for the address sanitizer.
  std::vector<T> source((height - 1) * p.row_stride + (width - 1) * pixel_stride + 3);
  for (T& value : source) value = static_cast<T>(random.below(256));
  std::vector<float> result(3 * height * width + 1, kUntouched);
  const PixelKernels& kernels = FASTREID_KERNELS(pixels_kernels);
  if constexpr (sizeof(T) == 1) {
    kernels.place_bytes(&p, source.data(), result.data());
  } else {
    kernels.place_floats(&p, source.data(), result.data());
  }
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c) {
        const int64_t at = p.planes ? (c * height + y) * width + x : (y * width + x) * 3 + c;
        const volatile float product = landed(p, source, y, x, c) * p.scale[c];
        CHECK_EQUAL(result[at], product + p.shift[c]);
      }
  CHECK_EQUAL(result.back(), kUntouched);
}

CASE(pictures_land_where_they_belong) {
  testing::for_every_isa([] {
    testing::Random random(1);
    for (int64_t width : {1, 2, 5, 31, 127, 128, 129, 300})
      for (int64_t stride : {3, 4, 5})
        for (int trial = 0; trial < 12; ++trial) {
          testing::Trying trying("width ", width, " stride ", stride, " trial ", trial);
          check_place<uint8_t>(random, 1 + random.below(4), width, stride);
          check_place<float>(random, 1 + random.below(4), width, stride);
        }
  });
}

CASE(blending_rounds_twice_and_clips) {
  testing::for_every_isa([] {
    testing::Random random(2);
    for (int64_t count : {0, 1, 7, 64, 129}) {
      for (const bool with_grey : {false, true}) {
        std::vector<float> pixels(3 * count), grey(count);
        for (float& value : pixels) value = static_cast<float>(random.uniform(0, 255));
        for (float& value : grey) value = static_cast<float>(random.uniform(0, 255));
        const float factor = static_cast<float>(random.uniform(0, 2));
        const float weight = static_cast<float>(random.uniform(-1, 1));
        std::vector<float> expected(pixels);
        for (int64_t i = 0; i < 3 * count; ++i) {
          const volatile float product = pixels[i] * factor;
          const volatile float base = with_grey ? grey[i / 3] * weight : weight;
          const float sum = product + base;
          expected[i] = std::clamp(sum, 0.0f, 255.0f);
        }
        FASTREID_KERNELS(pixels_kernels)
            .blend(pixels.data(), count, factor, with_grey ? grey.data() : nullptr, weight);
        CHECK(pixels == expected);
      }
    }
  });
}

struct Hsv {
  int hue, saturation, value;
};

// Pillow's rgb2hsv: quotients and the position on the circle in float32, products with 255 cut off.
Hsv hsv_of(int red, int green, int blue) {
  const int high = std::max({red, green, blue}), low = std::min({red, green, blue});
  if (high == low) return {0, 0, high};
  const float chroma = static_cast<float>(high - low);
  const float r = static_cast<float>(high - red) / chroma, g = static_cast<float>(high - green) / chroma,
              b = static_cast<float>(high - blue) / chroma;
  float hue = red == high ? b - g : static_cast<float>(green == high ? 2.0 + r - b : 4.0 + g - r);
  hue = static_cast<float>(std::fmod(hue / 6.0 + 1.0, 1.0));
  const float saturation = chroma / static_cast<float>(high);
  return {static_cast<int>(hue * 255.0), static_cast<int>(saturation * 255.0), high};
}

// Pillow's hsv2rgb.
void rgb_of(const Hsv& colour, float* rgb) {
  const int sector = static_cast<int>(std::floor(colour.hue * 6.0 / 255.0));
  const float f = static_cast<float>(colour.hue * 6.0 / 255.0 - sector);
  const float s = static_cast<float>(colour.saturation / 255.0);
  const float v = static_cast<float>(colour.value);
  const float p = static_cast<float>(std::round(v * (1.0 - s)));
  const float q = static_cast<float>(std::round(v * (1.0 - static_cast<double>(s * f))));
  const float t = static_cast<float>(std::round(v * (1.0 - s * (1.0 - f))));
  const float table[6][3] = {{v, t, p}, {q, v, p}, {p, v, t}, {p, q, v}, {t, p, v}, {v, p, q}};
  std::copy_n(table[sector % 6], 3, rgb);
}

CASE(hue_turns_as_in_pillow) {
  testing::for_every_isa([] {
    testing::Random random(3);
    for (int64_t count : {1, 127, 128, 4001}) {
      const int turn = static_cast<int>(random.below(256));
      testing::Trying trying("count ", count, " turn ", turn);
      std::vector<float> pixels(3 * count), expected(3 * count);
      for (float& value : pixels)
        value = static_cast<float>(random.below(8) == 0 ? 255 * random.below(2) : random.below(511) * 0.5);
      for (int64_t i = 0; i < count; ++i) {
        if (random.below(10) == 0) pixels[3 * i + 2] = pixels[3 * i + 1] = pixels[3 * i];
        const float* level = &pixels[3 * i];
        Hsv colour =
            hsv_of(static_cast<int>(std::nearbyint(level[0])), static_cast<int>(std::nearbyint(level[1])),
                   static_cast<int>(std::nearbyint(level[2])));
        colour.hue = (colour.hue + turn) % 256;
        rgb_of(colour, &expected[3 * i]);
      }
      FASTREID_KERNELS(pixels_kernels).turn_hue(pixels.data(), count, turn);
      CHECK(pixels == expected);
    }
  });
}

}  // namespace
