// One evaluation of a network of states on a team of one, which keeps what products with its Hessian need, and those
// products: csrc/cpu/curvature.h, for all columns of the block at once. What is settled enters layer 0 as `enter(sink)`
// says, which gives a_1, or for a product its change, to the sink.
#pragma once
#include "block_layout.h"
#include "column.h"
#include "engine.h"
#include "network.h"

namespace hamiltorch {

template <class Engine>
HAMILTORCH_DEVICE typename Engine::Real* kept_at(Engine& engine, Kept which, int layer, int row, int pair) {
  const int rows = engine.layout.tiles[layer] * kTile;
  return engine.kept(layer) + (which * rows + row) * Engine::kColumns + 2 * pair;
}
template <class Engine>
HAMILTORCH_DEVICE typename Engine::Real* first_layer_at(Engine& engine, int which, int row, int pair) {
  return engine.state(which) + row * Engine::kColumns + 2 * pair;
}

template <class Two>
HAMILTORCH_DEVICE Two times(Two a, Two b) {
  return {a.x * b.x, a.y * b.y};
}

// As it is: the argument of layer 0 itself.
template <class Engine>
HAMILTORCH_DEVICE auto as_it_is(Engine& engine) {
  return [&engine](auto sink) {
    engine.for_own(0, [&](int row, int pair) {
      sink(row, pair, load_two(engine.own_rows() + row * engine.layout.stride + 2 * pair));
    });
  };
}
template <class Engine>
HAMILTORCH_DEVICE auto by_matrix(Engine& engine, int matrix) {
  return [&engine, matrix](auto sink) { engine.dense(matrix, sink); };
}

// Ends with dN/da_1 settled.
template <class Engine, class Enter>
HAMILTORCH_DEVICE void evaluate_curvature(Engine& engine, Enter enter) {
  using Two = typename Engine::Two;
  using Real = typename Engine::Real;
  const auto& layout = engine.layout;
  const auto& parameters = engine.parameters;
  const int top = layout.hidden - 1;
  const auto leave_delta = [&](int layer, int row, int pair, Two delta) {
    if (layer == 0) store_two(first_layer_at(engine, kDelta, row, pair), delta);
    engine.publish_to_self(row, pair, delta);
  };
  const auto pass = [&](int layer, int row, int pair, Two a) {
    const ScalarJet<Real> x = scalar_activation(parameters.activation, a.x);
    const ScalarJet<Real> y = scalar_activation(parameters.activation, a.y);
    const Two first = {x.first, y.first}, second = {x.second, y.second};
    store_two(kept_at(engine, kFirst, layer, row, pair), first);
    if (layer < top) {
      store_two(kept_at(engine, kSecond, layer, row, pair), second);
      engine.publish_to_self(row, pair, {x.value, y.value});
    } else {
      const Real head = at_or_zero(parameters.head, row, layout.widths[layer]);
      store_two(kept_at(engine, kSecond, layer, row, pair), times(second, {head, head}));
      leave_delta(layer, row, pair, times(first, {head, head}));
    }
  };
  enter([&](int row, int pair, Two a) { pass(0, row, pair, a); });
  engine.settle();
  HAMILTORCH_NO_UNROLL
  for (int layer = 1; layer <= top; ++layer) {
    engine.dense(layer, [&](int row, int pair, Two a) {
      const Real bias = at_or_zero(parameters.biases[layer], row, layout.widths[layer]);
      pass(layer, row, pair, {a.x + bias, a.y + bias});
    });
    engine.settle();
  }
  HAMILTORCH_NO_UNROLL
  for (int layer = top - 1; layer >= 0; --layer) {
    engine.transposed(layer + 1, engine.own_rows(), [&](int row, int pair, Two g) {
      Real* const second = kept_at(engine, kSecond, layer, row, pair);
      store_two(second, times(load_two(second), g));
      leave_delta(layer, row, pair, times(load_two(kept_at(engine, kFirst, layer, row, pair)), g));
    });
    engine.settle();
  }
}

// N less the bias of its output, of this warp's sample; what evaluate_curvature has kept stays. All warps come here
// together. What they read is written anew behind the next barrier at the earliest: activations take turns in two
// buffers.
template <class Engine, class Enter>
HAMILTORCH_DEVICE typename Engine::Real evaluate_value(Engine& engine, Enter enter) {
  using Two = typename Engine::Two;
  using Real = typename Engine::Real;
  const auto& layout = engine.layout;
  const auto& parameters = engine.parameters;
  const int top = layout.hidden - 1;
  const auto pass = [&](int layer, int row, int pair, Two a) {
    const Real head = layer < top ? Real(1) : at_or_zero(parameters.head, row, layout.widths[layer]);
    engine.publish_to_self(row, pair,
                           {head * scalar_activation(parameters.activation, a.x).value,
                            head * scalar_activation(parameters.activation, a.y).value});
  };
  enter([&](int row, int pair, Two a) { pass(0, row, pair, a); });
  engine.settle();
  HAMILTORCH_NO_UNROLL
  for (int layer = 1; layer <= top; ++layer) {
    engine.dense(layer, [&](int row, int pair, Two a) {
      const Real bias = at_or_zero(parameters.biases[layer], row, layout.widths[layer]);
      pass(layer, row, pair, {a.x + bias, a.y + bias});
    });
    engine.settle();
  }
  const Real* const terms = engine.own_rows() + engine.team.warp();
  return Column<Real>(nullptr, layout.widths[top], engine.team.lane()).sum([&](int row) {
    return terms[row * layout.stride];
  });
}

// Ends with the change of dN/da_1 in the direction that is settled, settled.
template <class Engine, class Enter>
HAMILTORCH_DEVICE void multiply_hessian(Engine& engine, Enter enter) {
  using Two = typename Engine::Two;
  const int top = engine.layout.hidden - 1;
  // Up goes s'(a) da; at the top it turns round as s''(a) dN/dh da.
  const auto pass = [&](int layer, int row, int pair, Two a) {
    store_two(kept_at(engine, kChange, layer, row, pair), a);
    engine.publish_to_self(row, pair,
                           times(a, load_two(kept_at(engine, layer < top ? kFirst : kSecond, layer, row, pair))));
  };
  enter([&](int row, int pair, Two a) { pass(0, row, pair, a); });
  engine.settle();
  HAMILTORCH_NO_UNROLL
  for (int layer = 1; layer <= top; ++layer) {
    engine.dense(layer, [&](int row, int pair, Two a) { pass(layer, row, pair, a); });
    engine.settle();
  }
  HAMILTORCH_NO_UNROLL
  for (int layer = top - 1; layer >= 0; --layer) {
    engine.transposed(layer + 1, engine.own_rows(), [&](int row, int pair, Two v) {
      Two change = times(v, load_two(kept_at(engine, kFirst, layer, row, pair)));
      add_two(change, times(load_two(kept_at(engine, kSecond, layer, row, pair)),
                            load_two(kept_at(engine, kChange, layer, row, pair))));
      engine.publish_to_self(row, pair, change);
    });
    engine.settle();
  }
}

}  // namespace hamiltorch
