// Steps in layer-1 space: H sees q and p only through s = W_1q q and r = W_1p p. With G = W_1q W_1p^T and the impulse
// x = c dt dH/da_1, a kick is r -= G^T x and a drift s += G x. The states are q_0 + W_1p^T (sum of the drifts' x) and
// p_0 - W_1q^T (sum of the kicks' x), made for some steps at once (docs/mathematics.md).
#pragma once
#include "tile.h"

namespace hamiltorch {
namespace {

template <class T>
void roll_layer1(const Forward<T>& job, const ForwardTile<T>& tile, int64_t first_row, int64_t rows,
                 const Worker<T>& worker) {
  const Rollout<T>& rollout = *job.rollout;
  const Network<T>& network = job.network;
  const Evaluation<T>& e = tile.evaluation;
  const int64_t d = network.half, stride = (rollout.steps + 1) * 2 * d;
  const bool energies = job.arrays.energies;
  const Range all_rows = {0, rows}, columns = worker.columns(network.first());
  // Row blocks of the sums: before the chunk, after its first step, ...
  const auto after_step = [&](const Tile<T>& sums, int64_t i) { return Tile<T>{sums.row(i * rows), sums.stride}; };
  const auto copy = [&](const Tile<T>& from, const Tile<T>& to) {
    for_columns<T>(all_rows, columns, [&](int64_t r, int64_t c) { store(to.row(r) + c, load(from.row(r) + c)); });
  };
  // The states after steps n - count + 1 .. n, for one half: start + factor (sums W).
  const auto write_states = [&](const Weight<T>& w, const Tile<T>& sums, const Tile<T>& start, T factor, int64_t offset,
                                int64_t n, int64_t count) {
    const Tile<T>& product = tile.displacement;
    T* const to = job.arrays.trajectory + first_row * stride + (n - count + 1) * 2 * d + offset;
    apply_transposed(w, count * rows, after_step(sums, 1), product, worker, [&](const Range& block, const Range& part) {
      for (int64_t i = block.begin; i < block.end; ++i) {
        const int64_t r = i % rows;
        T* const row = to + r * stride + i / rows * 2 * d;
        for (int64_t c = part.begin; c < part.end; ++c) row[c] = start.row(r)[c] + factor * product.row(i)[c];
      }
    });
  };

  job.begin(tile, first_row, rows, worker);
  for_columns<T>(all_rows, columns, [&](int64_t r, int64_t c) {
    store(tile.sum_q.row(r) + c, Vec<T>{});
    store(tile.sum_p.row(r) + c, Vec<T>{});
  });
  int turn = 0;
  int64_t pending = 0;  // steps whose states are still to be made
  for (int64_t n = 0; n < rollout.steps; ++n) {
    const Tile<T> sum_q = after_step(tile.sum_q, pending + 1), sum_p = after_step(tile.sum_p, pending + 1);
    copy(after_step(tile.sum_q, pending), sum_q);
    copy(after_step(tile.sum_p, pending), sum_p);
    for (int64_t k = 0; k < rollout.stage_count; ++k) {
      const Stage& stage = rollout.stages[k];
      const bool moves_p = stage.moves & kMovesP, moves_q = stage.moves & kMovesQ;
      const T step = static_cast<T>(stage.coefficient) * rollout.dt;
      evaluate(network, rows, tile.first, e, Record<T>{}, energies && k == 0, worker);
      if (energies && k == 0) job.write_energies(e, first_row, rows, n, worker);
      const Tile<T>& impulse = tile.impulse[turn ^= 1];
      for_columns<T>(all_rows, columns, [&](int64_t r, int64_t c) {
        const Vec<T> x = step * load(e.delta[0].row(r) + c);
        store(impulse.row(r) + c, x);
        if (moves_p) store(sum_p.row(r) + c, load(sum_p.row(r) + c) + x);
        if (moves_q) store(sum_q.row(r) + c, load(sum_q.row(r) + c) + x);
      });
      const auto add = [&](const Tile<T>& to, auto sign) {
        return [&, to, sign](const Range& block, const Range& part) {
          for_columns<T>(block, part, [&](int64_t r, int64_t c) {
            const Vec<T> product = load(tile.product.row(r) + c);
            store(to.row(r) + c, load(to.row(r) + c) + (sign > 0 ? product : -product));
          });
        };
      };
      if (moves_p) apply_transposed(network.joined, rows, impulse, tile.product, worker, add(tile.first.from_p, -1));
      if (moves_q) apply(network.joined, rows, impulse, tile.product, worker, add(tile.first.from_q, 1));
    }
    if (++pending == job.chunk || n + 1 == rollout.steps) {
      write_states(network.p, tile.sum_q, tile.q, 1, 0, n + 1, pending);
      write_states(network.q, tile.sum_p, tile.p, -1, d, n + 1, pending);
      worker.wait();  // for the others' reading of the sums
      copy(sum_q, tile.sum_q);
      copy(sum_p, tile.sum_p);
      pending = 0;
    }
  }
  job.end(tile, first_row, rows, worker);
}

}  // namespace
}  // namespace hamiltorch
