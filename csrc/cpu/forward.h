// A whole rollout: every team takes its samples, tile by tile, through all steps.
#pragma once
#include "layer1.h"
#include "single.h"
#include "states.h"

namespace hamiltorch {
namespace {

template <class T>
Forward<T> take_forward(Arena& arena, Arena& prepared, const Rollout<T>& rollout, T* tape, bool taped, int threads,
                        bool filled) {
  Forward<T> job{};
  job.rollout = &rollout;
  job.plan = make_plan(rollout, threads, taped);
  job.network = take_network(arena, prepared, rollout.network, job.plan, rollout.bfloat16, filled);
  job.tape = take_tape(arena, rollout, rollout.batch, tape);
  const int64_t rows = job.plan.tile_rows, d = job.network.half, width = job.network.first();
  // As many states at once as fill a tile: the product that makes them then reads W_1 no more often than others.
  const int64_t most = rollout.steps > 1 ? rollout.steps : 1, filling = ceil_div(kTileRows, rows);
  job.chunk = filling < most ? filling : most;
  take_teams(arena, job, widest(rollout.network), rollout.bfloat16, [&] {
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
    return tile;
  });
  return job;
}

template <class T>
void roll_forward(const Forward<T>& job, const ForwardTile<T>& tile, int64_t row, int64_t rows,
                  const Worker<T>& worker) {
  if (rolls_single(job, rows))
    with_activation(job.network.activation,
                    [&](auto tag) { roll_single<T, decltype(tag)::kind>(job, tile, row, worker); });
  else if (job.plan.layer1)
    roll_layer1(job, tile, row, rows, worker);
  else
    roll_states(job, tile, row, rows, worker);
}

template <class T>
int64_t tape_count(const Rollout<T>& rollout) {
  return tape_numbers(rollout, rollout.steps, rollout.batch);
}

template <class T>
auto forward_taker(const Rollout<T>& rollout, T* tape, bool taped, int threads) {
  return [&rollout, tape, taped, threads](Arena& arena, Arena& prepared, bool filled) {
    return take_forward(arena, prepared, rollout, tape, taped, threads, filled);
  };
}

template <class T>
Sizes forward_measure(const Rollout<T>& rollout, bool taped, int threads) {
  return measure_job(rollout.batch, forward_taker<T>(rollout, nullptr, taped, threads));
}

template <class T>
Status forward_run(const Rollout<T>& rollout, const ForwardArrays<T>& arrays, int threads, const Prepared& kept,
                   void* workspace, size_t size) {
  return run_job<roll_forward<T>>(rollout.batch, kept, workspace, size,
                                  forward_taker(rollout, arrays.tape, arrays.tape != nullptr, threads),
                                  [&](Forward<T>& job) { job.arrays = arrays; });
}

}  // namespace
}  // namespace hamiltorch
