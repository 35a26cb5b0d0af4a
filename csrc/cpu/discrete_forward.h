// A whole rollout by the discrete gradient.
#pragma once
#include "discrete_gradient.h"

namespace hamiltorch {
namespace {

template <class T>
DiscreteTile<T> take_discrete_team(Arena& arena, const DiscreteJob<T>& job) {
  const Network<T>& network = job.network;
  const int64_t rows = job.plan.tile_rows, dim = job.dim();
  DiscreteTile<T> tile{};
  tile.evaluation = take_evaluation(arena, network, rows);
  tile.work = take_lines(arena, network, rows, false);
  tile.argument = take_cleared<T>(arena, rows, network.first());
  tile.projected = take_cleared<T>(arena, rows, network.first());
  Tile<T>* const states[] = {&tile.change, &tile.slope, &tile.other, &tile.flowing, &tile.lost, &tile.image};
  for (Tile<T>* each : states) *each = take_cleared<T>(arena, rows, dim);
  tile.ports = take_cleared<T>(arena, rows, job.dissipation.in);
  return tile;
}

template <class T>
DiscreteTile<T> take_discrete_tile(Arena& arena, const DiscreteJob<T>& job, bool back, DiscreteTile<T> tile) {
  const Network<T>& network = job.network;
  const int64_t rows = job.plan.tile_rows, dim = job.dim(), width = network.first();
  static_cast<FixedPoint<T>&>(tile) = take_fixed_point<T>(arena, rows, dim);
  tile.z = take_cleared<T>(arena, rows, dim);
  tile.base = network.condition.in ? take_cleared<T>(arena, rows, width)
                                   : Tile<T>{network.biases ? network.biases[0] : nullptr, 0};
  tile.start = take_cleared<T>(arena, rows, width);
  tile.ahead = take_cleared<T>(arena, rows, dim);
  for (Tile<T>& turn : tile.turns) turn = take_cleared<T>(arena, back ? 0 : rows, dim);
  tile.kept = take_curvature(arena, network, rows);
  T** const numbers[] = {&tile.before, &tile.after, &tile.square, &tile.factor, &tile.bounds, &tile.slack};
  for (T** number : numbers) *number = arena.take<T>(rows);
  tile.alive = arena.take<uint8_t>(rows);
  if (!back) return tile;
  tile.displacement = take_cleared<T>(arena, rows, dim);
  Tile<T>* const own[] = {&tile.bar, &tile.undamped, &tile.behind, &tile.middle, &tile.solution};
  for (Tile<T>* each : own) *each = take_cleared<T>(arena, rows, dim);
  tile.weights = arena.take<T>(rows);
  tile.by_dt = arena.take<double>(rows);
  return tile;
}

// L as the products read it: by every call anew, since it is small beside the network.
template <class T>
Weight<T> take_dissipation(Arena& arena, const DiscreteRollout<T>& discrete, const Plan& plan) {
  const int64_t out = discrete.rollout.network.dim, in = discrete.columns;
  if (!discrete.dissipation || in == 0) return {};
  const auto panels = [&](int64_t count, int64_t depth) -> Panels<T> {
    return {plan.packed ? arena.take<T>(padded<T>(count) * depth) : nullptr, nullptr};
  };
  const Panels<T> forward = panels(out, in);
  return {discrete.dissipation, in, out, in, forward, panels(in, out)};
}

template <class T>
DiscreteJob<T> take_discrete(Arena& arena, Arena& prepared, const DiscreteRollout<T>& discrete, bool back, int threads,
                             bool filled) {
  const Rollout<T>& rollout = discrete.rollout;
  DiscreteJob<T> job{};
  job.rollout = &discrete;
  job.plan = make_plan(rollout, threads, true);
  job.plan.whole = true;
  job.network = take_network(arena, prepared, rollout.network, job.plan, false, filled);
  job.dissipation = take_dissipation(arena, discrete, job.plan);
  job.zeros = arena.take<T>(padded<T>(job.network.first()));
  if (job.zeros) clear(job.zeros, padded<T>(job.network.first()));
  int64_t most = widest(rollout.network);
  const int64_t others[] = {rollout.network.dim, discrete.columns};
  for (const int64_t columns : others) most = columns > most ? columns : most;
  take_teams(
      arena, job, most, false, [&] { return take_discrete_team(arena, job); },
      [&](const DiscreteTile<T>& shared) { return take_discrete_tile(arena, job, back, shared); });
  return job;
}

// p times the decay of half a step, in the columns of every row.
template <class T>
void damp(const DiscreteJob<T>& job, const Tile<T>& z, int64_t rows) {
  const T* const decay = job.rollout->decay;
  const int64_t d = job.dim() / 2;
  if (!decay) return;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < d; ++c) z.row(r)[d + c] *= decay[c];
}

template <class T>
void fill_condition(const DiscreteJob<T>& job, const DiscreteTile<T>& tile, int64_t first_row, int64_t rows) {
  const Network<T>& network = job.network;
  fill_base(network, rows, job.rollout->rollout.condition + first_row * network.condition.in, tile.base,
            solo_worker<T>());
}

// Layer 1's argument at tile.z, and what is evaluated there.
template <class T>
void evaluate_start(const DiscreteJob<T>& job, const DiscreteTile<T>& tile, int64_t rows, bool slope,
                    const Worker<T>& worker) {
  const Network<T>& network = job.network;
  apply(network.q, rows, tile.z, tile.projected, worker, no_more);
  for_columns<T>({0, rows}, worker.columns(network.first()), [&](int64_t r, int64_t c) {
    store(tile.start.row(r) + c, load(tile.projected.row(r) + c) + load(tile.base.row(r) + c));
  });
  const FirstLayer<T> first = {tile.start, {job.zeros, 0}, {job.zeros, 0}};
  if (slope) {
    evaluate(network, rows, first, tile.evaluation, Record<T>{}, true, worker);
    find_slope(job, rows, tile.evaluation.delta[0], tile.other, worker);
  } else {
    evaluate_values(network, rows, first, tile.evaluation, Record<T>{}, true, worker);
    worker.wait();
  }
  for (int64_t r = 0; r < rows; ++r) tile.before[r] = energy(network, tile.evaluation, r);
}

template <class T>
void roll_discrete(const DiscreteJob<T>& job, const DiscreteTile<T>& own, int64_t first_row, int64_t rows,
                   const Worker<T>& worker) {
  const DiscreteArrays<T>& arrays = job.arrays;
  const int64_t dim = job.dim(), steps = job.rollout->rollout.steps, stride = (steps + 1) * dim;
  const Worker<T> alone = solo_worker<T>();
  DiscreteTile<T> tile = own;  // of which the unknown changes from step to step
  const auto write_state = [&](int64_t n) {
    write_rows(tile.z, rows, dim, arrays.trajectory + first_row * stride + n * dim, stride, worker);
  };

  const auto change = [&](int64_t n) -> const Tile<T>& { return tile.turns[(n + kTurns) % kTurns]; };

  read_rows(arrays.z0 + first_row * dim, dim, rows, dim, tile.z, alone);
  fill_condition(job, tile, first_row, rows);
  for (int64_t r = 0; r < rows; ++r) {
    tile.alive[r] = 1;
    tile.slack[r] = 1;
  }
  write_state(0);
  for (int64_t n = 0; n < steps; ++n) {
    const int64_t at = first_row * steps + n;
    const T* const forces = job.rollout->forces ? job.rollout->forces + at * dim : nullptr;
    tile.displacement = change(n);
    tile.first_image = n == 0 ? change(-1) : Tile<T>{};
    const auto add_forces = [&](const Tile<T>& to, T factor) {
      if (!forces) return;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < dim; ++c) to.row(r)[c] += factor * forces[r * steps * dim + c];
    };
    damp(job, tile.z, rows);
    evaluate_start(job, tile, rows, false, worker);
    extrapolate(tile, steps_known(n, true), [&](int64_t j, int64_t r) { return change(n - 1 - j).row(r); }, rows, dim);
    // From Delta = 0 an image is an explicit Euler step, forces and all.
    if (n > 0) add_forces(tile.displacement, job.dt());
    for (int64_t r = 0; r < rows; ++r) tile.iterations[r] = 0;
    const StepEquations<T> equations = {job, tile, forces, worker};
    const int64_t slow = iterate(tile, equations, rows);
    if (slow > 0) finish_by_newton(tile, equations, slow);

    if (arrays.changes) write_rows(tile.displacement, rows, dim, arrays.changes + at * dim, steps * dim, worker);
    for (int64_t r = 0; r < rows; ++r) add_scaled(tile.z.row(r), static_cast<T>(1), tile.displacement.row(r), dim);
    if (n == 0) {
      look_back(tile, static_cast<T>(0.5), change(-1), rows, dim);
      add_forces(change(-1), -job.dt());
    }
    add_forces(tile.displacement, -job.dt());
    damp(job, tile.z, rows);
    write_state(n + 1);
    for (int64_t r = 0; r < rows; ++r) tile.alive[r] = tile.alive[r] && tile.solved[r];
    const Range mine = worker.share_of(rows);
    for (int64_t r = mine.begin; r < mine.end; ++r) {
      arrays.converged[at + r * steps] = tile.alive[r];
      arrays.iterations[at + r * steps] = tile.iterations[r];
      arrays.residual[at + r * steps] = tile.error[r];
    }
  }
}

template <class T>
auto discrete_taker(const DiscreteRollout<T>& discrete, bool back, int threads) {
  return [&discrete, back, threads](Arena& arena, Arena& prepared, bool filled) {
    return take_discrete(arena, prepared, discrete, back, threads, filled);
  };
}

template <class T>
Sizes discrete_measure(const DiscreteRollout<T>& discrete, bool back, int threads) {
  return measure_job(discrete.rollout.batch, discrete_taker(discrete, back, threads));
}

template <class T>
Status discrete_forward_run(const DiscreteRollout<T>& discrete, const DiscreteArrays<T>& arrays, int threads,
                            const Prepared& kept, void* workspace, size_t size) {
  return run_job<roll_discrete<T>>(discrete.rollout.batch, kept, workspace, size,
                                   discrete_taker(discrete, false, threads),
                                   [&](DiscreteJob<T>& job) { job.arrays = arrays; });
}

}  // namespace
}  // namespace hamiltorch
