// SPDX-License-Identifier: Apache-2.0
// rerank.h against the definitions, with points x points matrices in float64. CPU kernels in every instruction set and
// the CUDA kernels on the emulated device.
#include "rerank/rerank.h"

#include <algorithm>
#include <numeric>

#include "every.h"
#include "testing.h"
#include "values.h"

namespace {

using namespace fastreid;
using Dense = std::vector<std::vector<double>>;

std::size_t fit(int64_t n) { return static_cast<std::size_t>(n); }

struct Sparse {
  std::vector<int64_t> begin;
  std::vector<int32_t> column;
  std::vector<float> value;

  explicit Sparse(int64_t rows) : begin(fit(rows + 1), 0) {}
  int64_t rows() const { return static_cast<int64_t>(begin.size()) - 1; }
  RerankSparse view() const { return {begin.data(), column.data(), value.data()}; }
  void append(int64_t first, const std::vector<int64_t>& counts, const int32_t* columns,
              const float* values) {
    int64_t total = 0;
    for (std::size_t r = 0; r < counts.size(); ++r) {
      begin[fit(first) + r + 1] = begin[fit(first) + r] + counts[r];
      total += counts[r];
    }
    column.insert(column.end(), columns, columns + total);
    value.insert(value.end(), values, values + total);
  }
  Dense dense(int64_t columns) const {
    Dense all(fit(rows()), std::vector<double>(fit(columns), 0));
    for (int64_t r = 0; r < rows(); ++r) {
      for (int64_t e = begin[fit(r)]; e < begin[fit(r + 1)]; ++e) {
        CHECK(e == begin[fit(r)] || column[fit(e - 1)] < column[fit(e)]);
        all[fit(r)][fit(column[fit(e)])] += value[fit(e)];
      }
    }
    return all;
  }
  bool operator==(const Sparse&) const = default;
};

void near(const Dense& got, const Dense& want, double tolerance) {
  CHECK_EQUAL(got.size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i)
    for (std::size_t j = 0; j < want[i].size(); ++j) CHECK_NEAR(got[i][j], want[i][j], tolerance, 0);
}

// Points with small whole coordinates: exact distances, many of them equal, and copies.
struct Setup {
  int64_t queries, gallery, points, depth = 3, k, half;
  std::vector<float> x, query_gallery, query_query, gallery_gallery;
  std::vector<int32_t> index;
  std::vector<double> distance, farthest;
  Dense all;

  Setup(int64_t queries_, int64_t gallery_, int64_t k_, unsigned seed)
      : queries(queries_),
        gallery(gallery_),
        points(queries_ + gallery_),
        k(std::min(k_, points)),
        half(k / 2 + 1) {
    testing::Random random(seed);
    for (int64_t i = 0; i < points * depth; ++i) x.push_back(static_cast<float>(random.below(7)));
    all.assign(fit(points), std::vector<double>(fit(points), 0));
    for (int64_t i = 0; i < points; ++i) {
      for (int64_t j = 0; j < points; ++j) {
        for (int64_t d = 0; d < depth; ++d) {
          const double difference = x[fit(i * depth + d)] - x[fit(j * depth + d)];
          all[fit(i)][fit(j)] += difference * difference;
        }
        auto& matrix = i < queries ? (j < queries ? query_query : query_gallery) : gallery_gallery;
        if (i < queries || j >= queries)
          matrix.push_back(static_cast<float>((i + j) % 3 ? 1 : -1) *
                           static_cast<float>(all[fit(i)][fit(j)]));
      }
      std::vector<int32_t> order(fit(points));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [&](int32_t a, int32_t b) { return all[fit(i)][fit(a)] < all[fit(i)][fit(b)]; });
      for (int64_t e = 0; e < k; ++e) {
        index.push_back(order[fit(e)]);
        distance.push_back(all[fit(i)][fit(order[fit(e)])]);
      }
      farthest.push_back(all[fit(i)][fit(order.back())]);
    }
  }
  RerankMatrices matrices() const {
    return {{query_gallery.data(), Dtype::float32, gallery, 1},
            {query_query.data(), Dtype::float32, queries, 1},
            {gallery_gallery.data(), Dtype::float32, gallery, 1},
            queries,
            gallery};
  }
  RerankLists lists(int power, bool normalised) const {
    return {
        index.data(), distance.data(), normalised ? farthest.data() : nullptr, points, k, std::min(half, k),
        power};
  }
  RerankPairs pairs(bool features) const {
    RerankPairs found{};
    if (features) {
      found.x = {x.data(), Dtype::float32, depth, 1};
      found.depth = depth;
    } else {
      found.matrices = matrices();
    }
    return found;
  }

  std::vector<int32_t> mutual(int64_t i, int64_t size) const {
    std::vector<int32_t> found;
    for (int64_t e = 0; e < size; ++e) {
      const int32_t j = index[fit(i * k + e)];
      const auto theirs = index.begin() + j * k;
      if (std::find(theirs, theirs + size, i) != theirs + size) found.push_back(j);
    }
    return found;
  }
  Dense encoding(int power, bool normalised) const {
    Dense v(fit(points), std::vector<double>(fit(points), 0));
    for (int64_t i = 0; i < points; ++i) {
      const auto own = mutual(i, k);
      std::vector<int32_t> kept = own;
      for (int32_t candidate : own) {
        const auto theirs = mutual(candidate, std::min(half, k));
        const auto common = std::count_if(theirs.begin(), theirs.end(), [&](int32_t t) {
          return std::find(own.begin(), own.end(), t) != own.end();
        });
        if (static_cast<double>(common) > 2.0 / 3 * static_cast<double>(theirs.size()))
          kept.insert(kept.end(), theirs.begin(), theirs.end());
      }
      double sum = 0;
      for (int32_t j : kept) {
        const double largest = normalised && farthest[fit(i)] > 0 ? farthest[fit(i)] : 1;
        v[fit(i)][fit(j)] = std::exp(-std::pow(all[fit(i)][fit(j)] / largest, power));
      }
      for (double weight : v[fit(i)]) sum += weight;
      for (double& weight : v[fit(i)]) weight = sum > 0 ? weight / sum : 0;
    }
    return v;
  }
};

struct Selected {
  std::vector<int32_t> index;
  std::vector<double> distance, farthest;

  explicit Selected(const Setup& s)
      : index(fit(s.points * s.k)), distance(index.size()), farthest(fit(s.points)) {}
  void compare(const Setup& s) const {
    CHECK(index == s.index);
    CHECK(distance == s.distance);
    CHECK(farthest == s.farthest);
  }
};

struct Sets {
  std::vector<int32_t> whole, whole_count, half, half_count;

  explicit Sets(const RerankLists& lists)
      : whole(fit(lists.points * lists.listed), -7),
        whole_count(fit(lists.points)),
        half(fit(lists.points * lists.half), -7),
        half_count(fit(lists.points)) {}
  RerankSets view() { return {whole.data(), whole_count.data(), half.data(), half_count.data()}; }
};

// The CPU kernels, rows in two parts.
struct Cpu {
  const RerankKernels& kernels = FASTREID_KERNELS(rerank_kernels);

  Selected select(const Setup& s) const {
    Selected found(s);
    const RerankMatrices matrices = s.matrices();
    testing::Scratch scratch(kernels.select_bytes(s.points, s.k));
    const int64_t parts[] = {0, s.queries, s.queries + s.gallery / 3, s.points};
    for (int p = 0; p < 3; ++p)
      kernels.select(&matrices, parts[p], parts[p + 1], s.k, scratch.data(), found.index.data(),
                     found.distance.data(), found.farthest.data());
    return found;
  }
  Sparse encode(const RerankLists& lists, const RerankPairs& pairs, bool to_half = false) const {
    Sets sets(lists);
    const RerankSets view = sets.view();
    kernels.reciprocal(&lists, 0, lists.points / 2, &view);
    kernels.reciprocal(&lists, lists.points / 2, lists.points, &view);
    Sparse found(lists.points);
    const int64_t row = std::min(lists.points, lists.listed * (lists.half + 1));
    std::vector<int32_t> marks(fit(lists.points), 0), column(fit(lists.points * row));
    std::vector<float> value(column.size());
    std::vector<double> wide(fit(pairs.depth + row));
    const int64_t parts[] = {0, lists.points / 3, lists.points};
    for (int p = 0; p < 2; ++p) {
      std::vector<int64_t> counts(fit(parts[p + 1] - parts[p]));
      kernels.encode(&lists, &pairs, &view, to_half, parts[p], parts[p + 1], marks.data(), parts[p],
                     wide.data(), column.data(), value.data(), counts.data());
      found.append(parts[p], counts, column.data(), value.data());
    }
    return found;
  }
  Sparse merge(const RerankMerge& merge, int64_t rows) const {
    int64_t total = 0;
    for (int64_t e = 0; e < rows * merge.terms; ++e)
      total += merge.source.begin[merge.index[e] + 1] - merge.source.begin[merge.index[e]];
    testing::Scratch scratch(total * 16);
    std::vector<int32_t> column(fit(total));
    std::vector<float> value(fit(total));
    std::vector<int64_t> counts(fit(rows));
    Sparse found(rows);
    kernels.merge(&merge, 0, rows, scratch.data(), column.data(), value.data(), counts.data());
    found.append(0, counts, column.data(), value.data());
    return found;
  }
  Sparse invert(const Sparse& rows, int64_t row_begin, int64_t columns) const {
    const RerankSparse view = rows.view();
    std::vector<int64_t> cursor(fit(columns), 0);
    const int64_t middle = columns / 3;
    kernels.count_columns(&view, row_begin, rows.rows(), 0, middle, cursor.data());
    kernels.count_columns(&view, row_begin, rows.rows(), middle, columns, cursor.data() + middle);
    Sparse found(columns);
    for (int64_t c = 0; c < columns; ++c) found.begin[fit(c + 1)] = found.begin[fit(c)] + cursor[fit(c)];
    std::copy(found.begin.begin(), found.begin.end() - 1, cursor.begin());
    found.column.resize(fit(found.begin.back()));
    found.value.resize(found.column.size());
    kernels.fill_columns(&view, row_begin, rows.rows(), middle, columns, cursor.data() + middle,
                         found.column.data(), found.value.data());
    kernels.fill_columns(&view, row_begin, rows.rows(), 0, middle, cursor.data(), found.column.data(),
                         found.value.data());
    return found;
  }
  void blend(const RerankQueries& queries, const RerankBlend& blend, int64_t rows) const {
    testing::Scratch scratch(queries.gallery * 12 + 4);
    std::memset(scratch.data(), 0, fit(queries.gallery * 4));
    kernels.blend(&queries, &blend, 0, rows / 2, scratch.data());
    kernels.blend(&queries, &blend, rows / 2, rows, scratch.data());
  }
  Sparse overlap(const RerankQueries& queries, int64_t rows) const {
    testing::Scratch scratch(queries.gallery * 12 + 4);
    std::memset(scratch.data(), 0, fit(queries.gallery * 4));
    const int64_t room = queries.gallery * 2;
    std::vector<int32_t> column(fit(room));
    std::vector<float> value(fit(room));
    Sparse found(rows);
    for (int64_t row = 0; row < rows;) {
      std::vector<int64_t> counts(fit(rows - row));
      const int64_t stopped = kernels.overlap(&queries, row, rows, room, scratch.data(), column.data(),
                                              value.data(), counts.data());
      CHECK(stopped > row);
      counts.resize(fit(stopped - row));
      found.append(row, counts, column.data(), value.data());
      row = stopped;
    }
    return found;
  }
  void head(const std::vector<float>& values, int64_t rows, int64_t columns, int64_t k, float* value,
            int64_t* index) const {
    testing::Scratch scratch(kernels.select_bytes(1, k));
    kernels.head(values.data(), columns, 0, rows, columns, k, scratch.data(), value, index);
  }
};

#ifdef FASTREID_EMULATED
// The CUDA kernels: sizes, scan, entries.
struct Device {
  template <class F>
  static Sparse two_passes(int64_t rows, const F& launch) {
    Sparse found(rows);
    CHECK_EQUAL(launch(found.begin.data(), nullptr, nullptr), 0);
    CHECK_EQUAL(cuda::launch_rerank_scan(found.begin.data(), rows, nullptr), 0);
    found.column.resize(fit(found.begin.back()));
    found.value.resize(found.column.size());
    if (!found.column.empty())
      CHECK_EQUAL(launch(found.begin.data(), found.column.data(), found.value.data()), 0);
    return found;
  }
  Selected select(const Setup& s) const {
    Selected found(s);
    CHECK_EQUAL(cuda::launch_rerank_select(s.matrices(), s.k, found.index.data(), found.distance.data(),
                                           found.farthest.data(), nullptr),
                0);
    return found;
  }
  Sparse encode(const RerankLists& lists, const RerankPairs& pairs, bool to_half = false) const {
    Sets sets(lists);
    CHECK_EQUAL(cuda::launch_rerank_reciprocal(lists, sets.view(), nullptr), 0);
    testing::Scratch scratch(cuda::rerank_encode_scratch(lists));
    return two_passes(lists.points, [&](int64_t* begin, int32_t* column, float* value) {
      return cuda::launch_rerank_encode(lists, pairs, sets.view(), to_half, scratch.data(), begin, column,
                                        value, nullptr);
    });
  }
  Sparse merge(const RerankMerge& merge, int64_t rows) const {
    std::vector<int64_t> place(fit(rows + 1));
    CHECK_EQUAL(cuda::launch_rerank_merge_sizes(merge, rows, place.data(), nullptr), 0);
    CHECK_EQUAL(cuda::launch_rerank_scan(place.data(), rows, nullptr), 0);
    std::vector<int32_t> marks(fit(place.back()));
    return two_passes(rows, [&](int64_t* begin, int32_t* column, float* value) {
      return cuda::launch_rerank_merge(merge, rows, place.data(), marks.data(), begin, column, value,
                                       nullptr);
    });
  }
  Sparse invert(const Sparse& rows, int64_t row_begin, int64_t columns) const {
    std::vector<int64_t> cursor;
    return two_passes(columns, [&](int64_t* begin, int32_t* row, float* value) {
      if (row != nullptr) cursor.assign(begin, begin + columns + 1);
      return cuda::launch_rerank_invert(rows.view(), row_begin, rows.rows(), columns, begin,
                                        row ? cursor.data() : nullptr, row, value, nullptr);
    });
  }
  void blend(const RerankQueries& queries, const RerankBlend& blend, int64_t rows) const {
    std::vector<float> scratch(fit(cuda::rerank_overlap_scratch(rows, queries.gallery) / 4), 0.0f);
    CHECK_EQUAL(cuda::launch_rerank_blend(queries, blend, rows, scratch.data(), nullptr), 0);
  }
  Sparse overlap(const RerankQueries& queries, int64_t rows) const {
    std::vector<float> scratch(fit(cuda::rerank_overlap_scratch(rows, queries.gallery) / 4), 0.0f);
    return two_passes(rows, [&](int64_t* begin, int32_t* column, float* value) {
      return cuda::launch_rerank_overlap(queries, rows, scratch.data(), begin, column, value, nullptr);
    });
  }
  void head(const std::vector<float>& values, int64_t rows, int64_t columns, int64_t k, float* value,
            int64_t* index) const {
    std::vector<int32_t> scratch(fit(rows * k));
    CHECK_EQUAL(
        cuda::launch_rerank_head(values.data(), rows, columns, k, scratch.data(), value, index, nullptr), 0);
  }
};
#endif

template <typename Body>
void everywhere(Body body) {
  testing::for_every_isa([&] { body(Cpu{}); });
#ifdef FASTREID_EMULATED
  testing::for_every_order([&] { body(Device{}); });
#endif
}

struct Size {
  int64_t queries, gallery, k;
};
constexpr Size kSizes[] = {{3, 21, 6}, {7, 20, 5}, {1, 1, 4}, {2, 9, 11}, {1, 9, 1}};

CASE(selection_is_a_stable_sort_of_magnitudes) {
  for (const auto& size : kSizes) {
    const Setup s(size.queries, size.gallery, size.k, 11);
    everywhere([&](const auto& device) { device.select(s).compare(s); });
  }
}

// Many tiles' worth of lists, lists of more entries than are sorted by insertion, rows that are not whole registers.
CASE(long_selections) {
  for (const Size& size : {Size{2, 150, 130}, Size{1100, 70, 9}, Size{3, 1300, 2}}) {
    const Setup s(size.queries, size.gallery, size.k, 11);
    testing::for_every_isa([&] { Cpu{}.select(s).compare(s); });
  }
}

CASE(selection_sees_nan) {
  Setup s(3, 21, 6, 4);
  s.gallery_gallery[40] = NAN;
  s.query_gallery[2] = INFINITY;
  everywhere([&](const auto& device) {
    const Selected found = device.select(s);
    CHECK_EQUAL(std::count_if(found.farthest.begin(), found.farthest.end(),
                              [](double value) { return !std::isfinite(value); }),
                3);
  });
}

template <class On>
void check_encoding(const On& device, const Setup& s, const RerankLists& lists, bool features,
                    const Dense& want) {
  const Sparse got = device.encode(lists, s.pairs(features));
  near(got.dense(s.points), want, 1e-6);
  const Sparse half = device.encode(lists, s.pairs(features), true);
  CHECK(half.column == got.column);
  near(half.dense(s.points), want, 1e-3);
}

CASE(encoding) {
  for (const auto& size : kSizes) {
    const Setup s(size.queries, size.gallery, size.k, 5);
    for (int power : {1, 2}) {
      for (bool normalised : {true, false}) {
        const Dense want = s.encoding(power, normalised);
        for (bool features : {true, false}) {
          testing::Trying trying(s.points, " points, power ", power, normalised, features);
          const RerankLists lists = s.lists(power, normalised);
          testing::for_every_isa([&] { check_encoding(Cpu{}, s, lists, features, want); });
#ifdef FASTREID_EMULATED
          // Every order of threads is tried once: a block's threads are what takes the time.
          if (size.k == 6 && power == 1 && normalised && features)
            testing::for_every_order([&] { check_encoding(Device{}, s, lists, features, want); });
          else if (power == 1 + features)
            check_encoding(Device{}, s, lists, features, want);
#endif
        }
      }
    }
  }
}

// The instruction sets agree to the last bit, with each other and, but for exp(), with the device.
CASE(same_bits) {
  const Setup s(8, 30, 5, 8);
  fastreid::set_isa(fastreid::Isa::baseline);
  const Sparse v = Cpu{}.encode(s.lists(1, true), s.pairs(true));
  const std::vector<int32_t> first = [&] {
    std::vector<int32_t> all;
    for (int64_t i = 0; i < s.points; ++i)
      all.insert(all.end(), &s.index[fit(i * s.k)], &s.index[fit(i * s.k + 3)]);
    return all;
  }();
  const RerankMerge merging{v.view(), first.data(), nullptr, 3, 3.0f, false};
  const Sparse merged = Cpu{}.merge(merging, s.points);
  const Sparse inverted = Cpu{}.invert(merged, s.queries, s.points);
  const RerankQueries queries{merged.view(),          inverted.view(), 0,    s.gallery,
                              RerankOverlap::minimum, false,           false};
  const Sparse overlaps = Cpu{}.overlap(queries, s.queries);
  testing::for_every_isa([&] { CHECK(Cpu{}.encode(s.lists(1, true), s.pairs(true)) == v); });
  everywhere([&](const auto& device) {
    CHECK(device.merge(merging, s.points) == merged);
    CHECK(device.invert(merged, s.queries, s.points) == inverted);
    CHECK(device.overlap(queries, s.queries) == overlaps);
  });
}

CASE(merged_rows_are_weighted_sums) {
  testing::Random random(3);
  Sparse source(9);
  for (int64_t r = 0; r < 9; ++r) {
    std::vector<int32_t> columns;
    std::vector<float> values;
    for (int32_t c = 0; c < 150; ++c) {
      if (r == 4 || random.below(r == 5 ? 2 : 9) != 0) continue;
      columns.push_back(c);
      values.push_back(static_cast<float>(1 + random.below(9)) / 8);
    }
    source.append(r, {static_cast<int64_t>(columns.size())}, columns.data(), values.data());
  }
  const Dense rows = source.dense(150);
  const int32_t index[] = {0, 1, 2, 4, 4, 4, 5, 5, 5, 8, 4, 5};
  const float weight[] = {1, 2, 3, 1, 1, 1, 0.5f, 0.25f, 1, 1, 2, 4};
  for (bool weighted : {true, false}) {
    Dense want(4, std::vector<double>(150, 0));
    for (std::size_t e = 0; e < 12; ++e)
      for (std::size_t c = 0; c < 150; ++c)
        want[e / 3][c] += rows[fit(index[e])][c] * static_cast<double>(weighted ? weight[e] : 1) / 4;
    const RerankMerge merge{source.view(), index, weighted ? weight : nullptr, 3, 4.0f, false};
    everywhere([&](const auto& device) { near(device.merge(merge, 4).dense(150), want, 1e-6); });
  }
}

CASE(inverse) {
  const Setup s(3, 80, 6, 21);
  const Sparse v = Cpu{}.encode(s.lists(1, true), s.pairs(true));
  Dense want(fit(s.points), std::vector<double>(fit(s.gallery), 0));
  const Dense rows = v.dense(s.points);
  for (int64_t r = s.queries; r < s.points; ++r)
    for (int64_t c = 0; c < s.points; ++c) want[fit(c)][fit(r - s.queries)] = rows[fit(r)][fit(c)];
  everywhere(
      [&](const auto& device) { near(device.invert(v, s.queries, s.points).dense(s.gallery), want, 0); });
}

CASE(overlaps_and_blend) {
  const Setup s(6, 36, 6, 2);
  const Sparse v = Cpu{}.encode(s.lists(1, true), s.pairs(true));
  const Sparse inverted = Cpu{}.invert(v, s.queries, s.points);
  const Dense rows = v.dense(s.points);
  for (const auto overlap : {RerankOverlap::minimum, RerankOverlap::product}) {
    for (bool half : {false, true}) {
      Dense jaccard(fit(s.queries), std::vector<double>(fit(s.gallery), 1)), shared = jaccard,
                                                                             blended = jaccard;
      for (int64_t q = 0; q < s.queries; ++q) {
        for (int64_t g = 0; g < s.gallery; ++g) {
          double sum = 0;
          for (int64_t t = 0; t < s.points; ++t) {
            const double a = rows[fit(q)][fit(t)], b = rows[fit(s.queries + g)][fit(t)];
            sum += overlap == RerankOverlap::product ? a * b : std::min(a, b);
          }
          jaccard[fit(q)][fit(g)] = overlap == RerankOverlap::product ? 1 - sum : 1 - sum / (2 - sum);
          shared[fit(q)][fit(g)] = sum > 0 ? jaccard[fit(q)][fit(g)] : 0;
          const double ratio = s.all[fit(q)][fit(s.queries + g)] / s.farthest[fit(q)];
          blended[fit(q)][fit(g)] = jaccard[fit(q)][fit(g)] * 0.75 + ratio * ratio * 0.25;
        }
      }
      const double tolerance = half ? 3e-3 : 1e-6;
      const RerankQueries queries{v.view(), inverted.view(), 0, s.gallery, overlap, half, false};
      everywhere([&](const auto& device) {
        near(device.overlap(queries, s.queries).dense(s.gallery), shared, tolerance);
        if (overlap == RerankOverlap::product) return;
        std::vector<float> distance, apart(fit(s.queries * s.gallery), NAN);
        for (int64_t q = 0; q < s.queries; ++q)
          for (int64_t g = 0; g < s.gallery; ++g)
            distance.push_back(static_cast<float>(s.all[fit(q)][fit(s.queries + g)]));
        RerankBlend blend{distance.data(), s.gallery, s.farthest.data(), 2, 0.25, apart.data()};
        device.blend(queries, blend, s.queries);
        blend.result = distance.data();
        device.blend(queries, blend, s.queries);
        CHECK(apart == distance);
        for (std::size_t e = 0; e < apart.size(); ++e)
          CHECK_NEAR(apart[e], blended[e / fit(s.gallery)][e % fit(s.gallery)], tolerance, 0);
      });
    }
  }
}

CASE(head_is_a_stable_sort) {
  for (int64_t columns : {1, 5, 70}) {
    for (int64_t k : {int64_t{1}, (columns + 1) / 2, columns}) {
      testing::Random random(static_cast<unsigned>(columns));
      std::vector<float> values;
      for (int64_t e = 0; e < 3 * columns; ++e)
        values.push_back(static_cast<float>(random.below(60) - 20) / 4);
      for (int64_t e = 0; e < columns; ++e) values[fit(e)] = e % 2 ? 0.0f : -0.0f;
      everywhere([&](const auto& device) {
        std::vector<float> value(fit(3 * k));
        std::vector<int64_t> index(value.size());
        device.head(values, 3, columns, k, value.data(), index.data());
        for (int64_t r = 0; r < 3; ++r) {
          const float* row = &values[fit(r * columns)];
          std::vector<int64_t> order(fit(columns));
          std::iota(order.begin(), order.end(), 0);
          std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return row[a] < row[b]; });
          for (int64_t e = 0; e < k; ++e) {
            CHECK_EQUAL(index[fit(r * k + e)], order[fit(e)]);
            CHECK_EQUAL(value[fit(r * k + e)], row[order[fit(e)]]);
          }
        }
      });
    }
  }
}

}  // namespace
