// One evaluation of the network that keeps what products with its Hessian need, and those products.
//
// Samples of a tile sit in slots; a product runs on lines, each of which belongs to a slot: the samples that still need
// work, or many directions of one sample.
#pragma once
#include "network.h"

namespace hamiltorch {
namespace {

// Of the samples of a tile, by slot. Of a team every member has one, of which it fills and reads its own columns.
template <class T>
struct Curvature {
  Tile<T>* first;   // [hidden]: s'(a)
  Tile<T>* second;  // [hidden]: s''(a) dN/dh
  Tile<T> delta;    // dN/da_1
};

// One evaluation and one product by line: s(a) and dN/da of every layer, and their changes in a direction. `value` of
// the last layer is not computed. A team has one.
template <class T>
struct Lines {
  Tile<T>*value, *delta;                            // [hidden]
  Tile<T>*tangent, *tangent_value, *tangent_delta;  // [hidden]: the changes of a, s(a) and dN/da
};

template <class T>
Curvature<T> take_curvature(Arena& arena, const Network<T>& network, int64_t slots) {
  Tile<T>* const first = take_layers(arena, network, slots);
  Tile<T>* const second = take_layers(arena, network, slots);
  return {first, second, take_tile<T>(arena, slots, network.first())};
}

// `both`: a product leaves the evaluation's lines as they were. Otherwise the two share memory.
template <class T>
Lines<T> take_lines(Arena& arena, const Network<T>& network, int64_t lines, bool both) {
  Lines<T> work;
  work.value = take_layers(arena, network, lines);
  work.delta = take_layers(arena, network, lines);
  work.tangent = take_layers(arena, network, lines);
  work.tangent_value = both ? take_layers(arena, network, lines) : work.value;
  work.tangent_delta = both ? take_layers(arena, network, lines) : work.delta;
  return work;
}

// Where layer 1 puts its argument, line by line.
template <class T>
const Tile<T>& argument_of(const Network<T>& network, const Lines<T>& work) {
  return network.hidden > 1 ? work.value[0] : work.delta[0];
}

// Evaluates N from layer 1's argument, which is argument_of plus `rest` (slot, column), and leaves what belongs to it
// in `kept` and `work`. `begin` (activate) sees to it that activate (rows, columns) is run on all of argument_of.
template <class T, class Begin, class Rest>
void evaluate_curvature_from(const Network<T>& network, const int32_t* slots, int64_t lines, const Curvature<T>& kept,
                             const Lines<T>& work, const Worker<T>& worker, const Begin& begin, const Rest& rest) {
  const int64_t top = network.hidden - 1;
  const auto to = [&](int64_t l) { return l < top ? work.value[l] : work.delta[l]; };
  const auto keep = [&](int64_t l, const Range& block, const Range& columns, const auto& argument) {
    const Tile<T> line = to(l);
    with_activation(network.activation, [&](auto tag) {
      for_columns<T>(block, columns, [&](int64_t i, int64_t c) {
        const int64_t slot = slots[i];
        const Jet<T> jet = activate<T, decltype(tag)::kind>(load(line.row(i) + c) + argument(slot, c));
        store(kept.first[l].row(slot) + c, jet.first);
        if (l < top) {
          store(kept.second[l].row(slot) + c, jet.second);
          store(line.row(i) + c, jet.value);
        } else {
          const Vec<T> head = load(network.head + c);
          store(kept.second[l].row(slot) + c, head * jet.second);
          store(line.row(i) + c, head * jet.first);
        }
      });
    });
  };
  begin([&](const Range& block, const Range& columns) { keep(0, block, columns, rest); });
  for (int64_t l = 1; l <= top; ++l) {
    const T* const bias = network.biases[l];
    apply(network.inner[l], lines, work.value[l - 1], to(l), worker, [&](const Range& block, const Range& columns) {
      keep(l, block, columns, [&](int64_t, int64_t c) { return load(bias + c); });
    });
  }
  for (int64_t l = top - 1; l >= 0; --l) {
    const Tile<T>&first = kept.first[l], second = kept.second[l], delta = work.delta[l];
    apply_transposed(network.inner[l + 1], lines, work.delta[l + 1], delta, worker,
                     [&](const Range& block, const Range& columns) {
                       for_columns<T>(block, columns, [&](int64_t i, int64_t c) {
                         const int64_t slot = slots[i];
                         const Vec<T> g = load(delta.row(i) + c);
                         store(second.row(slot) + c, load(second.row(slot) + c) * g);
                         store(delta.row(i) + c, load(first.row(slot) + c) * g);
                       });
                     });
  }
  for_columns<T>({0, lines}, worker.columns(network.first()),
                 [&](int64_t i, int64_t c) { store(kept.delta.row(slots[i]) + c, load(work.delta[0].row(i) + c)); });
}

// The same where layer 1 sees from_x + W_1y y. `from_x` is by slot and has the bias; y, [lines][d], is by line.
template <class T>
void evaluate_curvature(const Network<T>& network, const int32_t* slots, int64_t lines, const Tile<T>& from_x,
                        const Tile<T>& y, const Curvature<T>& kept, const Lines<T>& work, const Worker<T>& worker) {
  evaluate_curvature_from(
      network, slots, lines, kept, work, worker,
      [&](const auto& activate_all) { apply(network.p, lines, y, argument_of(network, work), worker, activate_all); },
      [&](int64_t slot, int64_t c) { return load(from_x.row(slot) + c); });
}

// From work.tangent[0] to work.tangent_delta[0], that of every layer on the way.
template <class T>
void multiply_hessian(const Network<T>& network, const int32_t* slots, int64_t lines, const Curvature<T>& kept,
                      const Lines<T>& work, const Worker<T>& worker) {
  const int64_t top = network.hidden - 1;
  // Up goes s'(a) da; at the top it turns round as s''(a) dN/dh da.
  const auto pass_up = [&](int64_t l, const Range& block, const Range& columns) {
    const Tile<T>& factor = l < top ? kept.first[l] : kept.second[l];
    const Tile<T>& to = l < top ? work.tangent_value[l] : work.tangent_delta[l];
    for_columns<T>(block, columns, [&](int64_t i, int64_t c) {
      store(to.row(i) + c, load(factor.row(slots[i]) + c) * load(work.tangent[l].row(i) + c));
    });
  };
  pass_up(0, {0, lines}, worker.columns(network.first()));
  for (int64_t l = 1; l <= top; ++l)
    apply(network.inner[l], lines, work.tangent_value[l - 1], work.tangent[l], worker,
          [&](const Range& block, const Range& columns) { pass_up(l, block, columns); });
  for (int64_t l = top - 1; l >= 0; --l) {
    const Tile<T>&first = kept.first[l], second = kept.second[l];
    const Tile<T>&tangent = work.tangent[l], to = work.tangent_delta[l];
    apply_transposed(network.inner[l + 1], lines, work.tangent_delta[l + 1], to, worker,
                     [&](const Range& block, const Range& columns) {
                       for_columns<T>(block, columns, [&](int64_t i, int64_t c) {
                         const int64_t slot = slots[i];
                         store(to.row(i) + c, load(first.row(slot) + c) * load(to.row(i) + c) +
                                                  load(second.row(slot) + c) * load(tangent.row(i) + c));
                       });
                     });
  }
}

// to += factor Hess(point) u for all rows of a network that reads its input as one; `base` is layer 1's, `product`
// free.
template <class T>
void add_hessian_product(const Network<T>& network, const int32_t* all, int64_t rows, const Tile<T>& point,
                         const Tile<T>& u, const Tile<T>& base, const Curvature<T>& kept, const Lines<T>& work,
                         T factor, const Tile<T>& product, const Tile<T>& to, const Worker<T>& worker) {
  evaluate_curvature_from(
      network, all, rows, kept, work, worker,
      [&](const auto& activate_all) {
        apply(network.q, rows, point, argument_of(network, work), worker, activate_all);
      },
      [&](int64_t row, int64_t c) { return load(base.row(row) + c); });
  apply(network.q, rows, u, work.tangent[0], worker, no_more);
  multiply_hessian(network, all, rows, kept, work, worker);
  apply_transposed(network.q, rows, work.tangent_delta[0], product, worker,
                   [&](const Range& block, const Range& columns) {
                     for_columns<T>(block, columns, [&](int64_t r, int64_t c) {
                       store(to.row(r) + c, load(to.row(r) + c) + factor * load(product.row(r) + c));
                     });
                   });
}

}  // namespace
}  // namespace hamiltorch
