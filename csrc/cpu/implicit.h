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
#include "fixed_point.h"
#include "hamiltorch/implicit.h"
#include "job.h"

namespace hamiltorch {
namespace {

template <class T>
struct ImplicitTile : FixedPoint<T> {
  // The team's, by line; every member writes its own columns.
  Evaluation<T> evaluation;
  Lines<T> work;
  Tile<T> argument, impulse, image, other;  // [lines][width]
  Tile<T> moved;                            // [lines][d]
  Tile<T> states;                           // layer-1 space: [chunk rows][d]
  // The member's own, by slot.
  Tile<T> q, p;            // [d]; in layer-1 space the initial state
  Tile<T> base;            // [width]: b_1 (+ W_1c c); stride 0 where every sample has the same
  Tile<T> s, r;            // [width]: W_1q q + base and W_1p p
  Tile<T> impulses;        // [width]: x of the stage that is solved
  Tile<T> carried;         // the impulses of the one before that the solve takes along, or none
  Tile<T> first_image;     // [width]: where the first solve is to leave that of z0; none in others
  Tile<T>* displacements;  // [stages][kTurns]: D of the last steps and of this one, in turns
  Tile<T> turns[2];        // impulses of this stage and of the one before
  Tile<T> sums;            // layer-1 space: [(chunk + 1) rows][width], impulses so far after some steps
  Curvature<T> kept;
  T* slacks;           // [stages][rows]
  T* worst;            // error of the step
  Tile<T> at_q, at_p;  // [d]: w, the adjoint's
  uint8_t* alive;
};

// What all tiles share.
template <class T>
struct ImplicitJob : Teams<T, ImplicitTile<T>> {
  const ImplicitRollout<T>* rollout;
  ImplicitArrays<T> arrays;
  ImplicitAdjointArrays<T> adjoint;
  Network<T> network;
  int64_t chunk;  // layer-1 space: steps whose states are made together
  T* zeros;       // [width]

  int64_t samples() const { return rollout->rollout.batch; }
  void get_ready(const Member& all) const { prepare(network, rollout->rollout.network, all); }
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

}  // namespace
}  // namespace hamiltorch
