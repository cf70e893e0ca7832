// SPDX-License-Identifier: Apache-2.0
// Argument checks for the registration files and the NumPy door, torch-free. The Python functions have said
// everything in their own words before; these stop a direct call of the registered op from reading out of
// bounds. std::invalid_argument becomes ValueError. Not for x_cpu.cpp and x_cuda.cu: those take what x.h promises.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace fastreid {

// "op: argument: got X, expected Y"
[[noreturn]] inline void refuse(const char* op, const char* argument, const std::string& got,
                                const std::string& expected) {
  throw std::invalid_argument(std::string(op) + ": " + argument + ": got " + got + ", expected " + expected);
}

inline std::string shown(int64_t value) { return std::to_string(value); }

inline std::string shown(std::initializer_list<int64_t> shape) {
  std::string text = "(";
  for (int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + ")";
}

}  // namespace fastreid

// `got` and `expected` are evaluated only where the condition fails.
#define FASTREID_CHECK(condition, op, argument, got, expected)                              \
  do {                                                                                      \
    if (__builtin_expect(!(condition), 0)) ::fastreid::refuse(op, argument, got, expected); \
  } while (0)
