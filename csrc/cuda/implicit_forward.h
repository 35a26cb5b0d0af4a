// A rollout by implicit stages: csrc/cpu/implicit_forward.h for eight samples.
#pragma once
#include "fixed_point.h"
#include "implicit.h"

namespace hamiltorch {

template <class Engine>
class ImplicitForward : private FixedPoint<ImplicitForward<Engine>, typename Engine::Real, ImplicitVectors> {
 public:
  using Real = typename Engine::Real;
  using V = ImplicitVectors;
  using Stage = typename ImplicitTask<Real>::Stage;

  HAMILTORCH_DEVICE ImplicitForward(Engine& engine, const ImplicitTask<Real>& task, const ImplicitArrays<Real>& arrays)
      : block_(engine, task), task_(task), arrays_(arrays) {}

  HAMILTORCH_DEVICE void run() {
    for_samples(block_.engine.team, task_.batch, [&](int64_t first) { roll(first + block_.engine.team.warp()); });
  }

 private:
  using Solver = FixedPoint<ImplicitForward, Real, V>;
  friend Solver;

  HAMILTORCH_DEVICE Real* vector(int which) const { return block_.vector(which); }
  HAMILTORCH_DEVICE static int differences(int k) { return V::kDifferences + k * kMostDifferences; }

  HAMILTORCH_DEVICE void roll(int64_t sample) {
    const int d = block_.dim, stages = task_.stage_count;
    const bool inside = sample < task_.batch;
    Real* const trajectory = arrays_.trajectory + sample * (task_.steps + 1) * 2 * d;
    const auto write_state = [&](int64_t n) {
      if (!inside) return;
      block_.for_state(
          [&](int row, int half) { trajectory[(2 * n + half) * d + row] = block_.part(V::kState, half)[row]; });
    };
    block_.for_state([&](int row, int half) {
      block_.part(V::kState, half)[row] = inside ? arrays_.z0[(2 * sample + half) * d + row] : Real(0);
    });
    write_state(0);
    block_.find_start(V::kState, sample);
    block_.wide.for_rows([&](int row) {
      for (int i = 0; i < stages * kMostDifferences; ++i) vector(V::kDifferences + i)[row] = 0;
      vector(V::kImpulse)[row] = vector(V::kDisplacement)[row] = 0;
    });
    Solver::begin_rollout();
    bool alive = true;
    for (int64_t n = 0; n < task_.steps; ++n) {
      const int64_t at = sample * task_.steps + n;
      Real worst = 0;
      Solver::begin_step();
      HAMILTORCH_NO_UNROLL
      for (int k = 0; k < stages; ++k) {
        if (n == 0 && k > 0) {
          start_as_before(k);
        } else {
          Solver::extrapolate(differences(k));
        }
        stage_ = k;
        Solver::solve(inside, n == 0 && known_before() > 0 ? vector(differences(0) + 1) : nullptr);
        Solver::remember(differences(k), n, known_before());
        alive = alive && Solver::solved();
        if (worst == worst && !(Solver::error() <= worst)) worst = Solver::error();
        advance(task_.stages[k], sample,
                inside && arrays_.points ? arrays_.points + (at * stages + k) * 2 * d : nullptr);
      }
      write_state(n + 1);
      if (!inside || !block_.wide.leads()) continue;
      arrays_.converged[at] = alive;
      arrays_.iterations[at] = Solver::iterations();
      arrays_.residual[at] = worst;
    }
  }

  // kTried in the first step, of stage k after the first: what it displaces with the gradient of the stage before.
  HAMILTORCH_DEVICE void start_as_before(int k) const {
    settle_columns(block_.engine, 0, [&](int row) { return vector(V::kImpulse)[row]; });
    block_.displace(task_.stages[k].at, task_.stages[k].coefficient / task_.stages[k - 1].coefficient, false);
    block_.wide.for_rows([&](int row) { vector(V::kTried)[row] = vector(V::kImage)[row]; });
  }

  // How much of a step before the first's solve its D is known as well, or zero: the first image, where a gradient for
  // both halves is taken along the motion.
  HAMILTORCH_DEVICE Real known_before() const {
    const Halves<Real>& at = task_.stages[0].at;
    return task_.stage_count == 1 && at.q == at.p ? at.q : Real(0);
  }

  // The stage's update of the state, and where the next one begins; `points`, if not null, gets w.
  HAMILTORCH_DEVICE void advance(const Stage& stage, int64_t sample, Real* points) const {
    settle_columns(block_.engine, 0, [&](int row) { return vector(V::kImpulse)[row]; });
    block_.gather({1, 1}, true);
    block_.for_state([&](int row, int half) {
      Real& state = block_.part(V::kState, half)[row];
      const Real moved = block_.part(V::kMoved, half)[row], change = half == 0 ? moved : -moved;
      if (points) points[half * block_.dim + row] = state + stage.at[half] * change;
      state += change;
    });
    block_.find_start(V::kState, sample);
  }

  // --- A stage's equations as FixedPoint reads them.
  static constexpr bool kEndsWithImage = true;  // the stage ends with D what the impulse displaces

  HAMILTORCH_DEVICE const Stage& stage() const { return task_.stages[stage_]; }
  HAMILTORCH_DEVICE Real step() const { return stage().coefficient * block_.dt; }
  HAMILTORCH_DEVICE const Column<Real>& column() const { return block_.wide; }
  HAMILTORCH_DEVICE Krylov<Real>& krylov() { return block_.krylov; }
  HAMILTORCH_DEVICE bool any(bool mine) const { return block_.engine.team.any(mine); }
  HAMILTORCH_DEVICE int64_t limit() const { return task_.max_iterations; }

  HAMILTORCH_DEVICE void find_image() const {
    block_.evaluate_at(V::kTried);
    block_.displace(stage().at, step(), false);
  }

  HAMILTORCH_DEVICE void take() const {
    const Engine& engine = block_.engine;
    const Real* const delta = engine.state(kDelta) + engine.team.warp();
    const Real by = step();
    column().for_rows([&](int row) { vector(V::kImpulse)[row] = by * delta[row * Engine::kColumns]; });
  }

  HAMILTORCH_DEVICE Real bound() const {
    const Real least = static_cast<Real>(kLeastRoundings) * kEpsilon<Real>;
    return task_.tolerance > least ? task_.tolerance : least;
  }

  // A half that is not implicit is moved by the gradient at D, of which the image's residual says nothing.
  HAMILTORCH_DEVICE Real most_slack() const { return static_cast<Real>(stage().at.q == stage().at.p ? kMostSlack : 1); }

  // Largest of a at the sample's point, plus one.
  HAMILTORCH_DEVICE Real scale() const {
    return 1 + column().largest_of([&](int row) { return vector(V::kStart)[row] + vector(V::kDisplacement)[row]; });
  }

  HAMILTORCH_DEVICE void linearise() const {}  // the evaluation of an image does
  HAMILTORCH_DEVICE void solve_systems() { block_.solve_krylov(stage().at, step(), false); }

  ImplicitBlock<Engine> block_;
  const ImplicitTask<Real>& task_;
  const ImplicitArrays<Real>& arrays_;
  int stage_ = 0;
};

}  // namespace hamiltorch
