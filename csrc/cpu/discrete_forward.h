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
  T** const numbers[] = {&tile.before, &tile.after, &tile.square, &tile.factor, &tile.bounds};
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
  const int teams = job.plan.teams, size = job.plan.team_size;
  int64_t most = widest(rollout.network);
  const int64_t others[] = {rollout.network.dim, discrete.columns};
  for (const int64_t columns : others) most = columns > most ? columns : most;
  job.tiles = arena.take<DiscreteTile<T>>(teams * size);
  job.workers = arena.take<Worker<T>>(teams * size);
  job.barriers = arena.take<Barrier>(teams);
  job.all = arena.take<Barrier>(1);
  for (int team = 0; team < teams; ++team) {
    const DiscreteTile<T> shared = take_discrete_team(arena, job);
    for (int i = team * size; i < (team + 1) * size; ++i) {
      const DiscreteTile<T> tile = take_discrete_tile(arena, job, back, shared);
      if (job.tiles) job.tiles[i] = tile;
    }
    take_workers(arena, job.workers ? job.workers + team * size : nullptr, size, job.barriers + team,
                 job.plan.tile_rows, most, !job.plan.packed, false);
    if (job.barriers) job.barriers[team].reset();
  }
  if (job.all) job.all->reset();
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

  read_rows(arrays.z0 + first_row * dim, dim, rows, dim, tile.z, alone);
  fill_condition(job, tile, first_row, rows);
  for (int64_t r = 0; r < rows; ++r) tile.alive[r] = 1;
  write_state(0);
  for (int64_t n = 0; n < steps; ++n) {
    const int64_t at = first_row * steps + n;
    const T* const forces = job.rollout->forces ? job.rollout->forces + at * dim : nullptr;
    tile.displacement = tile.turns[n % kTurns];
    const auto add_forces = [&](T factor) {
      if (!forces) return;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < dim; ++c) tile.displacement.row(r)[c] += factor * forces[r * steps * dim + c];
    };
    damp(job, tile.z, rows);
    evaluate_start(job, tile, rows, false, worker);
    extrapolate(
        tile, n < kMostDifferences ? n : kMostDifferences,
        [&](int64_t j, int64_t r) { return tile.turns[(n - 1 - j) % kTurns].row(r); }, rows, dim);
    if (n > 0) add_forces(job.dt());  // from Delta = 0 an image is an explicit Euler step, forces and all
    for (int64_t r = 0; r < rows; ++r) tile.iterations[r] = 0;
    const StepEquations<T> equations = {job, tile, forces, worker};
    const int64_t slow = iterate(tile, equations, rows);
    if (slow > 0) finish_by_newton(tile, equations, slow);

    if (arrays.changes) write_rows(tile.displacement, rows, dim, arrays.changes + at * dim, steps * dim, worker);
    for (int64_t r = 0; r < rows; ++r) add_scaled(tile.z.row(r), static_cast<T>(1), tile.displacement.row(r), dim);
    add_forces(-job.dt());
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

template <class T, void (*roll)(const DiscreteJob<T>&, const DiscreteTile<T>&, int64_t, int64_t, const Worker<T>&)>
void discrete_thread(void* context, int index) {
  const DiscreteJob<T>& job = *static_cast<const DiscreteJob<T>*>(context);
  const Plan& plan = job.plan;
  const Rollout<T>& rollout = job.rollout->rollout;
  const Member all = {index, plan.teams * plan.team_size, job.all};
  if (job.dissipation.rows) make_panels(job.dissipation, all);
  prepare(job.network, rollout.network, all);
  for_tiles(plan, rollout.batch, index,
            [&](int64_t row, int64_t rows) { roll(job, job.tiles[index], row, rows, job.workers[index]); });
}

template <class T>
Sizes discrete_measure(const DiscreteRollout<T>& discrete, bool back, int threads) {
  if (discrete.rollout.batch == 0) return {0, 0, 0};
  Arena arena(nullptr), prepared(nullptr);
  const Plan plan = take_discrete(arena, prepared, discrete, back, threads, false).plan;
  return {arena.used(), prepared.used(), layout(plan)};
}

template <class T, void (*roll)(const DiscreteJob<T>&, const DiscreteTile<T>&, int64_t, int64_t, const Worker<T>&)>
Status run_discrete(const DiscreteRollout<T>& discrete, const DiscreteArrays<T>& arrays,
                    const DiscreteAdjointArrays<T>& adjoint, bool back, int threads, const Prepared& kept,
                    void* workspace, size_t size) {
  if (discrete.rollout.batch == 0) return Status::kOk;
  if (size < discrete_measure(discrete, back, threads).workspace) return Status::kWorkspaceTooSmall;
  Arena arena(workspace), prepared(kept.memory);
  DiscreteJob<T> job = take_discrete(arena, prepared, discrete, back, threads, kept.filled);
  job.arrays = arrays;
  job.adjoint = adjoint;
  parallel(job.plan.teams * job.plan.team_size, discrete_thread<T, roll>, &job);
  return Status::kOk;
}

template <class T>
Status discrete_forward_run(const DiscreteRollout<T>& discrete, const DiscreteArrays<T>& arrays, int threads,
                            const Prepared& kept, void* workspace, size_t size) {
  return run_discrete<T, roll_discrete<T>>(discrete, arrays, {}, false, threads, kept, workspace, size);
}

}  // namespace
}  // namespace hamiltorch
