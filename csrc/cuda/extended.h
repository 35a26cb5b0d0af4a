// What a rollout in Tao's extended phase space and its adjoint have in common: csrc/cpu/extended.h for eight samples.
#pragma once
#include "extended_layout.h"
#include "hamiltorch/cuda_extended.h"
#include "state_block.h"

namespace hamiltorch {

// Arrays as in CudaExtendedRollout.
template <class T>
struct ExtendedTask : BlockTask<T> {
  double binding;
};

template <class Engine>
class ExtendedBlock : public StateBlock<Engine, ExtendedVectors> {
 public:
  using Base = StateBlock<Engine, ExtendedVectors>;
  using V = ExtendedVectors;
  using Real = typename Engine::Real;

  HAMILTORCH_DEVICE ExtendedBlock(Engine& engine, const ExtendedTask<Real>& task)
      : Base(engine, task, V::kWideVectors,
             extended_column_size(engine.layout.widths[0], engine.layout.widths[engine.layout.hidden])),
        cosine_(static_cast<Real>(cos(angle(task)))),
        sine_(static_cast<Real>(sin(angle(task)))),
        points_(3 * task.steps + 1) {}

  // Where the sample's point of this number begins among all samples' (extended_points, with steps).
  HAMILTORCH_DEVICE int64_t point_at(int64_t sample, int64_t number) const {
    return (sample * points_ + number) * 2 * Base::dim;
  }

  // part(to) = factor J part(from), or with `adds` so much more.
  HAMILTORCH_DEVICE void rotate(int to, Real factor, int from, bool adds) const {
    Base::for_state([&](int row, int half) {
      Real& own = Base::part(to, half)[row];
      own = (adds ? own : Real(0)) + (half == 0 ? factor : -factor) * Base::part(from, 1 - half)[row];
    });
  }

  // X - Y turns, forth or back, X + Y stays; then body(row, difference's q, difference's p).
  template <class Body>
  HAMILTORCH_DEVICE void turn(bool back, Body body) const {
    const Real cosine = cosine_, sine = back ? -sine_ : sine_;
    Base::narrow.for_rows([&](int row) {
      Real &x_q = Base::part(V::kX, 0)[row], &x_p = Base::part(V::kX, 1)[row];
      Real &y_q = Base::part(V::kY, 0)[row], &y_p = Base::part(V::kY, 1)[row];
      const Real apart_q = x_q - y_q, apart_p = x_p - y_p, sum_q = x_q + y_q, sum_p = x_p + y_p;
      const Real q = cosine * apart_q - sine * apart_p, p = sine * apart_q + cosine * apart_p;
      x_q = (sum_q + q) / 2;
      y_q = (sum_q - q) / 2;
      x_p = (sum_p + p) / 2;
      y_p = (sum_p - p) / 2;
      body(row, q, p);
    });
  }

  // The network at part(from), with dH/da_1 settled.
  HAMILTORCH_DEVICE void evaluate_at(int from, int64_t sample) const {
    Base::find_start(from, sample);
    Base::evaluate([&](int row) { return Base::vector(V::kStart)[row]; });
  }

 private:
  HAMILTORCH_DEVICE static double angle(const ExtendedTask<Real>& task) {
    return 2 * task.binding * static_cast<double>(*task.dt);
  }

  const Real cosine_, sine_;
  const int64_t points_;
};

}  // namespace hamiltorch
