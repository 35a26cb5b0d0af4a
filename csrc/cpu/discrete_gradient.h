// A step by the discrete gradient (hamiltorch/discrete_gradient.h), as a team's members find it together.
//
// The unknown is Delta. An evaluation takes the gradient halfway and the energy at the end, for both of which layer 1
// sees W_1 z + b_1 and a part of W_1 Delta. As in implicit.h a team's members share the products' columns; here they
// share what lies between as well, up to the images, which all read whole.
#pragma once
#include "curvature.h"
#include "fixed_point.h"
#include "hamiltorch/discrete_gradient.h"
#include "job.h"

namespace hamiltorch {
namespace {

template <class T>
struct DiscreteTile : FixedPoint<T> {
  // The team's, by line; every member writes its own columns.
  Evaluation<T> evaluation;
  Lines<T> work;
  Tile<T> argument, projected;  // [width]: what layer 1 is asked for, and W_1 of a change
  Tile<T> change;               // [dim]: what is projected
  Tile<T> slope, other;         // [dim]: gradients, or a product with the Hessian
  Tile<T> flowing;              // [dim]: what J - R multiplies
  Tile<T> ports, lost;          // [columns], [dim]: L^T and L L^T of that
  Tile<T> image;                // [dim]
  // The member's own, by slot.
  Tile<T> z;              // [dim]: where the step starts
  Tile<T> base;           // [width]: b_1 (+ W_1c c); stride 0 where every sample has the same
  Tile<T> start;          // [width]: layer 1's argument at z, own columns
  Tile<T> ahead;          // [dim]: dH(y) - g
  Tile<T> turns[kTurns];  // [dim]: Delta - dt b of the last steps and of this one
  Tile<T> first_image;    // [dim]: where the first solve is to leave the image of no change; none in others
  Curvature<T> kept;
  T *before, *after;   // H(z), H(y)
  T *square, *factor;  // |Delta|^2, and c; both zero where c is less than H's own rounding
  T* bounds;
  uint8_t* alive;
  // Of an adjoint:
  Tile<T> bar, undamped;  // [dim]: cotangents, and as they were ahead of the last decay
  Tile<T> behind;         // [dim]: g - dH(z)
  Tile<T> middle;         // [dim]: g
  Tile<T> solution;       // [dim]: v
  T* weights;             // k
  double* by_dt;          // the output grad_dt
};

template <class T>
struct DiscreteJob : Teams<T, DiscreteTile<T>> {
  const DiscreteRollout<T>* rollout;
  DiscreteArrays<T> arrays;
  DiscreteAdjointArrays<T> adjoint;
  Network<T> network;
  Weight<T> dissipation;  // L; rows null where it is diagonal or none
  T* zeros;               // [width]

  int64_t dim() const { return rollout->rollout.network.dim; }
  T dt() const { return rollout->rollout.dt; }
  int64_t samples() const { return rollout->rollout.batch; }
  void get_ready(const Member& all) const {
    if (dissipation.rows) make_panels(dissipation, all);
    prepare(network, rollout->rollout.network, all);
  }
};

// f(i, c) for the lines and this member's columns of `count`, one by one: halves do not begin at vectors.
template <class T, class F>
void for_entries(int64_t lines, int64_t count, const Worker<T>& worker, const F& f) {
  const Range mine = worker.columns(count);
  for (int64_t i = 0; i < lines; ++i)
    for (int64_t c = mine.begin; c < mine.end; ++c) f(i, c);
}

// to = W_1 x, own columns; vector_at(i, c) is a vector of line i's x.
template <class T, class VectorAt>
void project(const DiscreteJob<T>& job, const DiscreteTile<T>& tile, int64_t lines, const VectorAt& vector_at,
             const Tile<T>& to, const Worker<T>& worker) {
  for_columns<T>({0, lines}, worker.columns(job.dim()),
                 [&](int64_t i, int64_t c) { store(tile.change.row(i) + c, vector_at(i, c)); });
  apply(job.network.q, lines, tile.change, to, worker, no_more);
}

// Layer 1's arguments this part of the way.
template <class T>
void write_arguments(const DiscreteJob<T>& job, const DiscreteTile<T>& tile, const int32_t* slots, int64_t lines,
                     T part, const Tile<T>& to, const Worker<T>& worker) {
  for_columns<T>({0, lines}, worker.columns(job.network.first()), [&](int64_t i, int64_t c) {
    store(to.row(i) + c, load(tile.start.row(slots[i]) + c) + part * load(tile.projected.row(i) + c));
  });
}

// to = dH by layer 1's; whole on return.
template <class T>
void find_slope(const DiscreteJob<T>& job, int64_t lines, const Tile<T>& delta, const Tile<T>& to,
                const Worker<T>& worker) {
  apply_transposed(job.network.q, lines, delta, to, worker, no_more);
  worker.wait();
}

// image = finish(i, c, J x - R x, or its transpose) for the lines x of tile.flowing; whole on return.
template <class T, class Finish>
void conduct(const DiscreteJob<T>& job, const DiscreteTile<T>& tile, bool transposed, int64_t lines,
             const Worker<T>& worker, const Finish& finish) {
  const T* const diagonal = job.rollout->columns == 0 ? job.rollout->dissipation : nullptr;
  const int64_t dim = job.dim(), d = dim / 2;
  const T sign = transposed ? -1 : 1;
  if (job.dissipation.rows) {
    apply_transposed(job.dissipation, lines, tile.flowing, tile.ports, worker, no_more);
    apply(job.dissipation, lines, tile.ports, tile.lost, worker, no_more);
  } else {
    worker.wait();
  }
  for_entries(lines, dim, worker, [&](int64_t i, int64_t c) {
    const T* const x = tile.flowing.row(i);
    T sum = c < d ? sign * x[c + d] : -sign * x[c - d];
    if (diagonal) sum -= diagonal[c] * diagonal[c] * x[c];
    if (job.dissipation.rows) sum -= tile.lost.row(i)[c];
    tile.image.row(i)[c] = finish(i, c, sum);
  });
  worker.wait();
}

// Of the points `at`, whose gradients halfway are in tile.slope and whose last layers' values are evaluated: energies,
// c and what belongs to it.
template <class T>
void find_factors(const DiscreteJob<T>& job, const DiscreteTile<T>& tile, const int32_t* slots, int64_t lines,
                  const Tile<T>& at) {
  const int64_t dim = job.dim();
  for (int64_t i = 0; i < lines; ++i) {
    const int64_t slot = slots[i];
    const T* const change = at.row(slot);
    const T before = tile.before[slot], after = tile.after[slot] = energy(job.network, tile.evaluation, i);
    const T square = inner(change, change, dim), distance = square_root(square);
    const T rounding = kEpsilon<T> * (magnitude(before) + magnitude(after));
    const T least = kLeastRoundings * kEpsilon<T>, asked = job.rollout->tolerance;
    tile.bounds[slot] = asked > least ? asked : least;
    tile.square[slot] = tile.factor[slot] = 0;
    if (square * distance <= rounding) continue;  // what is not a number goes on into the image
    tile.square[slot] = square;
    tile.factor[slot] = (after - before - inner(tile.slope.row(i), change, dim)) / square;
    // What rounding of H leaves of the equations.
    const T noise = 4 * rounding * magnitude(job.dt()) / distance;
    if (noise > tile.bounds[slot]) tile.bounds[slot] = noise;
  }
}

template <class T>
struct StepEquations {
  const DiscreteJob<T>& job;
  const DiscreteTile<T>& tile;
  const T* forces;  // of slot 0 in this step, or null
  const Worker<T>& worker;

  int64_t width() const { return job.dim(); }
  int64_t limit() const { return job.rollout->max_iterations; }
  const Tile<T>& image() const { return tile.image; }
  T bound(int64_t slot) const { return tile.bounds[slot]; }

  T scale(int64_t slot) const {
    const T *z = tile.z.row(slot), *change = tile.displacement.row(slot);
    return 1 + largest_of<T>(width(), [&](int64_t c) { return load(z + c) + load(change + c); });
  }

  void find_image(const int32_t* slots, int64_t lines, const Tile<T>& at) const {
    const FirstLayer<T> first = {tile.argument, {job.zeros, 0}, {job.zeros, 0}};
    project(job, tile, lines, [&](int64_t i, int64_t c) { return load(at.row(slots[i]) + c); }, tile.projected, worker);
    write_arguments(job, tile, slots, lines, static_cast<T>(0.5), tile.argument, worker);
    evaluate(job.network, lines, first, tile.evaluation, Record<T>{}, false, worker);
    find_slope(job, lines, tile.evaluation.delta[0], tile.slope, worker);
    write_arguments(job, tile, slots, lines, static_cast<T>(1), tile.argument, worker);
    evaluate_values(job.network, lines, first, tile.evaluation, Record<T>{}, true, worker);
    worker.wait();
    find_factors(job, tile, slots, lines, at);
    finish_image(slots, lines, at);
  }

  void linearise(const int32_t* slots, int64_t lines, const Tile<T>& at) const {
    linearise_ends(slots, lines, at);
    finish_image(slots, lines, at);
  }

  // All that is known of the points but their images.
  void linearise_ends(const int32_t* slots, int64_t lines, const Tile<T>& at) const {
    linearise_middle(slots, lines, at);
    const FirstLayer<T> first = {tile.argument, {job.zeros, 0}, {job.zeros, 0}};
    write_arguments(job, tile, slots, lines, static_cast<T>(1), tile.argument, worker);
    evaluate(job.network, lines, first, tile.evaluation, Record<T>{}, true, worker);
    find_slope(job, lines, tile.evaluation.delta[0], tile.other, worker);
    for (int64_t i = 0; i < lines; ++i)
      for_vectors<T>(width(), [&](int64_t c) {
        store(tile.ahead.row(slots[i]) + c, load(tile.other.row(i) + c) - load(tile.slope.row(i) + c));
      });
    find_factors(job, tile, slots, lines, at);
  }

  // d Delta = dt (J - R) dD, dD = h / 2 + c x + Delta dc with h = Hess(w) x.
  void multiply(const int32_t* slots, int64_t lines, int64_t j, const Tile<T>& product) const {
    multiply_hessian_of(slots, lines,
                        [&](int64_t i, int64_t c) { return load(tile.krylov.direction(slots[i], j) + c); });
    const Range mine = worker.columns(width());
    for (int64_t i = 0; i < lines; ++i) {
      const int64_t slot = slots[i];
      const T *x = tile.krylov.direction(slot, j), *h = tile.slope.row(i), *change = tile.displacement.row(slot);
      const T c = tile.factor[slot], square = tile.square[slot];
      T rate = 0;  // dc
      if (square > 0)
        rate = (inner(tile.ahead.row(slot), x, width()) - inner(h, change, width()) / 2 -
                2 * c * inner(change, x, width())) /
               square;
      for (int64_t k = mine.begin; k < mine.end; k += kLanes<T>)
        store(tile.flowing.row(i) + k, static_cast<T>(0.5) * load(h + k) + c * load(x + k) + rate * load(change + k));
    }
    conduct(job, tile, false, lines, worker, [&](int64_t, int64_t, T value) { return job.dt() * value; });
    for (int64_t i = 0; i < lines; ++i)
      for_vectors<T>(width(), [&](int64_t c) {
        store(product.row(i) + c, load(tile.krylov.direction(slots[i], j) + c) - load(tile.image.row(i) + c));
      });
  }

  void begin(int64_t slot, int64_t line) const {
    if (!tile.first_image.data) return;
    for_vectors<T>(width(), [&](int64_t c) { store(tile.first_image.row(slot) + c, load(tile.image.row(line) + c)); });
  }

  void take(int64_t, int64_t) const {}
  void find_unseen(const int32_t*, int64_t) const {}
  T unseen(int64_t) const { return 0; }

  // The gradient halfway in tile.slope, and what products with the Hessian there need.
  void linearise_middle(const int32_t* slots, int64_t lines, const Tile<T>& at) const {
    const Network<T>& network = job.network;
    project(job, tile, lines, [&](int64_t i, int64_t c) { return load(at.row(slots[i]) + c); }, tile.projected, worker);
    evaluate_curvature_from(
        network, slots, lines, tile.kept, tile.work, worker,
        [&](const auto& activate_all) {
          write_arguments(job, tile, slots, lines, static_cast<T>(0.5), argument_of(network, tile.work), worker);
          activate_all({0, lines}, worker.columns(network.first()));
        },
        [](int64_t, int64_t) { return Vec<T>{}; });
    find_slope(job, lines, tile.work.delta[0], tile.slope, worker);
  }

  // tile.slope = Hess(w) x.
  template <class VectorAt>
  void multiply_hessian_of(const int32_t* slots, int64_t lines, const VectorAt& vector_at) const {
    project(job, tile, lines, vector_at, tile.work.tangent[0], worker);
    multiply_hessian(job.network, slots, lines, tile.kept, tile.work, worker);
    find_slope(job, lines, tile.work.tangent_delta[0], tile.slope, worker);
  }

  void finish_image(const int32_t* slots, int64_t lines, const Tile<T>& at) const {
    for_columns<T>({0, lines}, worker.columns(width()), [&](int64_t i, int64_t c) {
      const int64_t slot = slots[i];
      store(tile.flowing.row(i) + c, load(tile.slope.row(i) + c) + tile.factor[slot] * load(at.row(slot) + c));
    });
    const int64_t stride = job.rollout->rollout.steps * width();
    conduct(job, tile, false, lines, worker, [&](int64_t i, int64_t c, T value) {
      return job.dt() * (forces ? value + forces[slots[i] * stride + c] : value);
    });
  }
};

}  // namespace
}  // namespace hamiltorch
