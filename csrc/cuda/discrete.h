// What a rollout by the discrete gradient and its adjoint have in common: csrc/cpu/discrete_gradient.h for eight
// samples.
#pragma once
#include "discrete_layout.h"
#include "hamiltorch/cuda_discrete.h"
#include "krylov.h"
#include "state_block.h"

namespace hamiltorch {

// Arrays as in CudaDiscreteRollout.
template <class T>
struct DiscreteTask : BlockTask<T> {
  const T* head_bias;
  const T* dissipation;
  int64_t columns;
  const T* forces;
  const T* decay;
};

template <class Engine>
class DiscreteBlock : public StateBlock<Engine, DiscreteVectors> {
 public:
  using Base = StateBlock<Engine, DiscreteVectors>;
  using V = DiscreteVectors;
  using Real = typename Engine::Real;

  HAMILTORCH_DEVICE DiscreteBlock(Engine& engine, const DiscreteTask<Real>& task)
      : Base(engine, task, V::kWideVectors,
             discrete_column_size(engine.layout.widths[0], engine.layout.widths[engine.layout.hidden])),
        task(task),
        states(Base::narrow.vector(0), 2 * Base::dim, engine.team.lane()),
        krylov(states, V::kBasis, states.vector(V::kStates)) {}

  HAMILTORCH_DEVICE Real* state(int which) const { return states.vector(which); }

  // p times the decay of half a step.
  HAMILTORCH_DEVICE void damp(int which) const {
    if (!task.decay) return;
    Real* const p = state(which) + Base::dim;
    Base::narrow.for_rows([&](int row) { p[row] *= task.decay[row]; });
  }

  // vector(to) = W_1 of a state.
  HAMILTORCH_DEVICE void project(int to, int which) const { Base::spread(to, 2 * which, {1, 1}, 1, false); }

  // What layer 1 is asked for: where the step begins, or this part of the way from there along kProjected.
  HAMILTORCH_DEVICE auto at_start() const {
    return [this](int row) { return Base::vector(V::kStart)[row]; };
  }
  HAMILTORCH_DEVICE auto along(Real part) const {
    return [this, part](int row) { return Base::vector(V::kStart)[row] + part * Base::vector(V::kProjected)[row]; };
  }
  // Of that point: kSlope = dH, and what products with the Hessian there need; and H.
  template <class Argument>
  HAMILTORCH_DEVICE void find_slope(Argument argument) const {
    Base::evaluate(argument);
    Base::gather({1, 1}, false);
  }
  template <class Argument>
  HAMILTORCH_DEVICE Real find_energy(Argument argument) const {
    settle_columns(Base::engine, 0, argument);
    return evaluate_value(Base::engine, as_it_is(Base::engine)) + *task.head_bias;
  }

  // c and what belongs to it, of a change whose gradient halfway is in kSlope.
  HAMILTORCH_DEVICE void find_factors(int which) {
    const Real* const change = state(which);
    const Real length_squared = states.dot(change, change), distance = sqrt(length_squared);
    const Real rounding = kEpsilon<Real> * (fabs(before) + fabs(after));
    const Real least = static_cast<Real>(kLeastRoundings) * kEpsilon<Real>;
    bound = task.tolerance > least ? task.tolerance : least;
    square = factor = 0;
    if (length_squared * distance <= rounding) return;  // what is not a number goes on into the image
    square = length_squared;
    factor = (after - before - states.dot(state(V::kSlope), change)) / square;
    // What rounding of H leaves of the equations.
    const Real noise = 4 * rounding * fabs(Base::dt) / distance;
    if (noise > bound) bound = noise;
  }

  // kImage = J x - R x of kFlowing, or its transpose.
  HAMILTORCH_DEVICE void conduct(bool transposed) const {
    const int d = Base::dim;
    const Real *const x = state(V::kFlowing), sign = transposed ? -1 : 1;
    Real* const image = state(V::kImage);
    const bool diagonal = task.dissipation && task.columns == 0;
    Base::for_state([&](int row, int half) {
      const int at = half * d + row;
      Real sum = half == 0 ? sign * x[d + row] : -sign * x[row];
      if (diagonal) sum -= task.dissipation[at] * task.dissipation[at] * x[at];
      image[at] = sum;
    });
    if (!task.dissipation) return;
    HAMILTORCH_NO_UNROLL
    for (int64_t column = 0; column < task.columns; ++column) {
      const auto entry = [&](int at) { return task.dissipation[at * task.columns + column]; };
      const Real port = states.sum([&](int at) { return entry(at) * x[at]; });
      states.for_rows([&](int at) { image[at] -= entry(at) * port; });
    }
  }

  // kSlope = the Hessian halfway times kFlowing.
  HAMILTORCH_DEVICE void multiply_hessian_by_flowing() const {
    project(V::kTangent, V::kFlowing);
    Base::multiply([&](int row) { return Base::vector(V::kTangent)[row]; });
    Base::gather({1, 1}, false);
  }

  // kAhead, and kSlope = g, of the change that is projected.
  HAMILTORCH_DEVICE void linearise() const {
    find_slope(along(1));
    Real* const ahead = state(V::kAhead);
    states.for_rows([&](int at) { ahead[at] = state(V::kSlope)[at]; });
    find_slope(along(Real(0.5)));
    states.for_rows([&](int at) { ahead[at] -= state(V::kSlope)[at]; });
  }

  const DiscreteTask<Real>& task;
  const Column<Real, 2> states;
  Krylov<Real, 2> krylov;
  // Of the sample: H(z), H(y), |Delta|^2, c, both zero where c is less than H's own rounding, and what a solved step's
  // error is at most.
  Real before = 0, after = 0, square = 0, factor = 0, bound = 0;
};

}  // namespace hamiltorch
