// The steps of states.h for one sample on one thread, without a tape. What takes a small network's time lies between
// its products; so here little does: a sum goes from its register into the activation, which is a constant.
#pragma once
#include "tile.h"

namespace hamiltorch {
namespace {

// finish(column, sum) for every vector of y = x B, B in panels of `columns` columns.
template <class T, class Finish>
HAMILTORCH_INLINE void multiply_one(const T* panels, int64_t depth, int64_t columns, const T* x, const Finish& finish) {
  for (int64_t first = 0; first < columns; first += 2 * kPanel<T>) {
    const T* const panel = panels + first * depth;
    const auto done = [&](int, int j, const Vec<T>& sum) { finish(first + j * kLanes<T>, sum); };
    const int64_t left = columns - first;
    if (left > kPanel<T>)
      block<T, T, 1, 4>(depth, x, 0, 1, panel, done);
    else if (left > kLanes<T>)
      block<T, T, 1, 2>(depth, x, 0, 1, panel, done);
    else
      block<T, T, 1, 1>(depth, x, 0, 1, panel, done);
  }
}

// y = d W for a W with few columns, from the panels of its transpose: one dot product a column, which is shorter than a
// sum of as many vectors as W has rows, mostly padding.
template <class T, class Finish>
HAMILTORCH_INLINE void dot_columns(const Weight<T>& w, const T* d, const Finish& finish) {
  const int64_t whole = w.out / kLanes<T> * kLanes<T>;
  for (int64_t i = 0; i < w.in; ++i) {
    const auto line = [&](int64_t o) {
      return w.forward.full + (o - o % kPanel<T>)*w.in + i * kPanel<T> + o % kPanel<T>;
    };
    Vec<T> sums{};
    for (int64_t o = 0; o < whole; o += kLanes<T>) sums += load(d + o) * load(line(o));
    T sum = horizontal_sum<T>(sums);
    for (int64_t o = whole; o < w.out; ++o) sum += d[o] * *line(o);
    finish(i, sum);
  }
}

template <class T>
bool rolls_single(const Forward<T>& job, int64_t rows) {
  const Plan& plan = job.plan;
  return rows == 1 && plan.team_size == 1 && plan.packed && !plan.layer1 && !job.rollout->bfloat16 && !job.tape.data;
}

// dH/da of every layer; `energies`: the last layer's values are asked for as well.
template <class T, Activation kind>
void evaluate_single(const Network<T>& network, const ForwardTile<T>& tile, bool energies) {
  const Evaluation<T>& e = tile.evaluation;
  const int64_t top = network.hidden - 1;
  const auto layer = [&](int64_t l, const auto& keep) {
    if (l == 0) {
      const FirstLayer<T>& first = tile.first;
      for (int64_t c = 0; c < network.first(); c += kLanes<T>)
        keep(c,
             activate<T, kind>(load(first.from_q.data + c) + load(first.from_p.data + c) + load(first.base.data + c)));
    } else {
      const Weight<T>& w = network.inner[l];
      const T* const bias = network.biases[l];
      multiply_one(w.forward.full, w.in, w.out, e.value[l - 1].data,
                   [&](int64_t c, const Vec<T>& sum) { keep(c, activate<T, kind>(sum + load(bias + c))); });
    }
  };
  for (int64_t l = 0; l < top; ++l)
    layer(l, [&](int64_t c, const Jet<T>& jet) {
      store(e.value[l].data + c, jet.value);
      store(e.delta[l].data + c, jet.first);
    });
  const auto keep_top = [&](int64_t c, const Jet<T>& jet) {
    store(e.delta[top].data + c, load(network.head + c) * jet.first);
  };
  if (energies)
    layer(top, [&](int64_t c, const Jet<T>& jet) {
      store(e.value[top].data + c, jet.value);
      keep_top(c, jet);
    });
  else
    layer(top, keep_top);
  for (int64_t l = top; l > 0; --l) {
    const Weight<T>& w = network.inner[l];
    T* const delta = e.delta[l - 1].data;
    multiply_one(w.backward.full, w.out, w.in, e.delta[l].data,
                 [&](int64_t c, const Vec<T>& sum) { store(delta + c, sum * load(delta + c)); });
  }
}

template <class T, Activation kind>
void roll_single(const Forward<T>& job, const ForwardTile<T>& tile, int64_t row, const Worker<T>& worker) {
  const Rollout<T>& rollout = *job.rollout;
  const Network<T>& network = job.network;
  const int64_t d = network.half;
  T* to = job.arrays.trajectory + row * (rollout.steps + 1) * 2 * d;
  const T* const delta = tile.evaluation.delta[0].data;
  // state += factor dH/d(the other half), then what layer 1 sees of it.
  const auto move = [&](const Weight<T>& gradient, const Weight<T>& own, T factor, T* state, T* seen) {
    if (2 * d <= kLanes<T>)
      dot_columns(gradient, delta, [&](int64_t c, T sum) { state[c] += factor * sum; });
    else
      multiply_one(gradient.backward.full, gradient.out, d, delta,
                   [&](int64_t c, const Vec<T>& sum) { store(state + c, load(state + c) + factor * sum); });
    multiply_one(own.forward.full, d, own.out, state, [&](int64_t c, const Vec<T>& sum) { store(seen + c, sum); });
  };

  job.begin(tile, row, 1, worker);
  for (int64_t n = 0; n < rollout.steps; ++n) {
    for (int64_t k = 0; k < rollout.stage_count; ++k) {
      const Stage& stage = rollout.stages[k];
      const T step = static_cast<T>(stage.coefficient) * rollout.dt;
      const bool energies = k == 0 && job.arrays.energies;
      evaluate_single<T, kind>(network, tile, energies);
      if (energies) job.write_energies(tile.evaluation, row, 1, n, worker);
      if (stage.moves & kMovesP) move(network.q, network.p, -step, tile.p.data, tile.first.from_p.data);
      if (stage.moves & kMovesQ) move(network.p, network.q, step, tile.q.data, tile.first.from_q.data);
    }
    to += 2 * d;
    for (int64_t c = 0; c < d; ++c) to[c] = tile.q.data[c], to[d + c] = tile.p.data[c];
  }
  job.end(tile, row, 1, worker);
}

}  // namespace
}  // namespace hamiltorch
