// Broyden's method for the samples of a tile: what steps have shown of the inverse matrix. It needs gradients alone,
// and what it has learned in one step of time serves the next, whose matrix is nearly the same.
//
// The inverse is kept as (I + u_k s_k^T) ... (I + u_1 s_1^T) D^-1, D being diagonal; a step s that leaves the residual
// r adds u = -w / (s . (w + s)) with w the inverse before times r (Kelley, Iterative methods for linear and nonlinear
// equations, 1995, section 7.3).
#pragma once
#include "linear.h"

namespace hamiltorch {
namespace {

template <class T>
struct Broyden {
  Tile<T> steps, updates;  // [slots * kMostPairs][n]: s and u
  int64_t* pairs;          // [slots]
};

template <class T>
Broyden<T> take_broyden(Arena& arena, int64_t slots, int64_t n) {
  Broyden<T> memory;
  memory.steps = take_tile<T>(arena, slots * kMostPairs, n);
  memory.updates = take_tile<T>(arena, slots * kMostPairs, n);
  memory.pairs = arena.take<int64_t>(slots);
  return memory;
}

// x becomes the inverse times x.
template <class T>
void multiply_inverse(const Broyden<T>& memory, int64_t slot, int64_t n, const T* diagonal_inverse, T* x) {
  for (int64_t c = 0; c < n; c += kLanes<T>) store(x + c, load(x + c) * load(diagonal_inverse + c));
  for (int64_t k = 0; k < memory.pairs[slot]; ++k) {
    const int64_t row = slot * kMostPairs + k;
    add_scaled(x, inner(memory.steps.row(row), x, n), memory.updates.row(row), n);
  }
}

// Learns from the full step s, after which the residual is r, and replaces s by the next step. Nothing is learned where
// rounding would be: where the next step is not clearly shorter.
template <class T>
void learn_step(const Broyden<T>& memory, int64_t slot, int64_t n, const T* diagonal_inverse, const T* r, T* s, T* w) {
  for (int64_t c = 0; c < n; c += kLanes<T>) store(w + c, load(r + c));
  multiply_inverse(memory, slot, n, diagonal_inverse, w);
  const T square = inner(s, s, n), along = square + inner(s, w, n);
  const bool learns = inner(w, w, n) < square / 4 && memory.pairs[slot] < kMostPairs;
  if (learns) {
    const int64_t row = slot * kMostPairs + memory.pairs[slot]++;
    for (int64_t c = 0; c < n; c += kLanes<T>) {
      store(memory.steps.row(row) + c, load(s + c));
      store(memory.updates.row(row) + c, load(w + c) / -along);
    }
  }
  const T factor = learns ? -square / along : -1;
  for (int64_t c = 0; c < n; c += kLanes<T>) store(s + c, load(w + c) * factor);
}

}  // namespace
}  // namespace hamiltorch
