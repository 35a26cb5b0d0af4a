// A weight matrix as the kernels read it, and its two products with a team's tile of samples: y = x W^T and y = d W.
//
// Packed, each member of the team computes its own columns of y. With few samples a large matrix is bound by reading it
// once: then each member reads its own rows of W in torch's layout in both directions, so that they stay in its cache:
// y = x W^T is dot products with them, y = d W a sum of them, to which every member contributes a part.
#pragma once
#include "amx.h"
#include "arena.h"
#include "parallel.h"

namespace hamiltorch {
namespace {

// Row-major buffer of a tile: row r starts at data + r * stride, stride being a whole number of panels.
template <class T>
struct Tile {
  T* data;
  int64_t stride;

  T* row(int64_t r) const { return data + r * stride; }
};

template <class T>
Tile<T> take_tile(Arena& arena, int64_t rows, int64_t columns) {
  return {arena.take<T>(rows * padded<T>(columns)), padded<T>(columns)};
}

template <class T>
void clear(T* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] = 0;
}

// Zeros, in the padding too, where products in torch's layout write none.
template <class T>
Tile<T> take_cleared(Arena& arena, int64_t rows, int64_t columns) {
  const Tile<T> tile = take_tile<T>(arena, rows, columns);
  if (tile.data) clear(tile.data, rows * tile.stride);
  return tile;
}

// Panels in T or in pairs of bfloat16, which stand in stripes where there is AMX; both null where the matrix is read in
// torch's layout.
template <class T>
struct Panels {
  T* full;
  Bfloat16Pair* pairs;
};

// Words of the pairs of so many columns.
template <class T>
constexpr int64_t pair_words(int64_t columns, int64_t depth) {
  return kHasAmx ? striped_words(columns, depth) : padded<T>(columns) * ceil_div(depth, 2);
}

template <class T>
struct Weight {
  const T* rows;   // [out][stride]
  int64_t stride;  // distance between rows, at least `in`
  int64_t out, in;
  Panels<T> forward;   // of the transpose, [out / kPanel][in][kPanel]
  Panels<T> backward;  // of the matrix, [in / kPanel][out][kPanel]
};

inline constexpr int64_t kMaxDirectRows = 3;

// One thread of a team, and what it needs to multiply.
template <class T>
struct Worker {
  Member member;
  Bfloat16Pair* pairs;     // a tile's rows rounded, for products of pairs: [tile rows][pair_stride], or in stripes
  int64_t pair_stride;     // where they are not in stripes
  T* partials[2];          // the team's, [members][kMaxDirectRows][partial_stride]; products take them in turn
  int64_t partial_stride;  //
  mutable int turn;

  Range columns(int64_t count) const { return share_columns<T>(count, member.index, member.count); }
  Range share_of(int64_t count) const { return share(count, member.index, member.count); }
  void wait() const { wait_for_all(member); }
};

// Buffers of the workers of one team: `direct` and `pairs` say which kinds of product it will run; `widest` is the most
// columns that one of them reads or writes.
template <class T>
void take_workers(Arena& arena, Worker<T>* workers, int count, Barrier* barrier, int64_t rows, int64_t widest,
                  bool direct, bool pairs) {
  T* partials[2] = {nullptr, nullptr};
  if (direct)
    for (T*& partial : partials) partial = arena.take<T>(count * kMaxDirectRows * padded<T>(widest));
  for (int i = 0; i < count; ++i) {
    const int64_t stride = ceil_div(widest, 2), words = kHasAmx ? striped_words(rows, widest) : rows * stride;
    Bfloat16Pair* const own = pairs ? arena.take<Bfloat16Pair>(words) : nullptr;
    if (workers) workers[i] = {{i, count, barrier}, own, stride, {partials[0], partials[1]}, padded<T>(widest), 0};
  }
}

// y[r][o] = sum_i x[r][i] w[o][i] for `lines` rows of W from o on.
template <class T, int rows, int lines>
inline void dot_lines(const Weight<T>& w, const T* x, int64_t x_stride, T* y, int64_t y_stride, int64_t o) {
  constexpr int kLane = kLanes<T>;
  constexpr int split = rows == 1 ? 2 : 1;  // chains of additions enough to hide their latency
  const T* const line = w.rows + o * w.stride;
  Vec<T> sums[lines][rows][split] = {};
  int64_t k = 0;
  for (; k + split * kLane <= w.in; k += split * kLane) {
#pragma GCC unroll 4
    for (int t = 0; t < lines; ++t)
#pragma GCC unroll 4
      for (int s = 0; s < split; ++s) {
        const Vec<T> entry = load(line + t * w.stride + k + s * kLane);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) sums[t][r][s] += entry * load(x + r * x_stride + k + s * kLane);
      }
  }
#pragma GCC unroll 4
  for (int t = 0; t < lines; ++t)
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      Vec<T> all = sums[t][r][0];
      for (int s = 1; s < split; ++s) all += sums[t][r][s];
      T sum = horizontal_sum<T>(all);
      for (int64_t i = k; i < w.in; ++i) sum += line[t * w.stride + i] * x[r * x_stride + i];
      y[r * y_stride + o + t] = sum;
    }
}

// The same for a range of W's rows.
template <class T, int rows>
inline void dot_rows(const Weight<T>& w, const T* x, int64_t x_stride, T* y, int64_t y_stride, const Range& outs) {
  int64_t o = outs.begin;
  for (; o + 4 <= outs.end; o += 4) dot_lines<T, rows, 4>(w, x, x_stride, y, y_stride, o);
  for (; o < outs.end; ++o) dot_lines<T, rows, 1>(w, x, x_stride, y, y_stride, o);
}

// y[r][i] = sum_o d[r][o] w[o][i] over a range of W's rows, the last first: they are the ones that dot_rows left in the
// nearest cache.
template <class T, int rows>
inline void add_rows(const Weight<T>& w, const T* d, int64_t d_stride, T* y, int64_t y_stride, const Range& outs) {
  constexpr int kTogether = 8 / rows;
  constexpr int kLane = kLanes<T>;
  for (int r = 0; r < rows; ++r)
    for (int64_t i = 0; i < padded<T>(w.in); i += kLane) store(y + r * y_stride + i, Vec<T>{});
  for (int64_t end = outs.end; end > outs.begin; end -= kTogether) {
    const T* line[kTogether];
    T factor[rows][kTogether];
    for (int t = 0; t < kTogether; ++t) {
      const int64_t o = end - 1 - t;
      const bool real = o >= outs.begin;
      line[t] = w.rows + (real ? o : outs.begin) * w.stride;
      for (int r = 0; r < rows; ++r) factor[r][t] = real ? d[r * d_stride + o] : 0;
    }
    int64_t i = 0;
    for (; i + kLane <= w.in; i += kLane) {
      Vec<T> sums[rows][2] = {};
      for (int r = 0; r < rows; ++r) sums[r][0] = load(y + r * y_stride + i);
#pragma GCC unroll 8
      for (int t = 0; t < kTogether; ++t) {
        const Vec<T> entry = load(line[t] + i);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) sums[r][t % 2] += factor[r][t] * entry;
      }
      for (int r = 0; r < rows; ++r) store(y + r * y_stride + i, sums[r][0] + sums[r][1]);
    }
    for (; i < w.in; ++i)
      for (int r = 0; r < rows; ++r)
        for (int t = 0; t < kTogether; ++t) y[r * y_stride + i] += factor[r][t] * line[t][i];
  }
}

template <int n>
struct Constant {
  static constexpr int value = n;
};

// f(rows) with the number of rows a constant, 1 to kMaxDirectRows.
template <class F>
HAMILTORCH_INLINE void with_rows(int64_t rows, const F& f) {
  static_assert(kMaxDirectRows == 3);
  if (rows == 1)
    f(Constant<1>{});
  else if (rows == 2)
    f(Constant<2>{});
  else
    f(Constant<3>{});
}

// C = A B by panels, `a` rounded first where they are pairs.
template <class T, class After>
inline void packed_product(const Panels<T>& panels, int64_t rows, int64_t depth, const Tile<T>& a, const Tile<T>& c,
                           const Range& columns, const Worker<T>& worker, const After& after) {
  if constexpr (kHasAmx && sizeof(T) == sizeof(float)) {
    if (panels.pairs) {
      striped_product(rows, columns, depth, a.data, a.stride, panels.pairs, c.data, c.stride, worker.pairs, after);
      return;
    }
  } else if constexpr (kHasBfloat16 && sizeof(T) == sizeof(float)) {
    if (panels.pairs) {
      for (int64_t r = 0; r < rows; ++r) round_to_pairs(a.row(r), depth, worker.pairs + r * worker.pair_stride);
      panel_product(rows, columns, ceil_div(depth, 2), worker.pairs, worker.pair_stride, panels.pairs, c.data, c.stride,
                    after);
      return;
    }
  }
  panel_product(rows, columns, depth, a.data, a.stride, panels.full, c.data, c.stride, after);
}

template <class T>
bool is_packed(const Panels<T>& panels) {
  return panels.full || panels.pairs;
}

// y = x W^T for this member's share of the columns of y, then after(rows, columns) on each finished block. Waits first
// for the others' shares of x.
template <class T, class After>
inline void apply(const Weight<T>& w, int64_t rows, const Tile<T>& x, const Tile<T>& y, const Worker<T>& worker,
                  const After& after) {
  const Range columns = worker.columns(w.out);
  worker.wait();
  if (is_packed(w.forward)) {
    packed_product(w.forward, rows, w.in, x, y, columns, worker, after);
    return;
  }
  with_rows(rows, [&](auto tag) { dot_rows<T, decltype(tag)::value>(w, x.data, x.stride, y.data, y.stride, columns); });
  after(Range{0, rows}, columns);
}

// y = d W, likewise. Waits for the others' shares of d, or for their parts of y.
template <class T, class After>
inline void apply_transposed(const Weight<T>& w, int64_t rows, const Tile<T>& d, const Tile<T>& y,
                             const Worker<T>& worker, const After& after) {
  const Range columns = worker.columns(w.in);
  if (is_packed(w.backward)) {
    worker.wait();
    packed_product(w.backward, rows, w.out, d, y, columns, worker, after);
    return;
  }
  const Member& member = worker.member;
  T* const parts = worker.partials[worker.turn ^= 1];
  const int64_t stride = worker.partial_stride, part = kMaxDirectRows * stride;
  T* const own = parts + member.index * part;
  with_rows(rows, [&](auto tag) {
    add_rows<T, decltype(tag)::value>(w, d.data, d.stride, own, stride, worker.columns(w.out));
  });
  worker.wait();
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = columns.begin; c < columns.end; c += kLanes<T>) {
      Vec<T> sum = load(parts + r * stride + c);
      for (int i = 1; i < member.count; ++i) sum += load(parts + i * part + r * stride + c);
      store(y.row(r) + c, sum);
    }
  after(Range{0, rows}, columns);
}

}  // namespace
}  // namespace hamiltorch
