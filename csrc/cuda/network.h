// One evaluation of the network on a team: through the hidden layers, and back to delta_1 = dH/da_1. The same text runs
// on pairs of samples and, for the adjoint, on pairs (value, tangent), where the way back carries delta and its
// tangent.
#pragma once
#include "engine.h"
#include "scalar_math.h"

namespace hamiltorch {

// Two samples.
struct Samples {
  template <class T>
  struct Step {
    Pair<T> value, kept;
  };
  template <class T>
  HAMILTORCH_DEVICE static Step<T> activate(Activation activation, Pair<T> a) {
    const ScalarJet<T> x = scalar_activation(activation, a.x), y = scalar_activation(activation, a.y);
    return {{x.value, y.value}, {x.first, y.first}};
  }
  template <class T>
  HAMILTORCH_DEVICE static Pair<T> biased(Pair<T> a, T bias) {
    return {a.x + bias, a.y + bias};
  }
  template <class T>
  HAMILTORCH_DEVICE static Pair<T> back(Pair<T> m, Pair<T> kept) {
    return {m.x * kept.x, m.y * kept.y};
  }
};

// A value and its tangent: the Hessian-vector product's arithmetic.
struct Jets {
  template <class T>
  struct Step {
    Pair<T> value, kept;
  };
  template <class T>
  HAMILTORCH_DEVICE static Step<T> activate(Activation activation, Pair<T> a) {
    const ScalarJet<T> jet = scalar_activation(activation, a.x);
    return {{jet.value, jet.first * a.y}, {jet.first, jet.second * a.y}};
  }
  template <class T>
  HAMILTORCH_DEVICE static Pair<T> biased(Pair<T> a, T bias) {
    return {a.x + bias, a.y};
  }
  template <class T>
  HAMILTORCH_DEVICE static Pair<T> back(Pair<T> m, Pair<T> kept) {
    return {m.x * kept.x, m.y * kept.x + m.x * kept.y};
  }
};

template <class T>
HAMILTORCH_DEVICE T at_or_zero(const T* values, int index, int count) {
  return index < count ? values[index] : T(0);
}

// `first(row, pair)` gives a_1. `observer` hears of what passes: value(layer, row, pair, h) for every hidden layer but
// the last, top(row, pair, head, h) for the last, and delta(layer, row, pair, delta) for every layer but the first;
// top returns the cotangent of h. `sink(row, pair, delta_1)` ends the way down.
template <class Kind, class Engine, class First, class Observer>
HAMILTORCH_DEVICE void evaluate_up(Engine& engine, First first, const Observer& observer) {
  using Two = typename Engine::Two;
  using Real = typename Engine::Real;
  const Layout& layout = engine.layout;
  const auto pass = [&](int layer, int row, int pair, Two a) {
    const auto step = Kind::activate(engine.parameters.activation, a);
    Real* const kept = engine.kept(layer) + row * Engine::kColumns + 2 * pair;
    if (layer < layout.hidden - 1) {
      store_two(kept, step.kept);
      observer.value(layer, row, pair, step.value);
      engine.publish_to_all(layer, row, pair, step.value);
    } else {
      const int begin = layout.begin(layer, engine.team.rank()) * kTile;
      const Real head = at_or_zero(engine.parameters.head, begin + row, layout.widths[layer]);
      const Two delta = Kind::back(observer.top(row, pair, head, step.value), step.kept);
      if (layer == 0) {
        store_two(kept, delta);  // evaluate_down hands it on
      } else {
        observer.delta(layer, row, pair, delta);
        engine.publish_to_self(row, pair, delta);
      }
    }
  };
  engine.for_own(0, [&](int row, int pair) { pass(0, row, pair, first(row, pair)); });
  HAMILTORCH_NO_UNROLL
  for (int layer = 1; layer < layout.hidden; ++layer) {
    engine.share();
    const int begin = layout.begin(layer, engine.team.rank()) * kTile;
    engine.dense(layer, [&](int row, int pair, Two a) {
      const Real bias = at_or_zero(engine.parameters.biases[layer], begin + row, layout.widths[layer]);
      pass(layer, row, pair, Kind::biased(a, bias));
    });
  }
}

template <class Kind, class Engine, class Observer, class Sink>
HAMILTORCH_DEVICE void evaluate_down(Engine& engine, const Observer& observer, Sink sink) {
  using Two = typename Engine::Two;
  const auto kept = [&](int layer, int row, int pair) {
    return load_two(engine.kept(layer) + row * Engine::kColumns + 2 * pair);
  };
  if (engine.layout.hidden == 1) {
    engine.team.sync_block();
    engine.for_own(0, [&](int row, int pair) { sink(row, pair, kept(0, row, pair)); });
    return;
  }
  HAMILTORCH_NO_UNROLL
  for (int layer = engine.layout.hidden - 1; layer > 0; --layer) {
    engine.settle();
    engine.transposed(layer, engine.own_rows(), [&](int row, int pair, Two m) {
      const Two delta = Kind::back(m, kept(layer - 1, row, pair));
      if (layer == 1) {
        sink(row, pair, delta);
      } else {
        observer.delta(layer - 1, row, pair, delta);
        engine.publish_to_self(row, pair, delta);
      }
    });
  }
}

}  // namespace hamiltorch
