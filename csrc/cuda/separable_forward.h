// A rollout of T(p) + V(q): csrc/cpu/separable.h for eight samples.
#pragma once
#include "separable.h"

namespace hamiltorch {

template <class Engines>
class SeparableForward {
 public:
  using Real = typename Engines::Real;

  HAMILTORCH_DEVICE SeparableForward(Engines& engines, const SeparableTask<Real>& task,
                                     const SeparableArrays<Real>& arrays)
      : block_(engines, task), task_(task), arrays_(arrays) {}

  HAMILTORCH_DEVICE void run() {
    for_samples(block_.team, block_.first.batch, [&](int64_t first) { roll(first + block_.team.warp()); });
  }

 private:
  HAMILTORCH_DEVICE Real* state(int half) const { return block_.part(kSeparableState, half); }

  HAMILTORCH_DEVICE void roll(int64_t sample) const {
    const int d = block_.dim;
    const int64_t steps = block_.first.steps;
    const bool inside = sample < block_.first.batch;
    Real* const trajectory = arrays_.trajectory + sample * (steps + 1) * 2 * d;
    const auto write_state = [&](int64_t n) {
      if (inside) block_.for_state([&](int row, int half) { trajectory[(2 * n + half) * d + row] = state(half)[row]; });
    };
    block_.for_state(
        [&](int row, int half) { state(half)[row] = inside ? arrays_.z0[(2 * sample + half) * d + row] : Real(0); });
    write_state(0);
    // A gradient serves until the half that it reads has moved.
    bool known[2] = {false, false};
    int64_t evaluated[2] = {0, 0};
    for (int64_t n = 0; n < steps; ++n) {
      HAMILTORCH_NO_UNROLL
      for (int k = 0; k < task_.stage_count; ++k) {
        const int reads = task_.stages[k].reads, moves = 1 - reads;
        if (!known[reads]) evaluate(reads, sample, evaluated[reads]++);
        known[reads] = true;
        known[moves] = false;
        const Real step = task_.stages[k].factor * block_.dt;
        block_.for_rows([&](int row) { state(moves)[row] += step * slope(reads, row); });
      }
      write_state(n + 1);
    }
  }

  // Where a half stands, which is its point of this number, and the gradient there.
  HAMILTORCH_DEVICE void evaluate(int half, int64_t sample, int64_t number) const {
    const int d = block_.dim;
    if (arrays_.points[half] && sample < block_.first.batch) {
      Real* const point = arrays_.points[half] + (sample * task_.evaluations[half] + number) * d;
      block_.for_rows([&](int row) { point[row] = state(half)[row]; });
    }
    if (!block_.has_network(half)) return;
    block_.evaluate(half, sample, [&](int row) { return state(half)[row]; });
    block_.gather(half);
  }
  HAMILTORCH_DEVICE Real slope(int half, int row) const {
    return block_.has_network(half) ? block_.part(kSeparableSlope, half)[row]
                                    : task_.inverse_mass[row] * state(half)[row];
  }

  const SeparableBlock<Engines> block_;
  const SeparableTask<Real>& task_;
  const SeparableArrays<Real>& arrays_;
};

}  // namespace hamiltorch
