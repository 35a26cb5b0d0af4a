// Eight samples on a block, a column of every product each, and each a warp, which decides for its sample alone.
// Samples share products, nothing else; the block goes on as long as one of them has need.
#pragma once
#include "column.h"
#include "engine.h"

namespace hamiltorch {

// A rollout as the kernels see it: plain data that travels as a parameter. Arrays as in CudaBlockRollout.
template <class T>
struct BlockTask : Parameters<T> {
  const T* base;
  int64_t base_stride;
  const T* dt;
  int64_t steps, batch;
  T tolerance;
  int64_t max_iterations;
};

// Body(first) for the samples that this block takes at once, the first of eight each time.
template <class Team, class Body>
HAMILTORCH_DEVICE void for_samples(const Team& team, int64_t batch, Body body) {
  for (int64_t first = int64_t{kWarps} * team.index(); first < batch; first += int64_t{kWarps} * team.count())
    body(first);
}

// What enters layer 0 of two samples beside their states.
template <class T>
HAMILTORCH_DEVICE Pair<T> base_of_two(const BlockTask<T>& task, int64_t sample, int row, int width) {
  const T* const base = task.base + sample * task.base_stride + row;
  return {row < width && sample < task.batch ? base[0] : T(0),
          row < width && sample + 1 < task.batch ? base[task.base_stride] : T(0)};
}

// What every warp gives for its sample's rows of a layer is settled: the next product's input.
template <class Engine, class Value>
HAMILTORCH_DEVICE void settle_columns(Engine& engine, int layer, Value value) {
  using Real = typename Engine::Real;
  static_assert(Engine::kColumns == kWarps, "a warp for each column");
  const int rows = engine.layout.tiles[layer] * kTile, width = engine.layout.widths[layer];
  HAMILTORCH_NO_UNROLL
  for (int row = engine.team.lane(); row < rows; row += 32)
    engine.publish_one_to_self(row, engine.team.warp(), row < width ? value(row) : Real(0));
  engine.settle();
}

// A product's sink: into `rows` numbers of each sample, the first's at `first` and `column_size` numbers apart.
template <class Real>
HAMILTORCH_DEVICE auto into_columns(Real* first, int rows, int column_size) {
  return [first, rows, column_size](int row, int pair, Pair<Real> value) {
    if (row >= rows) return;
    first[2 * pair * column_size + row] = value.x;
    first[(2 * pair + 1) * column_size + row] = value.y;
  };
}

}  // namespace hamiltorch
