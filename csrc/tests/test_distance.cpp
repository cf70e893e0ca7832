// SPDX-License-Identifier: Apache-2.0
// distance.h against the definitions of its four metrics and their derivatives, in extended precision, row by
// row. CPU kernels in every instruction set and the CUDA kernels on the emulated device.
#include "distance/distance.h"

#include <algorithm>

#include "every.h"
#include "testing.h"
#include "values.h"

namespace {

using namespace fastreid;
using testing::Array;
using testing::Type;

constexpr Metric kMetrics[] = {Metric::euclidean, Metric::sqeuclidean, Metric::cosine, Metric::arccos};
enum class Layout { contiguous, transposed, every_second, reversed, expanded };
constexpr Layout kLayouts[] = {Layout::contiguous, Layout::transposed, Layout::every_second, Layout::reversed,
                               Layout::expanded};

struct Matrix {
  Array values;
  int64_t rows, columns, origin = 0, row_stride, column_stride;

  Matrix(Type type, Layout layout, int64_t rows_, int64_t columns_)
      : values(type, std::max<int64_t>(layout == Layout::expanded ? columns_ : 2 * rows_ * columns_, 1)),
        rows(rows_),
        columns(columns_) {
    row_stride = layout == Layout::transposed     ? 1
                 : layout == Layout::expanded     ? 0
                 : layout == Layout::every_second ? 2 * columns
                                                  : columns;
    column_stride = layout == Layout::transposed ? rows : layout == Layout::every_second ? 2 : 1;
    if (layout == Layout::reversed)
      origin = std::max<int64_t>(rows * columns - 1, 0), row_stride = -columns, column_stride = -1;
  }
  void fill(unsigned seed, double low, double high) {
    testing::Random random(seed);
    for (int64_t i = 0; i < values.size(); ++i) values.set(i, random.uniform(low, high));
  }
  int64_t place(int64_t i, int64_t k) const { return origin + i * row_stride + k * column_stride; }
  long double at(int64_t i, int64_t k) const { return values.get(place(i, k)); }
  void set(int64_t i, int64_t k, double value) { values.set(place(i, k), value); }
  DistanceMatrix view() { return {values.at(origin), row_stride, column_stride}; }
};

struct Pair {
  long double squares = 0, xx = 0, yy = 0, xy = 0;  // |x-y|^2, |x|^2, |y|^2, x.y

  Pair(const Matrix& x, int64_t i, const Matrix& y, int64_t j) {
    for (int64_t k = 0; k < x.columns; ++k) {
      const long double a = x.at(i, k), b = y.at(j, k);
      squares += (a - b) * (a - b), xx += a * a, yy += b * b, xy += a * b;
    }
  }
  long double cosine() const {
    if (xx == 0 || yy == 0) return 0;
    return std::clamp(xy / std::sqrt(xx * yy), -1.0L, 1.0L);
  }
  long double distance(Metric metric) const {
    switch (metric) {
      case Metric::euclidean:
        return std::sqrt(squares);
      case Metric::sqeuclidean:
        return squares;
      case Metric::cosine:
        return 1 - cosine();
      default:
        return std::acos(cosine());
    }
  }
  // d distance / d x[k]
  long double slope(Metric metric, long double a, long double b) const {
    if (metric == Metric::euclidean) return squares > 0 ? (a - b) / std::sqrt(squares) : 0;
    if (metric == Metric::sqeuclidean) return 2 * (a - b);
    if (xx == 0 || yy == 0) return 0;
    const long double down = (xy * a / xx - b) / std::sqrt(xx * yy);
    return metric == Metric::cosine ? down : down / std::sqrt(1 - cosine() * cosine());
  }
};

// Unit roundoff of the stored type, and of the type the sums are carried in.
double rounding(Type type) {
  return type == Type::float64   ? 0x1p-53
         : type == Type::float32 ? 0x1p-24
         : type == Type::float16 ? 0x1p-11
                                 : 0x1p-8;
}
double carried(Type type) { return type == Type::float64 ? 0x1p-53 : 0x1p-24; }

DistanceProblem problem_of(Matrix& x, Matrix& y, Metric metric) {
  return {x.view(), y.view(), x.rows, y.rows, x.columns, metric, static_cast<Dtype>(x.values.type())};
}

Array on_cpu(const DistanceProblem& p, int64_t row_split, int64_t column_split) {
  const DistanceKernels& kernels = FASTREID_KERNELS(distance_kernels);
  Array out(static_cast<Type>(p.dtype), p.x_rows * p.y_rows);
  const int64_t rows[] = {0, row_split, p.x_rows}, columns[] = {0, column_split, p.y_rows};
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      const int64_t height = rows[i + 1] - rows[i], width = columns[j + 1] - columns[j];
      if (height == 0 || width == 0) continue;
      testing::Scratch scratch(kernels.workspace_bytes(&p, height, width));
      kernels.rectangle(&p, rows[i], rows[i + 1], columns[j], columns[j + 1], scratch.data(), out.data());
    }
  }
  return out;
}

void compare(const Array& got, const Matrix& x, const Matrix& y, Metric metric) {
  const double relative = 3 * rounding(x.values.type()) + 40 * carried(x.values.type());
  // 1 - cos is 0 plus or minus the rounding of cos, and the oracle's own acos is no better than this near 0.
  const double absolute = metric == Metric::cosine   ? 8 * carried(x.values.type())
                          : metric == Metric::arccos ? 2e-9
                                                     : 6e-8 * (x.values.type() == Type::float16);
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int64_t j = 0; j < y.rows; ++j) {
      const Pair pair(x, i, y, j);
      CHECK_NEAR(got.get(i * y.rows + j), static_cast<double>(pair.distance(metric)), absolute, relative);
    }
  }
}

#ifdef FASTREID_EMULATED
Array on_device(const DistanceProblem& p) {
  Array out(static_cast<Type>(p.dtype), p.x_rows * p.y_rows);
  testing::Scratch scratch(fastreid::cuda::distance_scratch(p));
  CHECK_EQUAL(fastreid::cuda::launch_distance(p, scratch.data(), out.data(), nullptr), 0);
  return out;
}
#endif

void check(Matrix& x, Matrix& y, Metric metric, [[maybe_unused]] bool emulated = true) {
  testing::Trying trying(x.rows, " x ", y.rows, " x ", x.columns, " metric ", static_cast<int>(metric));
  const DistanceProblem problem = problem_of(x, y, metric);
  testing::for_every_isa([&] {
    const Array whole = on_cpu(problem, 0, 0);
    compare(whole, x, y, metric);
    CHECK(on_cpu(problem, x.rows / 3, y.rows / 2).same_bits(whole));
  });
#ifdef FASTREID_EMULATED
  if (!emulated) return;
  const Array first = on_device(problem);
  compare(first, x, y, metric);
  testing::for_every_order([&] { CHECK(on_device(problem).same_bits(first)); });
#endif
}

CASE(every_type_layout_and_metric) {
  for (const Type type : testing::kTypes) {
    for (const Layout layout : kLayouts) {
      testing::Trying trying(testing::name(type), " layout ", static_cast<int>(layout));
      Matrix x(type, layout, 5, 19), y(type, layout, 7, 19);
      x.fill(1, -2, 2), y.fill(2, -2, 2);
      // A pair of layouts and a metric each, so that all meet; every metric where memory is contiguous.
      for (const Metric metric : kMetrics) {
        if (layout == Layout::contiguous || static_cast<int>(layout) % 4 == static_cast<int>(metric))
          check(x, y, metric);
      }
    }
  }
}

CASE(sizes) {
  constexpr int64_t kSizes[][3] = {{0, 3, 2},    {3, 0, 2},    {1, 1, 1},   {2, 65, 3},
                                   {33, 17, 31}, {65, 3, 129}, {47, 48, 8}, {4, 5, 300}};
  for (const auto& size : kSizes) {
    for (const Type type : {Type::float32, Type::float64}) {
      for (const Metric metric : {Metric::euclidean, Metric::cosine}) {
        Matrix x(type, Layout::contiguous, size[0], size[2]), y(type, Layout::transposed, size[1], size[2]);
        x.fill(3, -1, 2), y.fill(4, -1, 2);
        check(x, y, metric, (type == Type::float32) == (metric == Metric::euclidean));
      }
    }
  }
}

// Far from the origin and close together: where |x|^2 + |y|^2 - 2xy has no digits left.
CASE(small_distances_keep_their_digits) {
  for (const Type type : {Type::float32, Type::float64}) {
    Matrix x(type, Layout::contiguous, 6, 40), y(type, Layout::contiguous, 6, 40);
    x.fill(5, 100, 101);
    for (int64_t i = 0; i < 6; ++i) {
      for (int64_t k = 0; k < 40; ++k)
        y.set(
            i, k,
            static_cast<double>(x.at(i, k)) + (k % 3 == 0 ? std::ldexp(1.0, -static_cast<int>(i) - 8) : 0.0));
    }
    for (const Metric metric : {Metric::euclidean, Metric::sqeuclidean}) check(x, y, metric);
  }
}

template <typename Body>
void for_every_device(const DistanceProblem& problem, Body body) {
  testing::for_every_isa([&] { body(on_cpu(problem, 0, 0)); });
#ifdef FASTREID_EMULATED
  testing::Trying trying("emulated device");
  body(on_device(problem));
#endif
}

CASE(equal_rows_zero_rows_and_what_is_no_number) {
  for (const Type type : testing::kTypes) {
    for (const Metric metric : kMetrics) {
      testing::Trying trying(testing::name(type), " metric ", static_cast<int>(metric));
      Matrix x(type, Layout::contiguous, 4, 21);
      x.fill(6, 1, 2);
      for (int64_t k = 0; k < 21; ++k) x.set(1, k, 0.0);
      x.set(2, 4, NAN);
      for_every_device(problem_of(x, x, metric), [&](const Array& out) {
        const bool angular = metric == Metric::cosine || metric == Metric::arccos;
        CHECK_EQUAL(out.get(0), 0.0);
        CHECK_EQUAL(out.get(15), 0.0);
        CHECK_NEAR(out.get(1),
                   !angular                   ? static_cast<double>(Pair(x, 0, x, 1).distance(metric))
                   : metric == Metric::cosine ? 1.0
                                              : std::acos(0.0),
                   0.0, 4 * rounding(type));
        for (int64_t i = 0; i < 4; ++i) {
          CHECK(std::isnan(out.get(4 * i + 2)) && std::isnan(out.get(8 + i)));
          for (int64_t j = 0; j < i; ++j) CHECK(i == 2 || j == 2 || out.get(4 * i + j) == out.get(4 * j + i));
        }
      });
    }
  }
}

Array gradient_on_cpu(const DistanceGradProblem& p, int64_t split) {
  const DistanceKernels& kernels = FASTREID_KERNELS(distance_kernels);
  Array out(static_cast<Type>(p.of.dtype), p.of.x_rows * p.of.depth);
  const int64_t bounds[] = {0, split, p.of.x_rows};
  for (int part = 0; part < 2; ++part) {
    testing::Scratch scratch(kernels.gradient_workspace_bytes(&p));
    kernels.gradient_rows(&p, bounds[part], bounds[part + 1], scratch.data(), out.data());
  }
  return out;
}

#ifdef FASTREID_EMULATED
Array gradient_on_device(const DistanceGradProblem& p) {
  Array out(static_cast<Type>(p.of.dtype), p.of.x_rows * p.of.depth);
  testing::Scratch scratch(fastreid::cuda::distance_gradient_scratch(p));
  CHECK_EQUAL(fastreid::cuda::launch_distance_gradient(p, scratch.data(), out.data(), nullptr), 0);
  return out;
}
#endif

void check_gradient(Matrix& x, Matrix& y, Metric metric) {
  const Type type = x.values.type();
  testing::Trying trying(testing::name(type), " ", x.rows, " x ", y.rows, " x ", x.columns, " metric ",
                         static_cast<int>(metric));
  Matrix distance(type, Layout::contiguous, x.rows, y.rows), grad(type, Layout::transposed, x.rows, y.rows);
  grad.fill(9, -1, 1);
  for (int64_t i = 0; i < x.rows; ++i) {
    for (int64_t j = 0; j < y.rows; ++j)
      distance.set(i, j, static_cast<double>(Pair(x, i, y, j).distance(metric)));
  }
  const auto compare_gradient = [&](const Array& got) {
    for (int64_t i = 0; i < x.rows; ++i) {
      for (int64_t k = 0; k < x.columns; ++k) {
        long double sum = 0, size = 0;
        for (int64_t j = 0; j < y.rows; ++j) {
          const Pair pair(x, i, y, j);
          const long double term = grad.at(i, j) * pair.slope(metric, x.at(i, k), y.at(j, k));
          sum += term;
          // The stored distance is rounded, and dividing by it (or its sine) passes that on to every term.
          size += std::fabs(term) +
                  std::fabs(grad.at(i, j)) *
                      (metric == Metric::arccos || metric == Metric::cosine ? 1 / std::sqrt(pair.xx) : 0);
        }
        CHECK_NEAR(got.get(i * x.columns + k), static_cast<double>(sum),
                   (2 * rounding(type) + 40 * carried(type)) * static_cast<double>(size) +
                       6e-8 * (type == Type::float16),
                   2 * rounding(type));
      }
    }
  };
  const DistanceGradProblem problem = {problem_of(x, y, metric), grad.view(), distance.view()};
  testing::for_every_isa([&] {
    const Array whole = gradient_on_cpu(problem, 0);
    compare_gradient(whole);
    CHECK(gradient_on_cpu(problem, x.rows / 2).same_bits(whole));
  });
#ifdef FASTREID_EMULATED
  testing::for_every_order([&] { compare_gradient(gradient_on_device(problem)); });
#endif
}

CASE(gradients) {
  for (const Type type : testing::kTypes) {
    for (const Metric metric : kMetrics) {
      Matrix x(type, Layout::every_second, 3, 11), y(type, Layout::transposed, 5, 11);
      x.fill(7, -2, 2), y.fill(8, -2, 2);
      check_gradient(x, y, metric);
    }
  }
}

CASE(gradients_of_other_sizes) {
  constexpr int64_t kSizes[][3] = {{1, 1, 5}, {33, 2, 130}, {2, 67, 9}};
  for (const auto& size : kSizes) {
    for (const Metric metric : {Metric::euclidean, Metric::arccos}) {
      Matrix x(Type::float32, Layout::contiguous, size[0], size[2]),
          y(Type::float32, Layout::reversed, size[1], size[2]);
      x.fill(10, -2, 2), y.fill(11, -2, 2);
      check_gradient(x, y, metric);
    }
  }
}

CASE(the_gradient_at_distance_zero_is_zero) {
  for (const Metric metric : kMetrics) {
    Matrix x(Type::float32, Layout::contiguous, 1, 9);
    x.fill(12, 1, 2);
    Matrix zero(Type::float32, Layout::contiguous, 1, 1), one(Type::float32, Layout::contiguous, 1, 1);
    zero.set(0, 0, 0.0), one.set(0, 0, 1.0);
    const DistanceGradProblem problem = {problem_of(x, x, metric), one.view(), zero.view()};
    testing::for_every_isa([&] {
      const Array out = gradient_on_cpu(problem, 0);
      for (int64_t k = 0; k < 9; ++k) CHECK_EQUAL(out.get(k), 0.0);
    });
#ifdef FASTREID_EMULATED
    const Array out = gradient_on_device(problem);
    for (int64_t k = 0; k < 9; ++k) CHECK_EQUAL(out.get(k), 0.0);
#endif
  }
}

}  // namespace
