# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, embedsignature=True
"""The kernels of csrc/pixels on NumPy arrays, for fastreid_ops/data/pixels.py, which checks what it passes and has the
same in plain NumPy. The GIL is released while they run."""
import os

from cpython.buffer cimport PyBUF_WRITABLE
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport strcmp

cdef extern from "pixels/pixels.h" namespace "fastreid" nogil:
    ctypedef struct Placement:
        int64_t height
        int64_t width
        int64_t row_stride
        int64_t pixel_stride
        bint mirrored
        int64_t down
        int64_t right
        float[3] border
        float[3] scale
        float[3] shift
        bint planes

cdef extern from *:
    """
    #include "pixels/pixels.h"

    static void fastreid_place(const fastreid::Placement& p, const uint8_t* source, float* result) {
      FASTREID_KERNELS(pixels_kernels).place_bytes(&p, source, result);
    }
    static void fastreid_place(const fastreid::Placement& p, const float* source, float* result) {
      FASTREID_KERNELS(pixels_kernels).place_floats(&p, source, result);
    }
    static void fastreid_blend(float* pixels, int64_t count, float factor, const float* grey, float weight) {
      FASTREID_KERNELS(pixels_kernels).blend(pixels, count, factor, grey, weight);
    }
    static void fastreid_turn_hue(float* pixels, int64_t count, int turn) {
      FASTREID_KERNELS(pixels_kernels).turn_hue(pixels, count, turn);
    }

    // The two structures of the Arrow C data interface.
    struct ArrowSchema {
      const char* format;
      const char* name;
      const char* metadata;
      int64_t flags;
      int64_t n_children;
      struct ArrowSchema** children;
      struct ArrowSchema* dictionary;
      void (*release)(struct ArrowSchema*);
      void* private_data;
    };
    struct ArrowArray {
      int64_t length;
      int64_t null_count;
      int64_t offset;
      int64_t n_buffers;
      int64_t n_children;
      const void** buffers;
      struct ArrowArray** children;
      struct ArrowArray* dictionary;
      void (*release)(struct ArrowArray*);
      void* private_data;
    };
    """
    void fastreid_place(const Placement&, const uint8_t*, float*) nogil
    void fastreid_place(const Placement&, const float*, float*) nogil
    void fastreid_blend(float*, int64_t, float, const float*, float) nogil
    void fastreid_turn_hue(float*, int64_t, int) nogil

    ctypedef struct ArrowSchema:
        const char* format
        int64_t n_children
        ArrowSchema** children
    ctypedef struct ArrowArray:
        int64_t length
        int64_t null_count
        int64_t offset
        int64_t n_buffers
        int64_t n_children
        const void** buffers
        ArrowArray** children

_ISAS = ("baseline", "avx2", "avx512", "avx512_bf16")
if os.environ.get("FASTREID_ISA", "baseline") not in _ISAS:
    raise ValueError(f"FASTREID_ISA: got {os.environ['FASTREID_ISA']!r}, expected baseline, avx2, avx512 or avx512_bf16")

ctypedef fused value:
    uint8_t
    float


def place(const value[:, :, :] source, float[:, :, ::1] result, bint planes, bint mirrored, int64_t down,
          int64_t right, border, scale, shift):
    """Writes `source`, (H, W, 3) with its colours side by side, into `result`: (3, H, W) with `planes`, else (H, W, 3);
    see csrc/pixels/pixels.h."""
    cdef Placement p
    p.height, p.width = source.shape[0], source.shape[1]
    p.row_stride = source.strides[0] // <Py_ssize_t>sizeof(value)
    p.pixel_stride = source.strides[1] // <Py_ssize_t>sizeof(value)
    p.planes, p.mirrored, p.down, p.right = planes, mirrored, down, right
    cdef int colour
    for colour in range(3):
        p.border[colour] = border[colour]
        p.scale[colour] = scale[colour]
        p.shift[colour] = shift[colour]
    with nogil:
        fastreid_place(p, &source[0, 0, 0], &result[0, 0, 0])


def blend(float[:, :, ::1] pixels, float factor, const float[:, ::1] grey, float weight):
    """(H, W, 3) in place: clip(pixels * factor + grey * weight, 0, 255); `grey` (H, W), or None for 1 everywhere."""
    cdef int64_t count = pixels.shape[0] * pixels.shape[1]
    cdef const float* values = NULL
    if grey is not None:
        values = &grey[0, 0]
    with nogil:
        fastreid_blend(&pixels[0, 0, 0], count, factor, values, weight)


def turn_hue(float[:, :, ::1] pixels, int turn):
    """(H, W, 3) in place: the hue moved on by `turn` of 256 steps."""
    cdef int64_t count = pixels.shape[0] * pixels.shape[1]
    with nogil:
        fastreid_turn_hue(&pixels[0, 0, 0], count, turn)


cdef class Lent:
    """The memory of an RGB picture of Pillow, which keeps a pixel in four bytes, as a read-only buffer of bytes of shape
    (height, width, 4), without a copy.

    Raises:
        ValueError: for memory that is not laid out so.
    """

    cdef object owner
    cdef const uint8_t* bytes_
    cdef Py_ssize_t[3] shape
    cdef Py_ssize_t[3] strides

    def __init__(self, capsules, Py_ssize_t height, Py_ssize_t width):
        cdef const ArrowSchema* schema = <const ArrowSchema*>PyCapsule_GetPointer(capsules[0], "arrow_schema")
        cdef const ArrowArray* array = <const ArrowArray*>PyCapsule_GetPointer(capsules[1], "arrow_array")
        if (strcmp(schema.format, "+w:4") != 0 or schema.n_children != 1
                or strcmp(schema.children[0].format, "C") != 0 or array.n_children != 1
                or array.length != height * width or array.offset != 0 or array.children[0].offset != 0
                or array.children[0].n_buffers != 2 or array.children[0].length != 4 * height * width
                or array.children[0].buffers[1] == NULL):
            raise ValueError("Lent: capsules: got another layout, expected 4 bytes for each pixel")
        self.owner = capsules
        self.bytes_ = <const uint8_t*>array.children[0].buffers[1]
        self.shape[0], self.shape[1], self.shape[2] = height, width, 4
        self.strides[0], self.strides[1], self.strides[2] = 4 * width, 4, 1

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        if flags & PyBUF_WRITABLE:
            raise BufferError("Lent: read-only")
        buffer.buf = <void*>self.bytes_
        buffer.obj = self
        buffer.len = self.shape[0] * self.shape[1] * 4
        buffer.itemsize = 1
        buffer.readonly = 1
        buffer.format = "B"
        buffer.ndim = 3
        buffer.shape = self.shape
        buffer.strides = self.strides
        buffer.suboffsets = NULL
        buffer.internal = NULL

    def __releasebuffer__(self, Py_buffer* buffer):
        pass
