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

// Everything that is not data. by_camera: entries of the query's camera are excluded; junk: those of this pid
// too.
struct Rules {
  CameraRule camera = CameraRule::same_pid;
  ApRule ap = ApRule::step;
  ClothesRule clothes = ClothesRule::any;
  CmcRule cmc = CmcRule::first_hit;
  InvalidRule invalid = InvalidRule::skip;
  bool by_camera = false;
  int64_t junk = -1;
  int64_t repeats = 0;
};
const Rules kRules[] = {
    {},
    {CameraRule::same_pid, ApRule::trapezoid},
    {CameraRule::none},
    {CameraRule::none, ApRule::trapezoid, ClothesRule::same},
    {CameraRule::same_pid, ApRule::step, ClothesRule::cross, CmcRule::unique_pid},
    {CameraRule::none, ApRule::step, ClothesRule::any, CmcRule::unique_pid, InvalidRule::zero, true},
    {CameraRule::none, ApRule::trapezoid, ClothesRule::cross, CmcRule::all_hits, InvalidRule::zero, true, 1},
    {CameraRule::same_pid, ApRule::step, ClothesRule::same, CmcRule::all_hits, InvalidRule::skip, false, 0},
    {CameraRule::same_pid, ApRule::step, ClothesRule::any, CmcRule::single_gallery_shot},
    {CameraRule::none, ApRule::step, ClothesRule::cross, CmcRule::single_gallery_shot, InvalidRule::zero,
     true, 1},
    {CameraRule::same_pid, ApRule::step, ClothesRule::any, CmcRule::single_gallery_shot, InvalidRule::skip,
     true, -1, 20000},
};
constexpr int kOnDevice = 8;  // the first of them; the others are on the CPU only

// A distance matrix in some layout, with labels.
struct Setup {
  testing::Array distance;
  int64_t origin = 0, row_stride, column_stride;
  std::vector<int64_t> query_pids, gallery_pids, query_camids, gallery_camids, query_clothes, gallery_clothes;

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
    // Few distinct values: ties everywhere, among them -0 and +0, and now and then what no distance should
    // be.
    for (int64_t i = 0; i < distance.size(); ++i) {
      const int64_t kind = random.below(60);
      distance.set(i, kind == 0   ? NAN
                      : kind == 1 ? INFINITY
                      : kind == 2 ? -INFINITY
                      : kind == 3 ? -0.0
                                  : static_cast<double>(random.below(40) - 5) / 16.0);
    }
    for (int64_t q = 0; q < queries; ++q)
      query_pids.push_back(random.below(pids + 1)), query_camids.push_back(random.below(3)),
          query_clothes.push_back(random.below(2));
    for (int64_t g = 0; g < gallery; ++g)
      gallery_pids.push_back(random.below(pids)), gallery_camids.push_back(random.below(3)),
          gallery_clothes.push_back(random.below(2));
  }
  bool drops(std::size_t q, std::size_t g, const Rules& rules) const {
    const bool pid = gallery_pids[g] == query_pids[q], camera = gallery_camids[g] == query_camids[q];
    const bool clothes = gallery_clothes[g] == query_clothes[q];
    return (rules.by_camera && camera) || gallery_pids[g] == rules.junk ||
           (pid && ((rules.camera == CameraRule::same_pid && camera) ||
                    (rules.clothes == ClothesRule::cross && clothes) ||
                    (rules.clothes == ClothesRule::same && !clothes)));
  }
  int64_t queries() const { return static_cast<int64_t>(query_pids.size()); }
  int64_t gallery() const { return static_cast<int64_t>(gallery_pids.size()); }
  double at(int64_t q, int64_t g) const { return distance.get(origin + q * row_stride + g * column_stride); }
};

struct Result {
  std::vector<double> ap, inp, cmc, means, shares;
  std::vector<int64_t> first_rank, cmc_rank, num_relevant, status, nonfinite;

  explicit Result(int64_t queries, CmcRule rule, int64_t max_rank = kMaxRank)
      : ap(fit(queries), NAN),
        inp(ap),
        cmc(fit(max_rank), NAN),
        means(2, NAN),
        shares(cmc_by_query(rule) ? fit(queries * max_rank) : 0, NAN),
        first_rank(fit(queries), -9),
        cmc_rank(first_rank),
        num_relevant(first_rank),
        status(first_rank),
        nonfinite(first_rank) {}
  RankingRows rows() {
    return {ap.data(),           inp.data(),    first_rank.data(), cmc_rank.data(),
            num_relevant.data(), status.data(), nonfinite.data(),  shares.empty() ? nullptr : shares.data()};
  }
  static std::size_t fit(int64_t n) { return static_cast<std::size_t>(n); }
};

// What a query adds to each rank of the CMC, from the pids of its kept entries in order.
std::vector<double> added(const std::vector<int64_t>& kept, int64_t own, CmcRule rule) {
  std::vector<double> odds_of_rank(kMaxRank, 0.0);
  const auto hits = static_cast<double>(std::count(kept.begin(), kept.end(), own));
  std::vector<int64_t> distinct;
  int64_t hit = 0;
  for (std::size_t n = 0; n < kept.size(); ++n) {
    if (std::find(distinct.begin(), distinct.end(), kept[n]) == distinct.end()) distinct.push_back(kept[n]);
    if (kept[n] != own) continue;
    const auto place = static_cast<int64_t>(n);
    const auto add = [&](int64_t at, double value) {
      if (at < kMaxRank) odds_of_rank[static_cast<std::size_t>(at)] += value;
    };
    if (rule == CmcRule::first_hit && hit == 0) add(place, 1.0);
    if (rule == CmcRule::unique_pid && hit == 0) add(static_cast<int64_t>(distinct.size()) - 1, 1.0);
    if (rule == CmcRule::all_hits) add(place - hit, 1.0 / hits);
    if (rule == CmcRule::single_gallery_shot) {
      std::vector<double> odds = {1.0};
      std::vector<int64_t> done = {own};
      for (const int64_t pid : kept) {
        if (std::find(done.begin(), done.end(), pid) != done.end()) continue;
        done.push_back(pid);
        const auto all = static_cast<double>(std::count(kept.begin(), kept.end(), pid));
        const double f = static_cast<double>(std::count(kept.begin(), kept.begin() + place, pid)) / all;
        odds.push_back(0.0);
        for (std::size_t k = odds.size() - 1; k > 0; --k) odds[k] = odds[k] * (1 - f) + odds[k - 1] * f;
        odds[0] *= 1 - f;
      }
      for (std::size_t k = 0; k < odds.size(); ++k) add(static_cast<int64_t>(k), odds[k] / hits);
    }
    ++hit;
  }
  return odds_of_rank;
}

Result expected(const Setup& s, const Rules& rules) {
  Result r(s.queries(), rules.cmc);
  double ap_sum = 0.0, inp_sum = 0.0;
  int64_t valid = 0;
  std::fill(r.cmc.begin(), r.cmc.end(), 0.0);
  for (int64_t q = 0; q < s.queries(); ++q) {
    const auto i = static_cast<std::size_t>(q);
    std::vector<int64_t> kept;
    int64_t same_pid = 0, nonfinite = 0;
    for (int64_t g = 0; g < s.gallery(); ++g) {
      const auto j = static_cast<std::size_t>(g);
      same_pid += s.gallery_pids[j] == s.query_pids[i];
      nonfinite += !std::isfinite(s.at(q, g));
      if (!s.drops(i, j, rules)) kept.push_back(g);
    }
    std::stable_sort(kept.begin(), kept.end(), [&](int64_t a, int64_t b) {
      const double x = s.at(q, a), y = s.at(q, b);
      return std::isnan(x) ? false : std::isnan(y) || x < y;
    });
    for (int64_t& g : kept) g = s.gallery_pids[static_cast<std::size_t>(g)];
    std::vector<int64_t> ranks;
    for (std::size_t n = 0; n < kept.size(); ++n) {
      if (kept[n] == s.query_pids[i]) ranks.push_back(static_cast<int64_t>(n) + 1);
    }
    double ap = 0.0;
    for (std::size_t n = 0; n < ranks.size(); ++n) {
      const double now = static_cast<double>(n + 1) / static_cast<double>(ranks[n]);
      const double before = ranks[n] == 1 ? 1.0 : static_cast<double>(n) / static_cast<double>(ranks[n] - 1);
      ap += rules.ap == ApRule::step ? now : (before + now) / 2;
    }
    const auto relevant = static_cast<double>(ranks.size());
    r.nonfinite[i] = nonfinite;
    r.num_relevant[i] = static_cast<int64_t>(ranks.size());
    r.status[i] = !ranks.empty() ? kValid : same_pid > 0 ? kAllDropped : kAbsentPid;
    r.first_rank[i] = r.cmc_rank[i] = ranks.empty() ? 0 : ranks.front();
    if (rules.cmc == CmcRule::unique_pid && !ranks.empty()) {
      std::vector<int64_t> ahead(kept.begin(), kept.begin() + ranks.front() - 1);
      std::sort(ahead.begin(), ahead.end());
      r.cmc_rank[i] = 1 + (std::unique(ahead.begin(), ahead.end()) - ahead.begin());
    }
    r.ap[i] = ranks.empty() ? 0.0 : ap / relevant;
    r.inp[i] = ranks.empty() ? 0.0 : relevant / static_cast<double>(ranks.back());
    if (ranks.empty()) continue;
    ++valid;
    ap_sum += r.ap[i];
    inp_sum += r.inp[i];
    const std::vector<double> shares = added(kept, s.query_pids[i], rules.cmc);
    for (std::size_t k = 0; k < r.cmc.size(); ++k) r.cmc[k] += shares[k];
  }
  for (std::size_t k = 1; k < r.cmc.size(); ++k) r.cmc[k] += r.cmc[k - 1];
  const int64_t counted = rules.invalid == InvalidRule::zero ? s.queries() : valid;
  const double divisor = counted > 0 ? static_cast<double>(counted) : 1.0;
  for (double& value : r.cmc) value /= divisor;
  r.means = {ap_sum / divisor, inp_sum / divisor};
  return r;
}

void compare(const Result& got, const Result& want, double cmc_error = 1e-14) {
  CHECK(got.cmc_rank == want.cmc_rank);
  CHECK(got.first_rank == want.first_rank);
  CHECK(got.num_relevant == want.num_relevant);
  CHECK(got.status == want.status);
  CHECK(got.nonfinite == want.nonfinite);
  for (std::size_t k = 0; k < want.cmc.size(); ++k) CHECK_NEAR(got.cmc[k], want.cmc[k], cmc_error, 0.0);
  CHECK(got.inp == want.inp);
  for (std::size_t q = 0; q < want.ap.size(); ++q) CHECK_NEAR(got.ap[q], want.ap[q], 0.0, 1e-14);
  for (std::size_t i = 0; i < 2; ++i) CHECK_NEAR(got.means[i], want.means[i], 0.0, 1e-14);
}

void check_same_bits(const Result& got, const Result& first) {
  compare(got, first);
  CHECK(got.ap == first.ap && got.means == first.means && got.cmc == first.cmc && got.shares == first.shares);
}

// The kernels take gallery indices grouped by pid, each query's range in that list, pids as 0, 1, ... and, by
// camera, the bits of what is excluded.
struct Groups {
  std::vector<int64_t> members, begin, end, identity;
  int64_t largest = 0, words = 0;

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
    std::vector<int64_t> kinds = s.gallery_pids;
    std::sort(kinds.begin(), kinds.end());
    kinds.erase(std::unique(kinds.begin(), kinds.end()), kinds.end());
    for (const int64_t value : s.gallery_pids)
      identity.push_back(std::lower_bound(kinds.begin(), kinds.end(), value) - kinds.begin());
    words = (s.gallery() + 63) / 64;
  }

  // One row for each of three cameras; without by_camera all three are alike.
  std::vector<uint64_t> excluded(const Setup& s, const Rules& rules) const {
    std::vector<uint64_t> bits(static_cast<std::size_t>(3 * words), 0);
    for (int64_t camera = 0; camera < 3; ++camera) {
      for (int64_t g = 0; g < s.gallery(); ++g) {
        const auto j = static_cast<std::size_t>(g);
        if ((rules.by_camera && s.gallery_camids[j] == camera) || s.gallery_pids[j] == rules.junk)
          bits[static_cast<std::size_t>(camera * words + g / 64)] |= uint64_t{1} << (g % 64);
      }
    }
    return bits;
  }
};

RankingProblem problem_of(Setup& s, const Groups& groups, const Rules& rules,
                          const std::vector<uint64_t>& excluded) {
  // What no rule reads is not there.
  const bool cameras = rules.camera != CameraRule::none, clothes = rules.clothes != ClothesRule::any;
  const bool excludes = rules.by_camera || rules.junk >= 0;
  const bool identities = rules.cmc == CmcRule::unique_pid || rules.cmc == CmcRule::single_gallery_shot;
  RankingProblem p{};
  p.distance = s.distance.at(s.origin);
  p.dtype = static_cast<Dtype>(s.distance.type());
  p.row_stride = s.row_stride, p.column_stride = s.column_stride;
  p.queries = s.queries(), p.gallery = s.gallery(), p.max_rank = kMaxRank;
  p.relevance = {groups.members.data(),
                 groups.begin.data(),
                 groups.end.data(),
                 cameras ? s.query_camids.data() : nullptr,
                 cameras ? s.gallery_camids.data() : nullptr,
                 clothes ? s.query_clothes.data() : nullptr,
                 clothes ? s.gallery_clothes.data() : nullptr,
                 rules.camera,
                 rules.clothes,
                 excludes ? s.query_camids.data() : nullptr,
                 excludes ? excluded.data() : nullptr,
                 groups.words,
                 identities ? groups.identity.data() : nullptr};
  p.ap_rule = rules.ap, p.cmc_rule = rules.cmc, p.invalid_rule = rules.invalid;
  p.repeats = rules.repeats, p.seed = 11;
  return p;
}

Result on_cpu(const RankingProblem& problem, const Groups& groups, int64_t split) {
  const RankingKernels& kernels = FASTREID_KERNELS(ranking_kernels);
  Result r(problem.queries, problem.cmc_rule);
  const RankingRows rows = r.rows();
  const int64_t bounds[] = {0, split, problem.queries};
  for (int part = 0; part < 2; ++part) {
    testing::Scratch scratch(kernels.scratch_bytes(&problem, groups.largest));
    kernels.rows(&problem, bounds[part], bounds[part + 1], scratch.data(), &rows);
  }
  kernels.summary(problem.queries, kMaxRank, problem.invalid_rule, &rows, r.cmc.data(), r.means.data());
  return r;
}

// `emulated` picks the rules for the emulated device, a hundred times slower than the rest; -1: all that it
// has.
void check(Setup& s, [[maybe_unused]] int emulated = -1) {
  const Groups groups(s);
  int number = -1;
  for (const Rules& rules : kRules) {
    ++number;
    testing::Trying trying("rules ", number);
    const std::vector<uint64_t> excluded = groups.excluded(s, rules);
    const RankingProblem problem = problem_of(s, groups, rules, excluded);
    fastreid::set_isa(Isa::baseline);
    const Result first = on_cpu(problem, groups, 0);
    // 20,000 galleries a query: five standard errors at most.
    compare(first, expected(s, rules), rules.repeats > 0 ? 0.018 : 1e-14);
    testing::for_every_isa([&] { check_same_bits(on_cpu(problem, groups, problem.queries / 2), first); });
#ifdef FASTREID_EMULATED
    Result r(problem.queries, problem.cmc_rule);
    if (number >= kOnDevice) {
      CHECK(fastreid::cuda::launch_ranking(problem, nullptr, r.rows(), nullptr) != 0);
      continue;
    }
    if (emulated >= 0 && emulated != number) continue;
    testing::for_every_order([&] {
      testing::Scratch scratch(fastreid::cuda::ranking_scratch(problem));
      CHECK_EQUAL(fastreid::cuda::launch_ranking(problem, scratch.data(), r.rows(), nullptr), 0);
      CHECK_EQUAL(fastreid::cuda::launch_ranking_summary(problem.queries, kMaxRank, problem.invalid_rule,
                                                         r.rows(), r.cmc.data(), r.means.data(), nullptr),
                  0);
      check_same_bits(r, first);
    });
#endif
  }
}

CASE(every_type_and_layout) {
  int pair = 0;
  for (const Type type : testing::kTypes) {
    for (const Layout layout : kLayouts) {
      testing::Trying trying(testing::name(type), " layout ", static_cast<int>(layout));
      Setup s(type, layout, 3, 37, 4, 1);
      check(s, pair++ % kOnDevice);
    }
  }
}

CASE(sizes) {
  int pair = 0;
  for (const int64_t gallery : {0, 1, 2, 31, 64, 129}) {
    for (const int64_t queries : {0, 1, 5}) {
      testing::Trying trying(queries, " x ", gallery);
      Setup s(Type::float32, Layout::contiguous, queries, gallery, 3, 2);
      check(s, pair++ % kOnDevice);
    }
  }
}

CASE(an_identity_with_more_images_than_a_block_has_threads) {
  Setup s(Type::float32, Layout::padded, 2, 600, 1, 3);
  s.query_pids.assign(2, 0);
  check(s, 1);
  for (std::size_t g = 0; g < 600; g += 7) s.gallery_pids[g] = static_cast<int64_t>(1 + g % 5);
  check(s, 4);
  check(s, 6);
}

CASE(rows_of_several_blocks_with_few_relevant_entries) {
  for (const Type type : {Type::float32, Type::float64, Type::float16}) {
    Setup s(type, Layout::padded, 2, 10300, 900, 5);
    for (int64_t i = 0; i < s.distance.size(); ++i)
      s.distance.set(i, static_cast<double>(i * 7919 % 2000) / 64.0);
    s.query_pids = {3, 5};
    check(s, kOnDevice);
  }
}

CASE(no_query_is_valid) {
  Setup s(Type::float64, Layout::contiguous, 4, 9, 2, 4);
  s.query_pids = {7, 7, 0, 1};
  s.query_camids.assign(4, 1);
  s.gallery_camids.assign(9, 1);
  check(s);
}

}  // namespace
