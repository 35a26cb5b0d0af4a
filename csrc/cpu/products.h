// Dense products on row-major tiles of samples.
//
// Weights come in panels of kPanel columns, [panel][k][kPanel], zero-padded, so that the inner loop streams them with
// aligned strides; one register block holds kBlockRows x kPanel results. A Word is what lies along the summed
// dimension: one number, or a pair of bfloat16 ones.
#pragma once
#include "bfloat16.h"
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

  int64_t size() const { return end - begin; }
};

// Member `index` of `count` gets this share of [0, total).
constexpr Range share(int64_t total, int64_t index, int64_t count) {
  return {total * index / count, total * (index + 1) / count};
}

// The same in whole panels, cut to the real columns: members then never write one cache line.
template <class T>
constexpr Range share_columns(int64_t columns, int index, int count) {
  const Range panels = share(ceil_div(columns, kPanel<T>), index, count);
  const int64_t end = panels.end * kPanel<T>;
  return {panels.begin * kPanel<T>, end < columns ? end : columns};
}

// finish(row, vector, sum) for C[rows][vectors * lanes] = A[rows][k] B[k][...], A by row and k strides, B in panels
// [k][kPanel]. Few accumulators are split over k, so that the chain of dependent additions does not set the pace.
template <class Word, class T, int rows, int vectors, class Finish>
inline void block(int64_t depth, const Word* a, int64_t a_row, int64_t a_k, const Word* b, const Finish& finish) {
  constexpr int kLane = kLanes<T>;
  constexpr int split = rows * vectors >= 8 ? 1 : rows * vectors >= 4 ? 2 : rows * vectors >= 2 ? 4 : 8;
  const auto vector_at = [&](int64_t k, int j) { return b + (j / 2 * depth + k) * kPanel<T> + j % 2 * kLane; };
  Vec<T> sums[split][rows][vectors] = {};
  int64_t k = 0;
  for (; k + split <= depth; k += split) {
#pragma GCC unroll 8
    for (int s = 0; s < split; ++s) {
      Vec<Word> panel[vectors];
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) {
        panel[j] = load(vector_at(k + s, j));
        if (rows >= 6) __builtin_prefetch(vector_at(k + s + 32, j));
      }
#pragma GCC unroll 16
      for (int i = 0; i < rows; ++i) {
        const Vec<Word> factor = broadcast(a[i * a_row + (k + s) * a_k]);
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) multiply_add(sums[s][i][j], factor, panel[j]);
      }
    }
  }
  for (; k < depth; ++k)
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) {
        const Vec<Word> factor = broadcast(a[i * a_row + k * a_k]), panel = load(vector_at(k, j));
        multiply_add(sums[0][i][j], factor, panel);
      }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) {
      Vec<T> sum = sums[0][i][j];
#pragma GCC unroll 8
      for (int s = 1; s < split; ++s) sum += sums[s][i][j];
      finish(i, j, sum);
    }
}

// The same into C, with the row count known only at run time, found by halving.
template <class Word, class T, int vectors, int least = 1, int most = kBlockRows>
inline void block_of(int64_t count, int64_t depth, const Word* a, int64_t a_row, const Word* b, T* c, int64_t c_row) {
  constexpr int middle = (least + most) / 2;
  if constexpr (least == most)
    block<Word, T, least, vectors>(depth, a, a_row, 1, b,
                                   [&](int i, int j, const Vec<T>& sum) { store(c + i * c_row + j * kLanes<T>, sum); });
  else if (count <= middle)
    block_of<Word, T, vectors, least, middle>(count, depth, a, a_row, b, c, c_row);
  else
    block_of<Word, T, vectors, middle + 1, most>(count, depth, a, a_row, b, c, c_row);
}

// C = A B for this range of columns, whole panels but for the last. Calls after(rows, columns) as soon as a block is
// there, while it is still in the nearest cache.
template <class Word, class T, class After>
inline void panel_product(int64_t rows, const Range& columns, int64_t depth, const Word* a, int64_t a_row,
                          const Word* panels, T* c, int64_t c_row, const After& after) {
  const int64_t blocks = ceil_div(rows, kBlockRows);
  for (int64_t first = columns.begin; first < columns.end;) {
    const Word* const panel = panels + first * depth;
    const int64_t left = columns.end - first;
    // With few rows the loads of B set the pace, and those of A are shared by two panels.
    const int64_t width = rows <= 2 && left > kPanel<T> + kLanes<T> ? 2 * kPanel<T> : kPanel<T>;
    const Range part = {first, left < width ? columns.end : first + width};
    for (int64_t i = 0; i < blocks; ++i) {
      const Range block_rows = share(rows, i, blocks);  // of nearly equal size
      const int64_t count = block_rows.size();
      const Word* const a_part = a + block_rows.begin * a_row;
      T* const c_part = c + block_rows.begin * c_row + first;
      if (width > kPanel<T>)
        block_of<Word, T, 4, 1, 2>(count, depth, a_part, a_row, panel, c_part, c_row);
      else if (left > kLanes<T>)
        block_of<Word, T, 2>(count, depth, a_part, a_row, panel, c_part, c_row);
      else
        block_of<Word, T, 1>(count, depth, a_part, a_row, panel, c_part, c_row);
      after(block_rows, part);
    }
    first += width;
  }
}

// Panels of the matrix m [depth][stride] for its first `columns` columns; this share of the panels.
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

// Panels of the transpose of m [columns][stride], of which the first `depth` entries of each row are read. Some entries
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

#if defined(__AVX512BF16__)
// The same in pairs along the summed dimension.
inline void pack(const float* m, int64_t stride, int64_t depth, int64_t columns, Bfloat16Pair* panels,
                 Range panel_range) {
  for (int64_t panel = panel_range.begin; panel < panel_range.end; ++panel) {
    const int64_t first = panel * kPanel<float>;
    const int64_t count = columns - first < kPanel<float> ? columns - first : kPanel<float>;
    Bfloat16Pair* to = panels + first * ceil_div(depth, 2);
    float neighbours[2 * kPanel<float>];
    for (int64_t k = 0; k < depth; k += 2, to += kPanel<float>) {
      for (int64_t j = 0; j < kPanel<float>; ++j) {
        neighbours[2 * j] = j < count ? m[k * stride + first + j] : 0;
        neighbours[2 * j + 1] = j < count && k + 1 < depth ? m[(k + 1) * stride + first + j] : 0;
      }
      round_to_pairs(neighbours, 2 * kPanel<float>, to);
    }
  }
}

inline void pack_transposed(const float* m, int64_t stride, int64_t depth, int64_t columns, Bfloat16Pair* panels,
                            Range panel_range) {
  for (int64_t panel = panel_range.begin; panel < panel_range.end; ++panel) {
    const int64_t first = panel * kPanel<float>, words = ceil_div(depth, 2);
    Bfloat16Pair* const to = panels + first * words;
    Bfloat16Pair line[16];
    for (int64_t k0 = 0; k0 < depth; k0 += 32) {
      const int64_t count = depth - k0 < 32 ? depth - k0 : 32;
      for (int64_t j = 0; j < kPanel<float>; ++j) {
        const bool real = first + j < columns;
        if (real) round_to_pairs(m + (first + j) * stride + k0, count, line);
        for (int64_t w = 0; w < ceil_div(count, 2); ++w) to[(k0 / 2 + w) * kPanel<float> + j] = real ? line[w] : 0;
      }
    }
  }
}
#endif

}  // namespace
}  // namespace hamiltorch
