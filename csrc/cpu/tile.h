// What a team holds of the samples that it rolls out at one time, and the job that all teams share.
#pragma once
#include "job.h"

namespace hamiltorch {
namespace {

template <class T>
struct ForwardTile {
  Tile<T> q, p;     // [rows][d]; in layer-1 space the initial state
  Tile<T> product;  // [rows][max(d, width)], of the last move
  FirstLayer<T> first;
  Evaluation<T> evaluation;
  Tile<T> impulse[2];    // layer-1 space: c dt dH/da_1 of this stage and of the one before
  Tile<T> sum_q, sum_p;  // [(chunk + 1) rows][width]: the impulses' sums of some steps, the first those so far
  Tile<T> displacement;  // [chunk rows][d]
};

template <class T>
struct Forward : Teams<T, ForwardTile<T>> {
  const Rollout<T>* rollout;
  ForwardArrays<T> arrays;
  Network<T> network;
  Tape<T> tape;
  int64_t chunk;  // layer-1 space: steps whose states are made together

  int64_t samples() const { return rollout->batch; }
  void get_ready(const Member& all) const { prepare(network, rollout->network, all); }

  // Writes own share of the energies of state n, from the last layer's values of all members.
  void write_energies(const Evaluation<T>& e, int64_t first_row, int64_t rows, int64_t n,
                      const Worker<T>& worker) const {
    worker.wait();
    const Range mine = worker.share_of(rows);
    for (int64_t r = mine.begin; r < mine.end; ++r)
      arrays.energies[(first_row + r) * (rollout->steps + 1) + n] = energy(network, e, r);
  }

  // Reads z0 and brings layer 1 to it; writes state 0.
  void begin(const ForwardTile<T>& tile, int64_t first_row, int64_t rows, const Worker<T>& worker) const {
    const int64_t d = network.half, dim = 2 * d, stride = (rollout->steps + 1) * dim;
    const T* const z0 = arrays.z0 + first_row * dim;
    T* const trajectory = arrays.trajectory + first_row * stride;
    worker.wait();  // for the others' last use of the tile
    read_rows(z0, dim, rows, d, tile.q, worker);
    read_rows(z0 + d, dim, rows, d, tile.p, worker);
    write_rows(tile.q, rows, d, trajectory, stride, worker);
    write_rows(tile.p, rows, d, trajectory + d, stride, worker);
    fill_base(network, rows, rollout->condition + first_row * network.condition.in, tile.first.base, worker);
    apply(network.q, rows, tile.q, tile.first.from_q, worker, no_more);
    apply(network.p, rows, tile.p, tile.first.from_p, worker, no_more);
  }

  // The last state's energies, for which layer 1 is evaluated once more.
  void end(const ForwardTile<T>& tile, int64_t first_row, int64_t rows, const Worker<T>& worker) const {
    if (!arrays.energies) return;
    evaluate_values(network, rows, tile.first, tile.evaluation, Record<T>{}, true, worker);
    write_energies(tile.evaluation, first_row, rows, rollout->steps, worker);
  }
};

}  // namespace
}  // namespace hamiltorch
