// GMRES for one sample, by a warp. It asks for one product with the matrix at a time, so that all samples of a block
// share every product. After kMostDirections it begins anew with what is left, as long as that pays.
#pragma once
#include "block_layout.h"
#include "column.h"

namespace hamiltorch {

inline constexpr int kMostCycles = 32;
inline constexpr double kWorthwhile = 0.95;  // what a cycle may leave of the right side for another to be begun

template <class Real, int kParts = 1>
class Krylov {
 public:
  // Its memory is kMostDirections + 1 of the column's vectors, from `first` on, and kKrylovNumbers `numbers`, which are
  // the leading lane's alone.
  HAMILTORCH_DEVICE Krylov(const Column<Real, kParts>& column, int first, Real* numbers)
      : column_(column),
        first_(first),
        most_(column.rows() < kMostDirections ? column.rows() : kMostDirections),
        triangle_(numbers),
        cosine_(numbers + kMostDirections * (kMostDirections + 1)),
        sine_(cosine_ + kMostDirections),
        rest_(sine_ + kMostDirections) {}

  // Begins to solve A solution = right from zero. It ends when no more than `target` is left, or at the end of a cycle
  // no more than `enough`.
  HAMILTORCH_DEVICE void begin(Real* solution, const Real* right, Real target, Real enough) {
    solution_ = solution;
    right_ = right;
    target_ = target;
    enough_ = enough;
    cycles_ = 0;
    column_.for_rows([&](int row) {
      solution[row] = 0;
      direction(0)[row] = right[row];
    });
    begin_cycle();
  }
  // Whether it needs A wanted().
  HAMILTORCH_DEVICE bool open() const { return open_; }
  HAMILTORCH_DEVICE const Real* wanted() const { return next_ < 0 ? solution_ : direction(next_); }
  // Takes that, and overwrites it.
  HAMILTORCH_DEVICE void take(Real* image) {
    if (next_ < 0) {
      column_.for_rows([&](int row) { direction(0)[row] = right_[row] - image[row]; });
      begin_cycle();
    } else {
      extend(image);
    }
  }
  // Length of what the solution leaves of the right side; not a number, which is below no bound, where the right side
  // is not finite or the matrix is singular.
  HAMILTORCH_DEVICE Real left() const { return left_; }

 private:
  HAMILTORCH_DEVICE Real* direction(int j) const { return column_.vector(first_ + j); }
  HAMILTORCH_DEVICE Real* triangle(int column) const { return triangle_ + column * (kMostDirections + 1); }

  HAMILTORCH_DEVICE void begin_cycle() {
    const Real length = column_.norm(direction(0));
    begun_ = left_ = length < static_cast<Real>(INFINITY) ? length : static_cast<Real>(NAN);
    used_ = next_ = 0;
    open_ = left_ > target_;
    if (!open_) return;
    if (column_.leads()) rest_[0] = length;
    column_.for_rows([&](int row) { direction(0)[row] /= length; });
  }

  HAMILTORCH_DEVICE void extend(Real* image) {
    const int j = next_;
    HAMILTORCH_NO_UNROLL
    for (int k = 0; k <= j; ++k) {
      const Real part = column_.dot(image, direction(k));
      if (column_.leads()) triangle(j)[k] = part;
      column_.add_scaled(image, -part, direction(k));
    }
    const Real length = column_.norm(image);
    left_ = warp_broadcast(column_.leads() ? add_column(j, length) : Real(0));
    if (left_ == left_) used_ = j + 1;
    if (left_ > target_ && length > 0 && j + 1 < most_) {
      next_ = j + 1;
      column_.for_rows([&](int row) { direction(next_)[row] = image[row] / length; });
      return;
    }
    HAMILTORCH_NO_UNROLL
    for (int i = used_; i-- > 0;)
      column_.add_scaled(solution_, warp_broadcast(column_.leads() ? factor(i) : Real(0)), direction(i));
    ++cycles_;
    next_ = -1;
    open_ = left_ > enough_ && left_ < static_cast<Real>(kWorthwhile) * begun_ && cycles_ < kMostCycles;
  }

  // Adds column j, orthogonalised against the basis already and of this length beyond it, to the least-squares problem
  // by Givens rotations. Returns what is left of the right side.
  HAMILTORCH_DEVICE Real add_column(int j, Real length) const {
    Real* const column = triangle(j);
    for (int i = 0; i < j; ++i) {
      const Real upper = column[i], lower = column[i + 1];
      column[i] = cosine_[i] * upper + sine_[i] * lower;
      column[i + 1] = cosine_[i] * lower - sine_[i] * upper;
    }
    const Real upper = fabs(column[j]), most = upper > length ? upper : length;
    const Real pivot = most * sqrt((upper / most) * (upper / most) + (length / most) * (length / most));
    if (!(pivot > 0 && pivot < static_cast<Real>(INFINITY))) return static_cast<Real>(NAN);  // singular
    cosine_[j] = column[j] / pivot;
    sine_[j] = length / pivot;
    column[j] = pivot;
    rest_[j + 1] = -sine_[j] * rest_[j];
    rest_[j] *= cosine_[j];
    return fabs(rest_[j + 1]);
  }

  // Of direction i in the solution; those after it have been asked for.
  HAMILTORCH_DEVICE Real factor(int i) const {
    Real sum = rest_[i];
    for (int k = i + 1; k < used_; ++k) sum -= triangle(k)[i] * rest_[k];
    return rest_[i] = sum / triangle(i)[i];
  }

  const Column<Real, kParts> column_;
  const int first_, most_;
  Real *const triangle_, *const cosine_, *const sine_, *const rest_;
  Real* solution_ = nullptr;
  const Real* right_ = nullptr;
  Real target_ = 0, enough_ = 0, begun_ = 0, left_ = 0;
  int cycles_ = 0, used_ = 0;
  int next_ = 0;  // the direction whose image is wanted; below zero, the solution's
  bool open_ = false;
};

}  // namespace hamiltorch
