// SPDX-License-Identifier: Apache-2.0
// CPU kernels of pixels.h, compiled once per instruction set. Plain loops over short runs of numbers side by side:
// the compiler turns them into vectors of whatever width there is.
#include "pixels/pixels.h"

namespace fastreid::FASTREID_ISA {
namespace {

constexpr int64_t kRun = 128;  // pixels taken apart at a time

template <class T>
inline void take_apart(const T* source, int64_t stride, int64_t count, float (*colours)[kRun]) {
  for (int64_t i = 0; i < count; ++i) {
    colours[0][i] = static_cast<float>(source[i * stride]);
    colours[1][i] = static_cast<float>(source[i * stride + 1]);
    colours[2][i] = static_cast<float>(source[i * stride + 2]);
  }
}

// values * scale + shift, the last first if mirrored.
template <int kStep>
inline void write(const float* values, int64_t count, bool mirrored, float scale, float shift, float* to) {
  if (mirrored) {
    for (int64_t i = 0; i < count; ++i) to[kStep * i] = values[count - 1 - i] * scale + shift;
  } else {
    for (int64_t i = 0; i < count; ++i) to[kStep * i] = values[i] * scale + shift;
  }
}

inline int64_t at_least(int64_t x, int64_t least) { return x < least ? least : x; }
inline int64_t at_most(int64_t x, int64_t most) { return x > most ? most : x; }

// Columns first to last of one line of the result in one colour, or all three.
inline void fill(const Placement& p, float* line, int64_t plane, int64_t first, int64_t last) {
  for (int c = 0; c < 3; ++c) {
    const float value = p.border[c] * p.scale[c] + p.shift[c];
    if (p.planes) {
      for (int64_t x = first; x < last; ++x) line[c * plane + x] = value;
    } else {
      for (int64_t x = first; x < last; ++x) line[3 * x + c] = value;
    }
  }
}

template <class T>
void place(const Placement* placement, const T* source, float* result) {
  const Placement& p = *placement;
  const int64_t plane = p.height * p.width;
  const int64_t left = at_most(at_least(p.right, 0), p.width);
  const int64_t end = at_least(at_most(p.width + p.right, p.width), left);
  alignas(64) float colours[3][kRun];
  for (int64_t y = 0; y < p.height; ++y) {
    float* line = result + (p.planes ? 1 : 3) * y * p.width;
    const int64_t from = y - p.down;
    if (from < 0 || from >= p.height) {
      fill(p, line, plane, 0, p.width);
      continue;
    }
    fill(p, line, plane, 0, left);
    fill(p, line, plane, end, p.width);
    for (int64_t x = left; x < end; x += kRun) {
      const int64_t count = at_most(end - x, kRun);
      const int64_t column = p.mirrored ? p.width - count - (x - p.right) : x - p.right;
      const T* first = source + from * p.row_stride + column * p.pixel_stride;
      // The strides that arrays and decoders have, known to the compiler.
      if (p.pixel_stride == 3) {
        take_apart(first, 3, count, colours);
      } else if (p.pixel_stride == 4) {
        take_apart(first, 4, count, colours);
      } else {
        take_apart(first, p.pixel_stride, count, colours);
      }
      for (int c = 0; c < 3; ++c) {
        if (p.planes) {
          write<1>(colours[c], count, p.mirrored, p.scale[c], p.shift[c], line + c * plane + x);
        } else {
          write<3>(colours[c], count, p.mirrored, p.scale[c], p.shift[c], line + 3 * x + c);
        }
      }
    }
  }
}

inline float clipped(float v) {
  v = v < 0.0f ? 0.0f : v;
  return v > 255.0f ? 255.0f : v;
}

void blend(float* pixels, int64_t count, float factor, const float* grey, float weight) {
  if (grey == nullptr) {
    for (int64_t i = 0; i < 3 * count; ++i) pixels[i] = clipped(pixels[i] * factor + weight);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const float base = grey[i] * weight;
    for (int c = 0; c < 3; ++c) pixels[3 * i + c] = clipped(pixels[3 * i + c] * factor + base);
  }
}

// x >= 0, below 2^22: to the even neighbour of two equally near, whatever the instruction set.
inline int32_t nearest_even(float x) {
  const float shifted = x + 12582912.0f;
  return static_cast<int32_t>(shifted - 12582912.0f);
}

// x >= 0: halves up, as C's round().
inline int32_t halves_up(double x) {
  const int32_t whole = static_cast<int32_t>(x);
  return whole + static_cast<int32_t>((x - static_cast<double>(whole)) * 2.0);
}

// A run of pixels, colour by colour, in whole levels.
struct Run {
  alignas(64) int32_t red[kRun], green[kRun], blue[kRun];
  alignas(64) int32_t hue[kRun], saturation[kRun], value[kRun];
};

// Both conversions have the roundings to float32 of Pillow's rgb2hsv and hsv2rgb. Operands are chosen, not results:
// arithmetic inside a choice would not become vectors.
inline void to_hsv(Run& run) {
  for (int64_t i = 0; i < kRun; ++i) {
    const int32_t red = run.red[i], green = run.green[i], blue = run.blue[i];
    const int32_t top = red > green ? red : green, bottom = red < green ? red : green;
    const int32_t high = top > blue ? top : blue, low = bottom < blue ? bottom : blue;
    const int32_t chroma = high - low, some = chroma > 0 ? chroma : 1;
    // The two colours whose distances to the largest make the hue, and the third of the circle that is its.
    const int32_t after = red == high ? blue : green == high ? red : green;
    const int32_t before = red == high ? green : green == high ? blue : red;
    const int32_t third = red == high ? 0 : green == high ? 2 : 4;
    const float ahead = static_cast<float>(high - after) / static_cast<float>(some);
    const float behind = static_cast<float>(high - before) / static_cast<float>(some);
    const float sixths = static_cast<float>(static_cast<double>(third) + static_cast<double>(ahead) -
                                            static_cast<double>(behind));
    const double turns = static_cast<double>(sixths) / 6.0 + 1.0;  // 5/6 to 11/6
    const float circle = static_cast<float>(turns - static_cast<double>(static_cast<int32_t>(turns)));
    const int32_t hue = static_cast<int32_t>(static_cast<double>(circle) * 255.0);
    const float pure = static_cast<float>(chroma) / static_cast<float>(high > 0 ? high : 1);
    run.hue[i] = chroma > 0 ? hue : 0;
    run.saturation[i] = static_cast<int32_t>(static_cast<double>(pure) * 255.0);
    run.value[i] = high;
  }
}

// Which of the three values a colour takes in each of the six sectors, 2 bits each: 0 the least, 1 the middle, 2 the
// highest.
constexpr int32_t kRed = 0b10'01'00'00'01'10, kGreen = 0b00'00'01'10'10'01, kBlue = 0b01'10'10'01'00'00;

// By products, not by a choice, for the same reason.
inline int32_t one_of(int32_t table, int32_t sector, int32_t least, int32_t middle, int32_t high) {
  const int32_t which = table >> (2 * sector);
  return least + (middle - least) * (which & 1) + (high - least) * ((which >> 1) & 1);
}

inline void to_rgb(Run& run) {
  for (int64_t i = 0; i < kRun; ++i) {
    const double sixths = static_cast<double>(run.hue[i]) * 6.0 / 255.0;
    const int32_t sector = static_cast<int32_t>(sixths);
    const float place = static_cast<float>(sixths - static_cast<double>(sector));
    const float pure = static_cast<float>(static_cast<double>(run.saturation[i]) / 255.0);
    const int32_t high = run.value[i];
    const double value = static_cast<double>(high);
    const int32_t least = halves_up(value * (1.0 - static_cast<double>(pure)));
    const int32_t falling = halves_up(value * (1.0 - static_cast<double>(pure * place)));
    const int32_t rising =
        halves_up(value * (1.0 - static_cast<double>(pure) * (1.0 - static_cast<double>(place))));
    // Sector 6, which only hue 255 reaches, is sector 0.
    const int32_t six = sector - 6 * ((sector + 2) >> 3);
    const int32_t middle = rising + (falling - rising) * (six & 1);
    run.red[i] = one_of(kRed, six, least, middle, high);
    run.green[i] = one_of(kGreen, six, least, middle, high);
    run.blue[i] = one_of(kBlue, six, least, middle, high);
  }
}

void turn_hue(float* pixels, int64_t count, int turn) {
  Run run = {};
  for (int64_t first = 0; first < count; first += kRun) {
    const int64_t size = at_most(count - first, kRun);
    float* part = pixels + 3 * first;
    for (int64_t i = 0; i < size; ++i) {
      run.red[i] = nearest_even(part[3 * i]);
      run.green[i] = nearest_even(part[3 * i + 1]);
      run.blue[i] = nearest_even(part[3 * i + 2]);
    }
    to_hsv(run);
    for (int64_t i = 0; i < kRun; ++i) run.hue[i] = (run.hue[i] + turn) & 255;
    to_rgb(run);
    for (int64_t i = 0; i < size; ++i) {
      part[3 * i] = static_cast<float>(run.red[i]);
      part[3 * i + 1] = static_cast<float>(run.green[i]);
      part[3 * i + 2] = static_cast<float>(run.blue[i]);
    }
  }
}

}  // namespace

extern const PixelKernels pixels_kernels = {place<uint8_t>, place<float>, blend, turn_hue};

}  // namespace fastreid::FASTREID_ISA
