// Fixed points D = F(D) of eight samples, a warp's each: csrc/cpu/fixed_point.h with every sample at its own point of
// the iteration. In every round all are evaluated, each where it wants to know the residual next or, when it is done,
// where it is.
//
// `V` names the vectors kDisplacement, kResidual, kImage, kTried, kStep, and kImages and kResiduals, kHistory each.
// What derives from this, `Equations`, has
//
//     static constexpr bool kEndsWithImage;    // whether D is an image where Newton's method has found it, too
//     const Column<..>& column() const;        // of D
//     Krylov<..>& krylov();
//     bool any(bool) const;                    // of all samples of the block
//     int64_t limit() const;                   // most iterations
//     void find_image();                       // kImage = F(kTried)
//     void take();                             // kTried, of which that was the image, becomes the sample's point
//     Real bound() const;                      // what a solved sample's error is at most
//     Real most_slack() const;                 // how many times that, where the image is all that is kept
//     Real scale() const;                      // one plus the largest entry of the sample's solution
//     void linearise();                        // at the points of the samples that want a Newton step
//     void solve_systems();                    // by krylov(), for the samples that have begun it, the others waiting
//
// of which find_image, linearise and solve_systems are all samples' together.
#pragma once
#include <math.h>

#include "column.h"
#include "hamiltorch/iteration.h"

namespace hamiltorch {

template <class Equations, class Real, class V>
class FixedPoint {
 protected:
  // Of the solve's end, and since begin_step.
  HAMILTORCH_DEVICE bool solved() const { return solved_; }
  HAMILTORCH_DEVICE Real error() const { return error_; }
  HAMILTORCH_DEVICE int64_t iterations() const { return iterations_; }

  HAMILTORCH_DEVICE void begin_rollout() { slack_ = 1; }
  HAMILTORCH_DEVICE void begin_step() { iterations_ = 0; }

  // kTried = where a solve starts: the polynomial through what the last steps found, as the sum of its backward
  // differences, of which vector(first) is the first, as many as shrink by half at least.
  HAMILTORCH_DEVICE void extrapolate(int first) const {
    Real* const start = vector(V::kTried);
    for_rows([&](int row) { start[row] = vector(first)[row]; });
    Real square = column().dot(start, start);
    for (int j = 1; j < kMostDifferences; ++j) {
      const Real* const term = vector(first + j);
      const Real next = column().dot(term, term);
      if (!(next < square / 4)) break;
      column().add_scaled(start, 1, term);
      square = next;
    }
  }

  // Adds what was found in step n; differences that need earlier steps than there are stay zero. `part`: how much of a
  // step before the first's solve D is known as well, ahead of it at the place of the first change, or zero; it serves
  // for a line and a parabola as another step.
  HAMILTORCH_DEVICE void remember(int first, int64_t n, Real part) const {
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

  // From kTried on: kDisplacement. `image`, if not null, gets that of kTried. All samples come here together; those not
  // `inside` wait.
  HAMILTORCH_DEVICE void solve(bool inside, Real* image) {
    phase_ = inside ? Phase::kIterate : Phase::kDone;
    length_ = static_cast<Real>(INFINITY);
    solved_ = false;
    rounds_ = remembered_ = 0;
    do {
      equations().find_image();
      if (image) for_rows([&](int row) { image[row] = vector(V::kImage)[row]; });
      image = nullptr;
      go_on();
      if (equations().any(phase_ == Phase::kNewton)) find_newton_steps();
    } while (equations().any(phase_ != Phase::kDone));
  }

 private:
  // What a sample wants to know the residual at kTried for.
  enum class Phase {
    kIterate,  // plain iteration, accelerated, leads there
    kSearch,   // a part of a Newton step leads there
    kNewton,   // nothing: a Newton step is to be found
    kDone,     // nothing: the system is solved or given up
  };

  HAMILTORCH_DEVICE Equations& equations() { return static_cast<Equations&>(*this); }
  HAMILTORCH_DEVICE const Equations& equations() const { return static_cast<const Equations&>(*this); }
  HAMILTORCH_DEVICE const auto& column() const { return equations().column(); }
  HAMILTORCH_DEVICE Real* vector(int which) const { return column().vector(which); }
  template <class Body>
  HAMILTORCH_DEVICE void for_rows(Body body) const {
    column().for_rows(body);
  }

  // Takes kImage of kTried, and decides what the sample does next.
  HAMILTORCH_DEVICE void go_on() {
    if (phase_ == Phase::kDone) return;
    ++iterations_;
    if (phase_ == Phase::kIterate) return iterate();
    Real* const rest = vector(V::kImage);
    for_rows([&](int row) { rest[row] -= vector(V::kTried)[row]; });
    const Real length = column().norm(rest);
    if (length <= (1 - static_cast<Real>(kDecrease) * part_) * length_) {
      for_rows([&](int row) { vector(V::kResidual)[row] = rest[row]; });
      take_tried();
      length_ = length;
      return solved_ ? finish(Equations::kEndsWithImage) : begin_newton();
    }
    part_ /= 2;
    if (++halvings_ == kHalvings) return finish(Equations::kEndsWithImage);
    try_step();
  }

  HAMILTORCH_DEVICE void iterate() {
    Real* const rest = vector(V::kResidual);
    for_rows([&](int row) { rest[row] = vector(V::kImage)[row] - vector(V::kTried)[row]; });
    const Real most = column().largest(rest);
    const bool contracts = most <= static_cast<Real>(kSlowly) * length_;  // not where it is not a number
    if (rounds_ > 0) {
      const Real seen = slack_of(length_, most, equations().most_slack());
      slack_ = rounds_ == 1 || seen < slack_ ? seen : slack_;
    }
    const bool ends = ++rounds_ >= equations().limit();
    take_tried();
    const Real bound = equations().bound();
    solved_ = error_ <= slack_ * bound;
    if (solved_ && error_ > bound) error_ = error_ < bound * slack_ ? error_ / slack_ : bound;
    if (solved_ || ends || !(error_ < static_cast<Real>(INFINITY))) {
      if (rounds_ == 1) slack_ = slack_ > 2 ? slack_ / 2 : Real(1);
      return finish(true);
    }
    if (contracts) {
      length_ = most;
      return accelerate();
    }
    slack_ = 1;
    rounds_ = 0;
    length_ = column().norm(rest);
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
    for_rows([&](int row) { vector(V::kDisplacement)[row] = vector(V::kTried)[row]; });
    equations().take();
    const Real scale = equations().scale(), most = column().largest(vector(V::kResidual));
    error_ = scale < static_cast<Real>(INFINITY) ? most / scale : static_cast<Real>(NAN);
    solved_ = error_ <= equations().bound();
  }

  // `moves`: D becomes its image.
  HAMILTORCH_DEVICE void finish(bool moves) {
    if (moves) column().add_scaled(vector(V::kDisplacement), 1, vector(V::kResidual));
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
      const auto sum = [&](auto term) { return column().sum(term); };
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
    if (rounds_++ >= equations().limit()) return finish(Equations::kEndsWithImage);
    phase_ = Phase::kNewton;
  }

  // Newton's steps of the samples that want one, the others waiting.
  HAMILTORCH_DEVICE void find_newton_steps() {
    auto& krylov = equations().krylov();
    const bool mine = phase_ == Phase::kNewton;
    equations().linearise();
    // One cycle: what it leaves the next step takes up.
    if (mine)
      krylov.begin(vector(V::kStep), vector(V::kResidual), static_cast<Real>(kLeastForcing) * length_,
                   static_cast<Real>(INFINITY));
    equations().solve_systems();
    if (!mine) return;
    const Real longest = column().largest(vector(V::kStep));
    // Of a system that is not solved the step says nothing of its length.
    solved_ = krylov.left() <= static_cast<Real>(kMostForcing) * length_ &&
              longest <= kRoundings * kEpsilon<Real> * equations().scale();
    if (solved_ || !(longest < static_cast<Real>(INFINITY))) return finish(Equations::kEndsWithImage);
    part_ = 1;
    halvings_ = 0;
    try_step();
    phase_ = Phase::kSearch;
  }

  Phase phase_ = Phase::kDone;
  Real error_ = 0, length_ = 0, part_ = 1, slack_ = 1;
  int64_t iterations_ = 0, rounds_ = 0;  // of the step, and of the solve's method
  int remembered_ = 0, halvings_ = 0;
  bool solved_ = false;
};

}  // namespace hamiltorch
