// The adjoint of a rollout of T(p) + V(q), from the last step to the first: csrc/cpu/separable.h for eight samples.
// With bars for cotangents, a kick p' = p - c dt dV/dq adds -c pbar to V's u, and V's Hessian times dt u to qbar; a
// drift likewise. As a gradient served several stages, so does the product: it is made when qbar is needed.
#pragma once
#include "separable.h"

namespace hamiltorch {

template <class Engines>
class SeparableAdjoint {
 public:
  using Real = typename Engines::Real;

  HAMILTORCH_DEVICE SeparableAdjoint(Engines& engines, const SeparableTask<Real>& task,
                                     const SeparableAdjointArrays<Real>& arrays)
      : block_(engines, task), task_(task), arrays_(arrays) {}

  HAMILTORCH_DEVICE void run() {
    for_samples(block_.team, block_.first.batch, [&](int64_t first) { roll(first + block_.team.warp()); });
  }

 private:
  HAMILTORCH_DEVICE Real* bar(int half) const { return block_.part(kSeparableState, half); }
  HAMILTORCH_DEVICE Real* direction(int half) const { return block_.part(kSeparableDirection, half); }

  HAMILTORCH_DEVICE void roll(int64_t sample) const {
    const int d = block_.dim;
    const int64_t steps = block_.first.steps;
    const bool inside = sample < block_.first.batch;
    const Real* const grad = arrays_.grad_trajectory + sample * (steps + 1) * 2 * d;
    const auto add_grad = [&](int64_t n) {
      if (inside) block_.for_state([&](int row, int half) { bar(half)[row] += grad[(2 * n + half) * d + row]; });
    };
    block_.for_state([&](int row, int half) { bar(half)[row] = direction(half)[row] = 0; });
    add_grad(steps);
    bool pending[2] = {false, false};  // whether there is a u whose product qbar or pbar lacks
    int64_t left[2] = {task_.evaluations[kPotential], task_.evaluations[kKinetic]};
    const auto settle_pending = [&](int half) {
      if (!pending[half]) return;
      settle(half, sample, --left[half]);
      pending[half] = false;
    };
    for (int64_t n = steps; n-- > 0;) {
      HAMILTORCH_NO_UNROLL
      for (int k = task_.stage_count; k-- > 0;) {
        const int reads = task_.stages[k].reads, moves = 1 - reads;
        const Real factor = task_.stages[k].factor;
        settle_pending(moves);
        block_.for_rows([&](int row) { direction(reads)[row] += factor * bar(moves)[row]; });
        pending[reads] = true;
      }
      add_grad(n);
    }
    HAMILTORCH_NO_UNROLL
    for (int half = 0; half < 2; ++half) settle_pending(half);
    if (inside)
      block_.for_state([&](int row, int half) { arrays_.grad_z0[(2 * sample + half) * d + row] = bar(half)[row]; });
  }

  // A half's u is what it is at the point of this number: its Hessian's part of the cotangent. The next one begins.
  HAMILTORCH_DEVICE void settle(int half, int64_t sample, int64_t number) const {
    const bool inside = sample < block_.first.batch;
    const int64_t at = (sample * task_.evaluations[half] + number) * block_.dim;
    if (inside) block_.for_rows([&](int row) { arrays_.directions[half][at + row] = direction(half)[row]; });
    if (block_.has_network(half)) {
      block_.evaluate(half, sample, [&](int row) { return inside ? arrays_.points[half][at + row] : Real(0); });
      block_.multiply(half, [&](int row) { return direction(half)[row]; });
      block_.gather(half);
    }
    block_.for_rows([&](int row) {
      const Real product = block_.has_network(half) ? block_.part(kSeparableSlope, half)[row]
                                                    : task_.inverse_mass[row] * direction(half)[row];
      bar(half)[row] += block_.dt * product;
      direction(half)[row] = 0;
    });
  }

  const SeparableBlock<Engines> block_;
  const SeparableTask<Real>& task_;
  const SeparableAdjointArrays<Real>& arrays_;
};

}  // namespace hamiltorch
