// SPDX-License-Identifier: Apache-2.0
// The tests' own few lines of a test framework: cases register themselves, checks count and say what came,
// main() is here.
//
//     CASE(adds) { CHECK_EQUAL(1 + 1, 2); }
//
// A program runs the cases whose names contain its first argument (all without one); its status is 1 if a
// check failed.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <iostream>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace testing {

struct Case {
  const char* name;
  void (*body)();
};
inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}
struct Register {
  Register(const char* name, void (*body)()) { cases().push_back({name, body}); }
};

inline int failures = 0, checks = 0;
inline std::string context;  // what is being tried; set by Trying

// Says what is being tried while it lives: `Trying trying("rows ", rows);`
struct Trying {
  std::size_t before = context.size();
  template <typename... Parts>
  explicit Trying(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    context += " [" + text.str() + "]";
  }
  ~Trying() { context.resize(before); }
  Trying(const Trying&) = delete;
  Trying& operator=(const Trying&) = delete;
};

inline void check(bool passed, const char* file, int line, const std::function<std::string()>& message) {
  ++checks;
  if (passed) return;
  // A wrong kernel is wrong a thousand times; the first few say enough.
  if (++failures <= 10)
    std::fprintf(stderr, "%s:%d: FAILED:%s %s\n", file, line, context.c_str(), message().c_str());
}

template <typename A, typename B>
std::string got_expected(const char* what, const A& got, const B& expected) {
  std::ostringstream text;
  text.precision(17);
  text << what << ": got " << got << ", expected " << expected;
  return text.str();
}

// Equal, both NaN, or no further apart than `absolute` + `relative` * |expected|.
inline bool near(double got, double expected, double absolute, double relative) {
  if (std::isnan(got) || std::isnan(expected)) return std::isnan(got) && std::isnan(expected);
  return got == expected || std::fabs(got - expected) <= absolute + relative * std::fabs(expected);
}

// A generator of its own for each test: same numbers on every machine (the standard's distributions promise
// no such thing).
class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  std::int64_t below(std::int64_t bound) {
    return static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(bound));
  }
  double uniform(double low, double high) {
    return low + (high - low) * static_cast<double>(engine_() >> 11) * 0x1p-53;
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace testing

#define CASE(name)                                               \
  static void name();                                            \
  static const ::testing::Register register_##name(#name, name); \
  static void name()
#define CHECK(condition) \
  ::testing::check(static_cast<bool>(condition), __FILE__, __LINE__, [&] { return std::string(#condition); })
#define CHECK_EQUAL(got, expected)                          \
  ::testing::check((got) == (expected), __FILE__, __LINE__, \
                   [&] { return ::testing::got_expected(#got, (got), (expected)); })
#define CHECK_NEAR(got, expected, absolute, relative)                                                   \
  ::testing::check(                                                                                     \
      ::testing::near(static_cast<double>(got), static_cast<double>(expected), (absolute), (relative)), \
      __FILE__, __LINE__, [&] { return ::testing::got_expected(#got, (got), (expected)); })

#ifndef TESTING_OWN_MAIN
int main(int count, char** arguments) {
  for (const testing::Case& each : testing::cases()) {
    if (count > 1 && std::strstr(each.name, arguments[1]) == nullptr) continue;
    const int before = testing::failures;
    testing::context.assign(each.name);
    each.body();
    std::printf("%s %s\n", testing::failures == before ? "ok  " : "FAIL", each.name);
  }
  std::printf("%d checks, %d failed\n", testing::checks, testing::failures);
  return testing::failures == 0 && testing::checks > 0 ? 0 : 1;
}
#endif
