// A whole rollout by implicit stages.
#pragma once
#include "stage_equations.h"

namespace hamiltorch {
namespace {

// Whether every stage takes both halves on the same way: then layer 1's argument is all there is to follow.
template <class T>
bool together(const Rollout<T>& rollout) {
  for (int64_t k = 0; k < rollout.stage_count; ++k)
    if (rollout.stages[k].at_q != rollout.stages[k].at_p) return false;
  return true;
}

template <class T>
ImplicitTile<T> take_implicit_team(Arena& arena, const ImplicitJob<T>& job) {
  const Network<T>& network = job.network;
  const int64_t rows = job.plan.tile_rows, width = network.first();
  ImplicitTile<T> tile{};
  tile.evaluation = take_evaluation(arena, network, rows);
  tile.work = take_lines(arena, network, rows, false);
  Tile<T>* const lines[] = {&tile.argument, &tile.impulse, &tile.image, &tile.other};
  for (Tile<T>* line : lines) *line = take_cleared<T>(arena, rows, width);
  tile.moved = take_cleared<T>(arena, rows, network.half);
  if (job.plan.layer1) tile.states = take_tile<T>(arena, job.chunk * rows, network.half);
  return tile;
}

template <class T>
ImplicitTile<T> take_implicit_tile(Arena& arena, const ImplicitJob<T>& job, ImplicitTile<T> tile) {
  const Network<T>& network = job.network;
  const int64_t rows = job.plan.tile_rows, d = network.half, width = network.first();
  const int64_t stages = job.rollout->rollout.stage_count;
  const auto take = [&](int64_t columns) { return take_cleared<T>(arena, rows, columns); };
  static_cast<FixedPoint<T>&>(tile) = take_fixed_point<T>(arena, rows, width);
  tile.q = take(d);
  tile.p = take(d);
  tile.at_q = take(d);
  tile.at_p = take(d);
  tile.base = network.condition.in ? take(width) : Tile<T>{network.biases ? network.biases[0] : nullptr, 0};
  Tile<T>* const whole[] = {&tile.s, &tile.r, &tile.turns[0], &tile.turns[1]};
  for (Tile<T>* each : whole) *each = take(width);
  tile.displacements = arena.take<Tile<T>>(stages * kTurns);
  for (int64_t i = 0; i < stages * kTurns; ++i) {
    tile.displacement = take(width);  // one of them is the adjoint's
    if (tile.displacements) tile.displacements[i] = tile.displacement;
  }
  if (job.plan.layer1) tile.sums = take_tile<T>(arena, (job.chunk + 1) * rows, width);
  tile.kept = take_curvature(arena, network, rows);
  tile.slacks = arena.take<T>(stages * rows);
  tile.worst = arena.take<T>(rows);
  tile.alive = arena.take<uint8_t>(rows);
  return tile;
}

// `on_states`: the steps leave w, or are an adjoint's.
template <class T>
ImplicitJob<T> take_implicit(Arena& arena, Arena& prepared, const ImplicitRollout<T>& implicit, bool on_states,
                             int threads, bool filled) {
  const Rollout<T>& rollout = implicit.rollout;
  ImplicitJob<T> job{};
  job.rollout = &implicit;
  job.plan = make_plan(rollout, threads, on_states);
  job.plan.antisymmetric = job.plan.layer1 && together(rollout);
  job.network = take_network(arena, prepared, rollout.network, job.plan, false, filled);
  const int64_t filling = ceil_div(kTileRows, job.plan.tile_rows), most = rollout.steps > 1 ? rollout.steps : 1;
  job.chunk = filling < most ? filling : most;
  job.zeros = arena.take<T>(padded<T>(job.network.first()));
  if (job.zeros) clear(job.zeros, padded<T>(job.network.first()));
  take_teams(
      arena, job, widest(rollout.network), false, [&] { return take_implicit_team(arena, job); },
      [&](const ImplicitTile<T>& shared) { return take_implicit_tile(arena, job, shared); });
  return job;
}

// to = x W^T + base for all rows, whole, x being the member's own; `base` has stride 0 where all have the same.
template <class T>
void bring(const Weight<T>& w, const ImplicitTile<T>& tile, int64_t rows, const Tile<T>& x, const Tile<T>& base,
           const Tile<T>& to, const Worker<T>& worker) {
  apply(w, rows, x, tile.image, worker, no_more);
  worker.wait();
  for (int64_t r = 0; r < rows; ++r)
    for_vectors<T>(w.out,
                   [&](int64_t c) { store(to.row(r) + c, load(tile.image.row(r) + c) + load(base.row(r) + c)); });
}

// s and r of the tile's q and p.
template <class T>
void find_arguments(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, int64_t rows, const Worker<T>& worker) {
  bring(job.network.q, tile, rows, tile.q, tile.base, tile.s, worker);
  bring(job.network.p, tile, rows, tile.p, {job.zeros, 0}, tile.r, worker);
}

// Reads q and p from rows of a user's array, and what the conditions make of layer 1.
template <class T>
void read_samples(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, const T* z, int64_t stride, int64_t first_row,
                  int64_t rows) {
  const Network<T>& network = job.network;
  const Worker<T> alone = solo_worker<T>();
  read_rows(z, stride, rows, network.half, tile.q, alone);
  read_rows(z + network.half, stride, rows, network.half, tile.p, alone);
  fill_base(network, rows, job.rollout->rollout.condition + first_row * network.condition.in, tile.base, alone);
}

// The stage's update of s and r in layer-1 space. D tells one of them, or their sum where that is all; the other is one
// product more, unless the next solve takes it along.
template <class T>
void advance_arguments(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, const Stage& stage, bool handed_on,
                       int64_t rows, const Worker<T>& worker) {
  const Network<T>& network = job.network;
  const T at_q = static_cast<T>(stage.at_q), at_p = static_cast<T>(stage.at_p);
  const auto add = [&](const Tile<T>& to, T factor, const Tile<T>& term) {
    for (int64_t r = 0; r < rows; ++r) add_scaled(to.row(r), factor, term.row(r), network.first());
  };
  if (network.antisymmetric) return add(tile.s, 1 / at_q, tile.displacement);
  if (at_p == 0) {
    add(tile.s, 1 / at_q, tile.displacement);
  } else if (!handed_on) {
    apply(network.joined, rows, tile.impulses, tile.image, worker, no_more);
    worker.wait();
    add(tile.s, 1, tile.image);
  }
  if (at_q == 0) {
    add(tile.r, 1 / at_p, tile.displacement);
  } else if (!handed_on) {
    apply_transposed(network.joined, rows, tile.impulses, tile.image, worker, no_more);
    worker.wait();
    add(tile.r, -1, tile.image);
  }
}

// The stage's update of q and p, and s and r anew. `points` is where w goes, of the first sample, or null.
template <class T>
void advance_states(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, const Stage& stage, int64_t rows, T* points,
                    int64_t stride, const Worker<T>& worker) {
  const Network<T>& network = job.network;
  const int64_t d = network.half;
  const Range mine = worker.share_of(rows);
  const auto move = [&](const Weight<T>& w, T sign, T way, const Tile<T>& half, T* to) {
    apply_transposed(w, rows, tile.impulses, tile.moved, worker, no_more);
    worker.wait();
    if (points)
      for (int64_t r = mine.begin; r < mine.end; ++r)
        for (int64_t c = 0; c < d; ++c) to[r * stride + c] = half.row(r)[c] + way * sign * tile.moved.row(r)[c];
    for (int64_t r = 0; r < rows; ++r) add_scaled(half.row(r), sign, tile.moved.row(r), d);
  };
  move(network.p, 1, static_cast<T>(stage.at_q), tile.q, points);
  move(network.q, -1, static_cast<T>(stage.at_p), tile.p, points ? points + d : nullptr);
  find_arguments(job, tile, rows, worker);
}

// Starts a solve from what its stage displaces where the gradient is still that of the stage before, which made these
// impulses; `handed_on`: it takes them along.
template <class T>
void start_as_before(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, const Stage& before, const Stage& stage,
                     bool handed_on, const Tile<T>& impulses, int64_t rows, const Worker<T>& worker) {
  const int64_t width = job.network.first();
  const T ratio = static_cast<T>(stage.coefficient / before.coefficient), factor = handed_on ? 1 + ratio : ratio;
  worker.wait();  // the others have read the last impulses
  for_columns<T>({0, rows}, worker.columns(width),
                 [&](int64_t r, int64_t c) { store(tile.impulse.row(r) + c, factor * load(impulses.row(r) + c)); });
  displace(job, tile, stage, false, rows, tile.impulse, worker);
  for_columns<T>({0, rows}, {0, width},
                 [&](int64_t r, int64_t c) { store(tile.displacement.row(r) + c, load(tile.image.row(r) + c)); });
}

// The states of steps n - count + 1 .. n from the impulses' sums.
template <class T>
void write_summed_states(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, int64_t first_row, int64_t rows,
                         int64_t n, int64_t count, const Worker<T>& worker) {
  const Network<T>& network = job.network;
  const int64_t d = network.half, stride = (job.rollout->rollout.steps + 1) * 2 * d;
  const auto write = [&](const Weight<T>& w, const Tile<T>& start, T factor, int64_t offset) {
    T* const to = job.arrays.trajectory + first_row * stride + (n - count + 1) * 2 * d + offset;
    const Tile<T> sums = {tile.sums.row(rows), tile.sums.stride};
    apply_transposed(w, count * rows, sums, tile.states, worker, [&](const Range& block, const Range& part) {
      for (int64_t i = block.begin; i < block.end; ++i) {
        const int64_t r = i % rows;
        T* const row = to + r * stride + i / rows * 2 * d;
        for (int64_t c = part.begin; c < part.end; ++c) row[c] = start.row(r)[c] + factor * tile.states.row(i)[c];
      }
    });
  };
  write(network.p, tile.q, 1, 0);
  write(network.q, tile.p, -1, d);
}

template <class T>
void roll_implicit(const ImplicitJob<T>& job, const ImplicitTile<T>& own, int64_t first_row, int64_t rows,
                   const Worker<T>& worker) {
  const Rollout<T>& rollout = job.rollout->rollout;
  const ImplicitArrays<T>& arrays = job.arrays;
  const int64_t d = job.network.half, dim = 2 * d, width = job.network.first();
  const int64_t steps = rollout.steps, stages = rollout.stage_count, stride = (steps + 1) * dim;
  T* const trajectory = arrays.trajectory + first_row * stride;
  ImplicitTile<T> tile = own;  // of which D, the impulses and those carried change from stage to stage
  const auto write_state = [&](int64_t n) {
    write_rows(tile.q, rows, d, trajectory + n * dim, stride, worker);
    write_rows(tile.p, rows, d, trajectory + n * dim + d, stride, worker);
  };
  const auto sums_after = [&](int64_t i) { return Tile<T>{tile.sums.row(i * rows), tile.sums.stride}; };
  const auto displacement = [&](int64_t k, int64_t n) -> const Tile<T>& {
    return tile.displacements[k * kTurns + (n + kTurns) % kTurns];
  };
  const auto hands_to = [&](int64_t k) {
    return job.plan.layer1 && hands_on(rollout.stages[(k + stages - 1) % stages], rollout.stages[k]);
  };
  // How much of a step before the first's solve its D is known as well, or zero: where a gradient for both halves is
  // taken along the motion, D follows it, and is the first image where that begins.
  const Stage& first = rollout.stages[0];
  const T part = stages == 1 && first.at_q == first.at_p ? static_cast<T>(first.at_q) : 0;

  read_samples(job, tile, arrays.z0 + first_row * dim, dim, first_row, rows);
  write_state(0);
  find_arguments(job, tile, rows, worker);
  for (int64_t r = 0; r < rows; ++r) tile.alive[r] = 1;
  for (int64_t i = 0; i < stages * rows; ++i) tile.slacks[i] = 1;
  if (job.plan.layer1) clear(tile.sums.data, rows * tile.sums.stride);
  tile.carried = {};
  int turn = 0;
  int64_t pending = 0;  // steps whose states are still to be made
  for (int64_t n = 0; n < steps; ++n) {
    for (int64_t r = 0; r < rows; ++r) {
      tile.iterations[r] = 0;
      tile.worst[r] = 0;
    }
    for (int64_t k = 0; k < stages; ++k) {
      const Stage& stage = rollout.stages[k];
      tile.displacement = displacement(k, n);
      tile.impulses = tile.turns[turn ^= 1];
      tile.slack = tile.slacks + k * rows;
      const bool begins = n == 0 && k == 0;
      tile.first_image = begins ? displacement(0, -1) : Tile<T>{};
      if (n == 0 && k > 0) {
        start_as_before(job, tile, rollout.stages[k - 1], stage, hands_to(k), tile.turns[turn ^ 1], rows, worker);
      } else {
        extrapolate(
            tile, steps_known(n, part > 0), [&](int64_t j, int64_t r) { return displacement(k, n - 1 - j).row(r); },
            rows, width);
      }
      const StageEquations<T> equations = {job, tile, stage, worker};
      const int64_t slow = iterate(tile, equations, rows);
      if (slow > 0) finish_by_newton(tile, equations, slow);
      for (int64_t i = 0; i < slow; ++i)  // D is what the impulse displaces
        add_scaled(tile.displacement.row(tile.slow[i]), static_cast<T>(1), tile.residual.row(tile.slow[i]), width);
      if (begins && part > 0) look_back(tile, part, displacement(0, -1), rows, width);
      for (int64_t r = 0; r < rows; ++r) {
        tile.alive[r] = tile.alive[r] && tile.solved[r];
        if (tile.worst[r] == tile.worst[r] && !(tile.error[r] <= tile.worst[r])) tile.worst[r] = tile.error[r];
      }
      if (job.plan.layer1) {
        const Tile<T> before = sums_after(k ? pending + 1 : pending), after = sums_after(pending + 1);
        for_columns<T>({0, rows}, {0, width}, [&](int64_t r, int64_t c) {
          store(after.row(r) + c, load(before.row(r) + c) + load(tile.impulses.row(r) + c));
        });
        const bool handed_on = hands_to((k + 1) % stages), ends = n + 1 == steps && k + 1 == stages;
        if (!ends) advance_arguments(job, tile, stage, handed_on, rows, worker);
        if (begins && hands_to(0)) {  // nothing was handed on to it: its D as if that had been
          const T both = static_cast<T>(1 + rollout.stages[stages - 1].coefficient / stage.coefficient);
          for_columns<T>({0, rows}, {0, width}, [&](int64_t r, int64_t c) {
            store(tile.displacement.row(r) + c, both * load(displacement(0, -1).row(r) + c));
          });
        }
        tile.carried = handed_on ? tile.impulses : Tile<T>{};
      } else {
        T* const points = arrays.points ? arrays.points + ((first_row * steps + n) * stages + k) * dim : nullptr;
        advance_states(job, tile, stage, rows, points, steps * stages * dim, worker);
      }
    }
    if (!job.plan.layer1) {
      write_state(n + 1);
    } else if (++pending == job.chunk || n + 1 == steps) {
      write_summed_states(job, tile, first_row, rows, n + 1, pending, worker);
      const Tile<T> from = sums_after(pending), to = sums_after(0);
      for_columns<T>({0, rows}, {0, width}, [&](int64_t r, int64_t c) { store(to.row(r) + c, load(from.row(r) + c)); });
      pending = 0;
    }
    const Range mine = worker.share_of(rows);
    for (int64_t r = mine.begin; r < mine.end; ++r) {
      const int64_t at = (first_row + r) * steps + n;
      arrays.converged[at] = tile.alive[r];
      arrays.iterations[at] = tile.iterations[r];
      arrays.residual[at] = tile.worst[r];
    }
  }
}

template <class T>
auto implicit_taker(const ImplicitRollout<T>& implicit, bool on_states, int threads) {
  return [&implicit, on_states, threads](Arena& arena, Arena& prepared, bool filled) {
    return take_implicit(arena, prepared, implicit, on_states, threads, filled);
  };
}

template <class T>
Sizes implicit_measure(const ImplicitRollout<T>& implicit, bool on_states, int threads) {
  return measure_job(implicit.rollout.batch, implicit_taker(implicit, on_states, threads));
}

template <class T>
Status implicit_forward_run(const ImplicitRollout<T>& implicit, const ImplicitArrays<T>& arrays, int threads,
                            const Prepared& kept, void* workspace, size_t size) {
  return run_job<roll_implicit<T>>(implicit.rollout.batch, kept, workspace, size,
                                   implicit_taker(implicit, arrays.points != nullptr, threads),
                                   [&](ImplicitJob<T>& job) { job.arrays = arrays; });
}

}  // namespace
}  // namespace hamiltorch
