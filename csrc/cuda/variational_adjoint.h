// The multipliers of a discrete Euler-Lagrange rollout's adjoint, from the last step to the first:
// csrc/cpu/variational_adjoint.h for eight samples, each at its own point of its own system.
#pragma once
#include "variational.h"

namespace hamiltorch {

template <class Engine>
class DelAdjoint {
 public:
  using Real = typename Engine::Real;

  HAMILTORCH_DEVICE DelAdjoint(Engine& engine, const DelTask<Real>& task, const DelAdjointArrays<Real>& arrays)
      : block_(engine, task), task_(task), arrays_(arrays) {}

  HAMILTORCH_DEVICE void run() {
    for_samples(block_.engine.team, task_.batch, [&](int64_t first) { roll(first); });
  }

 private:
  // What a sample wants a product for. Directions enter by x and leave by both, but those of kSpread enter by y.
  enum class Phase {
    kSpread,  // what the interval makes of the next step's multiplier
    kQuick,   // a step of Broyden's method
    kSolve,   // GMRES
    kOwn,     // what the interval makes of the multiplier that was found
    kDone,
  };

  HAMILTORCH_DEVICE Real* vector(int which) const { return block_.vector(which); }

  HAMILTORCH_DEVICE void roll(int64_t first) {
    Engine& engine = block_.engine;
    const int dim = block_.dim;
    const int64_t sample = first + engine.team.warp(), steps = task_.steps;
    const bool inside = sample < task_.batch;
    block_.column.for_rows([&](int row) { vector(kNext)[row] = vector(kOnX)[row] = 0; });
    block_.broyden.forget();
    bool later_converged = true;
    // Last comes the interval (q0, q1), which ends no step.
    for (int64_t k = steps - 1; k >= -1; --k) {
      const bool converged = inside && (k < 0 || arrays_.converged[sample * steps + k]);
      const Real* const points = arrays_.trajectory + (sample * (steps + 2) + k + 1) * dim;
      block_.column.for_rows([&](int row) {
        vector(kX)[row] = inside ? points[row] : Real(0);
        vector(kY)[row] = inside ? points[dim + row] : Real(0);
        vector(kRight)[row] = inside && k >= 0 ? arrays_.grad_trajectory[(sample * steps + k) * dim + row] : Real(0);
      });
      block_.begin_interval(first);
      block_.settle([&](int row) { return vector(kY)[row]; });
      evaluate_curvature(engine, block_.enter_y());
      solve(k >= 0 && converged);
      if (inside && k >= 0)
        block_.column.for_rows(
            [&](int row) { arrays_.multipliers[(sample * steps + k) * dim + row] = vector(kMultiplier)[row]; });
      // After a failure all multipliers are zero; what the network made of them there need not be.
      leave_on_x(k >= 0 ? converged : later_converged);
      if (k >= 0) later_converged = converged;
    }
    if (!inside) return;
    Real* const start = arrays_.grad_start + sample * 2 * dim;
    block_.column.for_rows([&](int row) {
      start[row] = later_converged ? -vector(kOnX)[row] : Real(0);
      start[dim + row] = later_converged ? vector(kRight)[row] : Real(0);
    });
  }

  // kMultiplier = the inverse of the transposed matrix times what kRight comes to, or zero unless `wanted`;
  // kOwn = W_1x^T H W_1x times that.
  HAMILTORCH_DEVICE void solve(bool wanted) {
    Engine& engine = block_.engine;
    phase_ = Phase::kSpread;
    int enters = block_.by_y;
    do {
      block_.settle([&](int row) { return entering(row); });
      multiply_hessian(engine, by_matrix(engine, enters));
      engine.transposed(block_.by_y, engine.own_rows(), block_.to(kOut));
      engine.team.sync_block();
      engine.transposed(block_.by_x, engine.own_rows(), block_.to(kImage));
      engine.team.sync_block();
      go_on(wanted);
      enters = block_.by_x;
    } while (engine.team.any(phase_ != Phase::kDone));
  }

  HAMILTORCH_DEVICE Real entering(int row) const {
    switch (phase_) {
      case Phase::kSpread:
        return vector(kNext)[row];
      case Phase::kQuick:
        return vector(kStep)[row];
      case Phase::kSolve:
        return block_.krylov.wanted()[row] * task_.inverse[row];
      case Phase::kOwn:
        return vector(kMultiplier)[row];
      case Phase::kDone:
        break;
    }
    return 0;
  }

  // Takes what left by y and by x, in kOut and kImage, and decides what the sample does next.
  HAMILTORCH_DEVICE void go_on(bool wanted) {
    switch (phase_) {
      case Phase::kSpread:
        block_.column.for_rows([&](int row) {
          const Real kinetic = task_.kinetic[row] - task_.friction[row];
          vector(kRight)[row] -= vector(kOnX)[row] + kinetic * vector(kNext)[row] + block_.dt * vector(kOut)[row];
          vector(kLater)[row] = vector(kImage)[row];
        });
        return begin(wanted);
      case Phase::kQuick:
        return take_quick_step();
      case Phase::kSolve:
        return take_product();
      case Phase::kOwn:
        block_.column.for_rows([&](int row) { vector(kOwn)[row] = vector(kImage)[row]; });
        phase_ = Phase::kDone;
        return;
      case Phase::kDone:
        return;
    }
  }

  HAMILTORCH_DEVICE void begin(bool wanted) {
    whole_ = length_ = block_.column.norm(vector(kRight));
    const bool finite = length_ < static_cast<Real>(INFINITY);
    block_.column.for_rows([&](int row) {
      // There is no solution for what is not finite.
      vector(kMultiplier)[row] = wanted && !finite ? static_cast<Real>(NAN) : Real(0);
      vector(kOwn)[row] = 0;
      vector(kLeft)[row] = -vector(kRight)[row];
      vector(kStep)[row] = vector(kRight)[row];
    });
    phase_ = !wanted || length_ == 0 ? Phase::kDone : finite ? Phase::kQuick : Phase::kOwn;
    if (phase_ != Phase::kQuick) return;
    quick_steps_ = 0;
    block_.broyden.make_room();
    block_.broyden.multiply_inverse(vector(kStep));
  }

  HAMILTORCH_DEVICE void take_quick_step() {
    block_.column.for_rows([&](int row) {
      const Real step = vector(kStep)[row];
      vector(kMultiplier)[row] += step;
      vector(kOwn)[row] += vector(kImage)[row];
      vector(kLeft)[row] += task_.diagonal[row] * step + block_.dt * vector(kOut)[row];
    });
    const Real before = length_;
    length_ = block_.column.norm(vector(kLeft));
    const bool falls = length_ <= static_cast<Real>(kQuickly) * before;
    if (falls) block_.broyden.learn(vector(kLeft), vector(kStep), vector(kOut));
    if (length_ <= (falls ? 4 : 32) * kEpsilon<Real> *
                       whole_) {  // where rounding keeps it from falling further, it is solved as well
      phase_ = Phase::kDone;
    } else if (!falls || ++quick_steps_ == kMostQuickSteps) {
      block_.broyden.forget();
      block_.krylov.begin(vector(kMultiplier), vector(kRight), 2 * kEpsilon<Real> * whole_,
                          128 * kEpsilon<Real> * whole_);
      phase_ = Phase::kSolve;
    }
  }

  HAMILTORCH_DEVICE void take_product() {
    Krylov<Real>& krylov = block_.krylov;
    Real* const out = vector(kOut);
    block_.column.for_rows([&](int row) { out[row] = krylov.wanted()[row] + block_.dt * out[row]; });
    krylov.take(out);
    if (krylov.open()) return;
    // What is not solved to half the digits is held to be singular, and the step a constant.
    const bool solved = krylov.left() <= sqrt(kEpsilon<Real>) * whole_;
    block_.column.for_rows(
        [&](int row) { vector(kMultiplier)[row] = solved ? vector(kMultiplier)[row] * task_.inverse[row] : Real(0); });
    phase_ = Phase::kOwn;
  }

  // kOnX and kNext of the interval just passed.
  HAMILTORCH_DEVICE void leave_on_x(bool converged) {
    block_.column.for_rows([&](int row) {
      const Real own = vector(kMultiplier)[row], later = vector(kNext)[row];
      const Real local = task_.kinetic[row] * (own - later) + task_.friction[row] * (own + later);
      const Real learned = vector(kOwn)[row] + vector(kLater)[row];
      vector(kOnX)[row] = converged ? local + block_.dt * learned : local;
      vector(kNext)[row] = own;
    });
  }

  DelBlock<Engine> block_;
  const DelTask<Real>& task_;
  const DelAdjointArrays<Real>& arrays_;
  // Of the sample.
  Phase phase_ = Phase::kDone;
  Real whole_ = 0, length_ = 0;  // of its system's right side, and of what is left of that
  int quick_steps_ = 0;
};

}  // namespace hamiltorch
