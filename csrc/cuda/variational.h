// What a discrete Euler-Lagrange rollout and its adjoint have in common: eight samples on a block, a column of every
// product each, and each a warp, which decides for its sample alone. Samples share products, nothing else; the block
// goes on as long as one of them has need.
#pragma once
#include "broyden.h"
#include "curvature.h"
#include "krylov.h"
#include "variational_layout.h"

namespace hamiltorch {

// A rollout as the kernels see it: plain data that travels as a parameter. Arrays as in CudaDelRollout.
template <class T>
struct DelTask : Parameters<T> {
  const T* base;
  int64_t base_stride;
  const T *kinetic, *friction, *diagonal, *inverse;
  const T* dt;
  int64_t steps, batch;
  T tolerance;
  int64_t max_iterations;
};

template <class Engine>
class DelBlock {
 public:
  using Real = typename Engine::Real;
  using Two = typename Engine::Two;
  static_assert(Engine::kColumns == kWarps, "a warp for each column");

  HAMILTORCH_DEVICE DelBlock(Engine& engine, const DelTask<Real>& task)
      : engine(engine),
        task(task),
        dim(engine.layout.widths[engine.layout.hidden]),
        by_x(engine.layout.hidden),
        dt(*task.dt),
        column_size(static_cast<int>(del_column_size(dim))),
        column(engine.more() + engine.team.warp() * column_size, dim, engine.team.lane()),
        krylov(column, kKrylovBasis, column.vector(kDelVectors)),
        broyden(column, kBroydenPairs, task.inverse) {}

  HAMILTORCH_DEVICE Real* vector(int which) const { return column.vector(which); }

  // What every warp gives for its sample's rows is settled: the next product's input.
  template <class Value>
  HAMILTORCH_DEVICE void settle(Value value) const {
    const int rows = engine.layout.tiles[engine.layout.hidden] * kTile;
    HAMILTORCH_NO_UNROLL
    for (int row = engine.team.lane(); row < rows; row += 32)
      engine.publish_one_to_self(row, engine.team.warp(), row < dim ? value(row) : Real(0));
    engine.settle();
  }

  // A product's sink: into this vector of each sample.
  HAMILTORCH_DEVICE auto to(int which) const {
    Real* const first = engine.more() + which * dim;
    return [first, this](int row, int pair, Two value) {
      if (row >= dim) return;
      first[2 * pair * column_size + row] = value.x;
      first[(2 * pair + 1) * column_size + row] = value.y;
    };
  }

  // N on the interval that begins at kX, for the samples from `first` on.
  HAMILTORCH_DEVICE void begin_interval(int64_t first) const {
    settle([&](int row) { return vector(kX)[row]; });
    engine.dense(by_x, [&](int row, int pair, Two a) {
      const int64_t sample = first + 2 * pair;
      const Real* const base = task.base + sample * task.base_stride + row;
      const bool inside = row < engine.layout.widths[0];
      add_two(a, {inside && sample < task.batch ? base[0] : Real(0),
                  inside && sample + 1 < task.batch ? base[task.base_stride] : Real(0)});
      store_two(first_layer_at(engine, kFromX, row, pair), a);
    });
  }

  Engine& engine;
  const DelTask<Real>& task;
  const int dim;
  static constexpr int by_y = 0;  // the matrices through which y and x enter
  const int by_x;
  const Real dt;
  const int column_size;
  const Column<Real> column;
  Krylov<Real> krylov;
  Broyden<Real> broyden;
};

}  // namespace hamiltorch
