// SPDX-License-Identifier: Apache-2.0
// ranking.h against the definition: sort a query's kept gallery by (distance, index), walk down the list. CPU
// kernels in every instruction set and the CUDA kernels on the emulated device must give the same bits.
#include "ranking/ranking.h"

#include <algorithm>
#include <numeric>

#include "every.h"
#include "testing.h"
#include "values.h"

namespace {

using namespace fastreid;
using testing::Type;

constexpr int64_t kMaxRank = 7;

enum class Layout { contiguous, transposed, padded, reversed, expanded };
constexpr Layout kLayouts[] = {Layout::contiguous, Layout::transposed, Layout::padded, Layout::reversed,
                               Layout::expanded};

// A distance matrix in some layout, with labels.
struct Setup {
  testing::Array distance;
  int64_t origin = 0, row_stride, column_stride;
  std::vector<int64_t> query_pids, gallery_pids, query_camids, gallery_camids;

  Setup(Type type, Layout layout, int64_t queries, int64_t gallery, int64_t pids, unsigned seed)
      : distance(type, std::max<int64_t>(layout == Layout::expanded ? gallery : queries * (gallery + 3), 1)) {
    row_stride = layout == Layout::transposed ? 1
                 : layout == Layout::expanded ? 0
                 : layout == Layout::padded   ? gallery + 3
                                              : gallery;
    column_stride = layout == Layout::transposed ? queries : layout == Layout::reversed ? -1 : 1;
    if (layout == Layout::padded) origin = 2;
    if (layout == Layout::reversed) origin = gallery - 1;
    testing::Random random(seed);
    // Few distinct values: ties everywhere, among them -0 and +0, and now and then what no distance should be.
    for (int64_t i = 0; i < distance.size(); ++i) {
      const int64_t kind = random.below(60);
      distance.set(i, kind == 0   ? NAN
                      : kind == 1 ? INFINITY
                      : kind == 2 ? -INFINITY
                      : kind == 3 ? -0.0
                                  : static_cast<double>(random.below(40) - 5) / 16.0);
    }
    for (int64_t q = 0; q < queries; ++q)
      query_pids.push_back(random.below(pids + 1)), query_camids.push_back(random.below(3));
    for (int64_t g = 0; g < gallery; ++g)
      gallery_pids.push_back(random.below(pids)), gallery_camids.push_back(random.below(3));
  }
  int64_t queries() const { return static_cast<int64_t>(query_pids.size()); }
  int64_t gallery() const { return static_cast<int64_t>(gallery_pids.size()); }
  double at(int64_t q, int64_t g) const { return distance.get(origin + q * row_stride + g * column_stride); }
};

struct Result {
  std::vector<double> ap, inp, cmc, means;
  std::vector<int64_t> first_rank, num_relevant, status, nonfinite;

  explicit Result(int64_t queries, int64_t max_rank = kMaxRank)
      : ap(fit(queries), NAN),
        inp(ap),
        cmc(fit(max_rank), NAN),
        means(2, NAN),
        first_rank(fit(queries), -9),
        num_relevant(first_rank),
        status(first_rank),
        nonfinite(first_rank) {}
  RankingRows rows() {
    return {ap.data(), inp.data(), first_rank.data(), num_relevant.data(), status.data(), nonfinite.data()};
  }
  static std::size_t fit(int64_t n) { return static_cast<std::size_t>(n); }
};

Result expected(const Setup& s, CameraRule camera_rule, ApRule ap_rule) {
  Result r(s.queries());
  double ap_sum = 0.0, inp_sum = 0.0;
  int64_t valid = 0;
  std::fill(r.cmc.begin(), r.cmc.end(), 0.0);
  for (int64_t q = 0; q < s.queries(); ++q) {
    const auto i = static_cast<std::size_t>(q);
    std::vector<int64_t> kept;
    int64_t same_pid = 0, nonfinite = 0;
    for (int64_t g = 0; g < s.gallery(); ++g) {
      const auto j = static_cast<std::size_t>(g);
      const bool same = s.gallery_pids[j] == s.query_pids[i];
      same_pid += same;
      nonfinite += !std::isfinite(s.at(q, g));
      if (camera_rule == CameraRule::none || !same || s.gallery_camids[j] != s.query_camids[i])
        kept.push_back(g);
    }
    std::stable_sort(kept.begin(), kept.end(), [&](int64_t a, int64_t b) {
      const double x = s.at(q, a), y = s.at(q, b);
      return std::isnan(x) ? false : std::isnan(y) || x < y;
    });
    std::vector<int64_t> ranks;
    for (std::size_t n = 0; n < kept.size(); ++n) {
      if (s.gallery_pids[static_cast<std::size_t>(kept[n])] == s.query_pids[i])
        ranks.push_back(static_cast<int64_t>(n) + 1);
    }
    double ap = 0.0;
    for (std::size_t n = 0; n < ranks.size(); ++n) {
      const double now = static_cast<double>(n + 1) / static_cast<double>(ranks[n]);
      const double before = ranks[n] == 1 ? 1.0 : static_cast<double>(n) / static_cast<double>(ranks[n] - 1);
      ap += ap_rule == ApRule::step ? now : (before + now) / 2;
    }
    const auto relevant = static_cast<double>(ranks.size());
    r.nonfinite[i] = nonfinite;
    r.num_relevant[i] = static_cast<int64_t>(ranks.size());
    r.status[i] = !ranks.empty() ? kValid : same_pid > 0 ? kSameCameraOnly : kAbsentPid;
    r.first_rank[i] = ranks.empty() ? 0 : ranks.front();
    r.ap[i] = ranks.empty() ? 0.0 : ap / relevant;
    r.inp[i] = ranks.empty() ? 0.0 : relevant / static_cast<double>(ranks.back());
    if (ranks.empty()) continue;
    ++valid;
    ap_sum += r.ap[i];
    inp_sum += r.inp[i];
    for (int64_t k = ranks.front(); k <= kMaxRank; ++k) r.cmc[static_cast<std::size_t>(k - 1)] += 1.0;
  }
  const double divisor = valid > 0 ? static_cast<double>(valid) : 1.0;
  for (double& value : r.cmc) value /= divisor;
  r.means = {ap_sum / divisor, inp_sum / divisor};
  return r;
}

void compare(const Result& got, const Result& want) {
  CHECK(got.first_rank == want.first_rank);
  CHECK(got.num_relevant == want.num_relevant);
  CHECK(got.status == want.status);
  CHECK(got.nonfinite == want.nonfinite);
  CHECK(got.cmc == want.cmc);
  CHECK(got.inp == want.inp);
  for (std::size_t q = 0; q < want.ap.size(); ++q) CHECK_NEAR(got.ap[q], want.ap[q], 0.0, 1e-14);
  for (std::size_t i = 0; i < 2; ++i) CHECK_NEAR(got.means[i], want.means[i], 0.0, 1e-14);
}

void check_same_bits(const Result& got, const Result& first) {
  compare(got, first);
  CHECK(got.ap == first.ap && got.means == first.means);
}

// The kernels take gallery indices grouped by pid, and each query's range in that list.
struct Groups {
  std::vector<int64_t> members, begin, end;
  int64_t largest = 0;

  explicit Groups(const Setup& s) : members(static_cast<std::size_t>(s.gallery())) {
    std::iota(members.begin(), members.end(), 0);
    const auto pid = [&](int64_t g) { return s.gallery_pids[static_cast<std::size_t>(g)]; };
    std::stable_sort(members.begin(), members.end(), [&](int64_t a, int64_t b) { return pid(a) < pid(b); });
    for (const int64_t wanted : s.query_pids) {
      int64_t first = 0, count = 0;
      for (const int64_t g : members) first += pid(g) < wanted, count += pid(g) == wanted;
      begin.push_back(first);
      end.push_back(first + count);
      largest = std::max(largest, count);
    }
  }
};

RankingProblem problem_of(Setup& s, const Groups& groups, CameraRule camera_rule, ApRule ap_rule) {
  const bool cameras = camera_rule != CameraRule::none;  // without the rule they are not read
  return {s.distance.at(s.origin),
          static_cast<Dtype>(s.distance.type()),
          s.row_stride,
          s.column_stride,
          s.queries(),
          s.gallery(),
          groups.members.data(),
          groups.begin.data(),
          groups.end.data(),
          cameras ? s.query_camids.data() : nullptr,
          cameras ? s.gallery_camids.data() : nullptr,
          camera_rule,
          ap_rule};
}

Result on_cpu(const RankingProblem& problem, const Groups& groups, int64_t split) {
  const RankingKernels& kernels = FASTREID_KERNELS(ranking_kernels);
  Result r(problem.queries);
  const RankingRows rows = r.rows();
  const int64_t bounds[] = {0, split, problem.queries};
  for (int part = 0; part < 2; ++part) {
    testing::Scratch scratch(kernels.scratch_bytes(groups.largest));
    kernels.rows(&problem, bounds[part], bounds[part + 1], scratch.data(), &rows);
  }
  kernels.summary(problem.queries, kMaxRank, &rows, r.cmc.data(), r.means.data());
  return r;
}

// `emulated` picks the pair of rules for the emulated device, a hundred times slower than the rest; -1: all four.
void check(Setup& s, [[maybe_unused]] int emulated = -1) {
  const Groups groups(s);
  for (const CameraRule camera_rule : {CameraRule::same_pid, CameraRule::none}) {
    for (const ApRule ap_rule : {ApRule::step, ApRule::trapezoid}) {
      testing::Trying trying("camera rule ", static_cast<int>(camera_rule), " ap ",
                             static_cast<int>(ap_rule));
      const RankingProblem problem = problem_of(s, groups, camera_rule, ap_rule);
      const Result want = expected(s, camera_rule, ap_rule);
      fastreid::set_isa(Isa::baseline);
      const Result first = on_cpu(problem, groups, 0);
      compare(first, want);
      testing::for_every_isa([&] { check_same_bits(on_cpu(problem, groups, problem.queries / 2), first); });
#ifdef FASTREID_EMULATED
      if (emulated >= 0 && emulated != 2 * static_cast<int>(camera_rule) + static_cast<int>(ap_rule))
        continue;
      testing::for_every_order([&] {
        Result r(problem.queries);
        testing::Scratch scratch(fastreid::cuda::ranking_scratch(problem.queries, problem.gallery));
        CHECK_EQUAL(fastreid::cuda::launch_ranking(problem, scratch.data(), r.rows(), nullptr), 0);
        CHECK_EQUAL(fastreid::cuda::launch_ranking_summary(problem.queries, kMaxRank, r.rows(), r.cmc.data(),
                                                           r.means.data(), nullptr),
                    0);
        check_same_bits(r, first);
      });
#endif
    }
  }
}

CASE(every_type_and_layout) {
  int pair = 0;
  for (const Type type : testing::kTypes) {
    for (const Layout layout : kLayouts) {
      testing::Trying trying(testing::name(type), " layout ", static_cast<int>(layout));
      Setup s(type, layout, 3, 37, 4, 1);
      check(s, pair++ % 4);
    }
  }
}

CASE(sizes) {
  int pair = 0;
  for (const int64_t gallery : {0, 1, 2, 31, 64, 129}) {
    for (const int64_t queries : {0, 1, 5}) {
      testing::Trying trying(queries, " x ", gallery);
      Setup s(Type::float32, Layout::contiguous, queries, gallery, 3, 2);
      check(s, pair++ % 4);
    }
  }
}

CASE(an_identity_with_more_images_than_a_block_has_threads) {
  Setup s(Type::float32, Layout::padded, 2, 600, 1, 3);
  s.query_pids.assign(2, 0);
  check(s, 1);
}

CASE(no_query_is_valid) {
  Setup s(Type::float64, Layout::contiguous, 4, 9, 2, 4);
  s.query_pids = {7, 7, 0, 1};
  s.query_camids.assign(4, 1);
  s.gallery_camids.assign(9, 1);
  check(s);
}

}  // namespace
