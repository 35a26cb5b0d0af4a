// The adjoint of a rollout by the discrete gradient, from the last step to the first: csrc/cpu/discrete_adjoint.h for
// eight samples, each at its own point of its own system.
#pragma once
#include "discrete.h"

namespace hamiltorch {

template <class Engine>
class DiscreteAdjoint {
 public:
  using Real = typename Engine::Real;
  using V = DiscreteVectors;

  HAMILTORCH_DEVICE DiscreteAdjoint(Engine& engine, const DiscreteTask<Real>& task,
                                    const DiscreteAdjointArrays<Real>& arrays)
      : block_(engine, task), task_(task), arrays_(arrays) {}

  HAMILTORCH_DEVICE void run() {
    for_samples(block_.engine.team, task_.batch, [&](int64_t first) { roll(first + block_.engine.team.warp()); });
  }

 private:
  HAMILTORCH_DEVICE Real* state(int which) const { return block_.state(which); }
  template <class Body>
  HAMILTORCH_DEVICE void for_entries(Body body) const {
    block_.states.for_rows(body);
  }

  HAMILTORCH_DEVICE void roll(int64_t sample) {
    const int dim = 2 * block_.dim;
    const bool inside = sample < task_.batch;
    const Real* const grad = arrays_.grad_trajectory + sample * (task_.steps + 1) * dim;
    double* const by_decay = inside && task_.decay ? arrays_.grad_decay + sample * block_.dim : nullptr;
    Real* const bar = state(V::kBar);
    by_dt_ = 0;
    if (by_decay) block_.narrow.for_rows([&](int row) { by_decay[row] = 0; });
    for_entries([&](int at) { bar[at] = 0; });
    for (int64_t n = task_.steps;; --n) {
      if (inside) for_entries([&](int at) { bar[at] += grad[n * dim + at]; });
      if (n == 0) break;
      reverse(sample, n - 1, by_decay);
    }
    if (!inside) return;
    for_entries([&](int at) { arrays_.grad_z0[sample * dim + at] = bar[at]; });
    if (block_.narrow.leads()) arrays_.grad_dt[sample] = by_dt_;
  }

  // From the cotangent of step n's result to that of where it begins, both in kBar.
  HAMILTORCH_DEVICE void reverse(int64_t sample, int64_t n, double* by_decay) {
    const int d = block_.dim, dim = 2 * d;
    const bool inside = sample < task_.batch;
    const int64_t step = sample * task_.steps + n;
    const Real* const start = arrays_.trajectory + (sample * (task_.steps + 1) + n) * dim;
    Real *const z = state(V::kZ), *const change = state(V::kDisplacement), *const bar = state(V::kBar);
    for_entries([&](int at) {
      z[at] = inside ? start[at] : Real(0);
      change[at] = inside ? arrays_.changes[step * dim + at] : Real(0);
      state(V::kUndamped)[at] = bar[at];
    });
    block_.damp(V::kZ);
    block_.damp(V::kBar);

    block_.find_start(2 * V::kZ, sample);
    block_.project(V::kProjected, V::kDisplacement);
    block_.before = block_.find_energy(block_.at_start());
    block_.after = block_.find_energy(block_.along(1));
    block_.find_slope(block_.at_start());
    for_entries([&](int at) { state(V::kBehind)[at] = state(V::kSlope)[at]; });
    block_.linearise();
    for_entries([&](int at) {
      const Real g = state(V::kSlope)[at];
      state(V::kMiddle)[at] = g;
      state(V::kBehind)[at] = g - state(V::kBehind)[at];
    });
    block_.find_factors(V::kDisplacement);
    const bool solved = solve(inside && arrays_.converged[step]);

    const Real *const v = state(V::kSolution), *const m = state(V::kImage), *const h = state(V::kSlope);
    for_entries([&](int at) { state(V::kFlowing)[at] = v[at]; });
    const Real k = pull_back(), c = block_.factor;
    // A failed step, or one without a derivative, is a constant.
    if (inside) {
      const Real* const b = task_.forces ? task_.forces + step * dim : nullptr;
      const auto unless_constant = [&](Real value) { return solved ? value : Real(0); };
      for_entries([&](int at) {
        arrays_.points[step * dim + at] = z[at] + change[at] / 2;
        arrays_.directions[step * dim + at] = unless_constant(m[at] - k * change[at]);
        arrays_.multipliers[step * dim + at] = unless_constant(v[at]);
        if (arrays_.gradients)
          arrays_.gradients[step * dim + at] = unless_constant(state(V::kMiddle)[at] + c * change[at]);
      });
      const Real work = b ? block_.states.dot(v, b) : Real(0);
      if (solved)
        by_dt_ +=
            static_cast<double>(k) * static_cast<double>(block_.after - block_.before) + static_cast<double>(work);
      if (block_.narrow.leads()) arrays_.energy_weights[step] = unless_constant(k);
    }
    for_entries([&](int at) {
      const Real twist = m[at] - 2 * k * change[at];
      bar[at] = !solved ? Real(0) : v[at] + block_.dt * (h[at] / 2 + k * state(V::kBehind)[at] - c * twist);
    });
    if (by_decay && solved)
      block_.narrow.for_rows([&](int row) {
        const Real y = z[d + row] + change[d + row];
        by_decay[row] += static_cast<double>(state(V::kUndamped)[d + row] * y + bar[d + row] * start[d + row]);
      });
    block_.damp(V::kBar);
  }

  // With v in kFlowing: kImage = m = (J - R)^T v, and kSlope = Hess(w) (m - k Delta); returns k.
  HAMILTORCH_DEVICE Real pull_back() const {
    const Real *const m = state(V::kImage), *const change = state(V::kDisplacement);
    block_.conduct(true);
    const Real k = block_.square > 0 ? block_.states.dot(m, change) / block_.square : Real(0);
    for_entries([&](int at) { state(V::kFlowing)[at] = m[at] - k * change[at]; });
    block_.multiply_hessian_by_flowing();
    return k;
  }

  // kSolution = v, or zero where that is not `wanted` or the matrix is singular.
  HAMILTORCH_DEVICE bool solve(bool wanted) {
    Krylov<Real, 2>& krylov = block_.krylov;
    Real *const v = state(V::kSolution), *const right = state(V::kBar), *const flowing = state(V::kFlowing);
    const Real length = block_.states.norm(right);
    const bool finite = length < static_cast<Real>(INFINITY);
    if (wanted && finite) {
      const Real target = static_cast<Real>(kLeastRoundings) * kEpsilon<Real> * length;
      krylov.begin(v, right, target, target);
    }
    while (block_.engine.team.any(krylov.open())) {
      for_entries([&](int at) { flowing[at] = krylov.open() ? krylov.wanted()[at] : Real(0); });
      const Real k = pull_back();
      if (!krylov.open()) continue;
      const Real *const h = state(V::kSlope), *const change = state(V::kDisplacement);
      Real* const m = state(V::kImage);
      for_entries([&](int at) {
        const Real twist = m[at] - 2 * k * change[at];
        m[at] = krylov.wanted()[at] - block_.dt * (h[at] / 2 + k * state(V::kAhead)[at] + block_.factor * twist);
      });
      krylov.take(m);
    }
    // What is not a number stays none; what is not solved to half the digits is held to be singular.
    const bool solved = wanted && (!finite || krylov.left() <= sqrt(kEpsilon<Real>) * length);
    for_entries([&](int at) { v[at] = wanted && !finite ? right[at] : solved ? v[at] : Real(0); });
    return solved;
  }

  DiscreteBlock<Engine> block_;
  const DiscreteTask<Real>& task_;
  const DiscreteAdjointArrays<Real>& arrays_;
  double by_dt_ = 0;
};

}  // namespace hamiltorch
