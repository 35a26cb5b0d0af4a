// A whole rollout in Tao's extended phase space, and the directions of its adjoint.
#pragma once
#include "curvature.h"
#include "hamiltorch/extended.h"
#include "job.h"

namespace hamiltorch {
namespace {

enum Copy : int { kX, kY };  // (q, y) and (x, p)

// A team's. A member writes its own columns, but turns its own rows.
template <class T>
struct ExtendedTile {
  Tile<T> copies[2];  // [2d]; an adjoint's cotangents of them
  Tile<T> product;    // [2d]: dH at the last point; an adjoint's Hessian product
  FirstLayer<T> first;
  Evaluation<T> evaluation;
  // Of an adjoint:
  Tile<T> point, direction;  // [2d]: where the gradient was taken, and u
  Curvature<T> kept;
  Lines<T> work;
  int32_t* all;   // [rows]: every slot
  double* angle;  // [rows]: the derivative by the angle
};

template <class T>
struct ExtendedJob : Teams<T, ExtendedTile<T>> {
  const ExtendedRollout<T>* rollout;
  ExtendedArrays<T> arrays;
  ExtendedAdjointArrays<T> adjoint;
  Network<T> network;

  int64_t dim() const { return rollout->rollout.network.dim; }
  int64_t samples() const { return rollout->rollout.batch; }
  void get_ready(const Member& all) const { prepare(network, rollout->rollout.network, all); }
};

template <class T>
ExtendedTile<T> take_extended_tile(Arena& arena, const ExtendedJob<T>& job, bool back) {
  const int64_t rows = job.plan.tile_rows;
  const Network<T>& network = job.network;
  ExtendedTile<T> tile{};
  const auto take_state = [&] { return take_cleared<T>(arena, rows, job.dim()); };
  for (Tile<T>& copy : tile.copies) copy = take_state();
  tile.product = take_state();
  tile.first = take_first_layer(arena, network, rows);
  if (tile.first.from_p.data) clear(tile.first.from_p.data, rows * tile.first.from_p.stride);  // q's columns are all
  if (!back) {
    tile.evaluation = take_evaluation(arena, network, rows);
    return tile;
  }
  tile.point = take_state();
  tile.direction = take_state();
  tile.kept = take_curvature(arena, network, rows);
  tile.work = take_lines(arena, network, rows, false);
  tile.all = arena.take<int32_t>(rows);
  tile.angle = arena.take<double>(rows);
  if (tile.all)
    for (int64_t r = 0; r < rows; ++r) tile.all[r] = static_cast<int32_t>(r);
  return tile;
}

template <class T>
ExtendedJob<T> take_extended(Arena& arena, Arena& prepared, const ExtendedRollout<T>& extended, bool back, int threads,
                             bool filled) {
  const Rollout<T>& rollout = extended.rollout;
  ExtendedJob<T> job{};
  job.rollout = &extended;
  job.plan = make_plan(rollout, threads, true);
  job.plan.whole = true;
  job.network = take_network(arena, prepared, rollout.network, job.plan, false, filled);
  const int64_t layers = widest(rollout.network), most = layers > job.dim() ? layers : job.dim();
  take_teams(arena, job, most, false, [&] { return take_extended_tile(arena, job, back); });
  return job;
}

// to = factor J x (+ to), this member's columns, once all of x is there.
template <class T>
void add_rotated(int64_t rows, T factor, const Tile<T>& x, const Tile<T>& to, bool adds, int64_t dim,
                 const Worker<T>& worker) {
  const Range mine = worker.columns(dim);
  const int64_t d = dim / 2, middle = mine.end < d ? mine.end : mine.begin > d ? mine.begin : d;
  worker.wait();
  for (int64_t r = 0; r < rows; ++r) {
    const T* const from = x.row(r);
    T* const own = to.row(r);
    for (int64_t c = mine.begin; c < middle; ++c) own[c] = (adds ? own[c] : 0) + factor * from[d + c];
    for (int64_t c = middle; c < mine.end; ++c) own[c] = (adds ? own[c] : 0) - factor * from[c - d];
  }
}

// X - Y turns, X + Y stays; then f(r, c, difference's q, difference's p) for this member's rows.
template <class T, class F>
void turn(const ExtendedTile<T>& tile, int64_t rows, int64_t d, T cosine, T sine, const Worker<T>& worker, const F& f) {
  const Range mine = worker.share_of(rows);
  worker.wait();
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    T *const x = tile.copies[kX].row(r), *const y = tile.copies[kY].row(r);
    for (int64_t c = 0; c < d; ++c) {
      const T apart_q = x[c] - y[c], apart_p = x[d + c] - y[d + c];
      const T sum_q = x[c] + y[c], sum_p = x[d + c] + y[d + c];
      const T q = cosine * apart_q - sine * apart_p, p = sine * apart_q + cosine * apart_p;
      x[c] = (sum_q + q) / 2;
      y[c] = (sum_q - q) / 2;
      x[d + c] = (sum_p + p) / 2;
      y[d + c] = (sum_p - p) / 2;
      f(r, c, q, p);
    }
  }
  worker.wait();
}

template <class T>
double angle_of(const ExtendedRollout<T>& extended) {
  return 2 * extended.binding * static_cast<double>(extended.rollout.dt);
}

template <class T>
void fill_condition(const ExtendedJob<T>& job, const ExtendedTile<T>& tile, int64_t first_row, int64_t rows,
                    const Worker<T>& worker) {
  const Network<T>& network = job.network;
  fill_base(network, rows, job.rollout->rollout.condition + first_row * network.condition.in, tile.first.base, worker);
}

template <class T>
void roll_extended(const ExtendedJob<T>& job, const ExtendedTile<T>& tile, int64_t first_row, int64_t rows,
                   const Worker<T>& worker) {
  const Rollout<T>& rollout = job.rollout->rollout;
  const ExtendedArrays<T>& arrays = job.arrays;
  const Network<T>& network = job.network;
  const int64_t dim = job.dim(), d = dim / 2, steps = rollout.steps, points = extended_points(steps);
  const int64_t stride = (steps + 1) * dim;
  T* const trajectory = arrays.trajectory + first_row * stride;
  const double angle = angle_of(*job.rollout);
  const T cosine = static_cast<T>(__builtin_cos(angle)), sine = static_cast<T>(__builtin_sin(angle));
  const Range mine = worker.columns(dim);

  const auto write_state = [&](int64_t n) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = mine.begin; c < mine.end; ++c)
        trajectory[r * stride + n * dim + c] = tile.copies[c < d ? kX : kY].row(r)[c];
  };
  const auto evaluate_at = [&](Copy copy, int64_t point) {
    const Tile<T>& state = tile.copies[copy];
    if (arrays.points)
      write_rows(state, rows, dim, arrays.points + (first_row * points + point) * dim, points * dim, worker);
    apply(network.q, rows, state, tile.first.from_q, worker, no_more);
    evaluate(network, rows, tile.first, tile.evaluation, Record<T>{}, false, worker);
    apply_transposed(network.q, rows, tile.evaluation.delta[0], tile.product, worker, no_more);
  };
  const auto push = [&](Copy copy) {
    add_rotated(rows, rollout.dt / 2, tile.product, tile.copies[copy], true, dim, worker);
  };

  worker.wait();  // for the others' last use of the tile
  for (const Tile<T>& copy : tile.copies) read_rows(arrays.z0 + first_row * dim, dim, rows, dim, copy, worker);
  fill_condition(job, tile, first_row, rows, worker);
  write_state(0);
  if (steps > 0) evaluate_at(kX, 0);
  for (int64_t n = 0; n < steps; ++n) {
    push(kY);
    evaluate_at(kY, 3 * n + 1);
    push(kX);
    T* const turned = arrays.turned ? arrays.turned + (first_row * steps + n) * dim : nullptr;
    turn(tile, rows, d, cosine, sine, worker, [&](int64_t r, int64_t c, T q, T p) {
      if (!turned) return;
      turned[r * steps * dim + c] = q;
      turned[r * steps * dim + d + c] = p;
    });
    evaluate_at(kY, 3 * n + 2);
    push(kX);
    evaluate_at(kX, 3 * n + 3);
    push(kY);
    write_state(n + 1);
  }
}

// With a bar for cotangents, Y' = Y + dt/2 J dH(X) adds J^T Ybar / 2 to u at X, and the Hessian there times dt u to
// Xbar; likewise with the two exchanged. The gradient at a step's end served two moves: its u is the sum of theirs.
template <class T>
void roll_extended_back(const ExtendedJob<T>& job, const ExtendedTile<T>& tile, int64_t first_row, int64_t rows,
                        const Worker<T>& worker) {
  const Rollout<T>& rollout = job.rollout->rollout;
  const ExtendedAdjointArrays<T>& arrays = job.adjoint;
  const Network<T>& network = job.network;
  const int64_t dim = job.dim(), d = dim / 2, steps = rollout.steps, points = extended_points(steps);
  const int64_t stride = (steps + 1) * dim;
  const T* const grad = arrays.grad_trajectory + first_row * stride;
  const double angle = angle_of(*job.rollout);
  const T cosine = static_cast<T>(__builtin_cos(angle)), sine = static_cast<T>(__builtin_sin(angle));
  const Range mine = worker.columns(dim), own_rows = worker.share_of(rows);

  const auto add_grad = [&](int64_t n) {
    worker.wait();  // for the others' reading of the cotangents
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = mine.begin; c < mine.end; ++c)
        tile.copies[c < d ? kX : kY].row(r)[c] += grad[r * stride + n * dim + c];
  };
  // u of a move by the gradient at `copy`: J^T is -J.
  const auto gather = [&](Copy copy, bool adds) {
    add_rotated(rows, static_cast<T>(-0.5), tile.copies[copy == kX ? kY : kX], tile.direction, adds, dim, worker);
  };
  const auto settle = [&](Copy copy, int64_t point) {
    const int64_t at = (first_row * points + point) * dim;
    write_rows(tile.direction, rows, dim, arrays.directions + at, points * dim, worker);
    read_rows(arrays.points + at, points * dim, rows, dim, tile.point, worker);
    add_hessian_product(network, tile.all, rows, tile.point, tile.direction, tile.first.base, tile.kept, tile.work,
                        rollout.dt, tile.product, tile.copies[copy], worker);
  };

  worker.wait();  // for the others' last use of the tile
  fill_condition(job, tile, first_row, rows, worker);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = mine.begin; c < mine.end; ++c) tile.copies[kX].row(r)[c] = tile.copies[kY].row(r)[c] = 0;
  for (int64_t r = own_rows.begin; r < own_rows.end; ++r) tile.angle[r] = 0;
  add_grad(steps);
  for (int64_t n = steps; n-- > 0;) {
    gather(kX, n + 1 < steps);
    settle(kX, 3 * n + 3);
    gather(kY, false);
    settle(kY, 3 * n + 2);
    // The cotangents of X - Y are half those of X less Y; they turn back.
    const T* const turned = arrays.turned + (first_row * steps + n) * dim;
    worker.wait();
    for (int64_t r = own_rows.begin; r < own_rows.end; ++r) {
      const T *const x = tile.copies[kX].row(r), *const y = tile.copies[kY].row(r),
                     *const to = turned + r * steps * dim;
      for (int64_t c = 0; c < d; ++c)
        tile.angle[r] += static_cast<double>((x[d + c] - y[d + c]) * to[c] - (x[c] - y[c]) * to[d + c]) / 2;
    }
    turn(tile, rows, d, cosine, -sine, worker, [](int64_t, int64_t, T, T) {});
    gather(kY, false);
    settle(kY, 3 * n + 1);
    gather(kX, false);
    add_grad(n);
  }
  if (steps > 0) settle(kX, 0);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = mine.begin; c < mine.end; ++c)
      arrays.grad_z0[(first_row + r) * dim + c] = tile.copies[kX].row(r)[c] + tile.copies[kY].row(r)[c];
  for (int64_t r = own_rows.begin; r < own_rows.end; ++r) arrays.grad_angle[first_row + r] = tile.angle[r];
}

template <class T>
auto extended_taker(const ExtendedRollout<T>& extended, bool back, int threads) {
  return [&extended, back, threads](Arena& arena, Arena& prepared, bool filled) {
    return take_extended(arena, prepared, extended, back, threads, filled);
  };
}

template <class T>
Sizes extended_measure(const ExtendedRollout<T>& extended, bool back, int threads) {
  return measure_job(extended.rollout.batch, extended_taker(extended, back, threads));
}

template <class T>
Status extended_forward_run(const ExtendedRollout<T>& extended, const ExtendedArrays<T>& arrays, int threads,
                            const Prepared& kept, void* workspace, size_t size) {
  return run_job<roll_extended<T>>(extended.rollout.batch, kept, workspace, size,
                                   extended_taker(extended, false, threads),
                                   [&](ExtendedJob<T>& job) { job.arrays = arrays; });
}

template <class T>
Status extended_adjoint_run(const ExtendedRollout<T>& extended, const ExtendedAdjointArrays<T>& arrays, int threads,
                            const Prepared& kept, void* workspace, size_t size) {
  return run_job<roll_extended_back<T>>(extended.rollout.batch, kept, workspace, size,
                                        extended_taker(extended, true, threads),
                                        [&](ExtendedJob<T>& job) { job.adjoint = arrays; });
}

}  // namespace
}  // namespace hamiltorch
