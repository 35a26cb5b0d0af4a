// The adjoint of a rollout by implicit stages, from the last to the first. With zbar the cotangent of a stage's result
// and E = c dt M J, the vector v that its parameter gradient takes the derivative of v . H_z(w) by solves
//
//     v = E^T (zbar + Theta Hess(w) v),    and zbar becomes zbar + Hess(w) v.
//
// H sees v only through y = W_1 v / dt: with K the Hessian in layer-1 space that is (1 - c dt P^T K) y = y_0, the
// transpose of Newton's matrix, and Hess(w) v = dt W_1^T K y. GMRES solves it by products.
#pragma once
#include "directional.h"
#include "implicit_forward.h"

namespace hamiltorch {
namespace {

// tile.work.tangent_delta[0] = K times this member's columns of `x` for these slots, a line each.
template <class T, class Row>
void multiply_lines(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, const int32_t* slots, int64_t lines,
                    const Row& row, const Worker<T>& worker) {
  for_columns<T>({0, lines}, worker.columns(job.network.first()),
                 [&](int64_t i, int64_t c) { store(tile.work.tangent[0].row(i) + c, load(row(slots[i]) + c)); });
  multiply_hessian(job.network, slots, lines, tile.kept, tile.work, worker);
}

// product, by line = (1 - c dt P^T K) x for these slots.
template <class T, class Row>
void multiply_adjoint(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, const Stage& stage, const int32_t* slots,
                      int64_t lines, const Row& row, const Tile<T>& product, const Worker<T>& worker) {
  multiply_lines(job, tile, slots, lines, row, worker);
  write_impulses(job, tile, stage, lines, tile.work.tangent_delta[0], worker);
  displace(job, tile, stage, true, lines, tile.impulse, worker);
  for (int64_t i = 0; i < lines; ++i)
    for_vectors<T>(job.network.first(), [&](int64_t c) {
      store(product.row(i) + c, load(row(slots[i]) + c) - load(tile.image.row(i) + c));
    });
}

template <class T>
void reverse_implicit_stage(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, const Stage& stage, const T* points,
                            T* directions, int64_t stride, const uint8_t* converged, int64_t rows,
                            const Worker<T>& worker) {
  const Network<T>& network = job.network;
  const int64_t d = network.half, width = network.first(), steps = job.rollout->rollout.steps;
  const T dt = job.rollout->rollout.dt, c0 = static_cast<T>(stage.coefficient);
  const Worker<T> alone = solo_worker<T>();
  read_rows(points, stride, rows, d, tile.at_q, alone);
  read_rows(points + d, stride, rows, d, tile.at_p, alone);
  bring(network.q, tile, rows, tile.at_q, tile.base, tile.s, worker);
  bring(network.p, tile, rows, tile.at_p, {job.zeros, 0}, tile.r, worker);
  for (int64_t r = 0; r < rows; ++r) clear(tile.displacement.row(r), width);
  evaluate_curvature_from(
      network, tile.all, rows, tile.kept, tile.work, worker,
      [&](const auto& activate_all) {
        write_arguments(job, tile, tile.all, rows, tile.displacement, argument_of(network, tile.work), worker);
        activate_all({0, rows}, worker.columns(width));
      },
      [](int64_t, int64_t) { return Vec<T>{}; });
  bring(network.p, tile, rows, tile.q, {job.zeros, 0}, tile.residual, worker);
  bring(network.q, tile, rows, tile.p, {job.zeros, 0}, tile.step, worker);
  int64_t count = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for_vectors<T>(width, [&](int64_t c) {
      store(tile.residual.row(r) + c, c0 * (load(tile.residual.row(r) + c) - load(tile.step.row(r) + c)));
    });
    tile.solved[r] = 0;
    if (converged[r * steps]) tile.slow[count++] = static_cast<int32_t>(r);
  }
  solve_linear(tile, width, count, tile.displacement,
               [&](const int32_t* slots, int64_t lines, const auto& row, const Tile<T>& product) {
                 multiply_adjoint(job, tile, stage, slots, lines, row, product, worker);
               });

  const auto y = [&](int64_t slot) { return tile.displacement.row(slot); };
  multiply_lines(job, tile, tile.all, rows, y, worker);
  const auto back = [&](const Weight<T>& w, const Tile<T>& to) {
    apply_transposed(w, rows, tile.work.tangent_delta[0], tile.moved, worker, no_more);
    worker.wait();
    for (int64_t r = 0; r < rows; ++r)
      for_vectors<T>(d, [&](int64_t c) { store(to.row(r) + c, dt * load(tile.moved.row(r) + c)); });
  };
  back(network.q, tile.at_q);
  back(network.p, tile.at_p);
  const T way_q = static_cast<T>(stage.at_q), way_p = static_cast<T>(stage.at_p);
  const Range mine = worker.share_of(rows);
  for (int64_t r = 0; r < rows; ++r) {
    const bool constant = !tile.solved[r];  // a failed step, or one without a derivative
    T *const qbar = tile.q.row(r), *const pbar = tile.p.row(r);
    const T *const from_q = tile.at_q.row(r), *const from_p = tile.at_p.row(r);
    if (mine.begin <= r && r < mine.end) {
      T* const u = directions + r * stride;
      for (int64_t c = 0; c < d; ++c) {
        u[c] = constant ? 0 : -c0 * (pbar[c] + way_p * from_p[c]);
        u[d + c] = constant ? 0 : c0 * (qbar[c] + way_q * from_q[c]);
      }
    }
    for (int64_t c = 0; c < d; ++c) {
      qbar[c] = constant ? 0 : qbar[c] + from_q[c];
      pbar[c] = constant ? 0 : pbar[c] + from_p[c];
    }
  }
}

template <class T>
void roll_implicit_back(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, int64_t first_row, int64_t rows,
                        const Worker<T>& worker) {
  const Rollout<T>& rollout = job.rollout->rollout;
  const ImplicitAdjointArrays<T>& arrays = job.adjoint;
  const int64_t d = job.network.half, dim = 2 * d, steps = rollout.steps, stages = rollout.stage_count;
  const int64_t stride = (steps + 1) * dim, stage_stride = steps * stages * dim;
  const T* const grad = arrays.grad_trajectory + first_row * stride;
  read_samples(job, tile, grad + steps * dim, stride, first_row, rows);
  for (int64_t n = steps; n-- > 0;) {
    for (int64_t k = stages; k-- > 0;) {
      const int64_t at = ((first_row * steps + n) * stages + k) * dim;
      reverse_implicit_stage(job, tile, rollout.stages[k], arrays.points + at, arrays.directions + at, stage_stride,
                             arrays.converged + first_row * steps + n, rows, worker);
    }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < d; ++c) {
        tile.q.row(r)[c] += grad[r * stride + n * dim + c];
        tile.p.row(r)[c] += grad[r * stride + n * dim + d + c];
      }
  }
  write_rows(tile.q, rows, d, arrays.grad_z0 + first_row * dim, dim, worker);
  write_rows(tile.p, rows, d, arrays.grad_z0 + first_row * dim + d, dim, worker);
}

template <class T>
Status implicit_adjoint_run(const ImplicitRollout<T>& implicit, const ImplicitAdjointArrays<T>& arrays, int threads,
                            const Prepared& kept, void* workspace, size_t size) {
  return run_job<roll_implicit_back<T>>(implicit.rollout.batch, kept, workspace, size,
                                        implicit_taker(implicit, true, threads),
                                        [&](ImplicitJob<T>& job) { job.adjoint = arrays; });
}

// Every stage of every step: its point and direction.
template <class T>
struct StagePoints {
  struct Sums {
    double* dt;  // [1]
  };
  const Rollout<T>& rollout;
  ImplicitGradientArrays<T> arrays;

  int64_t rows() const { return rollout.batch * rollout.steps * rollout.stage_count; }
  T factor() const { return rollout.dt; }
  const Mlp<T>& network() const { return rollout.network; }
  bool whole() const { return false; }
  const T* condition(int64_t row) const {
    return rollout.condition + row / (rollout.steps * rollout.stage_count) * rollout.network.condition_dim;
  }
  bool read(int64_t row, T* z, T* u) const {
    if (!arrays.converged[row / rollout.stage_count]) return false;  // its point may be anything
    const int64_t dim = rollout.network.dim;
    for (int64_t c = 0; c < dim; ++c) {
      z[c] = arrays.points[row * dim + c];
      u[c] = arrays.directions[row * dim + c];
    }
    return true;
  }
  Sums take_sums(Arena& arena) const { return {arena.take<double>(1)}; }
  void clear_sums(const Sums& sums) const { *sums.dt = 0; }
  void add(const Sums& sums, const T*, const T*, double along) const { *sums.dt += along; }
};

template <class T>
Sizes implicit_gradient_measure(const ImplicitRollout<T>& implicit, int threads) {
  return directional_measure<T>(StagePoints<T>{implicit.rollout, {}}, threads);
}

template <class T>
Status implicit_gradient_run(const ImplicitRollout<T>& implicit, const ImplicitGradientArrays<T>& arrays, int threads,
                             const Prepared& kept, void* workspace, size_t size) {
  const DirectionalArrays<T> to = {arrays.grad_weights, arrays.grad_biases, arrays.grad_condition};
  return directional_run<T>(StagePoints<T>{implicit.rollout, arrays}, to, threads, kept, workspace, size,
                            [&](const auto& job) {
                              write_thread_sums(job, arrays.grad_dt, 1, [](const auto& tile) { return tile.sums.dt; });
                            });
}

}  // namespace
}  // namespace hamiltorch
