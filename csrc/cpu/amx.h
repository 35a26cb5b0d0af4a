// Products of bfloat16 on AMX's tile registers, which sum in float32, as the products of pairs do (bfloat16.h), several
// times as fast. Both factors come in stripes of 32 rows (of samples, or columns of weights), [stripe][depth / 32][2],
// of tiles: 16 rows of samples x 32 entries, or 16 pairs of entries x 16 columns.
#pragma once
#include "products.h"

namespace hamiltorch {
namespace {

#if defined(__AMX_BF16__)
inline constexpr bool kHasAmx = true;
#else
inline constexpr bool kHasAmx = false;
#endif

inline constexpr int64_t kStripe = 32, kTileDepth = 32, kTileWords = 256;

// Words of `rows` rows (or columns) of `depth` numbers.
constexpr int64_t striped_words(int64_t rows, int64_t depth) {
  return ceil_div(rows, kStripe) * ceil_div(depth, kTileDepth) * 2 * kTileWords;
}

#if defined(__AMX_BF16__)
static_assert(kStripe == kPanel<float>);

HAMILTORCH_INLINE __m512 load_some(const float* from, int64_t count) {
  if (count >= kLanes<float>) return _mm512_loadu_ps(from);
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>(count > 0 ? (1u << count) - 1 : 0), from);
}

// 32 numbers rounded to nearest even, the first in the lowest place.
HAMILTORCH_INLINE __m512i rounded(const __m512& first, const __m512& second) {
  return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}

// `count` rows of `depth` numbers as one stripe. Rows beyond `count` stay as they are: what comes of them is not kept.
inline void stripe_rows(const float* from, int64_t stride, int64_t count, int64_t depth, Bfloat16Pair* to) {
  for (int64_t r = 0; r < count; ++r) {
    const float* const row = from + r * stride;
    Bfloat16Pair* at = to + r / 16 * kTileWords + r % 16 * 16;
    for (int64_t k = 0; k < depth; k += kTileDepth, at += 2 * kTileWords)
      _mm512_storeu_si512(at, rounded(load_some(row + k, depth - k), load_some(row + k + 16, depth - k - 16)));
  }
}

// Stripes of the columns of m [depth][stride]; this range of stripes.
inline void stripe(const float* m, int64_t stride, int64_t depth, int64_t columns, Bfloat16Pair* to, Range stripes) {
  const __m512i alternate = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                             21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  to += stripes.begin * striped_words(kStripe, depth);
  for (int64_t first = stripes.begin * kStripe; first < stripes.end * kStripe; first += kStripe)
    for (int64_t k = 0; k < depth; k += kTileDepth)
      for (int64_t column = first; column < first + kStripe; column += 16)
        for (int64_t j = k; j < k + kTileDepth; j += 2, to += 16) {
          const float* const from = m + j * stride + column;
          const int64_t earlier = j < depth ? columns - column : 0, later = j + 1 < depth ? columns - column : 0;
          const __m512i pair = rounded(load_some(from, earlier), load_some(from + stride, later));
          _mm512_storeu_si512(to, _mm512_permutexvar_epi16(alternate, pair));
        }
}

// Stripes of the columns of the transpose of m [columns][stride].
inline void stripe_transposed(const float* m, int64_t stride, int64_t depth, int64_t columns, Bfloat16Pair* to,
                              Range stripes) {
  const __m512i down = _mm512_set_epi32(240, 224, 208, 192, 176, 160, 144, 128, 112, 96, 80, 64, 48, 32, 16, 0);
  alignas(64) Bfloat16Pair lines[kTileWords];
  to += stripes.begin * striped_words(kStripe, depth);
  for (int64_t first = stripes.begin * kStripe; first < stripes.end * kStripe; first += kStripe)
    for (int64_t k = 0; k < depth; k += kTileDepth)
      for (int64_t column = first; column < first + kStripe; column += 16) {
        for (int64_t c = 0; c < 16; ++c) {
          const int64_t count = column + c < columns ? depth - k : 0;
          const float* const from = m + (column + c) * stride + k;
          _mm512_store_si512(lines + 16 * c, rounded(load_some(from, count), load_some(from + 16, count - 16)));
        }
        for (int64_t j = 0; j < 16; ++j, to += 16)
          _mm512_storeu_si512(to, _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), 0xffff, down, lines + j, 4));
      }
}

// Registers 0 to 3 hold sums, 4 and 5 tiles of samples, 6 and 7 of weights. They are configured for a product and
// released after it: a configuration is the thread's, and other libraries have theirs.
struct alignas(64) TileConfiguration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
inline constexpr TileConfiguration kTiles;

// c [16 row_tiles][c_row], two tiles wide, from one stripe of each factor.
template <int row_tiles>
inline void stripe_product(int64_t depth, const Bfloat16Pair* a, const Bfloat16Pair* b, float* c, int64_t c_row) {
  constexpr int64_t kLine = 64;
  asm volatile("" ::: "memory");  // the tiles' instructions do not tell the compiler what memory they touch
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (row_tiles == 2) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t k = 0; k < depth; k += kTileDepth, a += 2 * kTileWords, b += 2 * kTileWords) {
    _tile_loadd(4, a, kLine);
    _tile_loadd(6, b, kLine);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + kTileWords, kLine);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (row_tiles == 2) {
      _tile_loadd(5, a + kTileWords, kLine);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  const int64_t bytes = c_row * static_cast<int64_t>(sizeof(float));
  _tile_stored(0, c, bytes);
  _tile_stored(1, c + 16, bytes);
  if constexpr (row_tiles == 2) {
    _tile_stored(2, c + 16 * c_row, bytes);
    _tile_stored(3, c + 16 * c_row + 16, bytes);
  }
  asm volatile("" ::: "memory");
}

// C = A B for this range of columns, as panel_product has it. `striped` is room for A.
template <class After>
void striped_product(int64_t rows, const Range& columns, int64_t depth, const float* a, int64_t a_row,
                     const Bfloat16Pair* weights, float* c, int64_t c_row, Bfloat16Pair* striped, const After& after) {
  const int64_t words = striped_words(kStripe, depth);
  const auto count_from = [&](int64_t r) { return rows - r < kStripe ? rows - r : kStripe; };
  for (int64_t r = 0; r < rows; r += kStripe)
    stripe_rows(a + r * a_row, a_row, count_from(r), depth, striped + r / kStripe * words);
  alignas(64) float partial[kStripe * kStripe];
  _tile_loadconfig(&kTiles);
  for (int64_t first = columns.begin; first < columns.end; first += kStripe) {
    const Range part = {first, columns.end - first < kStripe ? columns.end : first + kStripe};
    for (int64_t r = 0; r < rows; r += kStripe) {
      const int64_t count = count_from(r);
      float* const to = c + r * c_row + first;
      const bool whole = count % 16 == 0;  // tiles are stored whole: others' rows may follow these
      const auto product = count > 16 ? stripe_product<2> : stripe_product<1>;
      product(depth, striped + r / kStripe * words, weights + first / kStripe * words, whole ? to : partial,
              whole ? c_row : kStripe);
      for (int64_t i = 0; !whole && i < count; ++i)
        for (int64_t j = 0; j < kStripe; j += kLanes<float>) store(to + i * c_row + j, load(partial + i * kStripe + j));
      after(Range{r, r + count}, part);
    }
  }
  _tile_release();
}
#endif

}  // namespace
}  // namespace hamiltorch
