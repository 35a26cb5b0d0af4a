// Newton's method for the stage equations that plain iteration does not solve: its matrix is 1 - c dt P K, with K H's
// Hessian in layer-1 space and P what an impulse displaces. GMRES finds the steps by products with it, each the work of
// one gradient; a step is halved until the residual falls.
#pragma once
#include "implicit.h"

namespace hamiltorch {
namespace {

// rest = what the equations leave of `at` for these slots; the impulses stay in the lines of tile.impulse, and what
// products with the Hessian need in tile.kept.
template <class T>
void find_rest(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, const Stage& stage, const int32_t* slots,
               int64_t lines, const Tile<T>& at, const Tile<T>& rest, const Worker<T>& worker) {
  const Network<T>& network = job.network;
  const int64_t width = network.first();
  evaluate_curvature_from(
      network, slots, lines, tile.kept, tile.work, worker,
      [&](const auto& activate_all) {
        write_arguments(job, tile, slots, lines, at, argument_of(network, tile.work), worker);
        activate_all({0, lines}, worker.columns(width));
      },
      [](int64_t, int64_t) { return Vec<T>{}; });
  write_impulses(job, tile, stage, lines, tile.work.delta[0], worker);
  displace_impulses(job, tile, stage, slots, lines, worker);
  for (int64_t i = 0; i < lines; ++i) {
    const int64_t slot = slots[i];
    ++tile.iterations[slot];
    for_vectors<T>(width,
                   [&](int64_t c) { store(rest.row(slot) + c, load(tile.image.row(i) + c) - load(at.row(slot) + c)); });
  }
}

// The point that was tried, whose impulse is in this line, becomes the slot's.
template <class T>
void take_point(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, int64_t slot, int64_t line, const Tile<T>& at,
                const Tile<T>& rest) {
  const int64_t width = job.network.first();
  for_vectors<T>(width, [&](int64_t c) {
    store(tile.displacement.row(slot) + c, load(at.row(slot) + c));
    store(tile.residual.row(slot) + c, load(rest.row(slot) + c));
    store(tile.impulses.row(slot) + c, load(tile.impulse.row(line) + c));
  });
  tile.length[slot] = norm(tile.residual.row(slot), width);
  tile.error[slot] = error_of(tile, slot, width, largest(tile.residual.row(slot), width));
}

// Goes on with the `count` slots in tile.slow.
template <class T>
void finish_by_newton(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, const Stage& stage, int64_t count,
                      const Worker<T>& worker) {
  const Network<T>& network = job.network;
  const int64_t width = network.first();
  const T least = error_bound(job);
  find_rest(job, tile, stage, tile.slow, count, tile.displacement, tile.residual, worker);
  for (int64_t i = 0; i < count; ++i) take_point(job, tile, tile.slow[i], i, tile.displacement, tile.residual);

  int64_t open = count;
  for (int64_t i = 0; i < count; ++i) tile.open[i] = tile.slow[i];
  for (int64_t iteration = 0; iteration < job.rollout->max_iterations && open > 0; ++iteration) {
    for (int64_t i = 0; i < open; ++i)
      tile.target[tile.open[i]] = static_cast<T>(kLeastForcing) * tile.length[tile.open[i]];
    solve_krylov(tile.krylov, tile.open, open, width, tile.residual, tile.target, tile.step, tile.left,
                 tile.tried_residual, [&](const int32_t* slots, int64_t lines, int64_t j, const Tile<T>& product) {
                   for_columns<T>({0, lines}, worker.columns(width), [&](int64_t i, int64_t c) {
                     store(tile.work.tangent[0].row(i) + c, load(tile.krylov.direction(slots[i], j) + c));
                   });
                   multiply_hessian(network, slots, lines, tile.kept, tile.work, worker);
                   write_impulses(job, tile, stage, lines, tile.work.tangent_delta[0], worker);
                   displace(job, tile, stage, false, lines, tile.impulse, worker);
                   for (int64_t i = 0; i < lines; ++i)
                     for_vectors<T>(width, [&](int64_t c) {
                       store(product.row(i) + c,
                             load(tile.krylov.direction(slots[i], j) + c) - load(tile.image.row(i) + c));
                     });
                 });
    int64_t trying = 0;
    for (int64_t i = 0; i < open; ++i) {
      const int32_t slot = tile.open[i];
      const T most = largest(tile.step.row(slot), width);
      // Of a system that is not solved the step says nothing of its length.
      tile.solved[slot] = tile.left[slot] <= static_cast<T>(kMostForcing) * tile.length[slot] &&
                          most <= kRoundings * kEpsilon<T> * scale_of(tile, slot, width);
      if (!tile.solved[slot] && most < static_cast<T>(__builtin_inf())) tile.trying[trying++] = slot;
    }
    open = 0;
    T part = 1;
    for (int halving = 0; halving < kHalvings && trying > 0; ++halving, part /= 2) {
      for (int64_t i = 0; i < trying; ++i) {
        const int64_t slot = tile.trying[i];
        for_vectors<T>(width, [&](int64_t c) {
          store(tile.tried.row(slot) + c, load(tile.displacement.row(slot) + c) + part * load(tile.step.row(slot) + c));
        });
      }
      find_rest(job, tile, stage, tile.trying, trying, tile.tried, tile.tried_residual, worker);
      int64_t still = 0;
      for (int64_t i = 0; i < trying; ++i) {
        const int32_t slot = tile.trying[i];
        if (norm(tile.tried_residual.row(slot), width) <= (1 - static_cast<T>(kDecrease) * part) * tile.length[slot]) {
          take_point(job, tile, slot, i, tile.tried, tile.tried_residual);
          tile.solved[slot] = tile.error[slot] <= least;
          if (!tile.solved[slot]) tile.open[open++] = slot;
        } else {
          tile.trying[still++] = slot;
        }
      }
      trying = still;
    }
  }
  for (int64_t i = 0; i < count; ++i)  // D is what the impulse displaces
    add_scaled(tile.displacement.row(tile.slow[i]), static_cast<T>(1), tile.residual.row(tile.slow[i]), width);
}

}  // namespace
}  // namespace hamiltorch
