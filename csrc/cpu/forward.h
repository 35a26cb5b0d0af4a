// A whole rollout: every team takes its samples, tile by tile, through all steps.
#pragma once
#include "layer1.h"
#include "single.h"
#include "states.h"

namespace hamiltorch {
namespace {

template <class T>
Forward<T> take_forward(Arena& arena, Arena& prepared, const Rollout<T>& rollout, const ForwardArrays<T>& arrays,
                        bool taped, int threads, bool filled) {
  Forward<T> job{};
  job.rollout = &rollout;
  job.arrays = arrays;
  job.plan = make_plan(rollout, threads, taped);
  job.network = take_network(arena, prepared, rollout.network, job.plan, rollout.bfloat16, filled);
  job.tape = take_tape(arena, rollout, rollout.batch, arrays.tape);
  const int teams = job.plan.teams, size = job.plan.team_size;
  job.tiles = arena.take<ForwardTile<T>>(teams);
  job.workers = arena.take<Worker<T>>(teams * size);
  job.barriers = arena.take<Barrier>(teams);
  job.all = arena.take<Barrier>(1);
  const int64_t rows = job.plan.tile_rows, d = job.network.half, width = job.network.first();
  // As many states at once as fill a tile: the product that makes them then reads W_1 no more often than others.
  const int64_t most = rollout.steps > 1 ? rollout.steps : 1, filling = ceil_div(kTileRows, rows);
  job.chunk = filling < most ? filling : most;
  for (int team = 0; team < teams; ++team) {
    ForwardTile<T> tile{};
    tile.q = take_tile<T>(arena, rows, d);
    tile.p = take_tile<T>(arena, rows, d);
    tile.first = take_first_layer(arena, job.network, rows);
    tile.evaluation = take_evaluation(arena, job.network, rows);
    tile.product = take_tile<T>(arena, rows, job.plan.layer1 ? width : d);
    if (job.plan.layer1) {
      for (Tile<T>& impulse : tile.impulse) impulse = take_tile<T>(arena, rows, width);
      tile.sum_q = take_tile<T>(arena, (job.chunk + 1) * rows, width);
      tile.sum_p = take_tile<T>(arena, (job.chunk + 1) * rows, width);
      tile.displacement = take_tile<T>(arena, job.chunk * rows, d);
    }
    take_workers(arena, job.workers ? job.workers + team * size : nullptr, size, job.barriers + team, rows,
                 widest(rollout.network), !job.plan.packed, rollout.bfloat16);
    if (job.tiles) {
      job.tiles[team] = tile;
      job.barriers[team].reset();
    }
  }
  if (job.all) job.all->reset();
  return job;
}

template <class T>
void forward_thread(void* context, int index) {
  const Forward<T>& job = *static_cast<const Forward<T>*>(context);
  const Plan& plan = job.plan;
  prepare(job.network, job.rollout->network, {index, plan.teams * plan.team_size, job.all});
  const ForwardTile<T>& tile = job.tiles[index / plan.team_size];
  for_tiles(plan, job.rollout->batch, index, [&](int64_t row, int64_t rows) {
    if (rolls_single(job, rows)) {
      with_activation(job.network.activation,
                      [&](auto tag) { roll_single<T, decltype(tag)::kind>(job, tile, row, job.workers[index]); });
    } else {
      const auto roll = plan.layer1 ? roll_layer1<T> : roll_states<T>;
      roll(job, tile, row, rows, job.workers[index]);
    }
  });
}

template <class T>
int64_t tape_count(const Rollout<T>& rollout) {
  return tape_numbers(rollout, rollout.steps, rollout.batch);
}

template <class T>
Sizes forward_measure(const Rollout<T>& rollout, bool taped, int threads) {
  if (rollout.batch == 0) return {0, 0, 0};
  Arena arena(nullptr), prepared(nullptr);
  const Plan plan = take_forward(arena, prepared, rollout, {}, taped, threads, false).plan;
  return {arena.used(), prepared.used(), layout(plan)};
}

template <class T>
Status forward_run(const Rollout<T>& rollout, const ForwardArrays<T>& arrays, int threads, const Prepared& kept,
                   void* workspace, size_t size) {
  if (rollout.batch == 0) return Status::kOk;
  const bool taped = arrays.tape;
  if (size < forward_measure(rollout, taped, threads).workspace) return Status::kWorkspaceTooSmall;
  Arena arena(workspace), prepared(kept.memory);
  Forward<T> job = take_forward(arena, prepared, rollout, arrays, taped, threads, kept.filled);
  parallel(job.plan.teams * job.plan.team_size, forward_thread<T>, &job);
  return Status::kOk;
}

}  // namespace
}  // namespace hamiltorch
