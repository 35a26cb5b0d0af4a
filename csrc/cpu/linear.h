// Linear systems of the samples of a tile: GMRES on all of them in step, and elimination for the one that it fails.
#pragma once
#include "hamiltorch/iteration.h"
#include "network.h"

namespace hamiltorch {
namespace {

template <class T>
T square_root(T x) {
  if constexpr (sizeof(T) == sizeof(float))
    return __builtin_sqrtf(x);
  else
    return __builtin_sqrt(x);
}

template <class T>
T magnitude(T x) {
  return x < 0 ? -x : x;
}

template <class T, class F>
HAMILTORCH_INLINE void for_vectors(int64_t n, const F& f) {
  for (int64_t c = 0; c < n; c += kLanes<T>) f(c);
}

template <class T>
HAMILTORCH_INLINE Vec<T> magnitudes(const Vec<T>& x) {
  return x < 0 ? -x : x;
}

template <class T>
T horizontal_most(const Vec<T>& x) {
  T most = x[0];
  for (int i = 1; i < kLanes<T>; ++i) most = x[i] > most ? x[i] : most;
  return most;
}

// The largest magnitude of f's vectors, padding included, which is zero in all that lives here; not a number where one
// entry is none.
template <class T, class F>
T largest_of(int64_t n, const F& f) {
  Vec<T> most{}, none{};
  for_vectors<T>(n, [&](int64_t c) {
    const Vec<T> size = magnitudes<T>(f(c));
    most = size > most ? size : most;
    none = size == size ? none : size;
  });
  for (int i = 0; i < kLanes<T>; ++i)
    if (none[i] != none[i]) return none[i];
  return horizontal_most<T>(most);
}

template <class T>
T largest(const T* x, int64_t n) {
  return largest_of<T>(n, [&](int64_t c) { return load(x + c); });
}

// x . y, padding included.
template <class T>
T inner(const T* x, const T* y, int64_t n) {
  Vec<T> sums{};
  for (int64_t c = 0; c < n; c += kLanes<T>) sums += load(x + c) * load(y + c);
  return horizontal_sum<T>(sums);
}

// Euclidean. Where the squares leave the range of numbers, those of x over its largest entry do not.
template <class T>
T norm(const T* x, int64_t n) {
  const T square = inner(x, x, n), huge = sizeof(T) == sizeof(float) ? static_cast<T>(1e30) : static_cast<T>(1e300);
  if (square > 1 / huge && square < huge) return square_root(square);
  T most = 0, sum = 0;
  for (int64_t i = 0; i < n; ++i) most = magnitude(x[i]) > most ? magnitude(x[i]) : most;
  if (!(most > 0 && most < static_cast<T>(__builtin_inf()))) return square_root(square);
  for (int64_t i = 0; i < n; ++i) sum += (x[i] / most) * (x[i] / most);
  return most * square_root(sum);
}

// y += factor x, padding included.
template <class T>
void add_scaled(T* y, T factor, const T* x, int64_t n) {
  for (int64_t c = 0; c < n; c += kLanes<T>) store(y + c, load(y + c) + factor * load(x + c));
}

// Of every slot: a basis of the directions searched so far, and the least-squares problem in it.
template <class T>
struct Krylov {
  struct Small {
    T triangle[kMostDirections][kMostDirections + 1];  // by column
    T cosine[kMostDirections], sine[kMostDirections];
    T right[kMostDirections + 1];
    int64_t used;
  };
  Tile<T> basis;  // [slots * (kMostDirections + 1)][n]
  Small* small;   // [slots]
  int32_t* open;  // [slots]

  T* direction(int64_t slot, int64_t j) const { return basis.row(slot * (kMostDirections + 1) + j); }
};

template <class T>
Krylov<T> take_krylov(Arena& arena, int64_t slots, int64_t n) {
  Krylov<T> krylov;
  krylov.basis = take_tile<T>(arena, slots * (kMostDirections + 1), n);
  krylov.small = arena.take<typename Krylov<T>::Small>(slots);
  krylov.open = arena.take<int32_t>(slots);
  return krylov;
}

// Adds column j, orthogonalised against the basis already and of this length beyond it, to the least-squares problem by
// Givens rotations. Returns what is left of the right side.
template <class T>
T add_column(typename Krylov<T>::Small& small, int64_t j, T length) {
  T* const column = small.triangle[j];
  for (int64_t i = 0; i < j; ++i) {
    const T upper = column[i], lower = column[i + 1];
    column[i] = small.cosine[i] * upper + small.sine[i] * lower;
    column[i + 1] = small.cosine[i] * lower - small.sine[i] * upper;
  }
  const T upper = magnitude(column[j]), most = upper > length ? upper : length;
  const T pivot = most * square_root((upper / most) * (upper / most) + (length / most) * (length / most));
  if (!(pivot > 0 && pivot < static_cast<T>(__builtin_inf()))) return static_cast<T>(__builtin_nan(""));  // singular
  small.cosine[j] = column[j] / pivot;
  small.sine[j] = length / pivot;
  column[j] = pivot;
  small.right[j + 1] = -small.sine[j] * small.right[j];
  small.right[j] *= small.cosine[j];
  small.used = j + 1;
  return magnitude(small.right[j + 1]);
}

// Solves A u = b by GMRES from u = 0 for these slots. Each ends on its own, when the rest of b is no longer than its
// target, or after kMostDirections. multiply(slots, count, j, image) writes A direction(slot, j) to the lines of
// `image`. `left` is the rest's length, not a number, which is below no bound, where b is not finite or A singular.
template <class T, class Multiply>
void solve_krylov(const Krylov<T>& krylov, const int32_t* slots, int64_t count, int64_t n, const Tile<T>& b,
                  const T* target, const Tile<T>& u, T* left, const Tile<T>& image, const Multiply& multiply) {
  const int64_t most = n < kMostDirections ? n : kMostDirections;
  int64_t open = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t slot = slots[i];
    typename Krylov<T>::Small& small = krylov.small[slot];
    small.used = 0;
    small.right[0] = left[slot] = norm(b.row(slot), n);
    if (!(left[slot] < static_cast<T>(__builtin_inf()))) left[slot] = static_cast<T>(__builtin_nan(""));
    if (!(left[slot] > target[slot])) continue;
    const T inverse = 1 / left[slot];
    for (int64_t c = 0; c < n; c += kLanes<T>) store(krylov.direction(slot, 0) + c, load(b.row(slot) + c) * inverse);
    krylov.open[open++] = slot;
  }
  for (int64_t j = 0; j < most && open > 0; ++j) {
    multiply(krylov.open, open, j, image);
    int64_t still = 0;
    for (int64_t i = 0; i < open; ++i) {
      const int32_t slot = krylov.open[i];
      typename Krylov<T>::Small& small = krylov.small[slot];
      T* const w = image.row(i);
      for (int64_t k = 0; k <= j; ++k) {
        const T part = inner(w, krylov.direction(slot, k), n);
        small.triangle[j][k] = part;
        add_scaled(w, -part, krylov.direction(slot, k), n);
      }
      const T length = norm(w, n);
      left[slot] = add_column<T>(small, j, length);
      if (!(left[slot] > target[slot]) || !(length > 0) || j + 1 == most) continue;
      const T inverse = 1 / length;
      for (int64_t c = 0; c < n; c += kLanes<T>) store(krylov.direction(slot, j + 1) + c, load(w + c) * inverse);
      krylov.open[still++] = slot;
    }
    open = still;
  }
  for (int64_t i = 0; i < count; ++i) {
    const int32_t slot = slots[i];
    typename Krylov<T>::Small& small = krylov.small[slot];
    T* const to = u.row(slot);
    for (int64_t c = 0; c < n; c += kLanes<T>) store(to + c, Vec<T>{});
    for (int64_t j = small.used; j-- > 0;) {
      T sum = small.right[j];
      for (int64_t k = j + 1; k < small.used; ++k) sum -= small.triangle[k][j] * small.right[k];
      small.right[j] = sum / small.triangle[j][j];
      add_scaled(to, small.right[j], krylov.direction(slot, j), n);
    }
  }
}

// Solves M x = b by elimination with partial pivoting; M, [n][n] with zeros in the padding, is overwritten, and b by x.
// Returns the smallest pivot over the largest entry of M. x is not finite where that is zero.
template <class T>
T eliminate(int64_t n, const Tile<T>& m, T* b) {
  T largest = 0, smallest = static_cast<T>(__builtin_inf());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) largest = magnitude(m.row(i)[j]) > largest ? magnitude(m.row(i)[j]) : largest;
  for (int64_t k = 0; k < n; ++k) {
    int64_t best = k;
    for (int64_t i = k + 1; i < n; ++i)
      if (magnitude(m.row(i)[k]) > magnitude(m.row(best)[k])) best = i;
    T* const line = m.row(k);
    const int64_t from = k / kLanes<T> * kLanes<T>;
    if (best != k) {
      for (int64_t c = from; c < n; c += kLanes<T>) {
        const Vec<T> other = load(m.row(best) + c);
        store(m.row(best) + c, load(line + c));
        store(line + c, other);
      }
      const T other = b[best];
      b[best] = b[k];
      b[k] = other;
    }
    const T pivot = line[k];
    smallest = magnitude(pivot) < smallest ? magnitude(pivot) : smallest;
    for (int64_t i = k + 1; i < n; ++i) {
      const T factor = m.row(i)[k] / pivot;
      add_scaled(m.row(i) + from, -factor, line + from, n - from);
      b[i] -= factor * b[k];
    }
  }
  for (int64_t k = n; k-- > 0;) {
    T sum = b[k];
    for (int64_t j = k + 1; j < n; ++j) sum -= m.row(k)[j] * b[j];
    b[k] = sum / m.row(k)[k];
  }
  return largest > 0 ? smallest / largest : 0;
}

}  // namespace
}  // namespace hamiltorch
