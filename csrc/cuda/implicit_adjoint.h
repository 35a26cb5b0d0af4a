// The adjoint of a rollout by implicit stages, from the last to the first: csrc/cpu/implicit_adjoint.h for eight
// samples, each at its own point of its own system.
#pragma once
#include "implicit.h"

namespace hamiltorch {

template <class Engine>
class ImplicitAdjoint {
 public:
  using Real = typename Engine::Real;
  using V = ImplicitVectors;
  using Stage = typename ImplicitTask<Real>::Stage;

  HAMILTORCH_DEVICE ImplicitAdjoint(Engine& engine, const ImplicitTask<Real>& task,
                                    const ImplicitAdjointArrays<Real>& arrays)
      : block_(engine, task), task_(task), arrays_(arrays) {}

  HAMILTORCH_DEVICE void run() {
    for_samples(block_.engine.team, task_.batch, [&](int64_t first) { roll(first + block_.engine.team.warp()); });
  }

 private:
  HAMILTORCH_DEVICE Real* vector(int which) const { return block_.vector(which); }

  HAMILTORCH_DEVICE void roll(int64_t sample) {
    const int d = block_.dim;
    const bool inside = sample < task_.batch;
    const Real* const grad = arrays_.grad_trajectory + sample * (task_.steps + 1) * 2 * d;
    block_.for_state([&](int row, int half) { block_.part(V::kState, half)[row] = 0; });
    for (int64_t n = task_.steps;; --n) {
      if (inside)
        block_.for_state(
            [&](int row, int half) { block_.part(V::kState, half)[row] += grad[(2 * n + half) * d + row]; });
      if (n == 0) break;
      const int64_t at = sample * task_.steps + n - 1;
      HAMILTORCH_NO_UNROLL
      for (int k = task_.stage_count; k-- > 0;)
        reverse(task_.stages[k], sample, (at * task_.stage_count + k) * 2 * d, inside && arrays_.converged[at]);
    }
    if (!inside) return;
    block_.for_state(
        [&](int row, int half) { arrays_.grad_z0[(2 * sample + half) * d + row] = block_.part(V::kState, half)[row]; });
  }

  // From the cotangent of the stage's result to that of where it begins, both in kState. Its point and its direction
  // are `at` behind the first.
  HAMILTORCH_DEVICE void reverse(const Stage& stage, int64_t sample, int64_t at, bool wanted) {
    const int d = block_.dim;
    const bool inside = sample < task_.batch;
    block_.for_state([&](int row, int half) {
      block_.part(V::kMoved, half)[row] = inside ? arrays_.points[at + half * d + row] : Real(0);
    });
    block_.find_start(V::kMoved, sample);
    block_.wide.for_rows([&](int row) { vector(V::kDisplacement)[row] = 0; });
    block_.evaluate_at(V::kDisplacement);
    block_.spread(V::kResidual, V::kState, {1, -1}, stage.coefficient, true);
    const bool solved = solve(stage, wanted);

    block_.multiply([&](int row) { return vector(V::kDisplacement)[row]; });
    block_.gather({1, 1}, false);
    block_.for_state([&](int row, int half) {
      block_.part(V::kMoved, half)[row] *= block_.dt;  // the Hessian's product with v
    });
    // A failed step, or one without a derivative, is a constant.
    if (inside)
      block_.for_state([&](int row, int half) {
        const int other = 1 - half;
        const Real bar = block_.part(V::kState, other)[row] + stage.at[other] * block_.part(V::kMoved, other)[row];
        arrays_.directions[at + half * d + row] = !solved ? Real(0) : (half == 0 ? -bar : bar) * stage.coefficient;
      });
    block_.for_state([&](int row, int half) {
      Real& bar = block_.part(V::kState, half)[row];
      bar = solved ? bar + block_.part(V::kMoved, half)[row] : Real(0);
    });
  }

  // kDisplacement = y of (1 - c dt P^T K) y = kResidual, or zero where that is not `wanted` or the matrix is singular.
  HAMILTORCH_DEVICE bool solve(const Stage& stage, bool wanted) {
    Krylov<Real>& krylov = block_.krylov;
    Real *const y = vector(V::kDisplacement), *const right = vector(V::kResidual);
    const Real length = block_.wide.norm(right);
    const bool finite = length < static_cast<Real>(INFINITY);
    if (wanted && finite) {
      const Real target = static_cast<Real>(kLeastRoundings) * kEpsilon<Real> * length;
      krylov.begin(y, right, target, target);
    }
    block_.solve_krylov(stage.at, stage.coefficient * block_.dt, true);
    if (!wanted) return false;
    // What is not a number stays none; what is not solved to half the digits is held to be singular.
    const bool solved = !finite || krylov.left() <= sqrt(kEpsilon<Real>) * length;
    block_.wide.for_rows([&](int row) { y[row] = !finite ? right[row] : solved ? y[row] : Real(0); });
    return solved;
  }

  ImplicitBlock<Engine> block_;
  const ImplicitTask<Real>& task_;
  const ImplicitAdjointArrays<Real>& arrays_;
};

}  // namespace hamiltorch
