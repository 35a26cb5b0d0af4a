// The equations of a stage as FixedPoint's functions read them: D is what the impulse at s + r + D displaces, and
// Newton's matrix is 1 - c dt P K, with K H's Hessian in layer-1 space and P what an impulse displaces.
#pragma once
#include "implicit.h"

namespace hamiltorch {
namespace {

template <class T>
struct StageEquations {
  const ImplicitJob<T>& job;
  const ImplicitTile<T>& tile;
  const Stage& stage;
  const Worker<T>& worker;

  int64_t width() const { return job.network.first(); }
  int64_t limit() const { return job.rollout->max_iterations; }
  const Tile<T>& image() const { return tile.image; }

  T bound(int64_t) const {
    const T least = kLeastRoundings * kEpsilon<T>, asked = job.rollout->tolerance;
    return asked > least ? asked : least;
  }

  T scale(int64_t slot) const {
    const T *s = tile.s.row(slot), *r = tile.r.row(slot), *d = tile.displacement.row(slot);
    Vec<T> most{};
    for_vectors<T>(width(), [&](int64_t c) {
      const Vec<T> a = magnitudes<T>(load(s + c) + load(r + c) + load(d + c));
      most = a > most ? a : most;
    });
    return 1 + horizontal_most<T>(most);
  }

  void find_image(const int32_t* slots, int64_t lines, const Tile<T>& at) const {
    const FirstLayer<T> first = {tile.argument, {job.zeros, 0}, {job.zeros, 0}};
    write_arguments(job, tile, slots, lines, at, tile.argument, worker);
    evaluate(job.network, lines, first, tile.evaluation, Record<T>{}, false, worker);
    write_impulses(job, tile, stage, lines, tile.evaluation.delta[0], worker);
    displace_impulses(job, tile, stage, slots, lines, worker);
  }

  void linearise(const int32_t* slots, int64_t lines, const Tile<T>& at) const {
    const Network<T>& network = job.network;
    evaluate_curvature_from(
        network, slots, lines, tile.kept, tile.work, worker,
        [&](const auto& activate_all) {
          write_arguments(job, tile, slots, lines, at, argument_of(network, tile.work), worker);
          activate_all({0, lines}, worker.columns(width()));
        },
        [](int64_t, int64_t) { return Vec<T>{}; });
    write_impulses(job, tile, stage, lines, tile.work.delta[0], worker);
    displace_impulses(job, tile, stage, slots, lines, worker);
  }

  void multiply(const int32_t* slots, int64_t lines, int64_t j, const Tile<T>& product) const {
    for_columns<T>({0, lines}, worker.columns(width()), [&](int64_t i, int64_t c) {
      store(tile.work.tangent[0].row(i) + c, load(tile.krylov.direction(slots[i], j) + c));
    });
    multiply_hessian(job.network, slots, lines, tile.kept, tile.work, worker);
    write_impulses(job, tile, stage, lines, tile.work.tangent_delta[0], worker);
    displace(job, tile, stage, false, lines, tile.impulse, worker);
    for (int64_t i = 0; i < lines; ++i)
      for_vectors<T>(width(), [&](int64_t c) {
        store(product.row(i) + c, load(tile.krylov.direction(slots[i], j) + c) - load(tile.image.row(i) + c));
      });
  }

  void begin(int64_t slot, int64_t line) const {
    if (!tile.first_image.data) return;
    for_vectors<T>(width(), [&](int64_t c) { store(tile.first_image.row(slot) + c, load(tile.image.row(line) + c)); });
  }

  void take(int64_t slot, int64_t line) const {
    for_vectors<T>(width(), [&](int64_t c) { store(tile.impulses.row(slot) + c, load(tile.impulse.row(line) + c)); });
  }

  // Where one half is implicit, D's residual says nothing of the other, which the impulses at D move as well:
  // tile.other = what it has moved by, which the next image leaves alone until all members have come by.
  void find_unseen(const int32_t* slots, int64_t lines) const {
    if (!one_sided()) return;
    for_columns<T>({0, lines}, worker.columns(width()), [&](int64_t i, int64_t c) {
      store(tile.argument.row(i) + c, load(tile.impulse.row(i) + c) - load(tile.impulses.row(slots[i]) + c));
    });
    ImplicitTile<T> aside = tile;
    aside.image = tile.other;
    displace(job, aside, stage, true, lines, tile.argument, worker);
  }

  T unseen(int64_t line) const {
    if (one_sided()) return largest(tile.other.row(line), width());
    return stage.at_q == stage.at_p ? 0 : static_cast<T>(__builtin_inf());  // both move alike, or nothing is known
  }

 private:
  bool one_sided() const { return stage.at_q == 1 - stage.at_p && (stage.at_q == 0 || stage.at_p == 0); }
};

}  // namespace
}  // namespace hamiltorch
