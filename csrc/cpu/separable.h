// A whole rollout of H = T(p) + V(q) by explicit stages, and the directions of its adjoint. A stage reads one half and
// moves the other; the gradient that it takes serves until the half it reads has moved.
#pragma once
#include "directional.h"
#include "hamiltorch/separable.h"
#include "job.h"

namespace hamiltorch {
namespace {

// Of a team, the half that V or T reads. A member writes its own columns.
template <class T>
struct SeparableHalf {
  Tile<T> state;  // [d]: q for V, p for T; an adjoint's cotangent of it
  Tile<T> slope;  // [d]: a network's gradient; an adjoint's Hessian product
  FirstLayer<T> first;
  Evaluation<T> evaluation;
  // Of an adjoint:
  Tile<T> point, direction;  // [d]: where the gradient was taken, and u
  Curvature<T> kept;
  Lines<T> work;
};

template <class T>
struct SeparableTile {
  SeparableHalf<T> halves[2];
  int32_t* all;  // [rows]: every slot
};

template <class T>
struct SeparableJob : Teams<T, SeparableTile<T>> {
  const SeparableRollout<T>* rollout;
  SeparableArrays<T> arrays;
  SeparableAdjointArrays<T> adjoint;
  Network<T> networks[2];  // the second is not there where T has masses
  const T* inverse_mass;   // [d], zero-padded; null where T is a network

  int64_t samples() const { return rollout->rollout.batch; }
  void get_ready(const Member& all) const {
    prepare(networks[kPotential], rollout->rollout.network, all);
    if (rollout->kinetic) prepare(networks[kKinetic], *rollout->kinetic, all);
  }
  int64_t half() const { return rollout->rollout.network.dim; }
  bool has_network(int half) const { return half == kPotential || rollout->kinetic; }
};

inline Half half_read_by(const Stage& stage) { return stage.moves & kMovesP ? kPotential : kKinetic; }

// What the half that is not read gains of dt times a gradient.
inline double factor_of(const Stage& stage) { return stage.moves & kMovesP ? -stage.coefficient : stage.coefficient; }

template <class T>
SeparableHalf<T> take_half(Arena& arena, const SeparableJob<T>& job, int half, bool back) {
  const int64_t rows = job.plan.tile_rows, d = job.half();
  SeparableHalf<T> own{};
  const auto take_state = [&] { return take_cleared<T>(arena, rows, d); };
  own.state = take_state();
  if (back) {
    own.point = take_state();
    own.direction = take_state();
  }
  if (!job.has_network(half)) return own;
  const Network<T>& network = job.networks[half];
  own.slope = take_tile<T>(arena, rows, d);
  own.first = take_first_layer(arena, network, rows);
  if (own.first.from_p.data) clear(own.first.from_p.data, rows * own.first.from_p.stride);  // there is one half only
  if (back) {
    own.kept = take_curvature(arena, network, rows);
    own.work = take_lines(arena, network, rows, false);
  } else {
    own.evaluation = take_evaluation(arena, network, rows);
  }
  return own;
}

template <class T>
SeparableJob<T> take_separable(Arena& arena, Arena& prepared, const SeparableRollout<T>& separable, bool back,
                               int threads, bool filled) {
  const Rollout<T>& rollout = separable.rollout;
  const int64_t d = rollout.network.dim;
  SeparableJob<T> job{};
  job.rollout = &separable;
  Rollout<T> larger = rollout;
  if (separable.kinetic && weights_of(*separable.kinetic) > weights_of(rollout.network))
    larger.network = *separable.kinetic;
  job.plan = make_plan(larger, threads, true);
  job.plan.whole = true;
  job.networks[kPotential] = take_network(arena, prepared, rollout.network, job.plan, false, filled);
  int64_t most = widest(rollout.network) > d ? widest(rollout.network) : d;
  if (separable.kinetic) {
    job.networks[kKinetic] = take_network(arena, prepared, *separable.kinetic, job.plan, false, filled);
    if (widest(*separable.kinetic) > most) most = widest(*separable.kinetic);
  } else {
    T* const inverse_mass = arena.take<T>(padded<T>(d));
    if (inverse_mass) fill_padded(separable.inverse_mass, d, inverse_mass);
    job.inverse_mass = inverse_mass;
  }
  take_teams(arena, job, most, false, [&] {
    SeparableTile<T> tile{};
    for (int half = 0; half < 2; ++half) tile.halves[half] = take_half(arena, job, half, back);
    tile.all = arena.take<int32_t>(job.plan.tile_rows);
    if (tile.all)
      for (int64_t r = 0; r < job.plan.tile_rows; ++r) tile.all[r] = static_cast<int32_t>(r);
    return tile;
  });
  return job;
}

template <class T>
void begin_samples(const SeparableJob<T>& job, const SeparableTile<T>& tile, const T* z, int64_t stride,
                   int64_t first_row, int64_t rows, const Worker<T>& worker) {
  worker.wait();  // for the others' last use of the tile
  for (int half = 0; half < 2; ++half) {
    const SeparableHalf<T>& own = tile.halves[half];
    read_rows(z + half * job.half(), stride, rows, job.half(), own.state, worker);
    if (!job.has_network(half)) continue;
    const Network<T>& network = job.networks[half];
    fill_base(network, rows, job.rollout->rollout.condition + first_row * network.condition.in, own.first.base, worker);
  }
}

template <class T>
void write_state(const SeparableJob<T>& job, const SeparableTile<T>& tile, int64_t rows, T* to, int64_t stride,
                 const Worker<T>& worker) {
  for (int half = 0; half < 2; ++half)
    write_rows(tile.halves[half].state, rows, job.half(), to + half * job.half(), stride, worker);
}

// to += factor / m x, this member's columns.
template <class T>
void add_by_mass(const SeparableJob<T>& job, int64_t rows, T factor, const Tile<T>& x, const Tile<T>& to,
                 const Worker<T>& worker) {
  for_columns<T>({0, rows}, worker.columns(job.half()), [&](int64_t r, int64_t c) {
    store(to.row(r) + c, load(to.row(r) + c) + factor * load(job.inverse_mass + c) * load(x.row(r) + c));
  });
}

template <class T>
void roll_separable(const SeparableJob<T>& job, const SeparableTile<T>& tile, int64_t first_row, int64_t rows,
                    const Worker<T>& worker) {
  const Rollout<T>& rollout = job.rollout->rollout;
  const int64_t d = job.half(), stride = (rollout.steps + 1) * 2 * d;
  T* const trajectory = job.arrays.trajectory + first_row * stride;
  begin_samples(job, tile, job.arrays.z0 + first_row * 2 * d, 2 * d, first_row, rows, worker);
  write_state(job, tile, rows, trajectory, stride, worker);

  bool known[2] = {false, false};  // whether the gradient is that at the state
  int64_t evaluated[2] = {0, 0};
  const auto evaluate_half = [&](Half half) {
    const SeparableHalf<T>& own = tile.halves[half];
    if (T* const points = job.arrays.points[half]) {
      const int64_t count = evaluations(rollout, half);
      write_rows(own.state, rows, d, points + (first_row * count + evaluated[half]) * d, count * d, worker);
    }
    ++evaluated[half];
    known[half] = true;
    if (!job.has_network(half)) return;
    const Network<T>& network = job.networks[half];
    apply(network.q, rows, own.state, own.first.from_q, worker, no_more);
    evaluate(network, rows, own.first, own.evaluation, Record<T>{}, false, worker);
    apply_transposed(network.q, rows, own.evaluation.delta[0], own.slope, worker, no_more);
  };
  for (int64_t n = 0; n < rollout.steps; ++n) {
    for (int64_t k = 0; k < rollout.stage_count; ++k) {
      const Half reads = half_read_by(rollout.stages[k]), moves = reads == kPotential ? kKinetic : kPotential;
      const T step = static_cast<T>(factor_of(rollout.stages[k])) * rollout.dt;
      const SeparableHalf<T>& own = tile.halves[reads];
      const Tile<T>& moved = tile.halves[moves].state;
      if (!known[reads]) evaluate_half(reads);
      if (!job.has_network(reads)) {
        add_by_mass(job, rows, step, own.state, moved, worker);
      } else {
        for_columns<T>({0, rows}, worker.columns(d), [&](int64_t r, int64_t c) {
          store(moved.row(r) + c, load(moved.row(r) + c) + step * load(own.slope.row(r) + c));
        });
      }
      known[moves] = false;
    }
    write_state(job, tile, rows, trajectory + (n + 1) * 2 * d, stride, worker);
  }
}

// With a bar for cotangents, a kick p' = p - c dt dV/dq adds -c pbar to V's u, and V's Hessian times dt u to qbar; a
// drift likewise. As the gradient served several stages, so does the product: it is made when qbar is needed.
template <class T>
void roll_separable_back(const SeparableJob<T>& job, const SeparableTile<T>& tile, int64_t first_row, int64_t rows,
                         const Worker<T>& worker) {
  const Rollout<T>& rollout = job.rollout->rollout;
  const SeparableAdjointArrays<T>& arrays = job.adjoint;
  const int64_t d = job.half(), steps = rollout.steps, stride = (steps + 1) * 2 * d;
  const T* const grad = arrays.grad_trajectory + first_row * stride;
  begin_samples(job, tile, grad + steps * 2 * d, stride, first_row, rows, worker);

  bool pending[2] = {false, false};
  int64_t left[2] = {evaluations(rollout, kPotential), evaluations(rollout, kKinetic)};
  const auto settle = [&](Half half) {
    if (!pending[half]) return;
    pending[half] = false;
    const SeparableHalf<T>& own = tile.halves[half];
    const int64_t count = evaluations(rollout, half), at = (first_row * count + --left[half]) * d;
    write_rows(own.direction, rows, d, arrays.directions[half] + at, count * d, worker);
    if (!job.has_network(half)) return add_by_mass(job, rows, rollout.dt, own.direction, own.state, worker);
    const Network<T>& network = job.networks[half];
    read_rows(arrays.points[half] + at, count * d, rows, d, own.point, worker);
    add_hessian_product(network, tile.all, rows, own.point, own.direction, own.first.base, own.kept, own.work,
                        rollout.dt, own.slope, own.state, worker);
  };
  for (int64_t n = steps; n-- > 0;) {
    for (int64_t k = rollout.stage_count; k-- > 0;) {
      const Half reads = half_read_by(rollout.stages[k]), moves = reads == kPotential ? kKinetic : kPotential;
      const T factor = static_cast<T>(factor_of(rollout.stages[k]));
      settle(moves);
      const Tile<T>&bar = tile.halves[moves].state, direction = tile.halves[reads].direction;
      for_columns<T>({0, rows}, worker.columns(d), [&](int64_t r, int64_t c) {
        const Vec<T> before = pending[reads] ? load(direction.row(r) + c) : Vec<T>{};
        store(direction.row(r) + c, before + factor * load(bar.row(r) + c));
      });
      pending[reads] = true;
    }
    const Range mine = worker.columns(d);
    for (int half = 0; half < 2; ++half)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = mine.begin; c < mine.end; ++c)
          tile.halves[half].state.row(r)[c] += grad[r * stride + n * 2 * d + half * d + c];
  }
  settle(kPotential);
  settle(kKinetic);
  write_state(job, tile, rows, arrays.grad_z0 + first_row * 2 * d, 2 * d, worker);
}

template <class T>
auto separable_taker(const SeparableRollout<T>& separable, bool back, int threads) {
  return [&separable, back, threads](Arena& arena, Arena& prepared, bool filled) {
    return take_separable(arena, prepared, separable, back, threads, filled);
  };
}

template <class T>
Sizes separable_measure(const SeparableRollout<T>& separable, bool back, int threads) {
  return measure_job(separable.rollout.batch, separable_taker(separable, back, threads));
}

template <class T>
Status separable_forward_run(const SeparableRollout<T>& separable, const SeparableArrays<T>& arrays, int threads,
                             const Prepared& kept, void* workspace, size_t size) {
  return run_job<roll_separable<T>>(separable.rollout.batch, kept, workspace, size,
                                    separable_taker(separable, false, threads),
                                    [&](SeparableJob<T>& job) { job.arrays = arrays; });
}

template <class T>
Status separable_adjoint_run(const SeparableRollout<T>& separable, const SeparableAdjointArrays<T>& arrays, int threads,
                             const Prepared& kept, void* workspace, size_t size) {
  return run_job<roll_separable_back<T>>(separable.rollout.batch, kept, workspace, size,
                                         separable_taker(separable, true, threads),
                                         [&](SeparableJob<T>& job) { job.adjoint = arrays; });
}

// Every point of V, or of the network T.
template <class T>
struct SeparablePoints {
  struct Sums {
    double* dt;  // [1]
  };
  const SeparableRollout<T>& separable;
  Half half;
  SeparableGradientArrays<T> arrays;

  const Rollout<T>& rollout() const { return separable.rollout; }
  int64_t each() const { return evaluations(rollout(), half); }
  int64_t rows() const { return rollout().batch * each(); }
  T factor() const { return rollout().dt; }
  const Mlp<T>& network() const { return half == kPotential ? rollout().network : *separable.kinetic; }
  bool whole() const { return true; }
  const T* condition(int64_t row) const { return rollout().condition + row / each() * network().condition_dim; }
  bool read(int64_t row, T* x, T* u) const {
    const int64_t d = network().dim;
    for (int64_t c = 0; c < d; ++c) {
      x[c] = arrays.points[row * d + c];
      u[c] = arrays.directions[row * d + c];
    }
    return true;
  }
  Sums take_sums(Arena& arena) const { return {arena.take<double>(1)}; }
  void clear_sums(const Sums& sums) const { *sums.dt = 0; }
  void add(const Sums& sums, const T*, const T*, double along) const { *sums.dt += along; }
};

template <class T>
Sizes separable_gradient_measure(const SeparableRollout<T>& separable, Half half, int threads) {
  return directional_measure<T>(SeparablePoints<T>{separable, half, {}}, threads);
}

template <class T>
Status separable_gradient_run(const SeparableRollout<T>& separable, Half half, const SeparableGradientArrays<T>& arrays,
                              int threads, const Prepared& kept, void* workspace, size_t size) {
  const DirectionalArrays<T> to = {arrays.grad_weights, arrays.grad_biases, arrays.grad_condition};
  return directional_run<T>(SeparablePoints<T>{separable, half, arrays}, to, threads, kept, workspace, size,
                            [&](const auto& job) {
                              write_thread_sums(job, arrays.grad_dt, 1, [](const auto& tile) { return tile.sums.dt; });
                            });
}

}  // namespace
}  // namespace hamiltorch
