// Parameter gradients as large products: every evaluation leaves the two factors of its outer products here, and one
// product per matrix over (samples x evaluations) follows when the buffer is full.
#pragma once
#include "network.h"

namespace hamiltorch {
namespace {

// Factor buffers of about this size: long products, and still within the last-level cache.
inline constexpr int64_t kFactorBytes = 20 << 20;

// Rows of the factors of one weight matrix's gradient, sum_k out[k] (x) in[k], in panels [panel][capacity][kPanel].
template <class T>
struct Factors {
  T* out;
  T* in;
  int64_t out_width, in_width;
  int64_t capacity;  // rows
  double* sums;      // [out_width][padded in_width], what the products have come to
};

template <class T>
Factors<T> take_factors(Arena& arena, int64_t out_width, int64_t in_width, int64_t capacity) {
  return {arena.take<T>(padded<T>(out_width) * capacity),
          arena.take<T>(padded<T>(in_width) * capacity),
          out_width,
          in_width,
          capacity,
          arena.take<double>(out_width * padded<T>(in_width))};
}

// Stores value(r, c) for this member's columns as rows row0.. of one factor.
template <class T, class F>
void put(T* panels, int64_t capacity, int64_t row0, int64_t rows, const Range& columns, const F& value) {
  for (int64_t first = columns.begin; first < columns.end; first += kPanel<T>) {
    T* const panel = panels + first * capacity;
    const int64_t end = columns.end - first < kPanel<T> ? columns.end - first : kPanel<T>;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < end; c += kLanes<T>) store(panel + (row0 + r) * kPanel<T> + c, value(r, first + c));
  }
}

// Rows of a register block of the gradient; divides kPanel on every instruction set.
inline constexpr int kOuterRows = kVectorBytes == 64 ? 8 : kVectorBytes == 32 ? 4 : 2;
// Length of a chain of additions in T. Chains are summed in T as well, and what a full buffer comes to in double, so
// that rounding does not grow with the number of samples and steps.
inline constexpr int64_t kChain = 128;

// sums += out^T in for one panel of `in`, over `count` factor rows. One chain's rows of the panel stay in the nearest
// cache for all of `out`; `sums` is scratch [out_width rounded up][kPanel].
template <class T>
void add_outer_panel(const Factors<T>& f, int64_t panel, int64_t count, T* sums) {
  static_assert(kPanel<T> % kOuterRows == 0);
  const int64_t first = panel * kPanel<T>;
  const T* const in = f.in + first * f.capacity;
  for (int64_t k = 0; k < count; k += kChain) {
    const int64_t depth = count - k < kChain ? count - k : kChain;
    for (int64_t o = 0; o < f.out_width; o += kOuterRows) {
      const int64_t within = o % kPanel<T>;
      const T* const out = f.out + (o - within) * f.capacity + k * kPanel<T> + within;
      block<T, T, kOuterRows, 2>(depth, out, 1, kPanel<T>, in + k * kPanel<T>, [&](int i, int j, const Vec<T>& sum) {
        T* const to = sums + (o + i) * kPanel<T> + j * kLanes<T>;
        store(to, k ? load(to) + sum : sum);
      });
    }
  }
  for (int64_t o = 0; o < f.out_width; ++o) {
    double* const to = f.sums + o * padded<T>(f.in_width) + first;
    for (int64_t j = 0; j < kPanel<T>; ++j) to[j] += static_cast<double>(sums[o * kPanel<T> + j]);
  }
}

// All matrices' products, their panels dealt to threads by work. `counts[m]` rows are in use.
template <class T>
void add_outer_products(const Factors<T>* factors, const int64_t* counts, int64_t matrices, T* scratch, int index,
                        int threads) {
  int64_t total = 0;
  const auto cost = [&](int64_t m) { return counts[m] * factors[m].out_width; };
  for (int64_t m = 0; m < matrices; ++m) total += cost(m) * ceil_div(factors[m].in_width, kPanel<T>);
  if (total == 0) return;
  int64_t before = 0;
  for (int64_t m = 0; m < matrices; ++m)
    for (int64_t panel = 0; panel < ceil_div(factors[m].in_width, kPanel<T>); ++panel, before += cost(m))
      if (before * threads / total == index) add_outer_panel(factors[m], panel, counts[m], scratch);
}

// This thread's rows of what a matrix's products have come to, written to `gradient` [out_width][stride].
template <class T>
void write_sums(const Factors<T>& f, T* gradient, int64_t stride, const Range& rows) {
  for (int64_t o = rows.begin; o < rows.end; ++o)
    for (int64_t i = 0; i < f.in_width; ++i)
      gradient[o * stride + i] = static_cast<T>(f.sums[o * padded<T>(f.in_width) + i]);
}

}  // namespace
}  // namespace hamiltorch
