// Discrete Euler-Lagrange rollouts: every team takes its samples, tile by tile, through all steps.
#pragma once
#include "factors.h"
#include "job.h"
#include "newton.h"

namespace hamiltorch {
namespace {

template <class T>
struct DelJob : Teams<T, DelTile<T>> {
  DelSystem<T> system;
  DelArrays<T> arrays;
  DelAdjointArrays<T> adjoint;

  int64_t samples() const { return system.rollout->batch; }
  void get_ready(const Member& all) const { prepare(system.network, system.rollout->network, all); }
};

// What the members of a team share of its tiles.
template <class T>
DelTile<T> take_meeting_place(Arena& arena, const Network<T>& network, const Plan& plan) {
  const int64_t d = network.half, most = plan.packed ? kTileRows : kMaxDirectRows;
  DelTile<T> tile{};
  tile.lines = d < most ? d : most;
  if (tile.lines < plan.tile_rows) tile.lines = plan.tile_rows;
  tile.work = take_lines(arena, network, tile.lines, false);
  tile.out = take_tile<T>(arena, tile.lines, d);
  tile.other = take_tile<T>(arena, tile.lines, d);
  return tile;
}

template <class T>
DelTile<T> take_del_tile(Arena& arena, const Network<T>& network, int64_t rows, DelTile<T> tile) {
  const int64_t d = network.half, width = network.first();
  Tile<T>* const states[] = {&tile.q,          &tile.y,     &tile.carried, &tile.residual,
                             &tile.right,      &tile.step,  &tile.tried,   &tile.tried_residual,
                             &tile.multiplier, &tile.start, &tile.own,     &tile.later};
  for (Tile<T>* state : states) *state = take_tile<T>(arena, rows, d);
  tile.from_x = take_tile<T>(arena, rows, width);
  if (network.condition.in)
    tile.base = take_tile<T>(arena, rows, width);
  else if (network.biases)
    tile.base.data = network.biases[0];
  tile.kept = take_curvature(arena, network, rows);
  tile.in = take_tile<T>(arena, tile.lines, d);
  tile.image = take_tile<T>(arena, rows, d);
  tile.krylov = take_krylov<T>(arena, rows, d);
  tile.memory = take_broyden<T>(arena, rows, d);
  tile.matrix = take_tile<T>(arena, d, d);
  T** const numbers[] = {&tile.scale, &tile.error, &tile.length, &tile.target, &tile.left, &tile.pivot};
  for (T** number : numbers) *number = arena.take<T>(rows);
  tile.iterations = arena.take<int64_t>(rows);
  tile.settled = arena.take<uint8_t>(rows);
  tile.stale = arena.take<uint8_t>(rows);
  tile.broyden = arena.take<uint8_t>(rows);
  int32_t** const lists[] = {&tile.all, &tile.open, &tile.quick, &tile.slow, &tile.trying, &tile.back};
  for (int32_t** list : lists) *list = arena.take<int32_t>(rows);
  tile.single = arena.take<int32_t>(tile.lines);
  if (tile.all)
    for (int64_t slot = 0; slot < rows; ++slot) tile.all[slot] = static_cast<int32_t>(slot);
  // What no product writes is the padding of the states.
  if (tile.matrix.data) {
    for (const Tile<T>* state : states) clear(state->data, rows * state->stride);
    clear(tile.matrix.data, d * tile.matrix.stride);
  }
  return tile;
}

template <class T>
DelJob<T> take_del(Arena& arena, Arena& prepared, const DelRollout<T>& rollout, int threads, bool filled) {
  DelJob<T> job{};
  const Mlp<T>& mlp = rollout.network;
  job.plan = make_del_plan(mlp, rollout.batch, 8 * static_cast<double>(rollout.steps + 1), threads);

  DelSystem<T>& system = job.system;
  system.rollout = &rollout;
  system.network = take_network(arena, prepared, mlp, job.plan, false, filled);
  const int64_t d = system.network.half, columns = padded<T>(d);
  T** const vectors[] = {&system.kinetic, &system.friction, &system.diagonal, &system.inverse};
  for (T** vector : vectors) *vector = arena.take<T>(columns);
  if (system.kinetic)
    for (int64_t i = 0; i < columns; ++i) {
      system.kinetic[i] = i < d ? rollout.mass[i] / rollout.dt : 0;
      system.friction[i] = i < d ? rollout.damping[i] / 2 : 0;
      system.diagonal[i] = -(system.kinetic[i] + system.friction[i]);
      system.inverse[i] = i < d ? 1 / system.diagonal[i] : 0;
    }
  take_teams(
      arena, job, widest(mlp), false, [&] { return take_meeting_place(arena, system.network, job.plan); },
      [&](const DelTile<T>& shared) { return take_del_tile(arena, system.network, job.plan.tile_rows, shared); });
  return job;
}

// What the interval (x, y), on which the network has just been evaluated, brings to the next step, which begins at y.
template <class T>
void carry(const DelJob<T>& job, const DelTile<T>& tile, int64_t row, int64_t rows, int64_t k,
           const Worker<T>& worker) {
  const DelSystem<T>& system = job.system;
  const DelRollout<T>& rollout = *system.rollout;
  const int64_t d = system.network.half;
  bring_back(system.network.p, rows, tile.kept.delta, tile.out, worker);
  for (int64_t r = 0; r < rows; ++r) {
    for_vectors<T>(d, [&](int64_t c) {
      const Vec<T> y = load(tile.y.row(r) + c), x = load(tile.q.row(r) + c);
      store(tile.carried.row(r) + c,
            (load(system.kinetic + c) - load(system.friction + c)) * (y - x) + rollout.dt * load(tile.out.row(r) + c));
      store(tile.q.row(r) + c, y);
      const Vec<T> linear = y + (y - x), start = k > 0 ? linear + (y - load(tile.start.row(r) + c)) : linear;
      store(tile.y.row(r) + c, start);
      store(tile.start.row(r) + c, linear);
    });
    if (!job.arrays.impulses) continue;
    const T* const impulse = job.arrays.impulses + ((row + r) * rollout.steps + k) * d;
    for (int64_t c = 0; c < d; ++c) tile.carried.row(r)[c] += impulse[c];
  }
}

template <class T>
void roll_del(const DelJob<T>& job, const DelTile<T>& tile, int64_t row, int64_t rows, const Worker<T>& worker) {
  const DelSystem<T>& system = job.system;
  const DelRollout<T>& rollout = *system.rollout;
  const DelArrays<T>& arrays = job.arrays;
  const int64_t d = system.network.half, steps = rollout.steps, stride = (steps + 2) * d;
  T* const trajectory = arrays.trajectory + row * stride;
  const Worker<T> alone = solo_worker<T>();
  read_rows(arrays.q0 + row * d, d, rows, d, tile.q, alone);
  read_rows(arrays.q1 + row * d, d, rows, d, tile.y, alone);
  write_rows(tile.q, rows, d, trajectory, stride, worker);
  write_rows(tile.y, rows, d, trajectory + d, stride, worker);
  if (steps == 0) return;
  clear(tile.memory.pairs, rows);
  fill_base(system.network, rows, rollout.condition + row * system.network.condition.in, tile.base, worker);
  begin_interval(system, tile, rows, worker);
  evaluate_at(system, tile, tile.all, rows, tile.y, worker);
  for (int64_t k = 0; k < steps; ++k) {
    carry(job, tile, row, rows, k, worker);
    begin_interval(system, tile, rows, worker);
    solve_step(system, tile, rows, worker);
    write_rows(tile.y, rows, d, trajectory + (k + 2) * d, stride, worker);
    const Range mine = worker.share_of(rows);
    for (int64_t r = mine.begin; r < mine.end; ++r) {
      const int64_t at = (row + r) * steps + k;
      const bool alive = k == 0 || arrays.converged[at - 1];
      arrays.converged[at] = alive && (tile.error[r] <= rollout.tolerance || tile.settled[r]);
      arrays.iterations[at] = tile.iterations[r];
      arrays.residual[at] = tile.error[r];
      arrays.smallest_pivot[at] = tile.pivot[r];
    }
  }
}

template <class T>
auto del_taker(const DelRollout<T>& rollout, int threads) {
  return [&rollout, threads](Arena& arena, Arena& prepared, bool filled) {
    return take_del(arena, prepared, rollout, threads, filled);
  };
}

template <class T>
Sizes del_measure(const DelRollout<T>& rollout, int threads) {
  return measure_job(rollout.batch, del_taker(rollout, threads));
}

template <class T>
Status del_forward_run(const DelRollout<T>& rollout, const DelArrays<T>& arrays, int threads, const Prepared& kept,
                       void* workspace, size_t size) {
  return run_job<roll_del<T>>(rollout.batch, kept, workspace, size, del_taker(rollout, threads),
                              [&](DelJob<T>& job) { job.arrays = arrays; });
}

}  // namespace
}  // namespace hamiltorch
