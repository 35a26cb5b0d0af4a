// A rollout in Tao's extended phase space: csrc/cpu/extended.h for eight samples.
#pragma once
#include "extended.h"

namespace hamiltorch {

template <class Engine>
class ExtendedForward {
 public:
  using Real = typename Engine::Real;
  using V = ExtendedVectors;

  HAMILTORCH_DEVICE ExtendedForward(Engine& engine, const ExtendedTask<Real>& task, const ExtendedArrays<Real>& arrays)
      : block_(engine, task), task_(task), arrays_(arrays) {}

  HAMILTORCH_DEVICE void run() {
    for_samples(block_.engine.team, task_.batch, [&](int64_t first) { roll(first + block_.engine.team.warp()); });
  }

 private:
  HAMILTORCH_DEVICE Real& at(int which, int half, int row) const { return block_.part(which, half)[row]; }

  HAMILTORCH_DEVICE void roll(int64_t sample) const {
    const int d = block_.dim;
    const bool inside = sample < task_.batch;
    Real* const trajectory = arrays_.trajectory + sample * (task_.steps + 1) * 2 * d;
    const auto write_state = [&](int64_t n) {  // X's q and Y's p
      if (inside)
        block_.for_state([&](int row, int half) {
          trajectory[(2 * n + half) * d + row] = at(half == 0 ? V::kX : V::kY, half, row);
        });
    };
    block_.for_state([&](int row, int half) {
      at(V::kX, half, row) = at(V::kY, half, row) = inside ? arrays_.z0[(2 * sample + half) * d + row] : Real(0);
    });
    write_state(0);
    if (task_.steps == 0) return;
    // From point to point where the gradient is taken: X, then of every step Y, Y turned, and X.
    HAMILTORCH_NO_UNROLL
    for (int64_t number = 0; number <= 3 * task_.steps; ++number) {
      const int64_t turn = number % 3, n = (number - 1) / 3;
      const int copy = turn == 0 ? V::kX : V::kY;
      if (number > 0) push(turn == 1 ? V::kY : V::kX);
      if (turn == 2) {
        Real* const turned = inside && arrays_.turned ? arrays_.turned + (sample * task_.steps + n) * 2 * d : nullptr;
        block_.turn(false, [&](int row, Real q, Real p) {
          if (!turned) return;
          turned[row] = q;
          turned[d + row] = p;
        });
      }
      if (inside && arrays_.points) {
        Real* const point = arrays_.points + block_.point_at(sample, number);
        block_.for_state([&](int row, int half) { point[half * d + row] = at(copy, half, row); });
      }
      block_.evaluate_at(copy, sample);
      block_.gather({1, 1}, false);
      if (turn != 0 || number == 0) continue;
      push(V::kY);
      write_state(n + 1);
    }
  }

  // By dH, which is in kMoved.
  HAMILTORCH_DEVICE void push(int copy) const { block_.rotate(copy, block_.dt / 2, V::kMoved, true); }

  const ExtendedBlock<Engine> block_;
  const ExtendedTask<Real>& task_;
  const ExtendedArrays<Real>& arrays_;
};

}  // namespace hamiltorch
