// Broyden's method for one sample: csrc/cpu/broyden.h, by a warp.
#pragma once
#include "column.h"
#include "hamiltorch/iteration.h"

namespace hamiltorch {

template <class Real>
class Broyden {
 public:
  // Its memory is 2 kMostPairs of the column's vectors, from `first` on; the matrix is `inverse`'s, [rows], before
  // anything is learned.
  HAMILTORCH_DEVICE Broyden(const Column<Real>& column, int first, const Real* inverse)
      : column_(column), first_(first), inverse_(inverse) {}

  HAMILTORCH_DEVICE void forget() { pairs_ = 0; }
  HAMILTORCH_DEVICE void make_room() {
    if (pairs_ == kMostPairs) pairs_ = 0;
  }

  // x becomes the inverse times x.
  HAMILTORCH_DEVICE void multiply_inverse(Real* x) const {
    column_.for_rows([&](int row) { x[row] *= inverse_[row]; });
    for (int k = 0; k < pairs_; ++k) column_.add_scaled(x, column_.dot(step(k), x), update(k));
  }

  // Learns from the full step s, after which the residual is r, and replaces s by the next step. Nothing is learned
  // where rounding would be: where the next step is not clearly shorter.
  HAMILTORCH_DEVICE void learn(const Real* r, Real* s, Real* w) {
    column_.for_rows([&](int row) { w[row] = r[row]; });
    multiply_inverse(w);
    const Real square = column_.dot(s, s), along = square + column_.dot(s, w);
    const bool learns = column_.dot(w, w) < square / 4 && pairs_ < kMostPairs;
    if (learns) {
      column_.for_rows([&](int row) {
        step(pairs_)[row] = s[row];
        update(pairs_)[row] = w[row] / -along;
      });
      ++pairs_;
    }
    const Real factor = learns ? -square / along : Real(-1);
    column_.for_rows([&](int row) { s[row] = w[row] * factor; });
  }

 private:
  HAMILTORCH_DEVICE Real* step(int k) const { return column_.vector(first_ + k); }
  HAMILTORCH_DEVICE Real* update(int k) const { return column_.vector(first_ + kMostPairs + k); }

  const Column<Real> column_;
  const int first_;
  const Real* const inverse_;
  int pairs_ = 0;
};

}  // namespace hamiltorch
