// The network prepared for a call, and one evaluation of it on a tile of samples: values, derivatives, dH/da per layer.
#pragma once
#include "activations.h"
#include "arena.h"
#include "parallel.h"
#include "plan.h"
#include "products.h"

namespace hamiltorch {
namespace {

// Row-major buffer of a tile: row r starts at data + r * stride, stride being a whole number of panels.
template <class T>
struct Tile {
  T* data;
  int64_t stride;

  T* row(int64_t r) const { return data + r * stride; }
};

template <class T>
Tile<T> take_tile(Arena& arena, int64_t rows, int64_t columns) {
  return {arena.take<T>(rows * padded<T>(columns)), padded<T>(columns)};
}

template <class T>
struct Network {
  int64_t half;  // d
  int64_t hidden;
  Activation activation;
  const int64_t* widths;  // [hidden]
  Weight<T> q, p;         // layer 1, the columns that multiply q and p
  Weight<T> condition;    // layer 1, the columns that multiply the condition; in = 0 for none
  Weight<T>* inner;       // [hidden], inner[l] leads from hidden layer l - 1 to l; inner[0] unused
  T** biases;             // [hidden], zero-padded to whole panels
  T* head;                // weights of the output, zero-padded
  T head_bias;

  int64_t first() const { return widths[0]; }
  int64_t last() const { return widths[hidden - 1]; }
};

template <class T>
struct Panels {
  T* forward;
  T* backward;
};

// Lays the network out in `arena`. Once the arena is real, every thread calls fill_network and they share the packing.
template <class T>
Network<T> take_network(Arena& arena, const Mlp<T>& mlp, bool packed) {
  Network<T> network{};
  network.half = mlp.dim / 2;
  network.hidden = mlp.hidden;
  network.activation = mlp.activation;
  network.widths = mlp.widths;
  const int64_t first = mlp.widths[0], columns = mlp.dim + mlp.condition_dim;
  const auto weight = [&](const T* rows, int64_t stride, int64_t out, int64_t in, bool pack) {
    Weight<T> w{rows, stride, out, in, nullptr, nullptr};
    if (pack) {
      w.forward = arena.take<T>(padded<T>(out) * in);
      w.backward = arena.take<T>(padded<T>(in) * out);
    }
    return w;
  };
  network.q = weight(mlp.weights[0], columns, first, network.half, packed);
  network.p = weight(mlp.weights[0] + network.half, columns, first, network.half, packed);
  network.condition = weight(mlp.weights[0] + mlp.dim, columns, first, mlp.condition_dim, mlp.condition_dim > 0);
  network.inner = arena.take<Weight<T>>(mlp.hidden);
  network.biases = arena.take<T*>(mlp.hidden);
  for (int64_t l = 0; l < mlp.hidden; ++l) {
    Weight<T> w{};
    if (l > 0) w = weight(mlp.weights[l], mlp.widths[l - 1], mlp.widths[l], mlp.widths[l - 1], packed);
    T* bias = arena.take<T>(padded<T>(mlp.widths[l]));
    if (network.inner) {
      network.inner[l] = w;
      network.biases[l] = bias;
    }
  }
  network.head = arena.take<T>(padded<T>(network.last()));
  network.head_bias = mlp.biases[mlp.hidden][0];
  return network;
}

template <class T>
void fill_weight(const Weight<T>& w, int index, int count) {
  if (!w.forward) return;
  const auto panels = [&](int64_t columns) { return share(ceil_div(columns, kPanel<T>), index, count); };
  pack_transposed(w.rows, w.stride, w.in, w.out, const_cast<T*>(w.forward), panels(w.out));
  pack(w.rows, w.stride, w.out, w.in, const_cast<T*>(w.backward), panels(w.in));
}

template <class T>
void fill_padded(const T* from, int64_t count, T* to) {
  for (int64_t i = 0; i < padded<T>(count); ++i) to[i] = i < count ? from[i] : 0;
}

template <class T>
void fill_network(const Network<T>& network, const Mlp<T>& mlp, int index, int count) {
  fill_weight(network.q, index, count);
  fill_weight(network.p, index, count);
  fill_weight(network.condition, index, count);
  for (int64_t l = 1; l < mlp.hidden; ++l) fill_weight(network.inner[l], index, count);
  if (index > 0) return;
  for (int64_t l = 0; l < mlp.hidden; ++l) fill_padded(mlp.biases[l], mlp.widths[l], network.biases[l]);
  fill_padded(mlp.weights[mlp.hidden], network.last(), network.head);
}

// One evaluation: per hidden layer s(a), s'(a), curvature and dH/da. Curvature is s''(a) dH/ds, what second derivatives
// need of this layer; null where only first ones are asked for.
template <class T>
struct Evaluation {
  Tile<T>* value;      // [hidden]
  Tile<T>* slope;      // [hidden]
  Tile<T>* curvature;  // [hidden] or null
  Tile<T>* delta;      // [hidden]
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
Evaluation<T> take_evaluation(Arena& arena, const Network<T>& network, int64_t rows, bool second_order) {
  Evaluation<T> e;
  e.value = take_layers(arena, network, rows);
  e.slope = take_layers(arena, network, rows);
  e.curvature = second_order ? take_layers(arena, network, rows) : nullptr;
  e.delta = take_layers(arena, network, rows);
  return e;
}

// The pre-activation of layer 1 in its three parts: W_1q q, W_1p p, and b_1 (+ W_1c c: then one row per sample). The
// first two are kept apart because an integrator stage changes only one of q and p.
template <class T>
struct FirstLayer {
  Tile<T> from_q, from_p;
  Tile<T> base;  // stride 0 where every sample has the same
};

// Runs f(offset, vector count) over this member's share of a tile's columns, row by row.
template <class T, class F>
HAMILTORCH_INLINE void for_columns(int64_t rows, const Range& columns, F&& f) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = columns.begin; c < columns.end; c += kLanes<T>) f(r, c);
}

template <Activation activation>
struct Tag {
  static constexpr Activation kind = activation;
};

template <class T, Activation activation, bool second_order, class Load>
inline void activate_layer(int64_t rows, const Range& columns, const Evaluation<T>& e, int64_t l, const Load& load_a) {
  for_columns<T>(rows, columns, [&](int64_t r, int64_t c) {
    const Jet<T> jet = activate<T, activation>(load_a(r, c));
    store(e.value[l].row(r) + c, jet.value);
    store(e.slope[l].row(r) + c, jet.first);
    if constexpr (second_order) store(e.curvature[l].row(r) + c, jet.second);
  });
}

template <class T, class Load>
inline void activate_layer(Activation activation, int64_t rows, const Range& columns, const Evaluation<T>& e, int64_t l,
                           const Load& load_a) {
  const auto run = [&](auto tag) {
    constexpr Activation kind = decltype(tag)::kind;
    if (e.curvature)
      activate_layer<T, kind, true>(rows, columns, e, l, load_a);
    else
      activate_layer<T, kind, false>(rows, columns, e, l, load_a);
  };
  switch (activation) {
    case Activation::kSoftplus:
      return run(Tag<Activation::kSoftplus>{});
    case Activation::kTanh:
      return run(Tag<Activation::kTanh>{});
    case Activation::kSilu:
      return run(Tag<Activation::kSilu>{});
    case Activation::kGelu:
      return run(Tag<Activation::kGelu>{});
    case Activation::kSin:
      return run(Tag<Activation::kSin>{});
  }
}

// Values and slopes of every layer. On return the last layer's are this member's columns only: a barrier is due before
// anyone reads them whole.
template <class T>
void evaluate_values(const Network<T>& network, int64_t rows, const FirstLayer<T>& first, const Evaluation<T>& e,
                     const Member& member) {
  activate_layer<T>(network.activation, rows, share_columns<T>(network.first(), member.index, member.count), e, 0,
                    [&](int64_t r, int64_t c) {
                      return load(first.from_q.row(r) + c) + load(first.from_p.row(r) + c) +
                             load(first.base.row(r) + c);
                    });
  for (int64_t l = 1; l < network.hidden; ++l) {
    const Range columns = share_columns<T>(network.widths[l], member.index, member.count);
    const Tile<T>&from = e.value[l - 1], to = e.value[l];
    wait_for_all(member);
    apply(network.inner[l], rows, from.data, from.stride, to.data, to.stride, columns);
    const T* bias = network.biases[l];
    activate_layer<T>(network.activation, rows, columns, e, l,
                      [&](int64_t r, int64_t c) { return load(to.row(r) + c) + load(bias + c); });
  }
}

// evaluate_values, then dH/da of every layer (and the curvature's factor dH/ds). Ends with a barrier.
template <class T>
void evaluate(const Network<T>& network, int64_t rows, const FirstLayer<T>& first, const Evaluation<T>& e,
              const Member& member) {
  evaluate_values(network, rows, first, e, member);
  const auto finish = [&](int64_t l, const Range& columns, const auto& load_g) {
    for_columns<T>(rows, columns, [&](int64_t r, int64_t c) {
      const Vec<T> g = load_g(r, c);
      store(e.delta[l].row(r) + c, g * load(e.slope[l].row(r) + c));
      if (e.curvature) store(e.curvature[l].row(r) + c, g * load(e.curvature[l].row(r) + c));
    });
  };
  const int64_t top = network.hidden - 1;
  finish(top, share_columns<T>(network.last(), member.index, member.count),
         [&](int64_t, int64_t c) { return load(network.head + c); });
  for (int64_t l = top - 1; l >= 0; --l) {
    const Range columns = share_columns<T>(network.widths[l], member.index, member.count);
    const Tile<T>&from = e.delta[l + 1], to = e.delta[l];
    wait_for_all(member);
    apply_transposed(network.inner[l + 1], rows, from.data, from.stride, to.data, to.stride, columns);
    finish(l, columns, [&](int64_t r, int64_t c) { return load(to.row(r) + c); });
  }
  wait_for_all(member);
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

// This member's columns of x W^T for the first layer's half `w`.
template <class T>
void first_layer_part(const Weight<T>& w, int64_t rows, const Tile<T>& x, const Tile<T>& y, const Member& member) {
  apply(w, rows, x.data, x.stride, y.data, y.stride, share_columns<T>(w.out, member.index, member.count));
}

// This member's columns of b_1 + c W_1c^T, where there is a condition; `condition` is [rows][in].
template <class T>
void fill_base(const Network<T>& network, int64_t rows, const T* condition, const Tile<T>& base, const Member& member) {
  if (network.condition.in == 0) return;
  const Range columns = share_columns<T>(network.first(), member.index, member.count);
  apply(network.condition, rows, condition, network.condition.in, base.data, base.stride, columns);
  for_columns<T>(rows, columns, [&](int64_t r, int64_t c) {
    store(base.row(r) + c, load(base.row(r) + c) + load(network.biases[0] + c));
  });
}

template <class T>
Tile<T> take_base(Arena& arena, const Network<T>& network, int64_t rows) {
  return network.condition.in ? take_tile<T>(arena, rows, network.first()) : Tile<T>{nullptr, 0};
}

// Copies this member's columns between a tile and rows of a user's array.
template <class T>
void read_rows(const T* from, int64_t from_stride, int64_t rows, int64_t columns, const Tile<T>& to,
               const Member& member) {
  const Range mine = share_columns<T>(columns, member.index, member.count);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = mine.begin; c < mine.end; ++c) to.row(r)[c] = from[r * from_stride + c];
}

template <class T>
void write_rows(const Tile<T>& from, int64_t rows, int64_t columns, T* to, int64_t to_stride, const Member& member) {
  const Range mine = share_columns<T>(columns, member.index, member.count);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = mine.begin; c < mine.end; ++c) to[r * to_stride + c] = from.row(r)[c];
}

}  // namespace
}  // namespace hamiltorch
