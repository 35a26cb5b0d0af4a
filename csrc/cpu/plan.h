// How a call's samples are spread over threads. Threads form teams: a team rolls its own samples out on its own, and
// its members share each layer's columns. Many samples make many teams of one; one sample makes one team of all.
#pragma once
#include "hamiltorch/rollout.h"
#include "weight.h"

namespace hamiltorch {
namespace {

struct Plan {
  int teams;
  int team_size;
  int64_t tile_rows;           // samples a team holds at once, at most
  bool packed;                 // weights in panels, or read in torch's layout
  bool layer1;                 // steps in layer-1 space (layer1.h), or on the states (states.h)
  bool antisymmetric = false;  // in layer-1 space: what is prepared is G - G^T in place of G
  bool whole = false;          // layer 1 reads all of its input as one, not as q and p
};

inline int32_t layout(const Plan& plan) {
  return plan.packed | plan.layer1 << 1 | plan.antisymmetric << 2 | plan.whole << 3;
}

// Two register blocks of rows: the activations of a tile stay in L2 while the weights stream past.
inline constexpr int64_t kTileRows = 28;
// The same of bfloat16: one stripe where there is AMX.
inline constexpr int64_t kTileRowsBfloat16 = kHasAmx ? kStripe : kTileRows;
// A team is split further only while each holds this many samples: below it, sharing columns reads the weights less.
inline constexpr int64_t kTeamRows = 16;
// Multiply-adds that pay for a fork, and for a barrier.
inline constexpr double kForkWork = 5e5, kBarrierWork = 5e4;
// Below this many parameters packing costs nothing worth avoiding.
inline constexpr double kSmallNetwork = 65536;
// Calls over which G may pay for itself: prepared weights outlive the call.
inline constexpr double kCallsOfG = 64;

// Iterations that an implicit stage is expected to take.
inline constexpr double kIterations = 2;

// Whether in layer-1 space the next stage's solve can take along the half of this one's move that its own did not tell.
inline bool hands_on(const Stage& stage, const Stage& next) {
  return (stage.at_q == 0 && next.at_q == 1 && next.at_p == 0) || (stage.at_p == 0 && next.at_p == 1 && next.at_q == 0);
}

// Multiply-adds that layer-1 space saves a sample in a step: width^2 for a move instead of 2 d width, less the 2 d
// width that make the states. An implicit stage moves in every iteration; of its end, layer-1 space needs the half that
// the iterations did not tell, or nothing where both are taken on the same way or the next stage takes it along.
template <class T>
double saved_by_layer1(const Rollout<T>& rollout) {
  const double width = static_cast<double>(rollout.network.widths[0]);
  const double move = static_cast<double>(rollout.network.dim) * width, joined = width * width;
  double saved = -move;
  for (int64_t k = 0; k < rollout.stage_count; ++k) {
    const Stage& stage = rollout.stages[k];
    const int moves = ((stage.moves & kMovesP) != 0) + ((stage.moves & kMovesQ) != 0);
    const int sides = (stage.at_q != 0) + (stage.at_p != 0);
    const bool together = stage.at_q == stage.at_p;
    const bool told = together || hands_on(stage, rollout.stages[(k + 1) % rollout.stage_count]);
    saved += sides == 0 ? moves * (move - joined)
                        : kIterations * (sides * move - (together ? 1 : sides) * joined) + 2 * move - !told * joined;
  }
  return saved;
}

// Whether that is enough to pay for G. It then also shrinks what is read again and again from d to width columns.
template <class T>
bool layer1_pays(const Rollout<T>& rollout, double parameters) {
  const double d = static_cast<double>(rollout.network.dim) / 2, width = static_cast<double>(rollout.network.widths[0]);
  const double saved = saved_by_layer1(rollout);
  // Two sets of panels and a copy, of the weights and of G.
  const double prepared = 3 * sizeof(T) * (parameters + width * width);
  const double calls = prepared < static_cast<double>(kPreparedKept) ? kCallsOfG : 1;
  return saved > 0 && calls * saved * static_cast<double>(rollout.batch * rollout.steps) >= width * width * d;
}

// Weights of all layers that every evaluation reads.
template <class T>
double weights_of(const Mlp<T>& network) {
  double count = static_cast<double>(network.dim) * network.widths[0];
  for (int64_t l = 1; l < network.hidden; ++l) count += static_cast<double>(network.widths[l - 1]) * network.widths[l];
  return count;
}

// `replays`: the plan of an adjoint, or of a rollout that leaves a tape for one: both work on the states.
template <class T>
Plan make_plan(const Rollout<T>& rollout, int threads, bool replays) {
  const Mlp<T>& network = rollout.network;
  const double parameters = weights_of(network);
  const double batch = static_cast<double>(rollout.batch);
  const double work = batch * parameters * 2 * (rollout.steps * rollout.stage_count + 1);

  Plan plan;
  plan.packed = rollout.batch > kMaxDirectRows || parameters < kSmallNetwork || rollout.bfloat16;
  plan.layer1 = !replays && layer1_pays(rollout, parameters);
  if (work < kForkWork || threads < 1) threads = 1;
  const double phase = (batch < kTileRows ? batch : kTileRows) * parameters / (network.hidden + 1);
  if (phase / threads >= kBarrierWork) {
    const int64_t teams = rollout.batch / kTeamRows;
    plan.teams = static_cast<int>(teams < 1 ? 1 : teams < threads ? teams : threads);
    plan.team_size = threads / plan.teams;
  } else {
    plan.teams = static_cast<int>(rollout.batch < threads ? rollout.batch : threads);
    plan.team_size = 1;
  }
  // The rounds every team makes over its samples are of equal size.
  const int64_t rows = ceil_div(rollout.batch, plan.teams);
  plan.tile_rows = ceil_div(rows, ceil_div(rows, rollout.bfloat16 ? kTileRowsBfloat16 : kTileRows));
  return plan;
}

// Of work on `rows` rows, each of them `evaluations` times, that every thread does on its own.
template <class T>
Plan make_solo_plan(const Mlp<T>& network, int64_t rows, double evaluations, int threads) {
  Plan plan;
  const double work = static_cast<double>(rows) * evaluations * weights_of(network);
  plan.teams = work < kForkWork || threads < 1 ? 1 : static_cast<int>(rows < threads ? rows : threads);
  plan.team_size = 1;
  const int64_t own = ceil_div(rows, plan.teams);
  plan.tile_rows = ceil_div(own, ceil_div(own, kTileRows));
  plan.packed = true;
  plan.layer1 = false;
  return plan;
}

// Of a few samples of a large network, which are bound by reading it, the members of one team share the columns.
template <class T>
Plan make_del_plan(const Mlp<T>& network, int64_t batch, double evaluations, int threads) {
  Plan plan = make_solo_plan(network, batch, evaluations, threads);
  const double parameters = weights_of(network), phase = static_cast<double>(batch) * parameters / (network.hidden + 1);
  if (batch > kMaxDirectRows || parameters < kSmallNetwork) return plan;
  const int members = phase >= threads * kBarrierWork ? threads : static_cast<int>(phase / kBarrierWork);
  if (members <= plan.teams || phase * evaluations < kForkWork) return plan;
  plan.packed = false;
  plan.teams = 1;
  plan.team_size = members;
  plan.tile_rows = batch;
  return plan;
}

// f(first row, rows) for the tiles of samples that the team of thread `index` takes in turn, all nearly of one size.
template <class F>
void for_tiles(const Plan& plan, int64_t batch, int index, const F& f) {
  const Range mine = share(batch, index / plan.team_size, plan.teams);
  const int64_t tiles = ceil_div(mine.size(), plan.tile_rows);
  for (int64_t i = 0; i < tiles; ++i) {
    const Range part = share(mine.size(), i, tiles);
    f(mine.begin + part.begin, part.size());
  }
}

template <class T>
Worker<T> solo_worker() {
  return {{0, 1, nullptr}, nullptr, 0, {nullptr, nullptr}, 0, 0};
}

}  // namespace
}  // namespace hamiltorch
