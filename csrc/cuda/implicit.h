// What a rollout by implicit stages and its adjoint have in common: csrc/cpu/implicit.h for eight samples, on their
// states. A stage's equations are solved in layer-1 space: the unknown is the displacement D of a = W_1 z + b_1 from
// where the stage begins.
#pragma once
#include "hamiltorch/cuda_implicit.h"
#include "implicit_layout.h"
#include "krylov.h"
#include "state_block.h"

namespace hamiltorch {

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
class ImplicitBlock : public StateBlock<Engine, ImplicitVectors> {
 public:
  using Base = StateBlock<Engine, ImplicitVectors>;
  using V = ImplicitVectors;
  using Real = typename Engine::Real;

  HAMILTORCH_DEVICE ImplicitBlock(Engine& engine, const ImplicitTask<Real>& task)
      : Base(engine, task, implicit_wide_vectors(task.stage_count),
             implicit_column_size(engine.layout.widths[0], engine.layout.widths[engine.layout.hidden],
                                  task.stage_count)),
        krylov(Base::wide, V::kBasis, Base::narrow.vector(V::kNarrowVectors)) {}

  // The network at a = kStart + this vector; dH/da_1 is settled then.
  HAMILTORCH_DEVICE void evaluate_at(int displacement) const {
    Base::evaluate([&](int row) { return Base::vector(V::kStart)[row] + Base::vector(displacement)[row]; });
  }

  // kImage = P times `step` times what is settled, P being what an impulse displaces a by where the gradient is taken,
  // theta_q W_1q W_1p^T - theta_p W_1p W_1q^T, or its transpose.
  HAMILTORCH_DEVICE void displace(const Halves<Real>& at, Real step, bool transposed) const {
    const Halves<Real> way = transposed ? Halves<Real>{-at.p, at.q} : Halves<Real>{at.q, -at.p};
    Base::gather(way, true);
    Base::spread(V::kImage, V::kMoved, way, step, false);
  }

  // GMRES on 1 - step P K, K being the Hessian, or with P transposed, for the samples that have begun it, the others
  // waiting.
  HAMILTORCH_DEVICE void solve_krylov(const Halves<Real>& at, Real step, bool transposed) {
    Real* const image = Base::vector(V::kImage);
    while (Base::engine.team.any(krylov.open())) {
      Base::multiply([&](int row) { return krylov.open() ? krylov.wanted()[row] : Real(0); });
      displace(at, step, transposed);
      if (!krylov.open()) continue;
      Base::wide.for_rows([&](int row) { image[row] = krylov.wanted()[row] - image[row]; });
      krylov.take(image);
    }
  }

  Krylov<Real> krylov;
};

}  // namespace hamiltorch
