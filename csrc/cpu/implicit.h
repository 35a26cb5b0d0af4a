// Rollouts by implicit stages: every team takes its samples, tile by tile, through all steps.
//
// A stage's equations are solved in layer-1 space. H sees w only through a = W_1 w + b_1, so the unknown is the
// displacement D of a from the stage's beginning: with the impulse x = c dt dH/da_1 (a),
//
//     D = theta_q W_1q W_1p^T x - theta_p W_1p W_1q^T x.
//
// In layer-1 space a solve may take along what the stage before has left to move: it begins that much earlier, and x
// is there the sum of both impulses.
//
// That is iterated with Anderson's acceleration from an extrapolation of the last steps; samples for which it does not
// contract go on by Newton's method (implicit_newton.h). The products with W_1 are those with G = W_1q W_1p^T where
// that costs less and nobody needs w; where both halves are taken on the same way they are one, with G - G^T.
//
// A team's members share each product's columns, and nothing else: all that lies between products each does for itself
// on memory of its own, and comes to the same bits and decisions.
#pragma once
#include "curvature.h"
#include "factors.h"
#include "hamiltorch/implicit.h"
#include "hamiltorch/iteration.h"
#include "linear.h"

namespace hamiltorch {
namespace {

template <class T>
struct ImplicitTile {
  // The team's, by line; every member writes its own columns.
  Evaluation<T> evaluation;
  Lines<T> work;
  Tile<T> argument, impulse, image, other;  // [lines][width]
  Tile<T> moved;                            // [lines][d]
  Tile<T> states;                           // layer-1 space: [chunk rows][d]
  // The member's own, by slot.
  Tile<T> q, p;                    // [d]; in layer-1 space the initial state
  Tile<T> base;                    // [width]: b_1 (+ W_1c c); stride 0 where every sample has the same
  Tile<T> s, r;                    // [width]: W_1q q + base and W_1p p
  Tile<T> displacement, impulses;  // [width]: D and x of the stage that is solved
  Tile<T> carried;                 // the impulses of the one before that the solve takes along, or none
  Tile<T> images[kHistory], residuals[kHistory];
  Tile<T>* displacements;  // [stages][kMostDifferences + 1]: D of the last steps and of this one, in turns
  Tile<T> turns[2];        // impulses of this stage and of the one before
  Tile<T> sums;            // layer-1 space: [(chunk + 1) rows][width], impulses so far after some steps
  Curvature<T> kept;
  Krylov<T> krylov;
  Tile<T> residual, step, tried, tried_residual;  // Newton's; residual: what the equations leave of D
  T *error, *length, *target, *left;
  T* worst;            // error of the step
  Tile<T> at_q, at_p;  // [d]: w, the adjoint's
  int64_t *iterations, *remembered;
  uint8_t *solved, *alive;
  int32_t *all, *open, *slow, *trying;  // lists of slots
};

// What all tiles share.
template <class T>
struct ImplicitJob {
  const ImplicitRollout<T>* rollout;
  ImplicitArrays<T> arrays;
  ImplicitAdjointArrays<T> adjoint;
  Plan plan;
  Network<T> network;
  int64_t chunk;           // layer-1 space: steps whose states are made together
  T* zeros;                // [width]
  ImplicitTile<T>* tiles;  // [teams * team_size]
  Worker<T>* workers;      // [teams * team_size]
  Barrier* barriers;       // [teams]
  Barrier* all;            // [1]
};

template <class T>
T step_of(const ImplicitJob<T>& job, const Stage& stage) {
  return static_cast<T>(stage.coefficient) * job.rollout->rollout.dt;
}

// to = factor from (+ to), for what a product calls when it has finished a block.
template <class T>
auto scaled(const Tile<T>& from, T factor, const Tile<T>& to, bool adds) {
  return [=](const Range& block, const Range& columns) {
    for_columns<T>(block, columns, [&](int64_t r, int64_t c) {
      const Vec<T> x = factor * load(from.row(r) + c);
      store(to.row(r) + c, adds ? load(to.row(r) + c) + x : x);
    });
  };
}

// image = theta_q W_1q W_1p^T x - theta_p W_1p W_1q^T x for lines of impulses x; `transposed`: its transpose.
template <class T>
void displace(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, const Stage& stage, bool transposed,
              int64_t lines, const Tile<T>& x, const Worker<T>& worker) {
  const Network<T>& network = job.network;
  // The transpose of W_1q W_1p^T is W_1p W_1q^T: the two thetas change places.
  const T drift = static_cast<T>(transposed ? -stage.at_p : stage.at_q);
  const T kick = static_cast<T>(transposed ? stage.at_q : -stage.at_p);
  const auto both = [&](const Weight<T>& back, const Weight<T>& forth, T factor, bool adds) {
    const Tile<T>& product = adds ? tile.other : tile.image;
    apply_transposed(back, lines, x, tile.moved, worker, no_more);
    apply(forth, lines, tile.moved, product, worker, scaled(product, factor, tile.image, adds));
  };
  if (network.antisymmetric) {
    apply(network.joined, lines, x, tile.image, worker, scaled(tile.image, drift, tile.image, false));
  } else if (network.joined.rows) {
    const Tile<T>& second = drift != 0 ? tile.other : tile.image;
    if (drift != 0) apply(network.joined, lines, x, tile.image, worker, scaled(tile.image, drift, tile.image, false));
    if (kick != 0)
      apply_transposed(network.joined, lines, x, second, worker, scaled(second, kick, tile.image, drift != 0));
  } else {
    if (drift != 0) both(network.p, network.q, drift, false);
    if (kick != 0) both(network.q, network.p, kick, drift != 0);
  }
  worker.wait();
}

// argument = s + r + D for these slots' lines, this member's columns.
template <class T>
void write_arguments(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, const int32_t* slots, int64_t lines,
                     const Tile<T>& displacement, const Tile<T>& to, const Worker<T>& worker) {
  for_columns<T>({0, lines}, worker.columns(job.network.first()), [&](int64_t i, int64_t c) {
    const int64_t slot = slots[i];
    store(to.row(i) + c, load(tile.s.row(slot) + c) + load(tile.r.row(slot) + c) + load(displacement.row(slot) + c));
  });
}

// The impulses' lines anew. The others have read the last ones: products lie between, but where there is one hidden
// layer.
template <class T>
void write_impulses(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, const Stage& stage, int64_t lines,
                    const Tile<T>& delta, const Worker<T>& worker) {
  const T step = step_of(job, stage);
  if (job.network.hidden == 1) worker.wait();
  for_columns<T>({0, lines}, worker.columns(job.network.first()),
                 [&](int64_t i, int64_t c) { store(tile.impulse.row(i) + c, step * load(delta.row(i) + c)); });
}

// image = what the impulses displace, those in the lines of tile.impulse and those carried.
template <class T>
void displace_impulses(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, const Stage& stage, const int32_t* slots,
                       int64_t lines, const Worker<T>& worker) {
  if (!tile.carried.data) return displace(job, tile, stage, false, lines, tile.impulse, worker);
  const Tile<T>& both = tile.other;  // free, where one half alone is displaced
  for_columns<T>({0, lines}, worker.columns(job.network.first()), [&](int64_t i, int64_t c) {
    store(both.row(i) + c, load(tile.impulse.row(i) + c) + load(tile.carried.row(slots[i]) + c));
  });
  displace(job, tile, stage, false, lines, both, worker);
}

// What a solved slot's error is at most.
template <class T>
T error_bound(const ImplicitJob<T>& job) {
  const T least = kLeastRoundings * kEpsilon<T>, asked = job.rollout->tolerance;
  return asked > least ? asked : least;
}

// Largest of a = s + r + D of a slot, plus one.
template <class T>
T scale_of(const ImplicitTile<T>& tile, int64_t slot, int64_t width) {
  const T *s = tile.s.row(slot), *r = tile.r.row(slot), *d = tile.displacement.row(slot);
  Vec<T> most{};
  for_vectors<T>(width, [&](int64_t c) {
    const Vec<T> a = magnitudes<T>(load(s + c) + load(r + c) + load(d + c));
    most = a > most ? a : most;
  });
  return 1 + horizontal_most<T>(most);
}

// A residual's largest entry as a part of that; not a number where the argument is infinite.
template <class T>
T error_of(const ImplicitTile<T>& tile, int64_t slot, int64_t width, T most) {
  const T scale = scale_of(tile, slot, width);
  return scale < static_cast<T>(__builtin_inf()) ? most / scale : static_cast<T>(__builtin_nan(""));
}

// D of the next iteration by Anderson's acceleration: of all mixtures of this image and those before, that whose
// residuals mix to the shortest. The image and its residual are then the newest remembered.
template <class T>
void accelerate(const ImplicitTile<T>& tile, int64_t slot, int64_t width, const T* image) {
  static_assert(kHistory == 2);
  const int64_t count = tile.remembered[slot]++, known = count < 2 ? count : 2, newest = (count + 1) % 2;
  T* const to = tile.displacement.row(slot);
  const auto rest = [&](int64_t c) { return load(image + c) - load(to + c); };
  // Changes from the newest remembered to this (1), and from the one before to the newest (2).
  T first = 0, second = 0;
  const T *rest1 = tile.residuals[newest].row(slot), *rest2 = tile.residuals[1 - newest].row(slot);
  const T *image1 = tile.images[newest].row(slot), *image2 = tile.images[1 - newest].row(slot);
  if (known > 0) {
    Vec<T> s11{}, s12{}, s22{}, s1{}, s2{};
    for_vectors<T>(width, [&](int64_t c) {
      const Vec<T> f = rest(c), f1 = load(rest1 + c), d1 = f - f1;
      s11 += d1 * d1;
      s1 += d1 * f;
      if (known == 1) return;
      const Vec<T> d2 = f1 - load(rest2 + c);
      s12 += d1 * d2;
      s22 += d2 * d2;
      s2 += d2 * f;
    });
    const T a11 = horizontal_sum<T>(s11), a12 = horizontal_sum<T>(s12), a22 = horizontal_sum<T>(s22);
    const T b1 = horizontal_sum<T>(s1), b2 = horizontal_sum<T>(s2), determinant = a11 * a22 - a12 * a12;
    if (determinant > static_cast<T>(kIndependent) * a11 * a22) {
      first = (b1 * a22 - b2 * a12) / determinant;
      second = (b2 * a11 - b1 * a12) / determinant;
    } else if (a11 > 0) {
      first = b1 / a11;
    }
  }
  T *const kept_image = tile.images[1 - newest].row(slot), *const kept_rest = tile.residuals[1 - newest].row(slot);
  for_vectors<T>(width, [&](int64_t c) {
    const Vec<T> g = load(image + c);
    Vec<T> next = g;
    store(kept_rest + c, rest(c));
    if (known > 0) {
      const Vec<T> g1 = load(image1 + c);
      next -= first * (g - g1);
      if (known > 1) next -= second * (g1 - load(image2 + c));
    }
    store(to + c, next);
    store(kept_image + c, g);
  });
}

// Iterates the stage's equations for every slot from tile.displacement on, and leaves there D and in tile.impulses x.
// Returns how many slots are left to Newton's method, listed in tile.slow.
template <class T>
int64_t iterate(const ImplicitJob<T>& job, const ImplicitTile<T>& tile, const Stage& stage, int64_t rows,
                const Worker<T>& worker) {
  const int64_t width = job.network.first();
  const T least = error_bound(job);
  const FirstLayer<T> first = {tile.argument, {job.zeros, 0}, {job.zeros, 0}};
  int64_t open = rows, slow = 0;
  for (int64_t slot = 0; slot < rows; ++slot) {
    tile.open[slot] = static_cast<int32_t>(slot);
    tile.remembered[slot] = 0;
    tile.solved[slot] = 0;
    tile.length[slot] = static_cast<T>(__builtin_inf());
  }
  for (int64_t iteration = 0; iteration < job.rollout->max_iterations && open > 0; ++iteration) {
    write_arguments(job, tile, tile.open, open, tile.displacement, tile.argument, worker);
    evaluate(job.network, open, first, tile.evaluation, Record<T>{}, false, worker);
    write_impulses(job, tile, stage, open, tile.evaluation.delta[0], worker);
    displace_impulses(job, tile, stage, tile.open, open, worker);
    const bool ends = iteration + 1 == job.rollout->max_iterations;
    int64_t still = 0;
    for (int64_t i = 0; i < open; ++i) {
      const int32_t slot = tile.open[i];
      T* const displacement = tile.displacement.row(slot);
      const T* const image = tile.image.row(i);
      ++tile.iterations[slot];
      const T most = largest_of<T>(width, [&](int64_t c) { return load(image + c) - load(displacement + c); });
      const T error = tile.error[slot] = error_of(tile, slot, width, most);
      tile.solved[slot] = error <= least;
      const bool contracts = most <= static_cast<T>(kSlowly) * tile.length[slot];  // not where it is not a number
      if (!tile.solved[slot] && contracts && !ends) {
        tile.length[slot] = most;
        accelerate(tile, slot, width, image);
        tile.open[still++] = slot;
        continue;
      }
      if (!tile.solved[slot] && !ends && error < static_cast<T>(__builtin_inf())) {
        tile.slow[slow++] = slot;
        continue;
      }
      for_vectors<T>(width, [&](int64_t c) {
        store(tile.impulses.row(slot) + c, load(tile.impulse.row(i) + c));
        store(displacement + c, load(image + c));
      });
    }
    open = still;
  }
  return slow;
}

}  // namespace
}  // namespace hamiltorch
