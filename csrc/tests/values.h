// SPDX-License-Identifier: Apache-2.0
// Arrays of the four floating types, filled and read as doubles by arithmetic (ldexp and rounding) instead of
// the bit tricks that kernels use, and exactly as long as asked for, so that ASan sees the first byte past
// the end.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <algorithm>
#include <memory>
#include <new>

namespace testing {

// The order that every op's dtype enum has.
enum class Type { float32, float64, bfloat16, float16 };
constexpr Type kTypes[] = {Type::float32, Type::float64, Type::bfloat16, Type::float16};

inline const char* name(Type type) {
  constexpr const char* kNames[] = {"float32", "float64", "bfloat16", "float16"};
  return kNames[static_cast<int>(type)];
}
inline std::int64_t size_of(Type type) { return type == Type::float64 ? 8 : type == Type::float32 ? 4 : 2; }

// Explicit fraction bits; the largest exponent is 127 for bfloat16 and 15 for float16.
struct SmallFloat {
  int fraction_bits, largest_exponent;
};
constexpr SmallFloat kBfloat16 = {7, 127}, kFloat16 = {10, 15};

inline std::uint16_t encode(double value, SmallFloat format) {
  const int smallest = 1 - format.largest_exponent;
  const unsigned infinity = static_cast<unsigned>(2 * format.largest_exponent + 1) << format.fraction_bits;
  const unsigned sign = std::signbit(value) ? 0x8000u : 0u;
  if (std::isnan(value))
    return static_cast<std::uint16_t>(sign | infinity | (1u << (format.fraction_bits - 1)));
  int exponent = smallest;
  if (std::isfinite(value) && value != 0.0) exponent = std::max(std::ilogb(value), smallest);
  // In units of the last place; a carry into the next binade needs no care, the encoding is continuous.
  const double units = std::isinf(value)
                           ? INFINITY
                           : std::nearbyint(std::ldexp(std::fabs(value), format.fraction_bits - exponent));
  const double bits = units + std::ldexp(exponent - smallest, format.fraction_bits);
  return static_cast<std::uint16_t>(sign | (bits < infinity ? static_cast<unsigned>(bits) : infinity));
}

inline double decode(std::uint16_t bits, SmallFloat format) {
  const int field = (bits & 0x7fff) >> format.fraction_bits,
            fraction = bits & ((1 << format.fraction_bits) - 1);
  double value;
  if (field == 2 * format.largest_exponent + 1) {
    value = fraction != 0 ? std::numeric_limits<double>::quiet_NaN() : INFINITY;
  } else {
    const int hidden = field > 0 ? 1 << format.fraction_bits : 0;
    value =
        std::ldexp(hidden + fraction, std::max(field, 1) - format.largest_exponent - format.fraction_bits);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

class Array {
 public:
  Array(Type type, std::int64_t size)
      : type_(type), size_(size), bytes_(new char[static_cast<std::size_t>(size * size_of(type))]) {
    std::memset(bytes_.get(), 0xff,
                static_cast<std::size_t>(size * size_of(type)));  // NaN: a value never written is seen
  }
  void set(std::int64_t i, double value) {
    switch (type_) {
      case Type::float32:
        return put(i, static_cast<float>(value));
      case Type::float64:
        return put(i, value);
      case Type::bfloat16:
        return put(i, encode(value, kBfloat16));
      case Type::float16:
        return put(i, encode(value, kFloat16));
    }
  }
  double get(std::int64_t i) const {
    switch (type_) {
      case Type::float32:
        return take<float>(i);
      case Type::float64:
        return take<double>(i);
      case Type::bfloat16:
        return decode(take<std::uint16_t>(i), kBfloat16);
      default:
        return decode(take<std::uint16_t>(i), kFloat16);
    }
  }
  void* at(std::int64_t i) { return bytes_.get() + i * size_of(type_); }
  void* data() { return bytes_.get(); }
  std::int64_t size() const { return size_; }
  Type type() const { return type_; }
  bool same_bits(const Array& other) const {
    return std::memcmp(bytes_.get(), other.bytes_.get(), static_cast<std::size_t>(size_ * size_of(type_))) ==
           0;
  }

 private:
  template <typename T>
  void put(std::int64_t i, T value) {
    std::memcpy(bytes_.get() + i * size_of(type_), &value, sizeof value);
  }
  template <typename T>
  T take(std::int64_t i) const {
    T value;
    std::memcpy(&value, bytes_.get() + i * size_of(type_), sizeof value);
    return value;
  }

  Type type_;
  std::int64_t size_;
  std::unique_ptr<char[]> bytes_;
};

// Scratch memory, 64-byte aligned, exactly as long as asked for, full of NaN.
class Scratch {
 public:
  explicit Scratch(std::int64_t bytes)
      : memory_(::operator new(static_cast<std::size_t>(bytes), std::align_val_t{64})) {
    std::memset(memory_, 0xff, static_cast<std::size_t>(bytes));
  }
  ~Scratch() { ::operator delete(memory_, std::align_val_t{64}); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() { return memory_; }

 private:
  void* memory_;
};

}  // namespace testing
