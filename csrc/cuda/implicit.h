// What a rollout by implicit stages and its adjoint have in common: csrc/cpu/implicit.h for eight samples, on their
// states. A stage's equations are solved in layer-1 space: the unknown is the displacement D of a = W_1 z + b_1 from
// where the stage begins.
#pragma once
#include "block.h"
#include "curvature.h"
#include "hamiltorch/cuda_implicit.h"
#include "implicit_layout.h"
#include "krylov.h"

namespace hamiltorch {

// One number for q and one for p.
template <class T>
struct Halves {
  T q, p;
  HAMILTORCH_DEVICE T operator[](int half) const { return half == 0 ? q : p; }
};

// Arrays as in CudaImplicitRollout.
template <class T>
struct ImplicitTask : BlockTask<T> {
  struct Stage {
    T coefficient;
    Halves<T> at;  // how far on its way each half is where the gradient is taken
  };
  Stage stages[kMostStages];
  int stage_count;
};

template <class Engine>
class ImplicitBlock {
 public:
  using Real = typename Engine::Real;
  using Two = typename Engine::Two;
  using V = ImplicitVectors;

  HAMILTORCH_DEVICE ImplicitBlock(Engine& engine, const ImplicitTask<Real>& task)
      : engine(engine),
        task(task),
        width(engine.layout.widths[0]),
        dim(engine.layout.widths[engine.layout.hidden]),
        narrow_begin(static_cast<int>(implicit_wide_vectors(task.stage_count)) * width),
        size(static_cast<int>(implicit_column_size(width, dim, task.stage_count))),
        dt(*task.dt),
        wide(engine.more() + engine.team.warp() * size, width, engine.team.lane()),
        narrow(wide.vector(0) + narrow_begin, dim, engine.team.lane()),
        krylov(wide, V::kBasis, narrow.vector(V::kNarrowVectors)) {}

  HAMILTORCH_DEVICE Real* vector(int which) const { return wide.vector(which); }
  HAMILTORCH_DEVICE Real* part(V::Narrow which, int half) const { return narrow.vector(which + half); }

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
                        into_columns(engine, narrow_begin + (V::kMoved + half) * dim, dim, size));
      engine.team.sync_block();
    }
  }

  // vector(to) = factor times the sum over both halves of factors[half] W_1 part(from, half), by its own columns or
  // crossed. One of the factors is not zero.
  HAMILTORCH_DEVICE void spread(int to, V::Narrow from, const Halves<Real>& factors, Real factor, bool crossed) const {
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

  // kImage = P times `step` times what is settled, P being what an impulse displaces a by where the gradient is taken,
  // theta_q W_1q W_1p^T - theta_p W_1p W_1q^T, or its transpose.
  HAMILTORCH_DEVICE void displace(const Halves<Real>& at, Real step, bool transposed) const {
    const Halves<Real> way = transposed ? Halves<Real>{-at.p, at.q} : Halves<Real>{at.q, -at.p};
    gather(way, true);
    spread(V::kImage, V::kMoved, way, step, false);
  }

  // kStart = W_1 z + b_1 (+ W_1c c) of the state `from`.
  HAMILTORCH_DEVICE void find_start(V::Narrow from, int64_t sample) const {
    spread(V::kStart, from, {1, 1}, 1, false);
    if (sample >= task.batch) return;
    const Real* const base = task.base + sample * task.base_stride;
    wide.for_rows([&](int row) { vector(V::kStart)[row] += base[row]; });
  }

  // The network at a = kStart + this vector; dH/da_1 is settled then.
  HAMILTORCH_DEVICE void evaluate(int displacement) const {
    settle_columns(engine, 0, [&](int row) { return vector(V::kStart)[row] + vector(displacement)[row]; });
    evaluate_curvature(engine, as_it_is(engine));
  }
  // Its Hessian's product with what every warp gives is settled.
  template <class Value>
  HAMILTORCH_DEVICE void multiply(Value value) const {
    settle_columns(engine, 0, value);
    multiply_hessian(engine, as_it_is(engine));
  }
  // GMRES on 1 - step P K, K being the Hessian, or with P transposed, for the samples that have begun it, the others
  // waiting.
  HAMILTORCH_DEVICE void solve_krylov(const Halves<Real>& at, Real step, bool transposed) {
    Real* const image = vector(V::kImage);
    while (engine.team.any(krylov.open())) {
      multiply([&](int row) { return krylov.open() ? krylov.wanted()[row] : Real(0); });
      displace(at, step, transposed);
      if (!krylov.open()) continue;
      wide.for_rows([&](int row) { image[row] = krylov.wanted()[row] - image[row]; });
      krylov.take(image);
    }
  }

  Engine& engine;
  const ImplicitTask<Real>& task;
  const int width, dim, narrow_begin, size;
  const Real dt;
  const Column<Real> wide, narrow;
  Krylov<Real> krylov;

 private:
  HAMILTORCH_DEVICE int matrix(int half, bool crossed) const {
    return (half == 0) != crossed ? 0 : engine.layout.hidden;
  }
};

}  // namespace hamiltorch
