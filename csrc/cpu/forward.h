// A whole rollout: every team takes its samples, tile by tile, through all steps.
#pragma once
#include "network.h"

namespace hamiltorch {
namespace {

template <class T>
struct ForwardTile {
  Tile<T> q, p;      // [rows][d]
  Tile<T> gradient;  // [rows][d], one half of dH/dz
  FirstLayer<T> first;
  Evaluation<T> evaluation;
};

template <class T>
struct Forward {
  const Rollout<T>* rollout;
  ForwardArrays<T> arrays;
  Plan plan;
  Network<T> network;
  ForwardTile<T>* tiles;  // [teams]
  Barrier* barriers;      // [teams]
  Barrier* all;           // [1]
};

template <class T>
Forward<T> take_forward(Arena& arena, const Rollout<T>& rollout, const ForwardArrays<T>& arrays, int threads) {
  Forward<T> job{&rollout, arrays, make_plan(rollout, threads), {}, nullptr, nullptr, nullptr};
  job.network = take_network(arena, rollout.network, job.plan.packed);
  job.tiles = arena.take<ForwardTile<T>>(job.plan.teams);
  job.barriers = arena.take<Barrier>(job.plan.teams);
  job.all = arena.take<Barrier>(1);
  const int64_t rows = job.plan.tile_rows, d = job.network.half, width = job.network.first();
  for (int team = 0; team < job.plan.teams; ++team) {
    ForwardTile<T> tile;
    tile.q = take_tile<T>(arena, rows, d);
    tile.p = take_tile<T>(arena, rows, d);
    tile.gradient = take_tile<T>(arena, rows, d);
    tile.first = {take_tile<T>(arena, rows, width), take_tile<T>(arena, rows, width),
                  take_base(arena, job.network, rows)};
    tile.evaluation = take_evaluation(arena, job.network, rows, false);
    if (job.tiles) {
      if (!tile.first.base.data) tile.first.base.data = job.network.biases[0];
      job.tiles[team] = tile;
      job.barriers[team].reset();
    }
  }
  if (job.all) job.all->reset();
  return job;
}

// state += factor * (delta W) for the half of the state that `w` is not: kicks read W_1q, drifts W_1p.
template <class T>
void move(const Weight<T>& w, int64_t rows, const Tile<T>& delta, T factor, const Tile<T>& gradient,
          const Tile<T>& from, const Tile<T>& to, const Member& member) {
  const Range columns = share_columns<T>(w.in, member.index, member.count);
  apply_transposed(w, rows, delta.data, delta.stride, gradient.data, gradient.stride, columns);
  for_columns<T>(rows, columns, [&](int64_t r, int64_t c) {
    store(to.row(r) + c, load(from.row(r) + c) + factor * load(gradient.row(r) + c));
  });
}

template <class T>
void roll_tile(const Forward<T>& job, const ForwardTile<T>& tile, int64_t first_row, int64_t rows,
               const Member& member) {
  const Rollout<T>& rollout = *job.rollout;
  const Network<T>& network = job.network;
  const Evaluation<T>& e = tile.evaluation;
  const int64_t d = network.half, states = rollout.steps + 1, stride = states * 2 * d;
  T* const trajectory = job.arrays.trajectory + first_row * stride;
  const auto write_state = [&](int64_t n) {
    write_rows(tile.q, rows, d, trajectory + n * 2 * d, stride, member);
    write_rows(tile.p, rows, d, trajectory + n * 2 * d + d, stride, member);
  };
  const auto write_energy = [&](int64_t n) {
    const Range mine = share(rows, member.index, member.count);
    for (int64_t r = mine.begin; r < mine.end; ++r)
      job.arrays.energies[(first_row + r) * states + n] = energy(network, e, r);
  };

  wait_for_all(member);
  const T* z0 = job.arrays.z0 + first_row * 2 * d;
  read_rows(z0, 2 * d, rows, d, tile.q, member);
  read_rows(z0 + d, 2 * d, rows, d, tile.p, member);
  fill_base(network, rows, rollout.condition + first_row * network.condition.in, tile.first.base, member);
  write_state(0);
  wait_for_all(member);
  first_layer_part(network.q, rows, tile.q, tile.first.from_q, member);
  first_layer_part(network.p, rows, tile.p, tile.first.from_p, member);

  for (int64_t n = 0; n < rollout.steps; ++n) {
    for (int64_t k = 0; k < rollout.stage_count; ++k) {
      const Stage& stage = rollout.stages[k];
      const T step = static_cast<T>(stage.coefficient) * rollout.dt;
      evaluate(network, rows, tile.first, e, member);
      if (k == 0 && job.arrays.energies) write_energy(n);
      if (stage.moves & kMovesP) move(network.q, rows, e.delta[0], -step, tile.gradient, tile.p, tile.p, member);
      if (stage.moves & kMovesQ) move(network.p, rows, e.delta[0], step, tile.gradient, tile.q, tile.q, member);
      wait_for_all(member);
      if (stage.moves & kMovesP) first_layer_part(network.p, rows, tile.p, tile.first.from_p, member);
      if (stage.moves & kMovesQ) first_layer_part(network.q, rows, tile.q, tile.first.from_q, member);
    }
    write_state(n + 1);
  }
  if (job.arrays.energies) {
    evaluate_values(network, rows, tile.first, e, member);
    wait_for_all(member);
    write_energy(rollout.steps);
  }
}

template <class T>
void forward_thread(void* context, int index) {
  const Forward<T>& job = *static_cast<const Forward<T>*>(context);
  const Plan& plan = job.plan;
  fill_network(job.network, job.rollout->network, index, plan.teams * plan.team_size);
  wait_for_all({index, plan.teams * plan.team_size, job.all});
  const int team = index / plan.team_size;
  const Member member = {index % plan.team_size, plan.team_size, job.barriers + team};
  const Range mine = share(job.rollout->batch, team, plan.teams);
  const int64_t tiles = ceil_div(mine.end - mine.begin, plan.tile_rows);
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t begin = mine.begin + (mine.end - mine.begin) * i / tiles;
    const int64_t end = mine.begin + (mine.end - mine.begin) * (i + 1) / tiles;
    roll_tile(job, job.tiles[team], begin, end - begin, member);
  }
}

template <class T>
size_t forward_size(const Rollout<T>& rollout, int threads) {
  if (rollout.batch == 0) return 0;
  Arena arena(nullptr);
  take_forward(arena, rollout, {}, threads);
  return arena.used();
}

template <class T>
Status forward_run(const Rollout<T>& rollout, const ForwardArrays<T>& arrays, int threads, void* workspace,
                   size_t size) {
  if (rollout.batch == 0) return Status::kOk;
  if (size < forward_size(rollout, threads)) return Status::kWorkspaceTooSmall;
  Arena arena(workspace);
  Forward<T> job = take_forward(arena, rollout, arrays, threads);
  parallel(job.plan.teams * job.plan.team_size, forward_thread<T>, &job);
  return Status::kOk;
}

}  // namespace
}  // namespace hamiltorch
