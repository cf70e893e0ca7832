// SPDX-License-Identifier: Apache-2.0
// feature_ranking.h against the definition: measure every pair, sort a query's kept gallery by (d2, index), walk down
// the list. CPU kernels in every instruction set, with and without products of pairs, with the items of a phase in
// several orders and by several threads, and the CUDA kernels on the emulated device must give the same bits.
#include "ranking/feature_ranking.h"

#include <algorithm>
#include <initializer_list>
#include <numeric>
#include <thread>

#include "every.h"
#include "testing.h"
#include "values.h"

namespace {

using namespace fastreid;
using testing::Type;

constexpr int64_t kMaxRank = 9;

std::size_t fit(int64_t n) { return static_cast<std::size_t>(n); }

// ---- features ----

enum class Layout { contiguous, padded, transposed, reversed };
constexpr Layout kLayouts[] = {Layout::contiguous, Layout::padded, Layout::transposed, Layout::reversed};

// What the rows look like. Apart from the first, each is a way to go wrong.
enum class Rows {
  learnt,     // around the place of their identity
  spread,     // over a cube, whatever their identity
  lattice,    // few values: equal distances everywhere
  copies,     // of a few rows
  zeros,      // every third row is zero
  equal,      // all the same
  one_long,   // the last row is a thousand times as long as the others
  far_away,   // small differences, far from the origin
  clustered,  // closer together than rounded products can tell
};
constexpr Rows kKinds[] = {Rows::learnt, Rows::spread,   Rows::lattice,  Rows::copies,   Rows::zeros,
                           Rows::equal,  Rows::one_long, Rows::far_away, Rows::clustered};

struct Matrix {
  int64_t rows, depth;
  testing::Array values;
  int64_t origin = 0, row_stride, column_stride = 1;

  Matrix(Type type, Layout layout, int64_t n, int64_t d)
      : rows(n), depth(d), values(type, std::max<int64_t>(n * (d + 3), 1)) {
    row_stride = layout == Layout::padded ? d + 3 : layout == Layout::transposed ? 1 : d;
    if (layout == Layout::padded) origin = 3;
    if (layout == Layout::transposed) column_stride = n;
    if (layout == Layout::reversed) row_stride = -d, origin = d * std::max<int64_t>(n - 1, 0);
  }
  int64_t place(int64_t i, int64_t k) const { return origin + i * row_stride + k * column_stride; }
  double at(int64_t i, int64_t k) const { return values.get(place(i, k)); }
  FeatureRows view() { return {values.at(origin), row_stride, column_stride}; }

  void fill(Rows kind, const std::vector<int64_t>& pids, unsigned seed) {
    testing::Random random(seed), common(99);
    std::vector<double> base;
    for (int64_t k = 0; k < depth; ++k) base.push_back(common.uniform(-1, 1));
    for (int64_t i = 0; i < rows; ++i) {
      testing::Random own(static_cast<unsigned>(1000 + pids[fit(i)]));
      for (int64_t k = 0; k < depth; ++k) {
        const double b = base[fit(k)], noise = random.uniform(-1, 1), of_pid = own.uniform(-1, 1);
        double value = noise;
        if (kind == Rows::learnt) value = of_pid + 0.6 * noise;
        if (kind == Rows::lattice) value = static_cast<double>(random.below(3) - 1);
        if (kind == Rows::copies)
          value = std::ldexp(static_cast<double>((i % 5 + 1) * (k * 7 % 11) % 13), -2);
        if (kind == Rows::zeros && i % 3 == 1) value = 0;
        if (kind == Rows::equal) value = b;
        if (kind == Rows::one_long && i == rows - 1) value *= 1000;
        if (kind == Rows::far_away) value = 200 * b + noise;
        if (kind == Rows::clustered) value = b + 0x1p-9 * noise;
        values.set(place(i, k), value);
      }
    }
  }
};

double folded(const double* lane) {
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

double inverse_length(const Matrix& m, int64_t i) {
  double lane[8] = {};
  for (int64_t k = 0; k < m.depth; ++k) lane[k % 8] += m.at(i, k) * m.at(i, k);
  return folded(lane) > 0 ? 1 / std::sqrt(folded(lane)) : 0;
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
  CHECK_NEAR(folded(lane), static_cast<double>(plain), 1e-300, 1e-13);
  return folded(lane);
}

// ---- rules and labels ----

// by_camera: entries of the query's camera are excluded; junk: those of this pid too.
struct Rules {
  CameraRule camera = CameraRule::same_pid;
  ApRule ap = ApRule::step;
  ClothesRule clothes = ClothesRule::any;
  CmcRule cmc = CmcRule::first_hit;
  bool by_camera = false;
  int64_t junk = -1;
};
const Rules kRules[] = {
    {},
    {CameraRule::none, ApRule::trapezoid, ClothesRule::any, CmcRule::unique_pid},
    {CameraRule::same_pid, ApRule::trapezoid, ClothesRule::any, CmcRule::all_hits},
    {CameraRule::none, ApRule::step, ClothesRule::same, CmcRule::all_hits, false, 0},
    {CameraRule::same_pid, ApRule::step, ClothesRule::cross, CmcRule::unique_pid},
    {CameraRule::none, ApRule::step, ClothesRule::any, CmcRule::unique_pid, true},
    {CameraRule::none, ApRule::trapezoid, ClothesRule::cross, CmcRule::all_hits, true, 1},
    {CameraRule::same_pid, ApRule::step, ClothesRule::same, CmcRule::first_hit, true, 2},
    {CameraRule::none},
};
constexpr int kRuleCount = static_cast<int>(std::size(kRules));

struct Labels {
  std::vector<int64_t> pid, camera, clothes;

  Labels(int64_t n, int64_t pids, unsigned seed) {
    testing::Random random(seed);
    for (int64_t i = 0; i < n; ++i)
      pid.push_back(random.below(pids)), camera.push_back(random.below(3)),
          clothes.push_back(random.below(2));
  }
};

struct Setup {
  Labels query, gallery;
  Matrix x, y;
  bool angular = false;

  bool drops(std::size_t q, std::size_t g, const Rules& rules) const {
    const bool same = gallery.pid[g] == query.pid[q], camera = gallery.camera[g] == query.camera[q];
    const bool clothes = gallery.clothes[g] == query.clothes[q];
    return (rules.by_camera && camera) || gallery.pid[g] == rules.junk ||
           (same && ((rules.camera == CameraRule::same_pid && camera) ||
                     (rules.clothes == ClothesRule::cross && clothes) ||
                     (rules.clothes == ClothesRule::same && !clothes)));
  }
};

// One pid of the queries is not in the gallery.
Setup make(Type type, Layout layout, Rows kind, int64_t queries, int64_t gallery, int64_t depth,
           int64_t pids) {
  Setup s{Labels(queries, pids + 1, 3), Labels(gallery, pids, 4), Matrix(type, layout, queries, depth),
          Matrix(type, layout, gallery, depth)};
  s.x.fill(kind, s.query.pid, 1);
  s.y.fill(kind, s.gallery.pid, 2);
  return s;
}

// The kernels take gallery indices grouped by pid, each query's range in that list, pids as 0, 1, ... and, by camera,
// the bits of what is excluded.
struct Groups {
  std::vector<int64_t> members, begin, end, identity;
  int64_t largest = 0, identities = 0, words;

  explicit Groups(const Setup& s) : members(s.gallery.pid.size()) {
    std::iota(members.begin(), members.end(), 0);
    const std::vector<int64_t>& pids = s.gallery.pid;
    std::stable_sort(members.begin(), members.end(),
                     [&](int64_t a, int64_t b) { return pids[fit(a)] < pids[fit(b)]; });
    for (const int64_t wanted : s.query.pid) {
      const auto first = std::count_if(pids.begin(), pids.end(), [&](int64_t pid) { return pid < wanted; });
      begin.push_back(first);
      end.push_back(first + std::count(pids.begin(), pids.end(), wanted));
      largest = std::max(largest, end.back() - begin.back());
    }
    std::vector<int64_t> kinds = pids;
    std::sort(kinds.begin(), kinds.end());
    kinds.erase(std::unique(kinds.begin(), kinds.end()), kinds.end());
    identities = static_cast<int64_t>(kinds.size());
    for (const int64_t pid : pids)
      identity.push_back(std::lower_bound(kinds.begin(), kinds.end(), pid) - kinds.begin());
    words = (static_cast<int64_t>(pids.size()) + 63) / 64;
  }

  // One row for each of three cameras; without by_camera all three are alike.
  std::vector<uint64_t> excluded(const Setup& s, const Rules& rules) const {
    std::vector<uint64_t> bits(fit(3 * words), 0);
    for (int64_t camera = 0; camera < 3; ++camera)
      for (std::size_t g = 0; g < s.gallery.pid.size(); ++g)
        if ((rules.by_camera && s.gallery.camera[g] == camera) || s.gallery.pid[g] == rules.junk)
          bits[fit(camera * words) + g / 64] |= uint64_t{1} << (g % 64);
    return bits;
  }
};

FeatureRankingProblem problem_of(Setup& s, const Groups& groups, const Rules& rules,
                                 const std::vector<uint64_t>& excluded, bool pairs) {
  // What no rule reads is not there.
  const bool cameras = rules.camera != CameraRule::none, clothes = rules.clothes != ClothesRule::any;
  const bool excludes = rules.by_camera || rules.junk >= 0, identities = rules.cmc == CmcRule::unique_pid;
  const Relevance relevance = {groups.members.data(),
                               groups.begin.data(),
                               groups.end.data(),
                               cameras ? s.query.camera.data() : nullptr,
                               cameras ? s.gallery.camera.data() : nullptr,
                               clothes ? s.query.clothes.data() : nullptr,
                               clothes ? s.gallery.clothes.data() : nullptr,
                               rules.camera,
                               rules.clothes,
                               excludes ? s.query.camera.data() : nullptr,
                               excludes ? excluded.data() : nullptr,
                               groups.words,
                               identities ? groups.identity.data() : nullptr};
  return {s.x.view(),
          s.y.view(),
          s.x.rows,
          s.y.rows,
          s.y.depth,
          kMaxRank,
          groups.largest,
          identities ? groups.identities : 0,
          static_cast<Dtype>(s.x.values.type()),
          s.angular,
          pairs,
          relevance,
          rules.ap,
          rules.cmc};
}

// ---- results ----

struct Result {
  std::vector<double> ap, inp, shares;
  std::vector<int64_t> first_rank, cmc_rank, num_relevant, status, nonfinite;

  Result(int64_t queries, CmcRule rule)
      : ap(fit(queries), NAN),
        inp(ap),
        shares(cmc_by_query(rule) ? fit(queries * kMaxRank) : 0, NAN),
        first_rank(fit(queries), -9),
        cmc_rank(first_rank),
        num_relevant(first_rank),
        status(first_rank),
        nonfinite(first_rank) {}
  RankingRows rows() {
    return {ap.data(),           inp.data(),    first_rank.data(), cmc_rank.data(),
            num_relevant.data(), status.data(), nonfinite.data(),  shares.empty() ? nullptr : shares.data()};
  }
};

void compare(const Result& got, const Result& want) {
  CHECK(got.num_relevant == want.num_relevant);
  CHECK(got.status == want.status);
  CHECK(got.first_rank == want.first_rank);
  CHECK(got.cmc_rank == want.cmc_rank);
  CHECK(got.nonfinite == want.nonfinite);
  CHECK(got.ap == want.ap);
  CHECK(got.inp == want.inp);
  CHECK(got.shares == want.shares);
}

// (queries, gallery): the order of the whole gallery for each query.
std::vector<std::vector<int64_t>> orders_of(const Setup& s) {
  std::vector<double> inverse;
  for (int64_t j = 0; j < s.y.rows; ++j) inverse.push_back(inverse_length(s.y, j));
  std::vector<std::vector<int64_t>> orders;
  for (int64_t i = 0; i < s.x.rows; ++i) {
    const double own = inverse_length(s.x, i);
    std::vector<double> d2;
    for (int64_t j = 0; j < s.y.rows; ++j)
      d2.push_back(squared_distance(s.x, i, own, s.y, j, inverse[fit(j)], s.angular));
    std::vector<int64_t> order(fit(s.y.rows));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return d2[fit(a)] < d2[fit(b)]; });
    orders.push_back(order);
  }
  return orders;
}

Result expected(const Setup& s, const std::vector<std::vector<int64_t>>& orders, const Rules& rules) {
  Result r(s.x.rows, rules.cmc);
  for (std::size_t q = 0; q < orders.size(); ++q) {
    const int64_t own = s.query.pid[q];
    std::vector<int64_t> ranks, others;  // of the matches; pids in front of the first
    int64_t kept = 0;
    for (const int64_t g : orders[q]) {
      if (s.drops(q, fit(g), rules)) continue;
      ++kept;
      if (s.gallery.pid[fit(g)] == own) {
        ranks.push_back(kept);
      } else if (ranks.empty()) {
        others.push_back(s.gallery.pid[fit(g)]);
      }
    }
    const std::vector<int64_t>& pids = s.gallery.pid;
    const bool present = std::find(pids.begin(), pids.end(), own) != pids.end(), valid = !ranks.empty();
    double sum = 0;
    for (std::size_t n = 0; n < ranks.size(); ++n) {
      const double now = static_cast<double>(n + 1) / static_cast<double>(ranks[n]);
      const double before = ranks[n] == 1 ? 1.0 : static_cast<double>(n) / static_cast<double>(ranks[n] - 1);
      sum += rules.ap == ApRule::step ? now : (before + now) / 2;
    }
    const auto relevant = static_cast<double>(ranks.size());
    r.ap[q] = valid ? sum / relevant : 0;
    r.inp[q] = valid ? relevant / static_cast<double>(ranks.back()) : 0;
    r.num_relevant[q] = static_cast<int64_t>(ranks.size());
    r.status[q] = valid ? kValid : present ? kAllDropped : kAbsentPid;
    r.first_rank[q] = r.cmc_rank[q] = valid ? ranks.front() : 0;
    r.nonfinite[q] = 0;
    if (rules.cmc == CmcRule::unique_pid && valid) {
      std::sort(others.begin(), others.end());
      r.cmc_rank[q] = 1 + (std::unique(others.begin(), others.end()) - others.begin());
    }
    for (int64_t k = 0; rules.cmc == CmcRule::all_hits && k < kMaxRank; ++k) {
      int64_t hits = 0;
      for (std::size_t n = 0; n < ranks.size(); ++n) hits += ranks[n] - static_cast<int64_t>(n + 1) == k;
      r.shares[q * fit(kMaxRank) + fit(k)] = hits > 0 ? static_cast<double>(hits) / relevant : 0;
    }
  }
  return r;
}

// ---- the two sides ----

enum class Way { forward, reversed, threads };
// In turn: threads are slow to start under TSan.
constexpr Way kWays[] = {Way::forward, Way::reversed, Way::forward, Way::reversed,
                         Way::forward, Way::reversed, Way::threads};

Result on_cpu(const FeatureRankingProblem& p, Way way) {
  const FeatureRankingKernels& kernels = FASTREID_KERNELS(feature_ranking_kernels);
  Result r(p.queries, p.cmc_rule);
  const RankingRows rows = r.rows();
  testing::Scratch state(kernels.state_bytes(&p));
  for (int i = 0; i < kFeatureRankingPhases; ++i) {
    const auto phase = static_cast<FeatureRankingPhase>(i);
    std::vector<int64_t> items(fit(kernels.items(&p, phase)));
    std::iota(items.begin(), items.end(), 0);
    if (way == Way::reversed) std::reverse(items.begin(), items.end());
    const auto work = [&](std::size_t first, std::size_t step) {
      testing::Scratch workspace(kernels.workspace_bytes(&p));
      for (std::size_t n = first; n < items.size(); n += step)
        kernels.run(&p, &rows, phase, items[n], items[n] + 1, state.data(), workspace.data());
    };
    if (way != Way::threads) {
      work(0, 1);
      continue;
    }
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < 3; ++t) threads.emplace_back(work, t, 3);
    for (std::thread& thread : threads) thread.join();
  }
  const int64_t measured = kernels.measured(&p, state.data());
  CHECK(0 <= measured && measured <= p.queries * p.gallery);
  return r;
}

#ifdef FASTREID_EMULATED
Result on_device(FeatureRankingProblem p) {
  p.largest_group = 0;  // not known there
  Result r(p.queries, p.cmc_rule);
  testing::Scratch scratch(fastreid::cuda::feature_ranking_scratch(p));
  CHECK_EQUAL(fastreid::cuda::launch_feature_ranking(p, scratch.data(), r.rows(), nullptr), 0);
  return r;
}
#endif

// ---- a gallery in parts ----

// The matches of every query, wherever they lie, and what the definition says of them.
struct Matches {
  std::vector<int64_t> offsets{0}, place, ranks;
  std::vector<double> value;
  std::vector<std::vector<int64_t>> others;  // identities ahead of the first match

  Matches(const Setup& s, const std::vector<std::vector<int64_t>>& orders, const Groups& groups,
          const Rules& rules)
      : others(orders.size()) {
    for (std::size_t q = 0; q < orders.size(); ++q) {
      int64_t kept = 0;
      const auto row = static_cast<int64_t>(q);
      for (const int64_t g : orders[q]) {
        if (s.drops(q, fit(g), rules)) continue;
        ++kept;
        if (s.gallery.pid[fit(g)] == s.query.pid[q]) {
          place.push_back(g);
          ranks.push_back(kept);
          value.push_back(squared_distance(s.x, row, inverse_length(s.x, row), s.y, g, inverse_length(s.y, g),
                                           s.angular));
        } else if (offsets.back() == static_cast<int64_t>(place.size())) {
          others[q].push_back(groups.identity[fit(g)]);
        }
      }
      offsets.push_back(static_cast<int64_t>(place.size()));
    }
  }
};

void run_phases(const FeatureRankingProblem& p, std::initializer_list<FeatureRankingPhase> phases) {
  const FeatureRankingKernels& kernels = FASTREID_KERNELS(feature_ranking_kernels);
  testing::Scratch state(kernels.state_bytes(&p)), workspace(kernels.workspace_bytes(&p));
  const RankingRows none{};
  for (const FeatureRankingPhase phase : phases)
    kernels.run(&p, &none, phase, 0, kernels.items(&p, phase), state.data(), workspace.data());
}

// Every third row is a part: its counts up to each match add up to the ranks, its identities to those ahead.
void check_parts(Setup& s, const Groups& whole, const std::vector<std::vector<int64_t>>& orders,
                 const Rules& rules, bool pairs) {
  constexpr int64_t kParts = 3;
  const Matches matches(s, orders, whole, rules);
  const int64_t words = (whole.identities + 63) / 64;
  std::vector<int64_t> sums(matches.place.size(), 0);
  std::vector<uint64_t> seen(fit(s.x.rows * words), 0);
  for (int64_t part = 0; part < kParts && part < s.y.rows; ++part) {
    const int64_t rows = (s.y.rows - part + kParts - 1) / kParts;
    Setup t{s.query, Labels(0, 1, 1), Matrix(s.x.values.type(), Layout::contiguous, 0, s.x.depth),
            Matrix(s.y.values.type(), Layout::padded, rows, s.y.depth), s.angular};
    std::vector<int64_t> place, identity;
    for (int64_t g = part; g < s.y.rows; g += kParts) {
      for (int64_t k = 0; k < s.y.depth; ++k)
        t.y.values.set(t.y.place(g / kParts, k), s.y.values.get(s.y.place(g, k)));
      t.gallery.pid.push_back(s.gallery.pid[fit(g)]);
      t.gallery.camera.push_back(s.gallery.camera[fit(g)]);
      t.gallery.clothes.push_back(s.gallery.clothes[fit(g)]);
      place.push_back(g), identity.push_back(whole.identity[fit(g)]);
    }
    const Groups groups(t);
    const std::vector<uint64_t> excluded = groups.excluded(t, rules);
    FeatureRankingProblem p = problem_of(t, groups, rules, excluded, pairs);
    p.x = s.x.view(), p.queries = s.x.rows;
    const bool identities = p.identities > 0;
    if (identities) p.relevance.gallery_identity = identity.data(), p.identities = whole.identities;

    std::vector<int64_t> counts(sums.size(), -9), here, offsets{0};
    std::vector<uint64_t> bits(seen.size(), ~uint64_t{0});
    GivenMatches given{};
    given.offsets = matches.offsets.data(), given.place = matches.place.data();
    given.value = matches.value.data(), given.gallery_place = place.data();
    given.counts = counts.data(), given.seen = bits.data();
    for (std::size_t q = 0; q + 1 < matches.offsets.size(); ++q) {
      p.largest_group = std::max(p.largest_group, matches.offsets[q + 1] - matches.offsets[q]);
      for (int64_t m = matches.offsets[q]; m < matches.offsets[q + 1]; ++m)
        if (matches.place[fit(m)] % kParts == part) here.push_back(matches.place[fit(m)] / kParts);
      offsets.push_back(static_cast<int64_t>(here.size()));
    }
    p.given = &given;
    run_phases(p, {FeatureRankingPhase::measure, FeatureRankingPhase::frame, FeatureRankingPhase::pack,
                   FeatureRankingPhase::limits, FeatureRankingPhase::rank});
    for (std::size_t m = 0; m < sums.size(); ++m) sums[m] += counts[m];
    for (std::size_t w = 0; identities && w < seen.size(); ++w) seen[w] |= bits[w];

    std::vector<double> distance(here.size(), NAN), want;
    given.offsets = offsets.data(), given.place = here.data(), given.distance = distance.data();
    run_phases(p, {FeatureRankingPhase::measure, FeatureRankingPhase::distances});
    for (std::size_t m = 0; m < sums.size(); ++m)
      if (matches.place[m] % kParts == part) want.push_back(matches.value[m]);
    CHECK(distance == want);
  }
  CHECK(sums == matches.ranks);
  if (rules.cmc != CmcRule::unique_pid) return;
  for (std::size_t q = 0; q < matches.others.size(); ++q) {
    if (matches.offsets[q] == matches.offsets[q + 1]) continue;
    std::vector<uint64_t> want(fit(words), 0);
    for (const int64_t i : matches.others[q]) want[fit(i / 64)] |= uint64_t{1} << (i % 64);
    // The query's own bit is not looked at.
    for (std::size_t g = 0; g < s.gallery.pid.size(); ++g) {
      if (s.gallery.pid[g] != s.query.pid[q]) continue;
      seen[q * fit(words) + fit(whole.identity[g] / 64)] &= ~(uint64_t{1} << (whole.identity[g] % 64));
    }
    for (std::size_t w = 0; w < want.size(); ++w) CHECK_EQUAL(seen[q * fit(words) + w], want[w]);
  }
}

constexpr int kNone = -1, kAll = -2;

// Every rule on the CPU, ways in turn; the one of this number on the emulated device, a hundred times slower.
int runs = 0;
void check(Setup& s, [[maybe_unused]] int emulated, [[maybe_unused]] bool every_order = false) {
  testing::Trying trying(s.x.rows, " x ", s.y.rows, " x ", s.y.depth, s.angular ? " angular" : "");
  const Groups groups(s);
  const std::vector<std::vector<int64_t>> orders = orders_of(s);
  for (int number = 0; number < kRuleCount; ++number) {
    testing::Trying which("rules ", number);
    const Rules& rules = kRules[number];
    const std::vector<uint64_t> excluded = groups.excluded(s, rules);
    const Result want = expected(s, orders, rules);
    testing::for_every_isa([&] {
      for (const bool pairs : {false, true}) {
        if (pairs && !has_pairs()) continue;
        const Way way = kWays[runs++ % static_cast<int>(std::size(kWays))];
        testing::Trying how("way ", static_cast<int>(way), pairs ? " pairs" : "");
        compare(on_cpu(problem_of(s, groups, rules, excluded, pairs), way), want);
        check_parts(s, groups, orders, rules, pairs);
      }
    });
#ifdef FASTREID_EMULATED
    if (emulated != kAll && emulated != number) continue;
    testing::Trying where("device");
    const FeatureRankingProblem p = problem_of(s, groups, rules, excluded, false);
    if (every_order) {
      testing::for_every_order([&] { compare(on_device(p), want); });
    } else {
      compare(on_device(p), want);
    }
#endif
  }
}

CASE(every_type_and_layout) {
  int n = 0;
  for (const Type type : testing::kTypes) {
    for (const Layout layout : kLayouts) {
      testing::Trying trying(testing::name(type), " layout ", static_cast<int>(layout));
      Setup s = make(type, layout, Rows::learnt, 6, 70, 37, 5);
      s.angular = layout == Layout::padded || layout == Layout::reversed;
      check(s, layout == Layout::padded || layout == Layout::transposed ? n++ % kRuleCount : kNone);
    }
  }
}

CASE(every_kind_of_rows) {
  int n = 0;
  for (const Rows kind : kKinds) {
    for (const bool angular : {false, true}) {
      testing::Trying trying("kind ", static_cast<int>(kind));
      Setup s = make(kind == Rows::far_away ? Type::float64 : Type::float32, Layout::contiguous, kind, 12,
                     100, 20, 6);
      s.angular = angular;
      check(s, n++ % kRuleCount);
    }
  }
}

// Past the borders of panels, items, tiles, slabs, chunks and parts.
CASE(sizes) {
  int n = 0;
  for (const int64_t queries : {1, 5, 49, 131}) {
    for (const int64_t gallery : {1, 2, 48, 97, 300}) {
      Setup s = make(Type::float32, Layout::contiguous, Rows::lattice, queries, gallery, 1 + gallery % 20,
                     std::max<int64_t>(gallery / 9, 1));
      s.angular = (queries + gallery) % 2 == 0;
      check(s, queries == 5 || (queries == 131 && gallery == 2) ? n++ % kRuleCount : kNone);
    }
  }
}

CASE(depths) {
  int n = 0;
  for (const int64_t depth : {1, 2, 7, 9, 31, 32, 33, 65, 300}) {
    Setup s = make(Type::bfloat16, Layout::padded, Rows::spread, 5, 50, depth, 4);
    s.angular = depth % 2 == 1;
    check(s, depth % 2 == 1 && depth <= 65 ? n++ % kRuleCount : kNone);
  }
}

// More than a block has threads, fewer and more than a slab has room for.
CASE(identities_with_many_images) {
  int n = 0;
  for (const int64_t images : {135, 144, 145, 210}) {
    for (const Rows kind : {Rows::learnt, Rows::copies}) {
      testing::Trying trying("kind ", static_cast<int>(kind), " images ", images);
      Setup s = make(Type::float32, Layout::padded, kind, 3, 250, 6, 3);
      s.query.pid = {1, 2, 1};
      for (int64_t g = 0; g < 250; ++g) s.gallery.pid[fit(g * 7 % 250)] = g < images ? 1 : 2 + g % 3;
      s.y.fill(kind, s.gallery.pid, 2);
      s.angular = images == 144;
      check(s, n++ % kRuleCount);
    }
  }
}

// The bound decides nothing: all entries are measured, more than are measured at a time.
CASE(everything_within_the_bound) {
  int n = 0;
  for (const Rows kind : {Rows::clustered, Rows::equal, Rows::one_long}) {
    testing::Trying trying("kind ", static_cast<int>(kind));
    Setup s = make(Type::float64, Layout::contiguous, kind, 3, 600, 5, 20);
    s.angular = kind == Rows::equal;
    check(s, n, n == 0);
    ++n;
  }
}

CASE(zero_rows_among_directions) {
  Setup s = make(Type::float32, Layout::contiguous, Rows::zeros, 9, 80, 3, 4);
  s.angular = true;
  // Opposite directions are further away than rows of zeros.
  for (int64_t i = 0; i < 80; ++i)
    for (int64_t c = 0; c < 3 && i % 3 != 1; ++c)
      s.y.values.set(s.y.place(i, c), i % 2 == 0 ? 1.0 + 0.01 * static_cast<double>(i) : -1.0);
  check(s, kAll);
}

// Lengths whose squares float64 does not hold, or holds without all of their bits.
CASE(lengths_at_the_ends_of_float64) {
  int n = 0;
  for (const double scale : {1e-170, 1e-158, 1e-155, 1e152}) {
    for (const bool angular : {false, true}) {
      testing::Trying trying("scale ", scale);
      Setup s = make(Type::float64, Layout::contiguous, Rows::learnt, 5, 40, 5, 4);
      for (Matrix* m : {&s.x, &s.y})
        for (int64_t i = 0; i < m->rows * m->depth; ++i) m->values.set(i, m->values.get(i) * scale);
      s.angular = angular;
      check(s, n++ % kRuleCount);
    }
  }
}

CASE(no_query_is_valid) {
  Setup s = make(Type::float32, Layout::contiguous, Rows::spread, 4, 30, 8, 2);
  s.query.pid = {7, 7, 0, 1};
  s.query.camera.assign(4, 1);
  s.gallery.camera.assign(30, 1);
  check(s, 2);
}

CASE(no_query_at_all) {
  Setup s = make(Type::float32, Layout::contiguous, Rows::spread, 0, 30, 8, 2);
  check(s, kAll);
}

}  // namespace
