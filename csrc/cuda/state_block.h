// What GPU rollouts have in common that follow states (q, p) of eight samples, a warp each: the products between states
// and layer 1's argument, and the network between them.
#pragma once
#include "block.h"
#include "curvature.h"

namespace hamiltorch {

// One number for q and one for p.
template <class T>
struct Halves {
  T q, p;
  HAMILTORCH_DEVICE T operator[](int half) const { return half == 0 ? q : p; }
};

// `Vectors` names what a sample has: Wide vectors of width_0 numbers, kStart among them, and then Narrow ones of d
// numbers, by pairs of one for q and one for p, kMoved among them.
template <class Engine, class Vectors>
class StateBlock {
 public:
  using Real = typename Engine::Real;
  using Two = typename Engine::Two;
  using V = Vectors;

  // Of each sample there are so many wide vectors, and numbers in all.
  HAMILTORCH_DEVICE StateBlock(Engine& engine, const BlockTask<Real>& task, int64_t wide_vectors, int64_t numbers)
      : engine(engine),
        width(engine.layout.widths[0]),
        dim(engine.layout.widths[engine.layout.hidden]),
        narrow_begin(static_cast<int>(wide_vectors) * width),
        size(static_cast<int>(numbers)),
        dt(*task.dt),
        wide(engine.more() + engine.team.warp() * size, width, engine.team.lane()),
        narrow(wide.vector(0) + narrow_begin, dim, engine.team.lane()),
        states_(task) {}

  HAMILTORCH_DEVICE Real* vector(int which) const { return wide.vector(which); }
  HAMILTORCH_DEVICE Real* part(int which, int half) const { return narrow.vector(which + half); }

  // Body(row, half) for all of z, q first.
  template <class Body>
  HAMILTORCH_DEVICE void for_state(Body body) const {
    HAMILTORCH_NO_UNROLL
    for (int half = 0; half < 2; ++half) narrow.for_rows([&](int row) { body(row, half); });
  }

  // kMoved = W_1^T y of the settled y, each half by its own columns, or crossed, by the other's. Halves whose factor is
  // zero are left out.
  HAMILTORCH_DEVICE void gather(const Halves<Real>& factors, bool crossed) const {
    HAMILTORCH_NO_UNROLL
    for (int half = 0; half < 2; ++half) {
      if (factors[half] == 0) continue;
      engine.transposed(matrix(half, crossed), engine.own_rows(),
                        into_columns(engine.more() + narrow_begin + (V::kMoved + half) * dim, dim, size));
      engine.team.sync_block();
    }
  }

  // vector(to) = factor times the sum over both halves of factors[half] W_1 part(from, half), by its own columns or
  // crossed. One of the factors is not zero.
  HAMILTORCH_DEVICE void spread(int to, int from, const Halves<Real>& factors, Real factor, bool crossed) const {
    bool adds = false;
    HAMILTORCH_NO_UNROLL
    for (int half = 0; half < 2; ++half) {
      if (factors[half] == 0) continue;
      const Real by = factor * factors[half];
      settle_columns(engine, engine.layout.hidden, [&](int row) { return by * part(from, half)[row]; });
      Real* const first = engine.more() + to * width;
      engine.dense(matrix(half, crossed), [&](int row, int pair, Two value) {
        if (row >= width) return;
        Real* const at = first + 2 * pair * size + row;
        at[0] = adds ? at[0] + value.x : value.x;
        at[size] = adds ? at[size] + value.y : value.y;
      });
      adds = true;
    }
    engine.team.sync_block();
  }

  // kStart = W_1 z + b_1 (+ W_1c c) of the state `from`.
  HAMILTORCH_DEVICE void find_start(int from, int64_t sample) const {
    spread(V::kStart, from, {1, 1}, 1, false);
    if (sample >= states_.batch) return;
    const Real* const base = states_.base + sample * states_.base_stride;
    wide.for_rows([&](int row) { vector(V::kStart)[row] += base[row]; });
  }

  // The network at the argument that every warp gives; dH/da_1 is settled then.
  template <class Value>
  HAMILTORCH_DEVICE void evaluate(Value value) const {
    settle_columns(engine, 0, value);
    evaluate_curvature(engine, as_it_is(engine));
  }
  // Its Hessian's product with what every warp gives is settled.
  template <class Value>
  HAMILTORCH_DEVICE void multiply(Value value) const {
    settle_columns(engine, 0, value);
    multiply_hessian(engine, as_it_is(engine));
  }

  Engine& engine;
  const int width, dim, narrow_begin, size;
  const Real dt;
  const Column<Real> wide, narrow;

 private:
  HAMILTORCH_DEVICE int matrix(int half, bool crossed) const {
    return (half == 0) != crossed ? 0 : engine.layout.hidden;
  }

  const BlockTask<Real>& states_;
};

}  // namespace hamiltorch
