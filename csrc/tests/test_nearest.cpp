// SPDX-License-Identifier: Apache-2.0
// nearest.h against its definition: every d2 in float64, sorted by (d2, index). CPU kernels in every
// instruction set, with the items of a phase in several orders and by several threads, and the CUDA kernels
// on the emulated device must give the same bits.
#include "search/nearest.h"

#include <algorithm>
#include <numeric>
#include <thread>

#include "every.h"
#include "testing.h"
#include "values.h"

namespace {

using namespace fastreid;
using testing::Type;

std::size_t fit(int64_t n) { return static_cast<std::size_t>(n); }

enum class Layout { contiguous, padded, transposed, reversed };
constexpr Layout kLayouts[] = {Layout::contiguous, Layout::padded, Layout::transposed, Layout::reversed};

// What the rows look like. Apart from the first, each is a way to go wrong.
enum class Rows {
  spread,     // over a cube
  lattice,    // few values: equal distances everywhere
  copies,     // of a few rows
  zeros,      // every third row is zero
  equal,      // all the same
  one_long,   // the last row is a thousand times as long as the others
  far_away,   // small differences, far from the origin
  clustered,  // closer together than rounded products can tell
  tiny,       // lengths that float32 squares would lose
  huge        // lengths that float32 squares would not hold
};
constexpr Rows kKinds[] = {Rows::spread,   Rows::lattice,  Rows::copies,    Rows::zeros, Rows::equal,
                           Rows::one_long, Rows::far_away, Rows::clustered, Rows::tiny,  Rows::huge};

struct Matrix {
  int64_t rows, depth;
  testing::Array values;
  int64_t origin = 0, row_stride, column_stride = 1;

  Matrix(Type type, Layout layout, int64_t n, int64_t d)
      : rows(n), depth(d), values(type, std::max<int64_t>(n * (d + 3), 1)) {
    row_stride = layout == Layout::padded ? d + 3 : layout == Layout::transposed ? 1 : d;
    if (layout == Layout::padded) origin = 3;
    if (layout == Layout::transposed) column_stride = n;
    if (layout == Layout::reversed) row_stride = -d, column_stride = 1, origin = d * (n - 1);
  }
  int64_t place(int64_t i, int64_t k) const { return origin + i * row_stride + k * column_stride; }
  double at(int64_t i, int64_t k) const { return values.get(place(i, k)); }
  NearestRows view() { return {values.at(origin), row_stride, column_stride}; }

  void fill(Rows kind, unsigned seed) {
    testing::Random random(seed), common(99);
    std::vector<double> base;
    for (int64_t k = 0; k < depth; ++k) base.push_back(common.uniform(-1, 1));
    for (int64_t i = 0; i < rows; ++i) {
      const double size = kind == Rows::one_long && i == rows - 1 ? 1000
                          : kind == Rows::tiny                    ? 0x1p-13
                          : kind == Rows::huge                    ? 0x1p13
                                                                  : 1;
      const double scale = values.type() == Type::float16 ? size
                           : kind == Rows::tiny           ? 0x1p-80
                           : kind == Rows::huge           ? 0x1p100
                                                          : size;
      for (int64_t k = 0; k < depth; ++k) {
        const double b = base[fit(k)], noise = random.uniform(-1, 1);
        double value = noise * scale;
        if (kind == Rows::lattice) value = static_cast<double>(random.below(3) - 1);
        if (kind == Rows::copies)
          value = std::ldexp(static_cast<double>((i % 5 + 1) * (k * 7 % 11) % 13), -2);
        if (kind == Rows::zeros && i % 3 == 1) value = 0;
        if (kind == Rows::equal) value = b;
        if (kind == Rows::far_away) value = 200 * b + noise;
        if (kind == Rows::clustered) value = b + 0x1p-9 * noise;
        values.set(place(i, k), value);
      }
    }
  }
};

struct Setup {
  Matrix x, y;
  int64_t k;
  bool angular = false, same = false, exclude_self = false, farthest = true;

  Matrix& left() { return same ? y : x; }
  NearestProblem problem(bool pairs) {
    return {left().view(), y.view(), left().rows,  y.rows, y.depth, k, static_cast<Dtype>(y.values.type()),
            angular,       same,     exclude_self, pairs};
  }
};

Setup make(Type type, Layout layout, Rows kind, int64_t x_rows, int64_t y_rows, int64_t depth, int64_t k) {
  Setup s{Matrix(type, layout, x_rows, depth), Matrix(type, layout, y_rows, depth), k};
  s.x.fill(kind, 1);
  s.y.fill(kind, 2);
  return s;
}

struct Result {
  std::vector<double> squared, farthest;
  std::vector<int64_t> index;

  explicit Result(int64_t rows, int64_t k)
      : squared(fit(rows * k), -5.0), farthest(fit(rows), -5.0), index(fit(rows * k), -5) {}
  NearestResult pointers(bool far) { return {squared.data(), index.data(), far ? farthest.data() : nullptr}; }
};

double inverse_length(const Matrix& m, int64_t i) {
  double lane[8] = {};
  for (int64_t k = 0; k < m.depth; ++k) lane[k % 8] += m.at(i, k) * m.at(i, k);
  const double square =
      ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
  return square > 0 ? 1 / std::sqrt(square) : 0;
}

// The definition. The plain sum in long double beside it is there to catch a mistake in the former.
double squared_distance(const Matrix& x, int64_t i, double a, const Matrix& y, int64_t j, double b,
                        bool angular) {
  if (angular && (a == 0 || b == 0)) return 2;
  double lane[8] = {};
  long double plain = 0;
  for (int64_t k = 0; k < y.depth; ++k) {
    const double u = angular ? x.at(i, k) * a : x.at(i, k), v = angular ? y.at(j, k) * b : y.at(j, k);
    lane[k % 8] += (u - v) * (u - v);
    plain += (static_cast<long double>(u) - v) * (static_cast<long double>(u) - v);
  }
  const double sum =
      ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
  // Not CHECK_NEAR: a million of them take longer than what is tested.
  if (!testing::near(sum, static_cast<double>(plain), 1e-300, 1e-13))
    CHECK_EQUAL(sum, static_cast<double>(plain));
  return sum;
}

Result expected(Setup& s) {
  const Matrix& x = s.left();
  Result r(x.rows, s.k);
  std::vector<double> inverse;
  for (int64_t j = 0; j < s.y.rows; ++j) inverse.push_back(inverse_length(s.y, j));
  for (int64_t i = 0; i < x.rows; ++i) {
    const double own = inverse_length(x, i);
    std::vector<double> d2;
    for (int64_t j = 0; j < s.y.rows; ++j)
      d2.push_back(squared_distance(x, i, own, s.y, j, inverse[fit(j)], s.angular));
    std::vector<int64_t> order;
    for (int64_t j = 0; j < s.y.rows; ++j)
      if (!s.exclude_self || j != i) order.push_back(j);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return d2[fit(a)] < d2[fit(b)]; });
    for (int64_t e = 0; e < s.k; ++e) {
      r.index[fit(i * s.k + e)] = order[fit(e)];
      r.squared[fit(i * s.k + e)] = d2[fit(order[fit(e)])];
    }
    if (s.farthest) r.farthest[fit(i)] = *std::max_element(d2.begin(), d2.end());
  }
  return r;
}

void compare(const Result& got, const Result& want) {
  // Zeros of either sign are one; there are no NaN in these.
  CHECK(got.index == want.index);
  CHECK(got.squared == want.squared);
  CHECK(got.farthest == want.farthest);
}

enum class Way { forward, reversed, shuffled, threads };
constexpr Way kWays[] = {Way::forward, Way::reversed, Way::shuffled, Way::threads};

Result on_cpu(Setup& s, Way way) {
  const NearestKernels& kernels = FASTREID_KERNELS(nearest_kernels);
  const NearestProblem p = s.problem(has_pairs());
  Result r(p.x_rows, p.k);
  const NearestResult result = r.pointers(s.farthest);
  testing::Scratch state(kernels.state_bytes(&p, s.farthest));
  for (int i = 0; i < kNearestPhases; ++i) {
    const auto phase = static_cast<NearestPhase>(i);
    std::vector<int64_t> items(fit(kernels.items(&p, phase)));
    std::iota(items.begin(), items.end(), 0);
    if (way == Way::reversed) std::reverse(items.begin(), items.end());
    testing::Random random(7);
    for (std::size_t n = items.size(); way == Way::shuffled && n > 1; --n)
      std::swap(items[n - 1], items[fit(random.below(static_cast<int64_t>(n)))]);
    const auto work = [&](std::size_t first, std::size_t step) {
      testing::Scratch workspace(kernels.workspace_bytes(&p, s.farthest));
      for (std::size_t n = first; n < items.size(); n += step)
        kernels.run(&p, &result, phase, items[n], items[n] + 1, state.data(), workspace.data());
    };
    if (way != Way::threads) {
      work(0, 1);
      continue;
    }
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < 3; ++t) threads.emplace_back(work, t, 3);
    for (std::thread& thread : threads) thread.join();
  }
  return r;
}

#ifdef FASTREID_EMULATED
Result on_device(Setup& s) {
  const NearestProblem p = s.problem(false);
  Result r(p.x_rows, p.k);
  testing::Scratch scratch(fastreid::cuda::nearest_scratch(p, s.farthest));
  CHECK_EQUAL(fastreid::cuda::launch_nearest(p, scratch.data(), r.pointers(s.farthest), nullptr), 0);
  return r;
}
#endif

enum class Emulate { no, once, every_order };

void check(Setup& s, [[maybe_unused]] Emulate emulate) {
  testing::Trying trying(s.left().rows, " x ", s.y.rows, " x ", s.y.depth, " k ", s.k,
                         s.angular ? " angular" : "", s.same ? " same" : "",
                         s.exclude_self ? " exclude_self" : "");
  const Result want = expected(s);
  static std::size_t turn = 0;  // each instruction set runs in its own way, another one each time
  testing::for_every_isa([&] {
    const Way way = kWays[turn++ % 4];
    testing::Trying how("way ", static_cast<int>(way));
    compare(on_cpu(s, way), want);
  });
  ++turn;
#ifdef FASTREID_EMULATED
  if (emulate == Emulate::once) {
    testing::Trying where("device");
    compare(on_device(s), want);
  }
  if (emulate == Emulate::every_order) testing::for_every_order([&] { compare(on_device(s), want); });
#endif
}

CASE(every_type_and_layout) {
  for (const Type type : testing::kTypes) {
    for (const Layout layout : kLayouts) {
      testing::Trying trying(testing::name(type), " layout ", static_cast<int>(layout));
      Setup s = make(type, layout, Rows::spread, 11, 70, 37, 5);
      s.angular = layout == Layout::padded || layout == Layout::reversed;
      check(s, layout == Layout::padded || layout == Layout::transposed ? Emulate::once : Emulate::no);
    }
  }
}

CASE(every_kind_of_rows) {
  for (const Rows kind : kKinds) {
    for (const bool angular : {false, true}) {
      for (const bool same : {false, true}) {
        for (const Type type : {Type::float32, Type::float64, Type::float16}) {
          testing::Trying trying("kind ", static_cast<int>(kind), " ", testing::name(type));
          Setup s = make(type, Layout::contiguous, kind, 12, 150, 24, 4);
          s.angular = angular, s.same = same, s.exclude_self = same;
          const bool turn = angular == (static_cast<int>(kind) % 2 == 0) || kind == Rows::zeros;
          check(s, type == Type::float32 && !same && turn ? Emulate::once : Emulate::no);
        }
      }
    }
  }
}

// Past the borders of panels, tiles, slabs and chunks, with full buffers.
CASE(sizes) {
  for (const int64_t x_rows : {1, 7, 8, 9, 49, 130}) {
    for (const int64_t y_rows : {1, 2, 48, 97, 300}) {
      for (const int64_t k : {int64_t{1}, int64_t{3}, y_rows / 2, y_rows}) {
        if (k < 1 || k > y_rows) continue;
        Setup s = make(Type::float32, Layout::contiguous, Rows::spread, x_rows, y_rows,
                       1 + (x_rows + y_rows) % 20, k);
        s.angular = (x_rows + y_rows + k) % 2 == 0;
        s.farthest = k != 3;
        check(s,
              (x_rows == 9 && y_rows != 97) || (x_rows == 130 && y_rows == 1) ? Emulate::once : Emulate::no);
      }
    }
  }
}

CASE(depths) {
  for (const int64_t depth : {1, 2, 7, 8, 9, 31, 32, 33, 63, 129, 600}) {
    Setup s = make(Type::bfloat16, Layout::padded, Rows::spread, 9, 50, depth, 6);
    s.angular = depth % 2 == 1;
    check(s, depth <= 129 ? Emulate::once : Emulate::no);
  }
}

CASE(rows_of_one_matrix) {
  for (const int64_t rows : {2, 5, 49, 150, 260}) {
    for (const bool exclude_self : {false, true}) {
      for (const int64_t k : {int64_t{1}, int64_t{20}, rows - (exclude_self ? 1 : 0)}) {
        if (k > rows - (exclude_self ? 1 : 0)) continue;
        Setup s = make(Type::float32, Layout::contiguous, Rows::lattice, 1, rows, 6, k);
        s.same = true, s.exclude_self = exclude_self;
        check(s, rows == 5 || (rows == 150 && exclude_self) ? Emulate::once : Emulate::no);
      }
    }
  }
}

// Nothing can be dropped without measuring it: buffers fill with entries that the bound cannot tell apart.
CASE(everything_within_the_bound) {
  for (const Rows kind : {Rows::equal, Rows::clustered, Rows::one_long}) {
    for (const bool angular : {false, true}) {
      testing::Trying trying("kind ", static_cast<int>(kind));
      Setup s = make(Type::float64, Layout::contiguous, kind, 9, 700, 5, 3);
      s.angular = angular;
      check(s, kind == Rows::clustered ? Emulate::every_order : Emulate::once);
    }
  }
}

CASE(zero_rows_among_directions) {
  for (const int64_t k : {1, 10, 60}) {
    Setup s = make(Type::float32, Layout::contiguous, Rows::zeros, 20, 60, 3, k);
    s.angular = true;
    // Opposite directions are further away than rows of zeros.
    for (int64_t i = 0; i < 60; ++i)
      for (int64_t c = 0; c < 3 && i % 3 != 1; ++c)
        s.y.values.set(s.y.place(i, c), i % 2 == 0 ? 1.0 + 0.01 * i : -1.0);
    check(s, Emulate::once);
  }
}

// Lengths whose squares float64 does not hold, or holds without all of their bits, beside rows of zeros.
CASE(lengths_at_the_ends_of_float64) {
  for (const double scale : {1e-170, 2e-162, 1e-158, 1e-140, 1e140, 1e152, 1e170}) {
    for (const bool angular : {false, true}) {
      testing::Trying trying("scale ", scale);
      Setup s = make(Type::float64, Layout::contiguous, Rows::spread, 9, 40, 5, 25);
      for (Matrix* m : {&s.x, &s.y})
        for (int64_t i = 0; i < m->rows * m->depth; ++i)
          m->values.set(i, (i / 5) % 7 == 3 ? 0 : m->values.get(i) * scale);
      s.angular = angular;
      s.farthest = false;
      check(s, Emulate::once);
    }
  }
}

}  // namespace
