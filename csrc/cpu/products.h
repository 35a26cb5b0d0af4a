// Dense products on row-major tiles of samples.
//
// Weights come in panels of kPanel columns, [panel][k][kPanel], zero-padded, so that the inner loop streams them with
// aligned strides; one register block holds kBlockRows x kPanel results. Few rows against a large matrix are bound by
// reading it once, and packing would read it twice more: those products read torch's own layout instead.
#pragma once
#include "vector.h"

namespace hamiltorch {
namespace {

template <class T>
inline constexpr int64_t kPanel = 2 * kLanes<T>;
// 14 x 2 accumulators, two panel vectors and a broadcast fill AVX-512's 32 registers; 6 x 2 fill the 16 of the others.
inline constexpr int kBlockRows = kVectorBytes == 64 ? 14 : 6;

template <class T>
constexpr int64_t padded(int64_t columns) {
  return round_up(columns, kPanel<T>);
}

struct Range {
  int64_t begin, end;
};

// Member `index` of `count` gets this share of [0, total).
constexpr Range share(int64_t total, int index, int count) {
  return {total * index / count, total * (index + 1) / count};
}

// The same in whole panels, cut to the real columns: members then never write one cache line.
template <class T>
constexpr Range share_columns(int64_t columns, int index, int count) {
  const Range panels = share(ceil_div(columns, kPanel<T>), index, count);
  const int64_t end = panels.end * kPanel<T>;
  return {panels.begin * kPanel<T>, end < columns ? end : columns};
}

// C[rows][vectors * lanes] (+)= A[rows][k] B[k][...], A by row and k strides. Few accumulators are split over k, so
// that the chain of dependent additions does not set the pace.
template <class T, int rows, int vectors, bool accumulate>
inline void block(int64_t depth, const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_k, T* c, int64_t c_row) {
  constexpr int kLane = kLanes<T>;
  constexpr int split = rows * vectors >= 8 ? 1 : rows * vectors >= 4 ? 2 : 4;
  Vec<T> sums[split][rows][vectors];
#pragma GCC unroll 4
  for (int s = 0; s < split; ++s)
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < vectors; ++j)
        sums[s][i][j] = accumulate && s == 0 ? load(c + i * c_row + j * kLane) : Vec<T>{};
  int64_t k = 0;
  for (; k + split <= depth; k += split) {
#pragma GCC unroll 4
    for (int s = 0; s < split; ++s) {
      Vec<T> panel[vectors];
#pragma GCC unroll 2
      for (int j = 0; j < vectors; ++j) panel[j] = load(b + (k + s) * b_k + j * kLane);
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) {
        const Vec<T> factor = broadcast(a[i * a_row + (k + s) * a_k]);
#pragma GCC unroll 2
        for (int j = 0; j < vectors; ++j) sums[s][i][j] += factor * panel[j];
      }
    }
  }
  for (; k < depth; ++k)
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < vectors; ++j) sums[0][i][j] += a[i * a_row + k * a_k] * load(b + k * b_k + j * kLane);
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < vectors; ++j) {
      Vec<T> sum = sums[0][i][j];
#pragma GCC unroll 4
      for (int s = 1; s < split; ++s) sum += sums[s][i][j];
      store(c + i * c_row + j * kLane, sum);
    }
}

// `block` with the row count known only at run time.
template <class T, int vectors, bool accumulate, int rows = kBlockRows>
inline void block_of(int64_t count, int64_t depth, const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_k,
                     T* c, int64_t c_row) {
  if constexpr (rows > 0) {
    if (count == rows)
      block<T, rows, vectors, accumulate>(depth, a, a_row, a_k, b, b_k, c, c_row);
    else
      block_of<T, vectors, accumulate, rows - 1>(count, depth, a, a_row, a_k, b, b_k, c, c_row);
  }
}

// One panel of C for all rows, the rows cut into blocks of nearly equal size.
template <class T, bool accumulate>
inline void panel_product(int64_t rows, int64_t columns, int64_t depth, const T* a, int64_t a_row, int64_t a_k,
                          const T* panel, T* c, int64_t c_row) {
  const int64_t blocks = ceil_div(rows, kBlockRows);
  for (int64_t i = 0; i < blocks; ++i) {
    const Range part = {rows * i / blocks, rows * (i + 1) / blocks};
    const T* a_part = a + part.begin * a_row;
    T* c_part = c + part.begin * c_row;
    if (columns > kLanes<T>)
      block_of<T, 2, accumulate>(part.end - part.begin, depth, a_part, a_row, a_k, panel, kPanel<T>, c_part, c_row);
    else
      block_of<T, 1, accumulate>(part.end - part.begin, depth, a_part, a_row, a_k, panel, kPanel<T>, c_part, c_row);
  }
}

// One weight matrix (or the columns of layer 1 that belong to q or to p) as the products read it.
template <class T>
struct Weight {
  const T* rows;   // [out][stride], torch's own memory
  int64_t stride;  // distance between rows, at least `in`
  int64_t out, in;
  const T* forward;   // panels of the transpose, [out / kPanel][in][kPanel], or null: read `rows`
  const T* backward;  // panels of the matrix, [in / kPanel][out][kPanel], or null: read `rows`
};

// y[r][o] = sum_i x[r][i] w[o][i] straight from torch's layout: dot products along its rows.
template <class T, int rows>
inline void dot_rows(const Weight<T>& w, const T* x, int64_t x_stride, T* y, int64_t y_stride, Range outs) {
  constexpr int kTogether = 8 / rows;
  constexpr int kLane = kLanes<T>;
  int64_t o = outs.begin;
  for (; o < outs.end; o += kTogether) {
    const int64_t count = outs.end - o < kTogether ? outs.end - o : kTogether;
    const T* line[kTogether];
    for (int t = 0; t < kTogether; ++t) line[t] = w.rows + (o + (t < count ? t : 0)) * w.stride;
    Vec<T> sums[kTogether][rows] = {};
    int64_t k = 0;
    for (; k + kLane <= w.in; k += kLane) {
      Vec<T> part[rows];
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r) part[r] = load(x + r * x_stride + k);
#pragma GCC unroll 8
      for (int t = 0; t < kTogether; ++t) {
        const Vec<T> entry = load(line[t] + k);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) sums[t][r] += entry * part[r];
      }
    }
    for (int t = 0; t < count; ++t)
      for (int r = 0; r < rows; ++r) {
        T sum = horizontal_sum<T>(sums[t][r]);
        for (int64_t i = k; i < w.in; ++i) sum += line[t][i] * x[r * x_stride + i];
        y[r * y_stride + o + t] = sum;
      }
  }
}

// y[r][i] = sum_o d[r][o] w[o][i] straight from torch's layout: its rows, scaled and added.
template <class T, int rows>
inline void add_rows(const Weight<T>& w, const T* d, int64_t d_stride, T* y, int64_t y_stride, Range ins) {
  constexpr int kTogether = 8 / rows;
  constexpr int kLane = kLanes<T>;
  int64_t i = ins.begin;
  for (; i + kTogether * kLane <= ins.end; i += kTogether * kLane) {
    Vec<T> sums[kTogether][rows] = {};
    for (int64_t o = 0; o < w.out; ++o) {
      const T* line = w.rows + o * w.stride + i;
#pragma GCC unroll 8
      for (int t = 0; t < kTogether; ++t) {
        const Vec<T> entry = load(line + t * kLane);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) sums[t][r] += d[r * d_stride + o] * entry;
      }
    }
    for (int t = 0; t < kTogether; ++t)
      for (int r = 0; r < rows; ++r) store(y + r * y_stride + i + t * kLane, sums[t][r]);
  }
  for (; i < ins.end; ++i)
    for (int r = 0; r < rows; ++r) {
      T sum = 0;
      for (int64_t o = 0; o < w.out; ++o) sum += d[r * d_stride + o] * w.rows[o * w.stride + i];
      y[r * y_stride + i] = sum;
    }
}

inline constexpr int64_t kMaxDirectRows = 3;

// y = x W^T for this member's share of the columns of y.
template <class T>
inline void apply(const Weight<T>& w, int64_t rows, const T* x, int64_t x_stride, T* y, int64_t y_stride,
                  Range columns) {
  if (w.forward) {
    for (int64_t o = columns.begin; o < columns.end; o += kPanel<T>)
      panel_product<T, false>(rows, columns.end - o, w.in, x, x_stride, 1, w.forward + o * w.in, y + o, y_stride);
  } else if (rows == 1) {
    dot_rows<T, 1>(w, x, x_stride, y, y_stride, columns);
  } else if (rows == 2) {
    dot_rows<T, 2>(w, x, x_stride, y, y_stride, columns);
  } else {
    dot_rows<T, 3>(w, x, x_stride, y, y_stride, columns);
  }
}

// y = d W for this member's share of the columns of y.
template <class T>
inline void apply_transposed(const Weight<T>& w, int64_t rows, const T* d, int64_t d_stride, T* y, int64_t y_stride,
                             Range columns) {
  if (w.backward) {
    for (int64_t i = columns.begin; i < columns.end; i += kPanel<T>)
      panel_product<T, false>(rows, columns.end - i, w.out, d, d_stride, 1, w.backward + i * w.out, y + i, y_stride);
  } else if (rows == 1) {
    add_rows<T, 1>(w, d, d_stride, y, y_stride, columns);
  } else if (rows == 2) {
    add_rows<T, 2>(w, d, d_stride, y, y_stride, columns);
  } else {
    add_rows<T, 3>(w, d, d_stride, y, y_stride, columns);
  }
}

// Panels of the matrix m [depth][stride] for its first `columns` columns; this member's share of the panels.
template <class T>
inline void pack(const T* m, int64_t stride, int64_t depth, int64_t columns, T* panels, Range panel_range) {
  for (int64_t panel = panel_range.begin; panel < panel_range.end; ++panel) {
    const int64_t first = panel * kPanel<T>;
    const int64_t count = columns - first < kPanel<T> ? columns - first : kPanel<T>;
    T* to = panels + first * depth;
    for (int64_t k = 0; k < depth; ++k, to += kPanel<T>) {
      const T* from = m + k * stride + first;
      for (int64_t j = 0; j < count; ++j) to[j] = from[j];
      for (int64_t j = count; j < kPanel<T>; ++j) to[j] = 0;
    }
  }
}

// Panels of the transpose of m [columns][stride], of which the first `depth` entries of each row are read. Four entries
// of a row at a time: the reads are strided, the writes stay in one panel.
template <class T>
inline void pack_transposed(const T* m, int64_t stride, int64_t depth, int64_t columns, T* panels, Range panel_range) {
  for (int64_t panel = panel_range.begin; panel < panel_range.end; ++panel) {
    const int64_t first = panel * kPanel<T>;
    const int64_t count = columns - first < kPanel<T> ? columns - first : kPanel<T>;
    T* to = panels + first * depth;
    for (int64_t k0 = 0; k0 < depth; k0 += 16) {
      const int64_t k1 = k0 + 16 < depth ? k0 + 16 : depth;
      for (int64_t j = 0; j < kPanel<T>; ++j) {
        const T* from = m + (first + j) * stride;
        for (int64_t k = k0; k < k1; ++k) to[k * kPanel<T> + j] = j < count ? from[k] : 0;
      }
    }
  }
}

}  // namespace
}  // namespace hamiltorch
