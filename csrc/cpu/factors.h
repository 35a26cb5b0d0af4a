// Parameter gradients as large products: every evaluation leaves the two factors of its outer products here, and one
// product per matrix over (samples x evaluations) follows when the buffer is full.
#pragma once
#include "network.h"

namespace hamiltorch {
namespace {

// Rows of the factors of one weight matrix's gradient, sum_k out[k] (x) in[k], in panels [panel][capacity][kPanel].
template <class T>
struct Factors {
  T* out;
  T* in;
  int64_t out_width, in_width;
  int64_t capacity;  // rows
  T* gradient;       // [out_width][stride], where the product is added
  int64_t stride;
};

template <class T>
Factors<T> take_factors(Arena& arena, int64_t out_width, int64_t in_width, int64_t capacity, T* gradient,
                        int64_t stride) {
  return {arena.take<T>(padded<T>(out_width) * capacity),
          arena.take<T>(padded<T>(in_width) * capacity),
          out_width,
          in_width,
          capacity,
          gradient,
          stride};
}

// Stores value(r, c) for this member's columns as rows row0.. of one factor.
template <class T, class F>
void put(T* panels, int64_t capacity, int64_t row0, int64_t rows, int64_t width, const Member& member, const F& value) {
  const Range columns = share_columns<T>(width, member.index, member.count);
  for (int64_t first = columns.begin; first < columns.end; first += kPanel<T>) {
    T* const panel = panels + first * capacity;
    const int64_t end = columns.end - first < kPanel<T> ? columns.end - first : kPanel<T>;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < end; c += kLanes<T>) store(panel + (row0 + r) * kPanel<T> + c, value(r, first + c));
  }
}

// Rows of a register block of the gradient; divides kPanel on every instruction set.
inline constexpr int kOuterRows = kVectorBytes == 64 ? 8 : kVectorBytes == 32 ? 4 : 2;
// Factor rows taken at once: a panel of this many rows stays in L1.
inline constexpr int64_t kOuterDepth = 256;

// gradient += out^T in for one panel of `in`, over `count` factor rows.
template <class T>
void add_outer_panel(const Factors<T>& f, int64_t panel, int64_t count) {
  static_assert(kPanel<T> % kOuterRows == 0);
  const int64_t first = panel * kPanel<T>;
  const int64_t columns = f.in_width - first < kPanel<T> ? f.in_width - first : kPanel<T>;
  T sums[kOuterRows * kPanel<T>];
  for (int64_t k0 = 0; k0 < count; k0 += kOuterDepth) {
    const int64_t depth = count - k0 < kOuterDepth ? count - k0 : kOuterDepth;
    const T* in = f.in + first * f.capacity + k0 * kPanel<T>;
    for (int64_t o = 0; o < f.out_width; o += kOuterRows) {
      const int64_t within = o % kPanel<T>;
      const T* out = f.out + (o - within) * f.capacity + k0 * kPanel<T> + within;
      block<T, kOuterRows, 2, false>(depth, out, 1, kPanel<T>, in, kPanel<T>, sums, kPanel<T>);
      const int64_t rows = f.out_width - o < kOuterRows ? f.out_width - o : kOuterRows;
      for (int64_t i = 0; i < rows; ++i) {
        T* to = f.gradient + (o + i) * f.stride + first;
        for (int64_t j = 0; j < columns; ++j) to[j] += sums[i * kPanel<T> + j];
      }
    }
  }
}

// All matrices' products, their panels dealt to threads by work. `counts[m]` rows are in use.
template <class T>
void add_outer_products(const Factors<T>* factors, const int64_t* counts, int64_t matrices, int index, int threads) {
  int64_t total = 0;
  const auto cost = [&](int64_t m) { return counts[m] * factors[m].out_width; };
  for (int64_t m = 0; m < matrices; ++m) total += cost(m) * ceil_div(factors[m].in_width, kPanel<T>);
  if (total == 0) return;
  int64_t before = 0;
  for (int64_t m = 0; m < matrices; ++m)
    for (int64_t panel = 0; panel < ceil_div(factors[m].in_width, kPanel<T>); ++panel, before += cost(m))
      if (before * threads / total == index) add_outer_panel(factors[m], panel, counts[m]);
}

}  // namespace
}  // namespace hamiltorch
