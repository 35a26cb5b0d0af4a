// What a discrete Euler-Lagrange rollout and its adjoint have in common.
#pragma once
#include "block.h"
#include "broyden.h"
#include "curvature.h"
#include "hamiltorch/cuda_variational.h"
#include "krylov.h"
#include "variational_layout.h"

namespace hamiltorch {

// Arrays as in CudaDelRollout.
template <class T>
struct DelTask : BlockTask<T> {
  const T *kinetic, *friction, *diagonal, *inverse;
};

template <class Engine>
class DelBlock {
 public:
  using Real = typename Engine::Real;
  using Two = typename Engine::Two;

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

  // What every warp gives for its sample's state is settled.
  template <class Value>
  HAMILTORCH_DEVICE void settle(Value value) const {
    settle_columns(engine, engine.layout.hidden, value);
  }
  // A product's sink: into this vector of each sample.
  HAMILTORCH_DEVICE auto to(int which) const { return into_columns(engine.more() + which * dim, dim, column_size); }

  // y, which is settled, to layer 0.
  HAMILTORCH_DEVICE auto enter_y() const {
    return [this](auto sink) {
      engine.dense(by_y, [&](int row, int pair, Two a) {
        add_two(a, load_two(first_layer_at(engine, kFromX, row, pair)));
        sink(row, pair, a);
      });
    };
  }

  // N on the interval that begins at kX, for the samples from `first` on.
  HAMILTORCH_DEVICE void begin_interval(int64_t first) const {
    settle([&](int row) { return vector(kX)[row]; });
    engine.dense(by_x, [&](int row, int pair, Two a) {
      add_two(a, base_of_two(task, first + 2 * pair, row, engine.layout.widths[0]));
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
