// The gradient of S = -sum l . r by all that the discrete Lagrangian is made of. Over an interval (x, y) S has minus
// the derivative of L_d in the direction (u, v), the multipliers of the steps that its x and its y end.
#pragma once
#include "directional.h"
#include "hamiltorch/variational.h"

namespace hamiltorch {
namespace {

template <class T>
struct Intervals {
  struct Sums {
    double *mass, *damping, *dt;  // [d], [d], [1]
  };
  const DelRollout<T>& rollout;
  DelGradientArrays<T> arrays;

  int64_t half() const { return rollout.network.dim / 2; }
  int64_t rows() const { return rollout.batch ? rollout.batch * (rollout.steps + 1) : 0; }
  T factor() const { return -rollout.dt; }
  const Mlp<T>& network() const { return rollout.network; }
  bool whole() const { return false; }
  const T* condition(int64_t row) const {
    return rollout.condition + row / (rollout.steps + 1) * rollout.network.condition_dim;
  }

  // Where an interval has no multiplier that is its step's own, because the sample had failed, its points may be
  // anything.
  bool read(int64_t row, T* points, T* directions) const {
    const int64_t d = half(), steps = rollout.steps, sample = row / (steps + 1), j = row % (steps + 1);
    const bool ends_x = j > 0 && arrays.converged[sample * steps + j - 1];
    const bool ends_y = j < steps && arrays.converged[sample * steps + j];
    if (!ends_x && !ends_y) return false;
    const T* const from = arrays.trajectory + (sample * (steps + 2) + j) * d;
    const T* const multiplier = arrays.multipliers + (sample * steps + j) * d;
    for (int64_t c = 0; c < 2 * d; ++c) points[c] = from[c];
    for (int64_t c = 0; c < d; ++c) {
      directions[c] = ends_x ? multiplier[c - d] : 0;
      directions[d + c] = ends_y ? multiplier[c] : 0;
    }
    return true;
  }

  Sums take_sums(Arena& arena) const {
    double* const mass = arena.take<double>(half());
    double* const damping = arena.take<double>(half());
    return {mass, damping, arena.take<double>(1)};
  }
  void clear_sums(const Sums& sums) const {
    clear(sums.mass, half());
    clear(sums.damping, half());
    *sums.dt = 0;
  }
  void add(const Sums& sums, const T* x, const T* u, double along) const {
    const T dt = rollout.dt;
    const int64_t d = half();
    for (int64_t c = 0; c < d; ++c) {
      const double velocity = static_cast<double>((x[d + c] - x[c]) / dt);
      const double apart = static_cast<double>(u[d + c] - u[c]);
      sums.mass[c] -= velocity * apart;
      along -= static_cast<double>(rollout.mass[c] / dt) * velocity * apart;
      sums.damping[c] += velocity * static_cast<double>(dt * (u[d + c] + u[c]) / 2);
    }
    *sums.dt -= along;
  }
};

template <class T>
Sizes interval_measure(const DelRollout<T>& rollout, int threads) {
  return directional_measure<T>(Intervals<T>{rollout, {}}, threads);
}

template <class T>
Status interval_run(const DelRollout<T>& rollout, const DelGradientArrays<T>& arrays, int threads, const Prepared& kept,
                    void* workspace, size_t size) {
  const Intervals<T> intervals{rollout, arrays};
  const DirectionalArrays<T> to = {arrays.grad_weights, arrays.grad_biases, arrays.grad_condition};
  return directional_run<T>(intervals, to, threads, kept, workspace, size, [&](const auto& job) {
    write_thread_sums(job, arrays.grad_mass, intervals.half(), [](const auto& tile) { return tile.sums.mass; });
    write_thread_sums(job, arrays.grad_damping, intervals.half(), [](const auto& tile) { return tile.sums.damping; });
    write_thread_sums(job, arrays.grad_dt, 1, [](const auto& tile) { return tile.sums.dt; });
  });
}

}  // namespace
}  // namespace hamiltorch
