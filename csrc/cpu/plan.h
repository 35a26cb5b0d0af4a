// How a call's samples are spread over threads. Threads form teams: a team rolls its own samples out on its own, and
// its members share each layer's columns. Many samples make many teams of one; one sample makes one team of all.
#pragma once
#include "hamiltorch/rollout.h"
#include "products.h"

namespace hamiltorch {
namespace {

struct Plan {
  int teams;
  int team_size;
  int64_t tile_rows;  // samples a team holds at once, at most
  bool packed;        // weights in panels, or read in torch's layout
};

// Two register blocks of rows: the activations of a tile stay in L2 while the weights stream past.
inline constexpr int64_t kTileRows = 28;
// A team is split further only while each holds this many samples: below it, sharing columns reads the weights less.
inline constexpr int64_t kTeamRows = 16;
// Multiply-adds that pay for a fork, and for a barrier.
inline constexpr double kForkWork = 5e5, kBarrierWork = 5e4;
// Below this many parameters packing costs nothing worth avoiding.
inline constexpr double kSmallNetwork = 65536;

template <class T>
Plan make_plan(const Rollout<T>& rollout, int threads) {
  const Mlp<T>& network = rollout.network;
  double parameters = static_cast<double>(network.dim) * network.widths[0];
  for (int64_t l = 1; l < network.hidden; ++l)
    parameters += static_cast<double>(network.widths[l - 1]) * network.widths[l];
  const double batch = static_cast<double>(rollout.batch);
  const double work = batch * parameters * 2 * (rollout.steps * rollout.stage_count + 1);

  Plan plan;
  plan.packed = rollout.batch > kMaxDirectRows || parameters < kSmallNetwork;
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
  plan.tile_rows = ceil_div(rows, ceil_div(rows, kTileRows));
  return plan;
}

}  // namespace
}  // namespace hamiltorch
