// The network prepared for a call, and one evaluation of it on a tile of samples: values, then dH/da of every layer.
#pragma once
#include "activations.h"
#include "plan.h"
#include "tape.h"

namespace hamiltorch {
namespace {

template <class T>
struct Network {
  int64_t half;  // columns of layer 1 that are q: d
  int64_t hidden;
  Activation activation;
  const int64_t* widths;  // [hidden]
  Weight<T> q, p;         // layer 1, the columns that multiply q and p
  Weight<T> condition;    // layer 1, the columns that multiply the condition; in = 0 for none
  Weight<T> joined;       // G = W_1q W_1p^T, in layer-1 space, or G - G^T
  bool antisymmetric;     // the latter
  Weight<T>* inner;       // [hidden], inner[l] leads from hidden layer l - 1 to l; inner[0] unused
  T** biases;             // [hidden], zero-padded to whole panels
  T* head;                // weights of the output, zero-padded
  T head_bias;
  T** copies;        // [hidden], the weights as they were when the panels were made; null where nothing is
  int32_t* changed;  // [hidden]

  int64_t inputs() const { return q.in + p.in; }
  int64_t first() const { return widths[0]; }
  int64_t last() const { return widths[hidden - 1]; }
};

template <class T>
int64_t widest(const Mlp<T>& mlp) {
  int64_t most = mlp.dim / 2 > mlp.condition_dim ? mlp.dim / 2 : mlp.condition_dim;
  for (int64_t l = 0; l < mlp.hidden; ++l) most = mlp.widths[l] > most ? mlp.widths[l] : most;
  return most;
}

template <class T>
int64_t columns_of(const Mlp<T>& mlp, int64_t l) {
  return l ? mlp.widths[l - 1] : mlp.dim + mlp.condition_dim;
}

// Lays the network out: what lasts from call to call in `prepared`, the rest in `arena`. Once both are real, every
// thread calls prepare.
template <class T>
Network<T> take_network(Arena& arena, Arena& prepared, const Mlp<T>& mlp, const Plan& plan, bool pairs, bool filled) {
  Network<T> network{};
  network.half = plan.whole ? mlp.dim : mlp.dim / 2;
  network.hidden = mlp.hidden;
  network.activation = mlp.activation;
  network.widths = mlp.widths;
  const int64_t first = mlp.widths[0], columns = columns_of(mlp, 0);
  enum Kind { kNone, kFull, kPairs };
  const auto panels = [&](int64_t count, int64_t depth, Kind kind) -> Panels<T> {
    if (kind == kFull) return {prepared.take<T>(padded<T>(count) * depth), nullptr};
    if (kind == kPairs) return {nullptr, prepared.take<Bfloat16Pair>(pair_words<T>(count, depth))};
    return {nullptr, nullptr};
  };
  const auto weight = [&](const T* rows, int64_t stride, int64_t out, int64_t in, Kind forward, Kind backward) {
    return Weight<T>{rows, stride, out, in, panels(out, in, forward), panels(in, out, backward)};
  };
  const Kind chain = !plan.packed ? kNone : pairs ? kPairs : kFull;
  // In layer-1 space W_1 is outside the chain of steps; G is made from its panels.
  const Kind layer1 = plan.layer1 ? kFull : chain;
  const T* const w1 = mlp.weights[0];
  network.q = weight(w1, columns, first, network.half, layer1, layer1);
  network.p = weight(w1 + network.half, columns, first, mlp.dim - network.half, layer1, layer1);
  const Kind condition = mlp.condition_dim ? kFull : kNone;
  network.condition = weight(w1 + mlp.dim, columns, first, mlp.condition_dim, condition, condition);
  if (plan.layer1) {
    const T* const rows = prepared.take<T>(first * padded<T>(first));
    network.antisymmetric = plan.antisymmetric;
    network.joined = weight(rows, padded<T>(first), first, first, chain, plan.antisymmetric ? kNone : chain);
  }
  network.inner = arena.take<Weight<T>>(mlp.hidden);
  network.biases = arena.take<T*>(mlp.hidden);
  network.copies = arena.take<T*>(mlp.hidden);
  network.changed = arena.take<int32_t>(mlp.hidden);
  for (int64_t l = 0; l < mlp.hidden; ++l) {
    Weight<T> w{};
    if (l > 0) w = weight(mlp.weights[l], mlp.widths[l - 1], mlp.widths[l], mlp.widths[l - 1], chain, chain);
    T* const bias = arena.take<T>(padded<T>(mlp.widths[l]));
    const bool derived = plan.packed || (l == 0 && (plan.layer1 || mlp.condition_dim));
    T* const copy = derived ? prepared.take<T>(mlp.widths[l] * columns_of(mlp, l)) : nullptr;
    if (network.inner) {
      network.inner[l] = w;
      network.biases[l] = bias;
      network.copies[l] = copy;
      network.changed[l] = !filled;
    }
  }
  network.head = arena.take<T>(padded<T>(network.last()));
  network.head_bias = mlp.biases[mlp.hidden][0];
  return network;
}

// Copies this share of the numbers, and returns whether one of them was another, bit for bit.
template <class T>
bool refresh(const T* from, T* copy, const Range& part) {
  typename Simd<T>::Bits difference{};
  int64_t i = part.begin;
  for (; i + kLanes<T> <= part.end; i += kLanes<T>) {
    typename Simd<T>::Bits now, before;
    __builtin_memcpy(&now, from + i, sizeof(now));
    __builtin_memcpy(&before, copy + i, sizeof(before));
    difference |= now ^ before;
    __builtin_memcpy(copy + i, &now, sizeof(now));
  }
  bool changed = false;
  for (int lane = 0; lane < kLanes<T>; ++lane) changed |= difference[lane] != 0;
  for (; i < part.end; ++i) {
    changed |= __builtin_memcmp(from + i, copy + i, sizeof(T)) != 0;
    copy[i] = from[i];
  }
  return changed;
}

template <class T>
void make_panels(const Weight<T>& w, const Member& all) {
  const auto part = [&](int64_t columns) { return share(ceil_div(columns, kPanel<T>), all.index, all.count); };
  if (w.forward.full) pack_transposed(w.rows, w.stride, w.in, w.out, w.forward.full, part(w.out));
  if (w.backward.full) pack(w.rows, w.stride, w.out, w.in, w.backward.full, part(w.in));
  if constexpr (kHasAmx && sizeof(T) == sizeof(float)) {
    if (w.forward.pairs) stripe_transposed(w.rows, w.stride, w.in, w.out, w.forward.pairs, part(w.out));
    if (w.backward.pairs) stripe(w.rows, w.stride, w.out, w.in, w.backward.pairs, part(w.in));
  } else if constexpr (kHasBfloat16 && sizeof(T) == sizeof(float)) {
    if (w.forward.pairs) pack_transposed(w.rows, w.stride, w.in, w.out, w.forward.pairs, part(w.out));
    if (w.backward.pairs) pack(w.rows, w.stride, w.out, w.in, w.backward.pairs, part(w.in));
  }
}

template <class T>
void fill_padded(const T* from, int64_t count, T* to) {
  for (int64_t i = 0; i < padded<T>(count); ++i) to[i] = i < count ? from[i] : 0;
}

// G becomes G - G^T, this share of the pairs of entries.
template <class T>
void subtract_transpose(const Weight<T>& joined, const Member& all) {
  T* const g = const_cast<T*>(joined.rows);
  for (int64_t i = all.index; i < joined.out; i += all.count) {
    g[i * joined.stride + i] = 0;
    for (int64_t j = i + 1; j < joined.out; ++j) {
      T &upper = g[i * joined.stride + j], &lower = g[j * joined.stride + i];
      upper -= lower;
      lower = -upper;
    }
  }
}

// Brings what is prepared up to date. Every thread of the call takes part; ends with a barrier.
template <class T>
void prepare(const Network<T>& network, const Mlp<T>& mlp, const Member& all) {
  if (all.index == 0) {
    for (int64_t l = 0; l < mlp.hidden; ++l) fill_padded(mlp.biases[l], mlp.widths[l], network.biases[l]);
    fill_padded(mlp.weights[mlp.hidden], network.last(), network.head);
  }
  for (int64_t l = 0; l < mlp.hidden; ++l) {
    if (!network.copies[l]) continue;
    const Range part = share(mlp.widths[l] * columns_of(mlp, l), all.index, all.count);
    if (refresh(mlp.weights[l], network.copies[l], part)) __atomic_store_n(network.changed + l, 1, __ATOMIC_RELAXED);
  }
  wait_for_all(all);
  if (network.changed[0]) {
    make_panels(network.q, all);
    make_panels(network.p, all);
    make_panels(network.condition, all);
    if (network.joined.rows) {
      wait_for_all(all);
      const Weight<T>& q = network.q;
      const Range rows = share(q.out, all.index, all.count);
      T* const joined = const_cast<T*>(network.joined.rows) + rows.begin * network.joined.stride;
      panel_product(rows.size(), {0, q.out}, q.in, q.rows + rows.begin * q.stride, q.stride, network.p.forward.full,
                    joined, network.joined.stride, [](const Range&, const Range&) {});
      wait_for_all(all);
      if (network.antisymmetric) {
        subtract_transpose(network.joined, all);
        wait_for_all(all);
      }
      make_panels(network.joined, all);
    }
  }
  for (int64_t l = 1; l < mlp.hidden; ++l)
    if (network.changed[l]) make_panels(network.inner[l], all);
  wait_for_all(all);
}

// Work space of one evaluation. `value` holds s(a), and from the last layer down what the backward pass multiplies out;
// `delta` holds s'(a), and then dH/da.
template <class T>
struct Evaluation {
  Tile<T>* value;  // [hidden]
  Tile<T>* delta;  // [hidden]
};

template <class T>
Tile<T>* take_layers(Arena& arena, const Network<T>& network, int64_t rows) {
  Tile<T>* layers = arena.take<Tile<T>>(network.hidden);
  for (int64_t l = 0; l < network.hidden; ++l) {
    const Tile<T> tile = take_tile<T>(arena, rows, network.widths[l]);
    if (layers) layers[l] = tile;
  }
  return layers;
}

template <class T>
Evaluation<T> take_evaluation(Arena& arena, const Network<T>& network, int64_t rows) {
  Tile<T>* const value = take_layers(arena, network, rows);
  return {value, take_layers(arena, network, rows)};
}

// The pre-activation of layer 1 in its three parts: W_1q q, W_1p p, and b_1 (+ W_1c c: then one row per sample). The
// first two are kept apart because an integrator stage changes only one of q and p.
template <class T>
struct FirstLayer {
  Tile<T> from_q, from_p;
  Tile<T> base;  // stride 0 where every sample has the same
};

template <class T>
FirstLayer<T> take_first_layer(Arena& arena, const Network<T>& network, int64_t rows) {
  FirstLayer<T> first{take_tile<T>(arena, rows, network.first()), take_tile<T>(arena, rows, network.first()), {}};
  if (network.condition.in)
    first.base = take_tile<T>(arena, rows, network.first());
  else if (network.biases)
    first.base.data = network.biases[0];
  return first;
}

// Runs f(row, column) for every vector of a part of a tile.
template <class T, class F>
HAMILTORCH_INLINE void for_columns(const Range& rows, const Range& columns, const F& f) {
  for (int64_t r = rows.begin; r < rows.end; ++r)
    for (int64_t c = columns.begin; c < columns.end; c += kLanes<T>) f(r, c);
}

template <Activation activation>
struct Tag {
  static constexpr Activation kind = activation;
};

// body(tag) with the activation a constant.
template <class Body>
HAMILTORCH_INLINE void with_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::kSoftplus:
      return body(Tag<Activation::kSoftplus>{});
    case Activation::kTanh:
      return body(Tag<Activation::kTanh>{});
    case Activation::kSilu:
      return body(Tag<Activation::kSilu>{});
    case Activation::kGelu:
      return body(Tag<Activation::kGelu>{});
    case Activation::kSin:
      return body(Tag<Activation::kSin>{});
  }
}

inline void no_more(const Range&, const Range&) {}

// Values of every layer and dH/da of the last. `energies`: the last layer's values are asked for as well.
template <class T>
void evaluate_values(const Network<T>& network, int64_t rows, const FirstLayer<T>& first, const Evaluation<T>& e,
                     const Record<T>& record, bool energies, const Worker<T>& worker) {
  const int64_t top = network.hidden - 1;
  const auto activate_block = [&](int64_t l, const Range& block, const Range& columns, const auto& load_a) {
    with_activation(network.activation, [&](auto tag) {
      constexpr Activation kind = decltype(tag)::kind;
      const auto run = [&](const auto& keep) {
        if (record) {
          const Tile<T> kept = record.a(l);
          for_columns<T>(block, columns, [&](int64_t r, int64_t c) {
            const Vec<T> a = load_a(r, c);
            store(kept.row(r) + c, a);
            keep(r, c, activate<T, kind>(a));
          });
        } else {
          for_columns<T>(block, columns, [&](int64_t r, int64_t c) { keep(r, c, activate<T, kind>(load_a(r, c))); });
        }
      };
      const Tile<T>&value = e.value[l], delta = e.delta[l];
      if (l < top) {
        run([&](int64_t r, int64_t c, const Jet<T>& jet) {
          store(value.row(r) + c, jet.value);
          store(delta.row(r) + c, jet.first);
        });
      } else if (energies) {
        run([&](int64_t r, int64_t c, const Jet<T>& jet) {
          store(value.row(r) + c, jet.value);
          store(delta.row(r) + c, load(network.head + c) * jet.first);
        });
      } else {
        run([&](int64_t r, int64_t c, const Jet<T>& jet) {
          store(delta.row(r) + c, load(network.head + c) * jet.first);
        });
      }
    });
  };
  activate_block(0, {0, rows}, worker.columns(network.first()), [&](int64_t r, int64_t c) {
    return load(first.from_q.row(r) + c) + load(first.from_p.row(r) + c) + load(first.base.row(r) + c);
  });
  for (int64_t l = 1; l < network.hidden; ++l) {
    const Tile<T>& to = e.value[l];
    const T* const bias = network.biases[l];
    apply(network.inner[l], rows, e.value[l - 1], to, worker, [&](const Range& block, const Range& columns) {
      activate_block(l, block, columns, [&](int64_t r, int64_t c) { return load(to.row(r) + c) + load(bias + c); });
    });
  }
}

// dH/da of every layer; on return the first layer's is this member's columns only.
template <class T>
void evaluate(const Network<T>& network, int64_t rows, const FirstLayer<T>& first, const Evaluation<T>& e,
              const Record<T>& record, bool energies, const Worker<T>& worker) {
  evaluate_values(network, rows, first, e, record, energies, worker);
  for (int64_t l = network.hidden - 2; l >= 0; --l) {
    const Tile<T>&g = e.value[l], delta = e.delta[l];
    apply_transposed(
        network.inner[l + 1], rows, e.delta[l + 1], g, worker, [&](const Range& block, const Range& columns) {
          for_columns<T>(block, columns, [&](int64_t r, int64_t c) {
            store(delta.row(r) + c, load(g.row(r) + c) * load(delta.row(r) + c));
          });
          if (!record) return;
          const Tile<T> kept = record.g(l);
          for_columns<T>(block, columns, [&](int64_t r, int64_t c) { store(kept.row(r) + c, load(g.row(r) + c)); });
        });
  }
}

// x . y over n entries, padding left out.
template <class T>
T dot(const T* x, const T* y, int64_t n) {
  Vec<T> sums{};
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) sums += load(x + i) * load(y + i);
  T sum = horizontal_sum<T>(sums);
  for (; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

// H of sample r of the tile, from the last layer's values.
template <class T>
T energy(const Network<T>& network, const Evaluation<T>& e, int64_t r) {
  return dot(network.head, e.value[network.hidden - 1].row(r), network.last()) + network.head_bias;
}

// This member's columns of b_1 + c W_1c^T, where there is a condition; `condition` is [rows][in].
template <class T>
void fill_base(const Network<T>& network, int64_t rows, const T* condition, const Tile<T>& base,
               const Worker<T>& worker) {
  const int64_t in = network.condition.in;
  if (in == 0) return;
  panel_product(rows, worker.columns(network.first()), in, condition, in, network.condition.forward.full, base.data,
                base.stride, [&](const Range& block, const Range& columns) {
                  for_columns<T>(block, columns, [&](int64_t r, int64_t c) {
                    store(base.row(r) + c, load(base.row(r) + c) + load(network.biases[0] + c));
                  });
                });
}

// Copies this member's columns between a tile and rows of a user's array.
template <class T>
void read_rows(const T* from, int64_t from_stride, int64_t rows, int64_t columns, const Tile<T>& to,
               const Worker<T>& worker) {
  const Range mine = worker.columns(columns);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = mine.begin; c < mine.end; ++c) to.row(r)[c] = from[r * from_stride + c];
}

template <class T>
void write_rows(const Tile<T>& from, int64_t rows, int64_t columns, T* to, int64_t to_stride, const Worker<T>& worker) {
  const Range mine = worker.columns(columns);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = mine.begin; c < mine.end; ++c) to[r * to_stride + c] = from.row(r)[c];
}

}  // namespace
}  // namespace hamiltorch
