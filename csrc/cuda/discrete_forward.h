// A rollout by the discrete gradient: csrc/cpu/discrete_forward.h for eight samples.
#pragma once
#include "discrete.h"
#include "fixed_point.h"

namespace hamiltorch {

template <class Engine>
class DiscreteForward : private FixedPoint<DiscreteForward<Engine>, typename Engine::Real, DiscreteVectors> {
 public:
  using Real = typename Engine::Real;
  using V = DiscreteVectors;

  HAMILTORCH_DEVICE DiscreteForward(Engine& engine, const DiscreteTask<Real>& task, const DiscreteArrays<Real>& arrays)
      : block_(engine, task), task_(task), arrays_(arrays) {}

  HAMILTORCH_DEVICE void run() {
    for_samples(block_.engine.team, task_.batch, [&](int64_t first) { roll(first + block_.engine.team.warp()); });
  }

 private:
  using Solver = FixedPoint<DiscreteForward, Real, V>;
  friend Solver;

  HAMILTORCH_DEVICE Real* state(int which) const { return block_.state(which); }

  HAMILTORCH_DEVICE void roll(int64_t sample) {
    const int dim = 2 * block_.dim;
    const bool inside = sample < task_.batch;
    Real* const trajectory = arrays_.trajectory + sample * (task_.steps + 1) * dim;
    const auto write_state = [&](int64_t n) {
      if (inside) column().for_rows([&](int at) { trajectory[n * dim + at] = state(V::kZ)[at]; });
    };
    column().for_rows([&](int at) {
      state(V::kZ)[at] = inside ? arrays_.z0[sample * dim + at] : Real(0);
      for (int i = 0; i < kMostDifferences; ++i) state(V::kDifferences + i)[at] = 0;
      state(V::kDisplacement)[at] = 0;
    });
    write_state(0);
    Solver::begin_rollout();
    bool alive = true;
    for (int64_t n = 0; n < task_.steps; ++n) {
      const int64_t step = sample * task_.steps + n;
      forces_ = inside && task_.forces ? task_.forces + step * dim : nullptr;
      block_.damp(V::kZ);
      block_.find_start(2 * V::kZ, sample);
      block_.before = block_.find_energy(block_.at_start());
      Solver::begin_step();
      Solver::extrapolate(V::kDifferences);
      // From Delta = 0 an image is an explicit Euler step, forces and all.
      if (n > 0) add_forces(V::kTried, block_.dt);
      Real* const first_change = state(V::kDifferences + 1);
      Solver::solve(inside, n == 0 ? first_change : nullptr);

      const Real* const change = state(V::kDisplacement);
      if (inside && arrays_.changes) column().for_rows([&](int at) { arrays_.changes[step * dim + at] = change[at]; });
      column().for_rows([&](int at) { state(V::kZ)[at] += change[at]; });
      // Differences are of what the system does without its controls.
      add_forces(V::kDisplacement, -block_.dt);
      if (n == 0) add_forces(V::kDifferences + 1, -block_.dt);
      Solver::remember(V::kDifferences, n, Real(0.5));
      block_.damp(V::kZ);
      write_state(n + 1);
      alive = alive && Solver::solved();
      if (!inside || !column().leads()) continue;
      arrays_.converged[step] = alive;
      arrays_.iterations[step] = Solver::iterations();
      arrays_.residual[step] = Solver::error();
    }
  }

  HAMILTORCH_DEVICE void add_forces(int to, Real factor) const {
    if (forces_) column().for_rows([&](int at) { state(to)[at] += factor * forces_[at]; });
  }

  // --- A step's equations as FixedPoint reads them.
  static constexpr bool kEndsWithImage = false;

  HAMILTORCH_DEVICE const Column<Real, 2>& column() const { return block_.states; }
  HAMILTORCH_DEVICE Krylov<Real, 2>& krylov() { return block_.krylov; }
  HAMILTORCH_DEVICE bool any(bool mine) const { return block_.engine.team.any(mine); }
  HAMILTORCH_DEVICE int64_t limit() const { return task_.max_iterations; }

  HAMILTORCH_DEVICE void find_image() {
    block_.project(V::kProjected, V::kTried);
    block_.after = block_.find_energy(block_.along(1));
    block_.find_slope(block_.along(Real(0.5)));
    block_.find_factors(V::kTried);
    const Real *const slope = state(V::kSlope), *const tried = state(V::kTried);
    column().for_rows([&](int at) { state(V::kFlowing)[at] = slope[at] + block_.factor * tried[at]; });
    block_.conduct(false);
    Real* const image = state(V::kImage);
    column().for_rows([&](int at) { image[at] = block_.dt * (forces_ ? image[at] + forces_[at] : image[at]); });
  }

  HAMILTORCH_DEVICE void take() const {}
  HAMILTORCH_DEVICE Real bound() const { return block_.bound; }
  HAMILTORCH_DEVICE Real most_slack() const { return static_cast<Real>(kMostSlack); }
  HAMILTORCH_DEVICE Real scale() const {
    return 1 + column().largest_of([&](int at) { return state(V::kZ)[at] + state(V::kDisplacement)[at]; });
  }

  HAMILTORCH_DEVICE void linearise() const { block_.linearise(); }

  // d Delta = dt (J - R) dD, dD = h / 2 + c x + Delta dc with h = Hess(w) x.
  HAMILTORCH_DEVICE void solve_systems() {
    Krylov<Real, 2>& krylov = block_.krylov;
    const Real *const change = state(V::kDisplacement), *const h = state(V::kSlope);
    Real *const flowing = state(V::kFlowing), *const image = state(V::kImage);
    while (any(krylov.open())) {
      column().for_rows([&](int at) { flowing[at] = krylov.open() ? krylov.wanted()[at] : Real(0); });
      block_.multiply_hessian_by_flowing();
      if (!krylov.open()) continue;
      const Real c = block_.factor, square = block_.square;
      Real rate = 0;  // dc
      if (square > 0)
        rate = (column().dot(state(V::kAhead), flowing) - column().dot(h, change) / 2 -
                2 * c * column().dot(change, flowing)) /
               square;
      column().for_rows([&](int at) { flowing[at] = h[at] / 2 + c * flowing[at] + rate * change[at]; });
      block_.conduct(false);
      column().for_rows([&](int at) { image[at] = krylov.wanted()[at] - block_.dt * image[at]; });
      krylov.take(image);
    }
  }

  DiscreteBlock<Engine> block_;
  const DiscreteTask<Real>& task_;
  const DiscreteArrays<Real>& arrays_;
  const Real* forces_ = nullptr;  // of this step, or null
};

}  // namespace hamiltorch
