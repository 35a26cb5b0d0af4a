// The adjoint of a rollout by the discrete gradient, from the last step to the first. With zbar the cotangent of y, v
// and, with m = (J - R)^T v, its k = m . Delta / |Delta|^2 and u = m - k Delta,
//
//     v = zbar + dt [Hess(w) u / 2 + k (dH(y) - g) + c (m - 2 k Delta)],
//
// and the cotangent of z is v + dt [Hess(w) u / 2 + k (g - dH(z)) - c (m - 2 k Delta)]. GMRES solves for v by products.
#pragma once
#include "discrete_forward.h"

namespace hamiltorch {
namespace {

// finish(i, slot, m, h) for every line, with v = row(slot) and h = Hess(w) u; k is left in tile.weights.
template <class T, class Row, class Finish>
void pull_back(const StepEquations<T>& equations, const int32_t* slots, int64_t lines, const Row& row,
               const Finish& finish) {
  const DiscreteJob<T>& job = equations.job;
  const DiscreteTile<T>& tile = equations.tile;
  const Worker<T>& worker = equations.worker;
  const int64_t dim = job.dim();
  for_columns<T>({0, lines}, worker.columns(dim),
                 [&](int64_t i, int64_t c) { store(tile.flowing.row(i) + c, load(row(slots[i]) + c)); });
  conduct(job, tile, true, lines, worker, [](int64_t, int64_t, T value) { return value; });
  for (int64_t i = 0; i < lines; ++i) {
    const int64_t slot = slots[i];
    const T square = tile.square[slot];
    tile.weights[slot] = square > 0 ? inner(tile.image.row(i), tile.displacement.row(slot), dim) / square : 0;
  }
  equations.multiply_hessian_of(slots, lines, [&](int64_t i, int64_t c) {
    const int64_t slot = slots[i];
    return load(tile.image.row(i) + c) - tile.weights[slot] * load(tile.displacement.row(slot) + c);
  });
  for (int64_t i = 0; i < lines; ++i) finish(i, slots[i], tile.image.row(i), tile.slope.row(i));
}

template <class T>
void reverse_discrete_step(const DiscreteJob<T>& job, const DiscreteTile<T>& tile, int64_t first_row, int64_t rows,
                           int64_t n, const Worker<T>& worker) {
  const DiscreteAdjointArrays<T>& arrays = job.adjoint;
  const int64_t dim = job.dim(), d = dim / 2, steps = job.rollout->rollout.steps;
  const int64_t first = first_row * steps + n, stride = steps * dim;
  const T dt = job.dt();
  const T *const decay = job.rollout->decay, *const forces = job.rollout->forces;
  const Worker<T> alone = solo_worker<T>();
  const Range mine = worker.share_of(rows);
  const StepEquations<T> equations = {job, tile, nullptr, worker};
  const T* const states = arrays.trajectory + (first_row * (steps + 1) + n) * dim;
  read_rows(states, (steps + 1) * dim, rows, dim, tile.z, alone);
  damp(job, tile.z, rows);
  read_rows(arrays.changes + first * dim, stride, rows, dim, tile.displacement, alone);
  for (int64_t r = 0; r < rows; ++r)
    for_vectors<T>(dim, [&](int64_t c) { store(tile.undamped.row(r) + c, load(tile.bar.row(r) + c)); });
  damp(job, tile.bar, rows);

  evaluate_start(job, tile, rows, true, worker);
  for (int64_t r = 0; r < rows; ++r)
    for_vectors<T>(dim, [&](int64_t c) { store(tile.behind.row(r) + c, load(tile.other.row(r) + c)); });
  equations.linearise_ends(tile.all, rows, tile.displacement);
  for (int64_t r = 0; r < rows; ++r)
    for_vectors<T>(dim, [&](int64_t c) {
      const Vec<T> g = load(tile.slope.row(r) + c);
      store(tile.middle.row(r) + c, g);
      store(tile.behind.row(r) + c, g - load(tile.behind.row(r) + c));
    });
  int64_t count = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for_vectors<T>(dim, [&](int64_t c) {
      store(tile.residual.row(r) + c, load(tile.bar.row(r) + c));
      store(tile.solution.row(r) + c, Vec<T>{});
    });
    tile.solved[r] = 0;
    if (arrays.converged[first + r * steps]) tile.slow[count++] = static_cast<int32_t>(r);
  }
  solve_linear(
      tile, dim, count, tile.solution,
      [&](const int32_t* slots, int64_t lines, const auto& row, const Tile<T>& product) {
        pull_back(equations, slots, lines, row, [&](int64_t i, int64_t slot, const T* m, const T* h) {
          const T k = tile.weights[slot], c0 = tile.factor[slot];
          for_vectors<T>(dim, [&](int64_t c) {
            const Vec<T> twist = load(m + c) - 2 * k * load(tile.displacement.row(slot) + c);
            store(product.row(i) + c,
                  load(row(slot) + c) - dt * (load(h + c) / 2 + k * load(tile.ahead.row(slot) + c) + c0 * twist));
          });
        });
      });

  const auto v_of = [&](int64_t slot) { return tile.solution.row(slot); };
  pull_back(equations, tile.all, rows, v_of, [&](int64_t, int64_t slot, const T* m, const T* h) {
    const bool constant = !tile.solved[slot];  // a failed step, or one without a derivative
    const T k = tile.weights[slot], c0 = tile.factor[slot];
    const T *const v = v_of(slot), *const change = tile.displacement.row(slot);
    T* const bar = tile.bar.row(slot);
    if (mine.begin <= slot && slot < mine.end) {
      const int64_t at = first + slot * steps;
      const T* const b = forces ? forces + at * dim : nullptr;
      arrays.energy_weights[at] = constant ? 0 : k;
      double along = static_cast<double>(k) * static_cast<double>(tile.after[slot] - tile.before[slot]);
      for (int64_t c = 0; c < dim; ++c) {
        arrays.points[at * dim + c] = tile.z.row(slot)[c] + change[c] / 2;
        arrays.directions[at * dim + c] = constant ? 0 : m[c] - k * change[c];
        arrays.multipliers[at * dim + c] = constant ? 0 : v[c];
        if (arrays.gradients) arrays.gradients[at * dim + c] = constant ? 0 : tile.middle.row(slot)[c] + c0 * change[c];
        if (b) along += static_cast<double>(v[c] * b[c]);
      }
      if (!constant) tile.by_dt[slot] += along;
    }
    for (int64_t c = 0; c < dim; ++c) {
      const T twist = m[c] - 2 * k * change[c];
      bar[c] = constant ? 0 : v[c] + dt * (h[c] / 2 + k * tile.behind.row(slot)[c] - c0 * twist);
    }
  });
  if (!decay) return;
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    if (!tile.solved[r]) continue;
    const T *const start = states + r * (steps + 1) * dim, *const z = tile.z.row(r);
    for (int64_t c = 0; c < d; ++c) {
      const T y = z[d + c] + tile.displacement.row(r)[d + c];
      arrays.grad_decay[(first_row + r) * d + c] +=
          static_cast<double>(tile.undamped.row(r)[d + c] * y + tile.bar.row(r)[d + c] * start[d + c]);
    }
  }
  damp(job, tile.bar, rows);
}

template <class T>
void roll_discrete_back(const DiscreteJob<T>& job, const DiscreteTile<T>& tile, int64_t first_row, int64_t rows,
                        const Worker<T>& worker) {
  const DiscreteAdjointArrays<T>& arrays = job.adjoint;
  const int64_t dim = job.dim(), steps = job.rollout->rollout.steps, stride = (steps + 1) * dim;
  const T* const grad = arrays.grad_trajectory + first_row * stride;
  const Range mine = worker.share_of(rows);
  fill_condition(job, tile, first_row, rows);
  read_rows(grad + steps * dim, stride, rows, dim, tile.bar, solo_worker<T>());
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    tile.by_dt[r] = 0;
    if (arrays.grad_decay) clear(arrays.grad_decay + (first_row + r) * dim / 2, dim / 2);
  }
  for (int64_t n = steps; n-- > 0;) {
    reverse_discrete_step(job, tile, first_row, rows, n, worker);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < dim; ++c) tile.bar.row(r)[c] += grad[r * stride + n * dim + c];
  }
  write_rows(tile.bar, rows, dim, arrays.grad_z0 + first_row * dim, dim, worker);
  for (int64_t r = mine.begin; r < mine.end; ++r) arrays.grad_dt[first_row + r] = tile.by_dt[r];
}

template <class T>
Status discrete_adjoint_run(const DiscreteRollout<T>& discrete, const DiscreteAdjointArrays<T>& arrays, int threads,
                            const Prepared& kept, void* workspace, size_t size) {
  return run_job<roll_discrete_back<T>>(discrete.rollout.batch, kept, workspace, size,
                                        discrete_taker(discrete, true, threads),
                                        [&](DiscreteJob<T>& job) { job.adjoint = arrays; });
}

}  // namespace
}  // namespace hamiltorch
