// A discrete Euler-Lagrange rollout: csrc/cpu/newton.h for eight samples, each at its own point of the iteration. In
// every round all are evaluated, each where it wants to know the residual next or, when it is done, where it is.
#pragma once
#include "variational.h"

namespace hamiltorch {

template <class Engine>
class DelForward {
 public:
  using Real = typename Engine::Real;

  HAMILTORCH_DEVICE DelForward(Engine& engine, const DelTask<Real>& task, const DelArrays<Real>& arrays)
      : block_(engine, task), task_(task), arrays_(arrays) {}

  HAMILTORCH_DEVICE void run() {
    for_samples(block_.engine.team, task_.batch, [&](int64_t first) { roll(first); });
  }

 private:
  // What a sample wants to know the residual at kTried for.
  enum class Phase {
    kBegin,   // the step begins there
    kQuick,   // a step of Broyden's method leads there
    kSearch,  // a part of a Newton step leads there
    kReturn,  // it leads nowhere else: Newton's method begins anew where the sample is
    kNewton,  // nothing: a Newton step is to be found
    kGiveUp,  // nothing: no step is left
    kDone,    // nothing: the step has ended
  };

  HAMILTORCH_DEVICE Real* vector(int which) const { return block_.vector(which); }

  HAMILTORCH_DEVICE void roll(int64_t first) {
    const int64_t sample = first + block_.engine.team.warp(), points = task_.steps + 2;
    const bool inside = sample < task_.batch;
    Real* const trajectory = arrays_.trajectory + sample * points * block_.dim;
    block_.column.for_rows([&](int row) {
      vector(kX)[row] = inside ? arrays_.q0[sample * block_.dim + row] : Real(0);
      vector(kY)[row] = inside ? arrays_.q1[sample * block_.dim + row] : Real(0);
      vector(kTried)[row] = vector(kY)[row];
      if (!inside) return;
      trajectory[row] = vector(kX)[row];
      trajectory[block_.dim + row] = vector(kY)[row];
    });
    block_.broyden.forget();
    bool alive = true;
    // Before the first step nothing is solved: the network is evaluated on the interval that is given.
    for (int64_t k = -1; k < task_.steps; ++k) {
      if (k >= 0)
        carry(k, inside, arrays_.impulses ? arrays_.impulses + (sample * task_.steps + k) * block_.dim : nullptr);
      block_.begin_interval(first);
      phase_ = k >= 0 && inside ? Phase::kBegin : Phase::kDone;
      solve();
      if (k < 0 || !inside) continue;
      alive = alive && (error_ <= task_.tolerance || settled_);
      block_.column.for_rows([&](int row) { trajectory[(k + 2) * block_.dim + row] = vector(kY)[row]; });
      if (!block_.column.leads()) continue;
      const int64_t at = sample * task_.steps + k;
      arrays_.converged[at] = alive;
      arrays_.iterations[at] = iterations_;
      arrays_.residual[at] = error_;
      arrays_.smallest_pivot[at] = static_cast<Real>(INFINITY);  // no matrix is factorised
    }
  }

  // From the interval (x, y), on which the network has just been evaluated, to step k, which begins at y.
  HAMILTORCH_DEVICE void carry(int64_t k, bool inside, const Real* impulse) {
    Engine& engine = block_.engine;
    engine.for_own(0, [&](int row, int pair) {
      engine.publish_to_self(row, pair, load_two(first_layer_at(engine, kDelta, row, pair)));
    });
    engine.settle();
    engine.transposed(block_.by_y, engine.own_rows(), block_.to(kOut));
    engine.team.sync_block();
    block_.column.for_rows([&](int row) {
      const Real x = vector(kX)[row], y = vector(kY)[row];
      const Real carried = (task_.kinetic[row] - task_.friction[row]) * (y - x) + block_.dt * vector(kOut)[row];
      vector(kCarried)[row] = impulse && inside ? carried + impulse[row] : carried;
      const Real linear = y + (y - x), start = k > 0 ? linear + (y - vector(kStart)[row]) : linear;
      vector(kX)[row] = y;
      vector(kY)[row] = vector(kTried)[row] = start;
      vector(kStart)[row] = linear;
    });
  }

  HAMILTORCH_DEVICE void solve() {
    Engine& engine = block_.engine;
    do {
      block_.settle([&](int row) { return vector(kTried)[row]; });
      evaluate_curvature(engine, block_.enter_y());
      engine.transposed(block_.by_x, engine.own_rows(), block_.to(kOut));
      engine.team.sync_block();
      go_on();
      if (engine.team.any(phase_ == Phase::kNewton)) find_newton_steps();
    } while (engine.team.any(phase_ != Phase::kDone));
  }

  // Makes of kOut the residual at kTried, and decides what the sample does next.
  HAMILTORCH_DEVICE void go_on() {
    if (phase_ == Phase::kDone) return;
    if (phase_ == Phase::kGiveUp) {
      phase_ = Phase::kDone;
      return;
    }
    if (phase_ == Phase::kReturn) return begin_newton();
    Real* const tried_residual = vector(kOut);
    block_.column.for_rows([&](int row) {
      const Real change = vector(kTried)[row] - vector(kX)[row];
      tried_residual[row] = vector(kCarried)[row] + task_.diagonal[row] * change + block_.dt * tried_residual[row];
    });
    const Real length = block_.column.norm(tried_residual);
    if (phase_ == Phase::kBegin) {
      scale_ = 1 + block_.column.largest(vector(kCarried));
      iterations_ = 0;
      settled_ = false;
      take_tried(length);
      if (!open()) return finish();
      block_.broyden.make_room();
      block_.column.for_rows([&](int row) { vector(kStep)[row] = -vector(kResidual)[row]; });
      block_.broyden.multiply_inverse(vector(kStep));
      begin_quick();
    } else if (phase_ == Phase::kQuick) {
      const Real before = length_;
      const bool falls = length <= (1 - static_cast<Real>(kDecrease)) * before;
      if (falls) take_tried(length);
      if (length <= static_cast<Real>(kQuickly) * before) {
        block_.broyden.learn(vector(kResidual), vector(kStep), vector(kImage));
        return open() ? begin_quick() : finish();
      }
      block_.broyden.forget();
      if (falls) return open() ? begin_newton() : finish();
      go_back(Phase::kReturn);
    } else {
      if (length <= (1 - static_cast<Real>(kDecrease) * part_) * length_) {
        take_tried(length);
        return open() ? begin_newton() : finish();
      }
      part_ /= 2;
      if (++halvings_ == kHalvings) return go_back(Phase::kGiveUp);
      try_step();
    }
  }

  HAMILTORCH_DEVICE bool open() const { return !settled_ && error_ > task_.tolerance; }
  HAMILTORCH_DEVICE void finish() { phase_ = Phase::kDone; }

  // The point that was tried becomes the sample's.
  HAMILTORCH_DEVICE void take_tried(Real length) {
    length_ = length;
    block_.column.for_rows([&](int row) {
      vector(kY)[row] = vector(kTried)[row];
      vector(kResidual)[row] = vector(kOut)[row];
    });
    error_ = block_.column.largest(vector(kResidual)) / scale_;
  }
  // What was tried is left; the network is evaluated where the sample is.
  HAMILTORCH_DEVICE void go_back(Phase phase) {
    block_.column.for_rows([&](int row) { vector(kTried)[row] = vector(kY)[row]; });
    phase_ = phase;
  }
  HAMILTORCH_DEVICE void try_step() {
    block_.column.for_rows([&](int row) { vector(kTried)[row] = vector(kY)[row] + part_ * vector(kStep)[row]; });
  }

  HAMILTORCH_DEVICE bool begin_iteration() {
    if (iterations_ == task_.max_iterations) return false;
    ++iterations_;
    return true;
  }
  HAMILTORCH_DEVICE void begin_quick() {
    if (!begin_iteration()) return finish();
    part_ = 1;
    try_step();
    phase_ = Phase::kQuick;
  }
  HAMILTORCH_DEVICE void begin_newton() { phase_ = begin_iteration() ? Phase::kNewton : Phase::kDone; }

  // Newton's steps of the samples that want one, the others waiting.
  HAMILTORCH_DEVICE void find_newton_steps() {
    Engine& engine = block_.engine;
    Krylov<Real>& krylov = block_.krylov;
    Real* const out = vector(kOut);
    const bool mine = phase_ == Phase::kNewton;
    if (mine) {
      // No more accurate than the step's end needs, and than its own error of second order is likely to be.
      const Real wanted = task_.tolerance * scale_ / 4;
      const Real least = static_cast<Real>(kLeastForcing) * length_, most = static_cast<Real>(kMostForcing) * length_;
      krylov.begin(vector(kStep), vector(kResidual), wanted < least ? least : wanted < most ? wanted : most, most);
    }
    while (engine.team.any(krylov.open())) {
      block_.settle([&](int row) { return krylov.open() ? krylov.wanted()[row] * task_.inverse[row] : Real(0); });
      multiply_hessian(engine, by_matrix(engine, block_.by_y));
      engine.transposed(block_.by_x, engine.own_rows(), block_.to(kOut));
      engine.team.sync_block();
      if (!krylov.open()) continue;
      block_.column.for_rows([&](int row) { out[row] = krylov.wanted()[row] + block_.dt * out[row]; });
      krylov.take(out);
    }
    if (!mine) return;
    block_.column.for_rows([&](int row) { vector(kStep)[row] *= -task_.inverse[row]; });
    const Real longest = block_.column.largest(vector(kStep));
    // Of a system that is not solved the step may still lead downhill, but it says nothing of its length.
    settled_ = krylov.left() <= static_cast<Real>(kMostForcing) * length_ && error_ < static_cast<Real>(INFINITY) &&
               longest <= kRoundings * kEpsilon<Real> * block_.column.largest(vector(kY));
    if (!(longest < static_cast<Real>(INFINITY))) return finish();
    part_ = 1;
    halvings_ = 0;
    try_step();
    phase_ = Phase::kSearch;
  }

  DelBlock<Engine> block_;
  const DelTask<Real>& task_;
  const DelArrays<Real>& arrays_;
  // Of the sample.
  Phase phase_ = Phase::kDone;
  Real scale_ = 1, error_ = 0, length_ = 0, part_ = 1;
  int64_t iterations_ = 0;
  int halvings_ = 0;
  bool settled_ = false;
};

}  // namespace hamiltorch
