// SPDX-License-Identifier: Apache-2.0
// Schema, and the CPU side. The Python function has inverted the labels and checked the arguments in its own
// words; the checks here are a backstop that keeps a direct call inside its memory.
#include "ranking/feature_ranking_ops.h"

#include <torch/csrc/stable/library.h>

#include "common/items.h"

namespace fastreid {
namespace {

// Measuring a pair exactly costs about as much as 40 products of float32 pairs do beyond those of bfloat16: above this
// fraction float32 is the faster screen.
constexpr double kTooMany = 0.025;

// Everything up to the ranking, with its state.
class Screen {
 public:
  Screen(const FeatureRankingProblem& problem, const RankingRows& rows)
      : problem_(problem), rows_(rows), state_(kernels_.state_bytes(&problem)) {
    for (int i = 0; i < kFeatureRankingPhases - 1; ++i) {
      const FeatureRankingPhase phase = static_cast<FeatureRankingPhase>(i);
      run(phase, 0, kernels_.items(&problem_, phase));
    }
  }

  int64_t items() const { return kernels_.items(&problem_, FeatureRankingPhase::rank); }
  void rank(int64_t first, int64_t last) { run(FeatureRankingPhase::rank, first, last); }
  int64_t measured() { return kernels_.measured(&problem_, state_.data()); }

 private:
  void run(FeatureRankingPhase phase, int64_t first, int64_t last) {
    for_items(first, last, kernels_.workspace_bytes(&problem_), [&](int64_t item, void* memory) {
      kernels_.run(&problem_, &rows_, phase, item, item + 1, state_.data(), memory);
    });
  }

  const FeatureRankingKernels& kernels_ = FASTREID_KERNELS(feature_ranking_kernels);
  const FeatureRankingProblem& problem_;
  const RankingRows& rows_;
  Workspace state_;
};

void rank(FeatureRankingProblem& p, const RankingRows& rows) {
  if (p.queries == 0) return;
  int64_t done = 0;
  if (p.pairs) {
    Screen pairs(p, rows);
    const int64_t all = pairs.items(), tried = smaller(all, torch::stable::get_num_threads());
    pairs.rank(0, tried);
    const double seen = static_cast<double>(p.queries) * static_cast<double>(p.gallery) *
                        static_cast<double>(tried) / static_cast<double>(all);
    done = tried;
    if (static_cast<double>(pairs.measured()) < kTooMany * seen) pairs.rank(done, all), done = all;
    if (done == all) return;
    p.pairs = false;
  }
  Screen singles(p, rows);
  singles.rank(done, singles.items());
}

std::tuple<Tensor, Tensor, Tensor> run(const Tensor& x, const Tensor& y, bool angular,
                                       const RankingArguments& arguments) {
  check_features(x, y);
  const RankingCall call(arguments, x.size(0), y.size(0));
  FeatureRankingProblem p = feature_ranking_problem(x, y, angular, has_pairs(), call);
  p.largest_group = check_labels(call);
  rank(p, call.rows);
  return {call.reals, call.counts, call.shares};
}

FASTREID_RANK_FEATURES(run)

// ---- matches that lie elsewhere ----

const int64_t* integers(const char* op, const char* argument, const Tensor& tensor, int64_t size) {
  const bool right = tensor.is_cpu() && tensor.dim() == 1 && tensor.is_contiguous() &&
                     tensor.size(0) == size && tensor.scalar_type() == torch::headeronly::ScalarType::Long;
  FASTREID_CHECK(right, op, argument, "another tensor", "contiguous int64 " + shown({size}) + " on the CPU");
  return tensor.const_data_ptr<int64_t>();
}

void check_range(const char* op, const char* argument, const int64_t* values, int64_t n, int64_t limit) {
  for (int64_t i = 0; i < n; ++i)
    FASTREID_CHECK(values[i] >= 0 && values[i] < limit, op, argument, shown(values[i]),
                   "0 to " + shown(limit - 1));
}

// Offsets into `matches` of each query, checked; the most that a query has in `most`.
const int64_t* checked_offsets(const char* op, const Tensor& offsets, int64_t queries, int64_t matches,
                               int64_t* most) {
  const int64_t* values = integers(op, "offsets", offsets, queries + 1);
  bool right = values[0] == 0 && values[queries] == matches;
  for (int64_t q = 0; q < queries; ++q) {
    right = right && values[q] <= values[q + 1];
    *most = larger(*most, values[q + 1] - values[q]);
  }
  FASTREID_CHECK(right, op, "offsets", "other numbers", "ascending ones from 0 to " + shown(matches));
  return values;
}

Tensor rank_distances(const Tensor& query, const Tensor& gallery, bool angular, const Tensor& offsets,
                      const Tensor& index) {
  constexpr const char* kOp = "rank_distances";
  check_features(query, gallery);
  const int64_t queries = query.size(0), matches = index.dim() == 1 ? index.size(0) : 0;
  const Tensor distance = empty_on(query, {matches}, aoti_torch_dtype_float64());
  GivenMatches given{};
  int64_t most = 0;
  given.offsets = checked_offsets(kOp, offsets, queries, matches, &most);
  given.place = integers(kOp, "index", index, matches);
  check_range(kOp, "index", given.place, matches, gallery.size(0));
  given.distance = distance.mutable_data_ptr<double>();
  FeatureRankingProblem p{};
  p.x = {query.const_data_ptr(), query.stride(0), query.stride(1)};
  p.y = {gallery.const_data_ptr(), gallery.stride(0), gallery.stride(1)};
  p.queries = queries, p.gallery = gallery.size(0), p.depth = query.size(1);
  p.dtype = dtype_of(kOp, "query", query);
  p.angular = angular;
  p.given = &given;
  const FeatureRankingKernels& kernels = FASTREID_KERNELS(feature_ranking_kernels);
  const RankingRows none{};
  Workspace state(kernels.state_bytes(&p));
  for (const FeatureRankingPhase phase : {FeatureRankingPhase::measure, FeatureRankingPhase::distances}) {
    for_items(0, kernels.items(&p, phase), kernels.workspace_bytes(&p), [&](int64_t item, void* memory) {
      kernels.run(&p, &none, phase, item, item + 1, state.data(), memory);
    });
  }
  return distance;
}

std::tuple<Tensor, Tensor> rank_part(const Tensor& query, const Tensor& gallery, bool angular,
                                     const Tensor& members, const Tensor& begin, const Tensor& end,
                                     const Optional& query_camids, const Optional& gallery_camids,
                                     const Optional& query_clothes, const Optional& gallery_clothes,
                                     const Optional& query_class, const Optional& excluded,
                                     int64_t camera_rule, int64_t clothes_rule, const Tensor& offsets,
                                     const Tensor& place, const Tensor& squared, const Tensor& gallery_place,
                                     const Optional& gallery_identity, int64_t identities) {
  constexpr const char* kOp = "rank_part";
  check_features(query, gallery);
  const Optional none;
  const RankingCall call({query,
                          members,
                          begin,
                          end,
                          query_camids,
                          gallery_camids,
                          query_clothes,
                          gallery_clothes,
                          query_class,
                          excluded,
                          none,
                          camera_rule,
                          clothes_rule,
                          0,
                          0,
                          0,
                          1,
                          0,
                          0,
                          0},
                         query.size(0), gallery.size(0));
  FeatureRankingProblem p = feature_ranking_problem(query, gallery, angular, has_pairs(), call);
  p.largest_group = check_labels(call);

  const int64_t matches = place.dim() == 1 ? place.size(0) : 0;
  GivenMatches given{};
  given.offsets = checked_offsets(kOp, offsets, p.queries, matches, &p.largest_group);
  given.place = integers(kOp, "place", place, matches);
  check_range(kOp, "place", given.place, matches, int64_t{1} << 31);
  const bool values = squared.is_cpu() && squared.dim() == 1 && squared.is_contiguous() &&
                      squared.size(0) == matches &&
                      squared.scalar_type() == torch::headeronly::ScalarType::Double;
  FASTREID_CHECK(values, kOp, "squared", "another tensor", "contiguous float64 " + shown({matches}));
  given.value = squared.const_data_ptr<double>();
  given.gallery_place = integers(kOp, "gallery_place", gallery_place, p.gallery);

  const int64_t words = gallery_identity ? ceil_div(identities, 64) : 0;
  FASTREID_CHECK(identities >= 0, kOp, "identities", shown(identities), "at least 0");
  if (gallery_identity) {
    p.relevance.gallery_identity = integers(kOp, "gallery_identity", *gallery_identity, p.gallery);
    check_range(kOp, "gallery_identity", p.relevance.gallery_identity, p.gallery, identities);
    p.identities = identities;
  }
  const Tensor counts = empty_on(query, {matches}, aoti_torch_dtype_int64());
  const Tensor seen = empty_on(query, {p.queries, words}, aoti_torch_dtype_int64());
  given.counts = counts.mutable_data_ptr<int64_t>();
  given.seen = reinterpret_cast<uint64_t*>(seen.mutable_data_ptr<int64_t>());
  p.given = &given;
  rank(p, call.rows);
  return {counts, seen};
}

}  // namespace
}  // namespace fastreid

STABLE_TORCH_LIBRARY_FRAGMENT(fastreid, m) {
  // angular: directions are compared (cosine, arccos). The rest as in rank_metrics; ranking_summary makes
  // means of the results.
  m.def(
      "rank_features(Tensor query, Tensor gallery, bool angular, Tensor members, Tensor begin, Tensor end, "
      "Tensor? query_camids, Tensor? gallery_camids, Tensor? query_clothes, Tensor? gallery_clothes, "
      "Tensor? query_class, Tensor? excluded, Tensor? gallery_identity, int camera_rule, int clothes_rule, "
      "int ap, int cmc, int invalid, int max_rank, int repeats, int seed) -> "
      "(Tensor reals, Tensor counts, Tensor shares)");
  // The two halves of ranking against one part of a gallery. Squared distances in float64 of the queries to some rows
  // each, those of query q at index[offsets[q]:offsets[q + 1]].
  m.def("rank_distances(Tensor query, Tensor gallery, bool angular, Tensor offsets, Tensor index) -> Tensor");
  // How many kept rows of the part stand up to each match, by (squared distance, place in the whole gallery), matches
  // given in that order; and as bits the identities ahead of each query's first.
  m.def(
      "rank_part(Tensor query, Tensor gallery, bool angular, Tensor members, Tensor begin, Tensor end, "
      "Tensor? query_camids, Tensor? gallery_camids, Tensor? query_clothes, Tensor? gallery_clothes, "
      "Tensor? query_class, Tensor? excluded, int camera_rule, int clothes_rule, Tensor offsets, Tensor "
      "place, "
      "Tensor squared, Tensor gallery_place, Tensor? gallery_identity, int identities) -> "
      "(Tensor counts, Tensor seen)");
}

STABLE_TORCH_LIBRARY_IMPL(fastreid, CPU, m) {
  m.impl("rank_features", TORCH_BOX(&fastreid::rank_features));
  m.impl("rank_distances", TORCH_BOX(&fastreid::rank_distances));
  m.impl("rank_part", TORCH_BOX(&fastreid::rank_part));
}
