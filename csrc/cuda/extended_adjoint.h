// The adjoint of a rollout in Tao's extended phase space, from the last step to the first: csrc/cpu/extended.h for
// eight samples.
#pragma once
#include "extended.h"

namespace hamiltorch {

template <class Engine>
class ExtendedAdjoint {
 public:
  using Real = typename Engine::Real;
  using V = ExtendedVectors;

  HAMILTORCH_DEVICE ExtendedAdjoint(Engine& engine, const ExtendedTask<Real>& task,
                                    const ExtendedAdjointArrays<Real>& arrays)
      : block_(engine, task), task_(task), arrays_(arrays) {}

  HAMILTORCH_DEVICE void run() {
    for_samples(block_.engine.team, task_.batch, [&](int64_t first) { roll(first + block_.engine.team.warp()); });
  }

 private:
  HAMILTORCH_DEVICE Real& at(int which, int half, int row) const { return block_.part(which, half)[row]; }

  HAMILTORCH_DEVICE void roll(int64_t sample) const {
    const int d = block_.dim;
    const int64_t steps = task_.steps;
    const bool inside = sample < task_.batch;
    const Real* const grad = arrays_.grad_trajectory + sample * (steps + 1) * 2 * d;
    const auto add_grad = [&](int64_t n) {
      if (inside)
        block_.for_state(
            [&](int row, int half) { at(half == 0 ? V::kX : V::kY, half, row) += grad[(2 * n + half) * d + row]; });
    };
    block_.for_state([&](int row, int half) { at(V::kX, half, row) = at(V::kY, half, row) = 0; });
    add_grad(steps);
    double angle = 0;  // this lane's rows' part of the derivative by it
    HAMILTORCH_NO_UNROLL
    for (int64_t number = steps > 0 ? 3 * steps : -1; number >= 0; --number) {
      const int64_t turn = number % 3, n = (number - 1) / 3;
      if (turn != 0)
        gather(V::kY, false);
      else if (number > 0)
        gather(V::kX, number < 3 * steps);
      settle(turn == 0 ? V::kX : V::kY, sample, number);
      if (turn == 2) {
        // The cotangents of X - Y are half those of X less Y; they turn back.
        const Real* const turned = arrays_.turned + (sample * steps + n) * 2 * d;
        if (inside)
          block_.narrow.for_rows([&](int row) {
            const Real apart_q = at(V::kX, 0, row) - at(V::kY, 0, row), apart_p = at(V::kX, 1, row) - at(V::kY, 1, row);
            angle += static_cast<double>(apart_p * turned[row] - apart_q * turned[d + row]) / 2;
          });
        block_.turn(true, [](int, Real, Real) {});
      } else if (turn == 1) {
        gather(V::kX, false);
        add_grad(n);
      }
    }
    for (int mask = 16; mask > 0; mask >>= 1) angle += warp_shuffle_xor(angle, mask);
    if (!inside) return;
    block_.for_state([&](int row, int half) {
      arrays_.grad_z0[(2 * sample + half) * d + row] = at(V::kX, half, row) + at(V::kY, half, row);
    });
    if (block_.narrow.leads()) arrays_.grad_angle[sample] = angle;
  }

  // kDirection = u of a move by the gradient at `copy`, of the other's cotangents, or so much more: J^T is -J.
  HAMILTORCH_DEVICE void gather(int copy, bool adds) const {
    block_.rotate(V::kDirection, Real(-0.5), copy == V::kX ? V::kY : V::kX, adds);
  }

  // u is what it is at the point of this number, where `copy` was: its Hessian's part of the copy's cotangents.
  HAMILTORCH_DEVICE void settle(int copy, int64_t sample, int64_t number) const {
    const int d = block_.dim;
    const bool inside = sample < task_.batch;
    const int64_t first = block_.point_at(sample, number);
    block_.for_state([&](int row, int half) {
      const int64_t here = first + half * d + row;
      if (inside) arrays_.directions[here] = at(V::kDirection, half, row);
      at(V::kMoved, half, row) = inside ? arrays_.points[here] : Real(0);
    });
    block_.evaluate_at(V::kMoved, sample);
    block_.spread(V::kTangent, V::kDirection, {1, 1}, 1, false);
    block_.multiply([&](int row) { return block_.vector(V::kTangent)[row]; });
    block_.gather({1, 1}, false);
    block_.for_state([&](int row, int half) { at(copy, half, row) += block_.dt * at(V::kMoved, half, row); });
  }

  const ExtendedBlock<Engine> block_;
  const ExtendedTask<Real>& task_;
  const ExtendedAdjointArrays<Real>& arrays_;
};

}  // namespace hamiltorch
