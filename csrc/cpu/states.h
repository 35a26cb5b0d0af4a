// Steps on the states: a move is dH/dq or dH/dp by one half of W_1^T, and layer 1 follows by the other half of W_1.
#pragma once
#include "tile.h"

namespace hamiltorch {
namespace {

// to = from + factor * (delta W): kicks read W_1q, drifts W_1p.
template <class T>
void move(const Weight<T>& w, int64_t rows, const Tile<T>& delta, T factor, const Tile<T>& product, const Tile<T>& from,
          const Tile<T>& to, const Worker<T>& worker) {
  apply_transposed(w, rows, delta, product, worker, [&](const Range& block, const Range& columns) {
    for_columns<T>(block, columns, [&](int64_t r, int64_t c) {
      store(to.row(r) + c, load(from.row(r) + c) + factor * load(product.row(r) + c));
    });
  });
}

template <class T>
void roll_states(const Forward<T>& job, const ForwardTile<T>& tile, int64_t first_row, int64_t rows,
                 const Worker<T>& worker) {
  const Rollout<T>& rollout = *job.rollout;
  const Network<T>& network = job.network;
  const Evaluation<T>& e = tile.evaluation;
  const Tape<T> tape = job.tape.rows_from(first_row);
  const int64_t d = network.half, stride = (rollout.steps + 1) * 2 * d;
  T* const trajectory = job.arrays.trajectory + first_row * stride;
  const bool energies = job.arrays.energies;
  const auto keep = [&](const Tile<T>& state, int64_t n, int64_t before) {
    if (!tape.data || before < 0) return;
    const Tile<T> kept = tape.state(n, before);
    for_columns<T>({0, rows}, worker.columns(d),
                   [&](int64_t r, int64_t c) { store(kept.row(r) + c, load(state.row(r) + c)); });
  };

  job.begin(tile, first_row, rows, worker);
  for (int64_t n = 0; n < rollout.steps; ++n) {
    for (int64_t k = 0; k < rollout.stage_count; ++k) {
      const Stage& stage = rollout.stages[k];
      const bool moves_p = stage.moves & kMovesP, moves_q = stage.moves & kMovesQ;
      const T step = static_cast<T>(stage.coefficient) * rollout.dt;
      evaluate(network, rows, tile.first, e, tape.record(n, k), energies && k == 0, worker);
      if (energies && k == 0) job.write_energies(e, first_row, rows, n, worker);
      if (moves_p) move(network.q, rows, e.delta[0], -step, tile.product, tile.p, tile.p, worker);
      if (moves_q) move(network.p, rows, e.delta[0], step, tile.product, tile.q, tile.q, worker);
      if (moves_p) apply(network.p, rows, tile.p, tile.first.from_p, worker, no_more);
      if (moves_q) apply(network.q, rows, tile.q, tile.first.from_q, worker, no_more);
      if (moves_p) keep(tile.p, n, tape.p_before[k]);
      if (moves_q) keep(tile.q, n, tape.q_before[k]);
    }
    write_rows(tile.q, rows, d, trajectory + (n + 1) * 2 * d, stride, worker);
    write_rows(tile.p, rows, d, trajectory + (n + 1) * 2 * d + d, stride, worker);
  }
  job.end(tile, first_row, rows, worker);
}

}  // namespace
}  // namespace hamiltorch
