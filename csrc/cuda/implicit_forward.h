// A rollout by implicit stages: csrc/cpu/implicit.h and implicit_newton.h for eight samples, each at its own point of
// the iteration. In every round all are evaluated, each where it wants to know the residual next or, when it is done,
// where it is.
#pragma once
#include "implicit.h"

namespace hamiltorch {

template <class Engine>
class ImplicitForward {
 public:
  using Real = typename Engine::Real;
  using V = ImplicitVectors;
  using Stage = typename ImplicitTask<Real>::Stage;

  HAMILTORCH_DEVICE ImplicitForward(Engine& engine, const ImplicitTask<Real>& task, const ImplicitArrays<Real>& arrays)
      : block_(engine, task), task_(task), arrays_(arrays) {}

  HAMILTORCH_DEVICE void run() {
    Engine& engine = block_.engine;
    for (int64_t first = int64_t{kWarps} * engine.team.index(); first < task_.batch;
         first += int64_t{kWarps} * engine.team.count())
      roll(first + engine.team.warp());
  }

 private:
  // What a sample wants to know the residual at kTried for.
  enum class Phase {
    kIterate,  // plain iteration, accelerated, leads there
    kSearch,   // a part of a Newton step leads there
    kNewton,   // nothing: a Newton step is to be found
    kDone,     // nothing: the stage is solved or given up
  };

  HAMILTORCH_DEVICE Real* vector(int which) const { return block_.vector(which); }
  template <class Body>
  HAMILTORCH_DEVICE void for_rows(Body body) const {
    block_.wide.for_rows(body);
  }

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
    for_rows([&](int row) {
      for (int i = 0; i < stages * kMostDifferences; ++i) vector(V::kDifferences + i)[row] = 0;
      vector(V::kImpulse)[row] = vector(V::kDisplacement)[row] = 0;
    });
    slack_ = 1;
    bool alive = true;
    for (int64_t n = 0; n < task_.steps; ++n) {
      const int64_t at = sample * task_.steps + n;
      Real worst = 0;
      iterations_ = 0;
      HAMILTORCH_NO_UNROLL
      for (int k = 0; k < stages; ++k) {
        if (n == 0 && k > 0) {
          start_as_before(k);
        } else {
          extrapolate(k);
        }
        solve(k, inside, n == 0 && known_before() > 0 ? vector(V::kDifferences + 1) : nullptr);
        remember(k, n);
        alive = alive && solved_;
        if (worst == worst && !(error_ <= worst)) worst = error_;
        advance(task_.stages[k], sample,
                inside && arrays_.points ? arrays_.points + (at * stages + k) * 2 * d : nullptr);
      }
      write_state(n + 1);
      if (!inside || !block_.wide.leads()) continue;
      arrays_.converged[at] = alive;
      arrays_.iterations[at] = iterations_;
      arrays_.residual[at] = worst;
    }
  }

  // kTried = where stage k's solve starts: the polynomial through what the last steps found, as the sum of its backward
  // differences, as many as shrink by half at least.
  HAMILTORCH_DEVICE void extrapolate(int k) const {
    const int first = V::kDifferences + k * kMostDifferences;
    Real* const start = vector(V::kTried);
    for_rows([&](int row) { start[row] = vector(first)[row]; });
    Real square = block_.wide.dot(start, start);
    for (int j = 1; j < kMostDifferences; ++j) {
      const Real* const term = vector(first + j);
      const Real next = block_.wide.dot(term, term);
      if (!(next < square / 4)) break;
      block_.wide.add_scaled(start, 1, term);
      square = next;
    }
  }

  // kTried in the first step, of stage k after the first: what it displaces with the gradient of the stage before.
  HAMILTORCH_DEVICE void start_as_before(int k) const {
    settle_columns(block_.engine, 0, [&](int row) { return vector(V::kImpulse)[row]; });
    block_.displace(task_.stages[k].at, task_.stages[k].coefficient / task_.stages[k - 1].coefficient, false);
    for_rows([&](int row) { vector(V::kTried)[row] = vector(V::kImage)[row]; });
  }

  // How much of a step before the first's solve its D is known as well, or zero: the first image, where a gradient for
  // both halves is taken along the motion.
  HAMILTORCH_DEVICE Real known_before() const {
    const Halves<Real>& at = task_.stages[0].at;
    return task_.stage_count == 1 && at.q == at.p ? at.q : Real(0);
  }

  // Adds what stage k has found in step n; differences that need earlier steps than there are stay zero. What was known
  // ahead of the first, at the place of the first change, serves for a line and a parabola as another step.
  HAMILTORCH_DEVICE void remember(int k, int64_t n) const {
    const int first = V::kDifferences + k * kMostDifferences;
    const Real part = known_before();
    if (n == 0 && part > 0) {
      for_rows([&](int row) {
        const Real newest = vector(first)[row] = vector(V::kDisplacement)[row];
        vector(first + 1)[row] = (newest - vector(first + 1)[row]) / part;
      });
      return;
    }
    const int64_t known = part > 0 && n == 1 ? n + 1 : n;
    for_rows([&](int row) {
      Real newest = vector(V::kDisplacement)[row];
      for (int j = 0; j < kMostDifferences; ++j) {
        const Real before = vector(first + j)[row];
        vector(first + j)[row] = newest;
        newest = j < known ? newest - before : Real(0);
      }
    });
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

  // From kTried on: kDisplacement, and the impulse that makes it. `image`, if not null, gets that of kTried.
  HAMILTORCH_DEVICE void solve(int k, bool inside, Real* image) {
    Engine& engine = block_.engine;
    const Stage& stage = task_.stages[k];
    step_ = stage.coefficient * block_.dt;
    phase_ = inside ? Phase::kIterate : Phase::kDone;
    length_ = static_cast<Real>(INFINITY);
    solved_ = false;
    rounds_ = remembered_ = 0;
    // A half that is not implicit is moved by the gradient at D, of which the image's residual says nothing.
    most_slack_ = static_cast<Real>(stage.at.q == stage.at.p ? kMostSlack : 1);
    do {
      block_.evaluate_at(V::kTried);
      block_.displace(stage.at, step_, false);
      if (image) for_rows([&](int row) { image[row] = vector(V::kImage)[row]; });
      image = nullptr;
      go_on();
      if (engine.team.any(phase_ == Phase::kNewton)) find_newton_steps(stage);
    } while (engine.team.any(phase_ != Phase::kDone));
  }

  // Takes kImage of kTried, and decides what the sample does next.
  HAMILTORCH_DEVICE void go_on() {
    if (phase_ == Phase::kDone) return;
    ++iterations_;
    if (phase_ == Phase::kIterate) return iterate();
    Real* const rest = vector(V::kImage);
    for_rows([&](int row) { rest[row] -= vector(V::kTried)[row]; });
    const Real length = block_.wide.norm(rest);
    if (length <= (1 - static_cast<Real>(kDecrease) * part_) * length_) {
      for_rows([&](int row) { vector(V::kResidual)[row] = rest[row]; });
      take_tried();
      length_ = length;
      return solved_ ? finish() : begin_newton();
    }
    part_ /= 2;
    if (++halvings_ == kHalvings) return finish();
    try_step();
  }

  HAMILTORCH_DEVICE void iterate() {
    Real* const rest = vector(V::kResidual);
    for_rows([&](int row) { rest[row] = vector(V::kImage)[row] - vector(V::kTried)[row]; });
    const Real most = block_.wide.largest(rest);
    const bool contracts = most <= static_cast<Real>(kSlowly) * length_;  // not where it is not a number
    if (rounds_ > 0) {
      const Real seen = slack_of(length_, most, most_slack_);
      slack_ = rounds_ == 1 || seen < slack_ ? seen : slack_;
    }
    const bool ends = ++rounds_ >= task_.max_iterations;
    take_tried();
    solved_ = error_ <= slack_ * bound();
    if (solved_ && error_ > bound()) error_ = error_ < bound() * slack_ ? error_ / slack_ : bound();
    if (solved_ || ends || !(error_ < static_cast<Real>(INFINITY))) {
      if (rounds_ == 1) slack_ = slack_ > 2 ? slack_ / 2 : Real(1);
      return finish();
    }
    if (contracts) {
      length_ = most;
      return accelerate();
    }
    slack_ = 1;
    rounds_ = 0;
    length_ = block_.wide.norm(rest);
    begin_newton();
  }

  // Of residuals before and after an iteration: how many times its bound the latter may be, at most `most`, the next
  // iteration's then being within it.
  HAMILTORCH_DEVICE static Real slack_of(Real before, Real after, Real most) {
    const Real seen = before / (static_cast<Real>(kCaution) * after);
    return !(seen > 1) ? 1 : seen < most ? seen : most;
  }

  // The point that was tried, whose residual is in kResidual, becomes the sample's.
  HAMILTORCH_DEVICE void take_tried() {
    const Engine& engine = block_.engine;
    const Real* const delta = engine.state(kDelta) + engine.team.warp();
    for_rows([&](int row) {
      vector(V::kDisplacement)[row] = vector(V::kTried)[row];
      vector(V::kImpulse)[row] = step_ * delta[row * Engine::kColumns];
    });
    const Real scale = find_scale(), most = block_.wide.largest(vector(V::kResidual));
    error_ = scale < static_cast<Real>(INFINITY) ? most / scale : static_cast<Real>(NAN);
    solved_ = error_ <= bound();
  }

  HAMILTORCH_DEVICE Real bound() const {
    const Real least = static_cast<Real>(kLeastRoundings) * kEpsilon<Real>;
    return task_.tolerance > least ? task_.tolerance : least;
  }

  // Largest of a at the sample's point, plus one.
  HAMILTORCH_DEVICE Real find_scale() const {
    return 1 + block_.wide.largest_of([&](int row) { return vector(V::kStart)[row] + vector(V::kDisplacement)[row]; });
  }

  // The stage ends with D what the impulse displaces.
  HAMILTORCH_DEVICE void finish() {
    block_.wide.add_scaled(vector(V::kDisplacement), 1, vector(V::kResidual));
    phase_ = Phase::kDone;
  }

  // kTried of the next iteration by Anderson's acceleration: of all mixtures of this image and those before, that whose
  // residuals mix to the shortest. The image and its residual are then the newest remembered.
  HAMILTORCH_DEVICE void accelerate() {
    static_assert(kHistory == 2);
    const int count = remembered_++, newest = (count + 1) % 2;
    const Real *const rest = vector(V::kResidual), *const image = vector(V::kImage);
    Real *const rest1 = vector(V::kResiduals + newest), *const rest2 = vector(V::kResiduals + 1 - newest);
    Real *const image1 = vector(V::kImages + newest), *const image2 = vector(V::kImages + 1 - newest);
    // Changes from the newest remembered to this (1), and from the one before to the newest (2).
    Real first = 0, second = 0;
    if (count > 0) {
      const auto sum = [&](auto term) { return block_.wide.sum(term); };
      const auto change1 = [&](int row) { return rest[row] - rest1[row]; };
      const auto change2 = [&](int row) { return count > 1 ? rest1[row] - rest2[row] : Real(0); };
      const Real a11 = sum([&](int row) { return change1(row) * change1(row); });
      const Real a12 = sum([&](int row) { return change1(row) * change2(row); });
      const Real a22 = sum([&](int row) { return change2(row) * change2(row); });
      const Real b1 = sum([&](int row) { return change1(row) * rest[row]; });
      const Real b2 = sum([&](int row) { return change2(row) * rest[row]; });
      const Real determinant = a11 * a22 - a12 * a12;
      if (determinant > static_cast<Real>(kIndependent) * a11 * a22) {
        first = (b1 * a22 - b2 * a12) / determinant;
        second = (b2 * a11 - b1 * a12) / determinant;
      } else if (a11 > 0) {
        first = b1 / a11;
      }
    }
    for_rows([&](int row) {
      Real next = image[row];
      if (count > 0) next -= first * (image[row] - image1[row]);
      if (count > 1) next -= second * (image1[row] - image2[row]);
      vector(V::kTried)[row] = next;
      image2[row] = image[row];
      rest2[row] = rest[row];
    });
  }

  HAMILTORCH_DEVICE void try_step() const {
    for_rows([&](int row) { vector(V::kTried)[row] = vector(V::kDisplacement)[row] + part_ * vector(V::kStep)[row]; });
  }

  HAMILTORCH_DEVICE void begin_newton() {
    if (rounds_++ >= task_.max_iterations) return finish();
    phase_ = Phase::kNewton;
  }

  // Newton's steps of the samples that want one, the others waiting.
  HAMILTORCH_DEVICE void find_newton_steps(const Stage& stage) {
    Krylov<Real>& krylov = block_.krylov;
    const bool mine = phase_ == Phase::kNewton;
    // One cycle: what it leaves the next step takes up.
    if (mine)
      krylov.begin(vector(V::kStep), vector(V::kResidual), static_cast<Real>(kLeastForcing) * length_,
                   static_cast<Real>(INFINITY));
    block_.solve_krylov(stage.at, step_, false);
    if (!mine) return;
    const Real longest = block_.wide.largest(vector(V::kStep));
    // Of a system that is not solved the step says nothing of its length.
    solved_ = krylov.left() <= static_cast<Real>(kMostForcing) * length_ &&
              longest <= kRoundings * kEpsilon<Real> * find_scale();
    if (solved_ || !(longest < static_cast<Real>(INFINITY))) return finish();
    part_ = 1;
    halvings_ = 0;
    try_step();
    phase_ = Phase::kSearch;
  }

  ImplicitBlock<Engine> block_;
  const ImplicitTask<Real>& task_;
  const ImplicitArrays<Real>& arrays_;
  // Of the sample.
  Phase phase_ = Phase::kDone;
  Real step_ = 0;  // c dt of the stage
  Real error_ = 0, length_ = 0, part_ = 1, slack_ = 1, most_slack_ = 1;
  int64_t iterations_ = 0, rounds_ = 0;  // of the step, and of the stage's method
  int remembered_ = 0, halvings_ = 0;
  bool solved_ = false;
};

}  // namespace hamiltorch
