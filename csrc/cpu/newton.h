// One discrete Euler-Lagrange step of a tile of samples: the equations, their Newton matrix, and the damped iteration.
//
// The matrix is diag(k) + dt W_1x^T H W_1y, H being N's Hessian in layer-1 space and k = -(m / dt + f / 2). Its first
// part, what the kinetic term and friction make of it, is the preconditioner: GMRES then needs few products with H, a
// product being the work of one gradient. Where it needs more than kMostDirections the matrix is formed, all its
// columns in one product with H, and factorised. The rules of the iteration are those of hamiltorch_ext/_newton.py.
#pragma once
#include "broyden.h"
#include "curvature.h"
#include "hamiltorch/iteration.h"
#include "hamiltorch/variational.h"

namespace hamiltorch {
namespace {

// The samples of a tile, by slot where nothing else is said.
//
// A team's members share each product's columns, and nothing else: all that lies between products each does for itself
// on a tile of its own, and comes to the same bits and decisions. What they share is where products meet: work, out and
// other.
template <class T>
struct DelTile {
  Tile<T> q, y, carried, residual;  // [d]: x, the solution, what the step before brings, and r
  Tile<T> start;                    // [d]: where the iteration began
  Tile<T> right, step, tried, tried_residual;
  Tile<T> multiplier, own, later;  // of the adjoint: l, and what it and the next one make on x
  Tile<T> base, from_x;            // [width]: b_1 (+ W_1c c), and with W_1x x
  Curvature<T> kept;
  Lines<T> work;
  Tile<T> in, out, other;  // [lines][d]
  Tile<T> image;           // [d]
  int64_t lines;
  Krylov<T> krylov;
  Tile<T> matrix;                                     // [d][d]
  T *scale, *error, *length, *target, *left, *pivot;  // length: of the residual
  int64_t* iterations;
  Broyden<T> memory;
  uint8_t *settled, *stale, *broyden;
  int32_t *all, *open, *quick, *slow, *trying, *back, *single;  // lists of slots; `single` is one slot in every line
};

// What all tiles share.
template <class T>
struct DelSystem {
  const DelRollout<T>* rollout;
  Network<T> network;
  T* kinetic;   // m / dt, [d], zero-padded as all three
  T* friction;  // f / 2
  T* diagonal;  // k
  T* inverse;   // 1 / k
};

// The matrix reads its direction by one half of W_1 and leaves by the other; its transpose the other way round.
template <class T>
struct Sides {
  const Weight<T>&in, &out;
};

// from_x of the tile's x.
template <class T>
void begin_interval(const DelSystem<T>& system, const DelTile<T>& tile, int64_t rows, const Worker<T>& worker) {
  apply(system.network.q, rows, tile.q, tile.from_x, worker, [&](const Range& block, const Range& columns) {
    for_columns<T>(block, columns, [&](int64_t r, int64_t c) {
      store(tile.from_x.row(r) + c, load(tile.from_x.row(r) + c) + load(tile.base.row(r) + c));
    });
  });
}

// tile.in = these slots' rows, a line each.
template <class T>
void read_lines(const DelTile<T>& tile, const int32_t* slots, int64_t count, int64_t d, const Tile<T>& from) {
  for (int64_t i = 0; i < count; ++i)
    for_vectors<T>(d, [&](int64_t c) { store(tile.in.row(i) + c, load(from.row(slots[i]) + c)); });
}

// y = d W, for all members of the team to read.
template <class T>
void bring_back(const Weight<T>& w, int64_t lines, const Tile<T>& d, const Tile<T>& y, const Worker<T>& worker) {
  apply_transposed(w, lines, d, y, worker, no_more);
  worker.wait();
}

// The network at (x, `at`) for these slots.
template <class T>
void evaluate_at(const DelSystem<T>& system, const DelTile<T>& tile, const int32_t* slots, int64_t count,
                 const Tile<T>& at, const Worker<T>& worker) {
  read_lines(tile, slots, count, system.network.half, at);
  evaluate_curvature(system.network, slots, count, tile.from_x, tile.in, tile.kept, tile.work, worker);
}

// r at (x, `at`) for these slots.
template <class T>
void find_residual(const DelSystem<T>& system, const DelTile<T>& tile, const int32_t* slots, int64_t count,
                   const Tile<T>& at, const Tile<T>& residual, const Worker<T>& worker) {
  const int64_t d = system.network.half;
  const T dt = system.rollout->dt;
  evaluate_at(system, tile, slots, count, at, worker);
  bring_back(system.network.q, count, tile.work.delta[0], tile.out, worker);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t slot = slots[i];
    for_vectors<T>(d, [&](int64_t c) {
      const Vec<T> change = load(at.row(slot) + c) - load(tile.q.row(slot) + c);
      store(residual.row(slot) + c,
            load(tile.carried.row(slot) + c) + load(system.diagonal + c) * change + dt * load(tile.out.row(i) + c));
    });
  }
}

// line i of tile.out = (W_out^T H W_in) line i of tile.in.
template <class T>
void multiply_mixed(const DelSystem<T>& system, const DelTile<T>& tile, const Sides<T>& sides, const int32_t* slots,
                    int64_t count, const Worker<T>& worker) {
  apply(sides.in, count, tile.in, tile.work.tangent[0], worker, no_more);
  multiply_hessian(system.network, slots, count, tile.kept, tile.work, worker);
  bring_back(sides.out, count, tile.work.tangent_delta[0], tile.out, worker);
}

// tile.step = the matrix's inverse times tile.right, by GMRES; `target` and `left` are of the slots' systems.
template <class T>
void solve_by_products(const DelSystem<T>& system, const DelTile<T>& tile, const Sides<T>& sides, const int32_t* slots,
                       int64_t count, const Worker<T>& worker) {
  const int64_t d = system.network.half;
  const T dt = system.rollout->dt;
  solve_krylov(tile.krylov, slots, count, d, tile.right, tile.target, tile.step, tile.left, tile.image,
               [&](const int32_t* open, int64_t lines, int64_t j, const Tile<T>& image) {
                 for (int64_t i = 0; i < lines; ++i)
                   for_vectors<T>(d, [&](int64_t c) {
                     store(tile.in.row(i) + c, load(tile.krylov.direction(open[i], j) + c) * load(system.inverse + c));
                   });
                 multiply_mixed(system, tile, sides, open, lines, worker);
                 for (int64_t i = 0; i < lines; ++i)
                   for_vectors<T>(d, [&](int64_t c) {
                     store(image.row(i) + c,
                           load(tile.krylov.direction(open[i], j) + c) + dt * load(tile.out.row(i) + c));
                   });
               });
  for (int64_t i = 0; i < count; ++i)
    for_vectors<T>(d, [&](int64_t c) {
      store(tile.step.row(slots[i]) + c, load(tile.step.row(slots[i]) + c) * load(system.inverse + c));
    });
}

// The same for one slot by its matrix; notes its smallest pivot.
template <class T>
void solve_by_matrix(const DelSystem<T>& system, const DelTile<T>& tile, const Sides<T>& sides, int32_t slot,
                     const Worker<T>& worker) {
  const int64_t d = system.network.half;
  for (int64_t i = 0; i < tile.lines; ++i) tile.single[i] = slot;
  for (int64_t first = 0; first < d; first += tile.lines) {
    const int64_t count = d - first < tile.lines ? d - first : tile.lines;
    for (int64_t i = 0; i < count; ++i) {
      for_vectors<T>(d, [&](int64_t c) { store(tile.in.row(i) + c, Vec<T>{}); });
      tile.in.row(i)[first + i] = 1;
    }
    multiply_mixed(system, tile, sides, tile.single, count, worker);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t r = 0; r < d; ++r)
        tile.matrix.row(r)[first + i] =
            system.rollout->dt * tile.out.row(i)[r] + (r == first + i ? system.diagonal[r] : 0);
  }
  for_vectors<T>(d, [&](int64_t c) { store(tile.step.row(slot) + c, load(tile.right.row(slot) + c)); });
  tile.pivot[slot] = eliminate(d, tile.matrix, tile.step.row(slot));
}

// The point that was tried becomes the slot's, with its residual of this length.
template <class T>
void take_tried(const DelTile<T>& tile, int64_t slot, int64_t d, T length) {
  tile.length[slot] = length;
  for_vectors<T>(d, [&](int64_t c) {
    store(tile.y.row(slot) + c, load(tile.tried.row(slot) + c));
    store(tile.residual.row(slot) + c, load(tile.tried_residual.row(slot) + c));
  });
}

// Halves each slot's step until its residual falls, and takes it; the slots where that succeeded, in place of the list.
template <class T>
int64_t search_line(const DelSystem<T>& system, const DelTile<T>& tile, int32_t* slots, int64_t count,
                    const Worker<T>& worker) {
  const int64_t d = system.network.half;
  int64_t trying = 0, improved = 0;
  for (int64_t i = 0; i < count; ++i)
    if (largest(tile.step.row(slots[i]), d) < static_cast<T>(__builtin_inf())) tile.trying[trying++] = slots[i];
  T part = 1;
  for (int halving = 0; halving < kHalvings && trying > 0; ++halving, part /= 2) {
    for (int64_t i = 0; i < trying; ++i) {
      const int64_t slot = tile.trying[i];
      for_vectors<T>(d, [&](int64_t c) {
        store(tile.tried.row(slot) + c, load(tile.y.row(slot) + c) + part * load(tile.step.row(slot) + c));
      });
    }
    find_residual(system, tile, tile.trying, trying, tile.tried, tile.tried_residual, worker);
    int64_t still = 0;
    for (int64_t i = 0; i < trying; ++i) {
      const int32_t slot = tile.trying[i];
      const T length = norm(tile.tried_residual.row(slot), d);
      if (length <= (1 - static_cast<T>(kDecrease) * part) * tile.length[slot]) {
        take_tried(tile, slot, d, length);
        slots[improved++] = slot;
      } else {
        tile.trying[still++] = slot;
      }
    }
    trying = still;
  }
  for (int64_t i = 0; i < trying; ++i) tile.stale[tile.trying[i]] = 1;
  return improved;
}

// Newton's steps of the `count` slots in tile.slow.
template <class T>
void find_newton_steps(const DelSystem<T>& system, const DelTile<T>& tile, int64_t count, const Worker<T>& worker) {
  const int64_t d = system.network.half;
  const Sides<T> sides = {system.network.p, system.network.q};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t slot = tile.slow[i];
    // No more accurate than the step's end needs, and than its own error of second order is likely to be.
    const T length = tile.length[slot], wanted = system.rollout->tolerance * tile.scale[slot] / 4;
    const T least = static_cast<T>(kLeastForcing) * length, most = static_cast<T>(kMostForcing) * length;
    tile.target[slot] = wanted < least ? least : wanted < most ? wanted : most;
    for_vectors<T>(d, [&](int64_t c) { store(tile.right.row(slot) + c, -load(tile.residual.row(slot) + c)); });
  }
  solve_by_products(system, tile, sides, tile.slow, count, worker);
  for (int64_t i = 0; i < count; ++i) {
    const int32_t slot = tile.slow[i];
    if (!(tile.left[slot] <= static_cast<T>(kMostForcing) * tile.length[slot]))
      solve_by_matrix(system, tile, sides, slot, worker);
    tile.settled[slot] = tile.error[slot] < static_cast<T>(__builtin_inf()) &&
                         largest(tile.step.row(slot), d) <= kRoundings * kEpsilon<T> * largest(tile.y.row(slot), d);
  }
}

// The first steps of the `count` open slots, by what earlier steps of time have taught.
template <class T>
void begin_quickly(const DelSystem<T>& system, const DelTile<T>& tile, int64_t count) {
  const int64_t d = system.network.half;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t slot = tile.open[i];
    tile.broyden[slot] = 1;
    if (tile.memory.pairs[slot] == kMostPairs) tile.memory.pairs[slot] = 0;
    T* const step = tile.step.row(slot);
    for_vectors<T>(d, [&](int64_t c) { store(step + c, -load(tile.residual.row(slot) + c)); });
    multiply_inverse(tile.memory, slot, d, system.inverse, step);
  }
}

// Takes the full step of each of these slots where its residual falls, and finds the next. Where it does not fall by
// enough, Newton's method takes over.
template <class T>
void take_quick_steps(const DelSystem<T>& system, const DelTile<T>& tile, const int32_t* slots, int64_t count,
                      const Worker<T>& worker) {
  const int64_t d = system.network.half;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t slot = slots[i];
    for_vectors<T>(d, [&](int64_t c) {
      store(tile.tried.row(slot) + c, load(tile.y.row(slot) + c) + load(tile.step.row(slot) + c));
    });
  }
  if (count > 0) find_residual(system, tile, slots, count, tile.tried, tile.tried_residual, worker);
  int64_t back = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t slot = slots[i];
    const T length = norm(tile.tried_residual.row(slot), d), before = tile.length[slot];
    const bool falls = length <= (1 - static_cast<T>(kDecrease)) * before;
    if (falls) take_tried(tile, slot, d, length);
    if (length <= static_cast<T>(kQuickly) * before) {
      learn_step(tile.memory, slot, d, system.inverse, tile.residual.row(slot), tile.step.row(slot),
                 tile.tried.row(slot));
      continue;
    }
    tile.broyden[slot] = 0;
    tile.memory.pairs[slot] = 0;
    if (!falls) tile.back[back++] = slot;
  }
  if (back > 0) evaluate_at(system, tile, tile.back, back, tile.y, worker);
}

// Solves the step of every slot, from tile.y on. Leaves in tile.kept the network at the solution.
template <class T>
void solve_step(const DelSystem<T>& system, const DelTile<T>& tile, int64_t rows, const Worker<T>& worker) {
  const int64_t d = system.network.half;
  const DelRollout<T>& rollout = *system.rollout;
  find_residual(system, tile, tile.all, rows, tile.y, tile.residual, worker);
  int64_t open = 0;
  for (int64_t slot = 0; slot < rows; ++slot) {
    tile.scale[slot] = 1 + largest(tile.carried.row(slot), d);
    tile.error[slot] = largest(tile.residual.row(slot), d) / tile.scale[slot];
    tile.length[slot] = norm(tile.residual.row(slot), d);
    tile.pivot[slot] = static_cast<T>(__builtin_inf());
    tile.iterations[slot] = 0;
    tile.settled[slot] = tile.stale[slot] = 0;
    if (tile.error[slot] > rollout.tolerance) tile.open[open++] = static_cast<int32_t>(slot);
  }
  begin_quickly(system, tile, open);
  for (int64_t iteration = 0; iteration < rollout.max_iterations && open > 0; ++iteration) {
    int64_t quick = 0, slow = 0;
    for (int64_t i = 0; i < open; ++i) {
      const int32_t slot = tile.open[i];
      ++tile.iterations[slot];
      if (tile.broyden[slot])
        tile.quick[quick++] = slot;
      else
        tile.slow[slow++] = slot;
    }
    take_quick_steps(system, tile, tile.quick, quick, worker);
    find_newton_steps(system, tile, slow, worker);
    slow = search_line(system, tile, tile.slow, slow, worker);
    open = 0;
    const auto go_on = [&](const int32_t* slots, int64_t count) {
      for (int64_t i = 0; i < count; ++i) {
        const int32_t slot = slots[i];
        tile.error[slot] = largest(tile.residual.row(slot), d) / tile.scale[slot];
        if (!tile.settled[slot] && tile.error[slot] > rollout.tolerance) tile.open[open++] = slot;
      }
    };
    go_on(tile.quick, quick);
    go_on(tile.slow, slow);
  }
  int64_t stale = 0;
  for (int64_t slot = 0; slot < rows; ++slot)
    if (tile.stale[slot]) tile.open[stale++] = static_cast<int32_t>(slot);
  if (stale > 0) evaluate_at(system, tile, tile.open, stale, tile.y, worker);
}

}  // namespace
}  // namespace hamiltorch
