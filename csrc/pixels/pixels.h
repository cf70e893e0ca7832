// SPDX-License-Identifier: Apache-2.0
// From the bytes of a decoded picture to the numbers of a batch, and the colour steps between them. Torch-free, no
// tensor op: reached through csrc/python/pixels.pyx by the transforms of fastreid_ops/data alone.
//
// Shapes: a picture (height, width, 3), red, green and blue side by side, any stride of rows and pixels (4 where the
//     decoder pads a pixel to 32 bits); results float32, each colour a plane or colours side by side.
// NaN: bytes have none; floating pixels lie within 0 to 255.
// Ties: turn_hue rounds to whole levels by the even neighbour, and inside as Pillow's conversion does.
// Determinism: every value is a product and a sum with two roundings: the same bits for every instruction set, and
//     those of the NumPy lines in fastreid_ops/data/pixels.py.
// Memory: nothing beyond the result; turn_hue a few KiB of stack.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace fastreid {

// Where a picture goes: mirrored left to right if asked for, then moved down and right by so many pixels (negative:
// up, left); what nothing lands on is the border. Each value v, of picture and border alike, becomes v * scale + shift.
struct Placement {
  int64_t height;
  int64_t width;
  int64_t row_stride;    // of the source, in elements
  int64_t pixel_stride;  // the same, at least 3
  bool mirrored;
  int64_t down;
  int64_t right;
  float border[3];
  float scale[3];
  float shift[3];
  bool planes;  // the result is (3, height, width), else (height, width, 3); contiguous either way
};

struct PixelKernels {
  void (*place_bytes)(const Placement* placement, const uint8_t* source, float* result);
  void (*place_floats)(const Placement* placement, const float* source, float* result);
  // pixels (count, 3), in place: v = clip(v * factor + grey[pixel] * weight, 0, 255), each product rounded before the
  // sum; a null grey is 1 everywhere.
  void (*blend)(float* pixels, int64_t count, float factor, const float* grey, float weight);
  // pixels (count, 3), in place: to whole levels, to Pillow's 8-bit HSV, the hue moved on by `turn` of 256 steps, and
  // back.
  void (*turn_hue)(float* pixels, int64_t count, int turn);
};

FASTREID_DECLARE_KERNELS(PixelKernels, pixels_kernels)

}  // namespace fastreid
