// Products of a team of blocks. Members own rows of every layer. `dense` forms W x from all of x, so x is gathered by
// every member first; `transposed` forms W^T y from a member's own rows of y, and every member then adds up the parts
// of its own rows. One stored copy of W serves both directions, and each product costs one exchange.
//
// Exchanges alternate between two buffers. What a member writes into a peer's buffer was last read before the barrier
// that it has itself passed, so one barrier an exchange is enough. A team of one has nothing to exchange: all its
// buffers are one and the same.
//
// Results go to a `sink(row, pair, value)`: row of the member's own, columns 2 pair and 2 pair + 1. Who calls it is not
// fixed, so what a sink wrote is read by others after the next barrier only.
#pragma once
#include <type_traits>

#include "layout.h"
#include "parameters.h"
#include "precision.h"

namespace hamiltorch {

template <class T>
struct Pair {
  T x, y;
};

// Pairs in memory are aligned to their size: one access each.
template <class T>
struct alignas(2 * sizeof(T)) StoredPair {
  T x, y;
};
template <class T>
HAMILTORCH_DEVICE Pair<T> load_two(const T* from) {
  const StoredPair<T> stored = *reinterpret_cast<const StoredPair<T>*>(from);
  return {stored.x, stored.y};
}
template <class T>
HAMILTORCH_DEVICE void store_two(T* to, Pair<T> value) {
  *reinterpret_cast<StoredPair<T>*>(to) = {value.x, value.y};
}
template <class T>
HAMILTORCH_DEVICE void add_two(Pair<T>& sum, Pair<T> value) {
  sum.x += value.x;
  sum.y += value.y;
}

// A member's rows of a matrix, row-major in shared memory.
struct RowMajorSource {
  static constexpr bool kPacked = false;
};
// Fragments in memory, in the order in which lanes read them.
struct PackedSource {
  static constexpr bool kPacked = true;
};

template <class Team, class Math, class Source, int kRight, int kLeft, class LayoutType = Layout>
class Engine {
 public:
  using Real = typename Math::Real;
  using Two = Pair<Real>;
  static constexpr int kColumns = 8 * kRight, kPairs = kColumns / 2;

  HAMILTORCH_DEVICE Engine(Team& team, const Parameters<Real>& parameters, const LayoutType& layout)
      : team(team), parameters(parameters), layout(layout), shared_(team.template shared<Real>()) {
    const int64_t member = static_cast<int64_t>(team.index()) * layout.members + team.rank();
    vectors_ = layout.vectors_global ? parameters.vectors + member * layout.vectors_size : shared_ + layout.vectors;
    load_weights();
    team.sync_team();
  }

  // This member's own copy of what was last gathered, and its own rows of it.
  HAMILTORCH_DEVICE const Real* gathered() const {
    if constexpr (Team::kGlobalExchange) return half(0, current_);
    return shared_ + layout.exchange + current_ * layout.half_size;
  }
  HAMILTORCH_DEVICE const Real* own_rows_gathered(int layer) const {
    return gathered() + layout.begin(layer, team.rank()) * kTile * layout.stride;
  }
  HAMILTORCH_DEVICE const Real* own_rows() const { return Team::kAlone ? gathered() : shared_ + layout.local; }
  HAMILTORCH_DEVICE Real* kept(int layer) const { return vectors_ + layout.kept[layer]; }
  HAMILTORCH_DEVICE Real* terms() const { return vectors_ + layout.terms; }
  HAMILTORCH_DEVICE Real* scratch() const { return shared_ + layout.partials; }
  HAMILTORCH_DEVICE Real* state(int index) const { return vectors_ + layout.states + index * layout.state_size; }

  HAMILTORCH_DEVICE Real* more() const { return vectors_ + layout.more; }

  // All (row, pair) of this member's rows of a layer, padding included.
  template <class Body>
  HAMILTORCH_DEVICE void for_own(int layer, Body body) const {
    const int count = layout.count(layer, team.rank()) * kTile * kPairs;
    HAMILTORCH_NO_UNROLL
    for (int i = team.thread(); i < count; i += kThreads) body(i / kPairs, i % kPairs);
  }

  // Puts a value where `share` or `settle` makes it the next product's input.
  HAMILTORCH_DEVICE void publish_to_all(int layer, int row, int pair, Two value) const {
    const int at = (layout.begin(layer, team.rank()) * kTile + row) * layout.stride + 2 * pair;
    const int copies = Team::kGlobalExchange ? 1 : layout.members;
    for (int copy = 0; copy < copies; ++copy) store_two(half(copy, next()) + at, value);
  }
  HAMILTORCH_DEVICE void publish_to_self(int row, int pair, Two value) const {
    Real* const to = Team::kAlone ? half(0, next()) : shared_ + layout.local;
    store_two(to + row * layout.stride + 2 * pair, value);
  }
  HAMILTORCH_DEVICE void publish_one_to_self(int row, int column, Real value) const {
    Real* const to = Team::kAlone ? half(0, next()) : shared_ + layout.local;
    to[row * layout.stride + column] = value;
  }
  HAMILTORCH_DEVICE void share() {
    team.sync_team();
    current_ = next();
  }
  HAMILTORCH_DEVICE void settle() {
    team.sync_block();
    if (Team::kAlone) current_ = next();
  }

  // Own rows of W x, x gathered.
  template <class Sink>
  HAMILTORCH_DEVICE void dense(int matrix, Sink sink) {
    const int layer = layout.rows_layer(matrix), from = layout.columns_layer(matrix), rank = team.rank();
    const int begin = layout.begin(layer, rank);
    multiply<false>(matrix, begin, layout.count(layer, rank), 0, layout.tiles[from], gathered(), true,
                    [&](int tile, int row, int pair, Two value) { sink((tile - begin) * kTile + row, pair, value); });
  }

  // Own rows of W^T y; `y` holds this member's own rows.
  template <class Sink>
  HAMILTORCH_DEVICE void transposed(int matrix, const Real* y, Sink sink) {
    const int layer = layout.rows_layer(matrix), to = layout.columns_layer(matrix), rank = team.rank();
    const int begin = layout.begin(layer, rank), count = layout.count(layer, rank);
    if constexpr (Team::kAlone) {
      multiply<true>(matrix, 0, layout.tiles[to], begin, count, y, true,
                     [&](int tile, int row, int pair, Two value) { sink(tile * kTile + row, pair, value); });
    } else {
      const int each = layout.each[to];
      multiply<true>(matrix, 0, layout.tiles[to], begin, count, y, false, [&](int tile, int row, int pair, Two value) {
        const int owner = tile / each;
        const int line = (rank * each + tile - owner * each) * kTile + row;
        store_two(half(owner, next()) + line * kColumns + 2 * pair, value);
      });
      share();
      const Real* const parts = half(rank, current_);
      for_own(to, [&](int row, int pair) {
        Two sum = {0, 0};
        for (int from = 0; from < layout.members; ++from)
          add_two(sum, load_two(parts + (from * each * kTile + row) * kColumns + 2 * pair));
        sink(row, pair, sum);
      });
    }
  }

  Team& team;
  const Parameters<Real>& parameters;
  const LayoutType& layout;

 private:
  using Packed = typename Math::Packed;
  static constexpr int kDepths = kTile / Math::kDepth;  // fragments in a tile of k

  HAMILTORCH_DEVICE int next() const { return layout.halves == 1 ? 0 : current_ ^ 1; }
  // Grid teams gather once, in the first member's buffer.
  HAMILTORCH_DEVICE Real* half(int member, int which) const {
    const int offset = which * layout.half_size;
    if constexpr (Team::kGlobalExchange) {
      const int64_t at = static_cast<int64_t>(team.index()) * layout.members + member;
      return parameters.exchange + at * layout.halves * layout.half_size + offset;
    } else {
      Real* const own = shared_ + layout.exchange + offset;
      if constexpr (!Team::kAlone)
        if (member != team.rank()) return team.peer(own, member);
      return own;
    }
  }

  HAMILTORCH_DEVICE void load_weights() const {
    if (layout.weights == Weights::kPackedGlobal) return;
    for (int matrix = 0; matrix < layout.matrices(); ++matrix) {
      Real* const slice = shared_ + layout.slices[matrix];
      if constexpr (Source::kPacked) {
        const int count = static_cast<int>(layout.units(matrix)) * kDepths * 32;
        Packed* const to = reinterpret_cast<Packed*>(slice);
        for (int i = team.thread(); i < count; i += kThreads) {
          to[i] = static_cast<const Packed*>(parameters.packed[matrix])[i];
          to[count + i] = static_cast<const Packed*>(parameters.packed_transposed[matrix])[i];
        }
      } else {
        const int layer = layout.rows_layer(matrix), rank = team.rank();
        const int height = layout.widths[layer], width = layout.widths[layout.columns_layer(matrix)];
        const int first = layout.begin(layer, rank) * kTile, rows = layout.count(layer, rank) * kTile;
        const int stride = layout.slice_stride(matrix);
        for (int i = team.thread(); i < rows * stride; i += kThreads) {
          const int row = i / stride, column = i % stride;
          const bool inside = first + row < height && column < width;
          slice[row * stride + swizzled(row, column)] =
              inside ? parameters.weights[matrix][static_cast<int64_t>(first + row) * width + column] : Real(0);
        }
      }
    }
  }

  // Where a lane reads the left operand: fragments of row tiles m, m + 1, ... along k, which counts fragments. All that
  // does not depend on k is computed once.
  template <bool kTransposed>
  class PackedCursor {
   public:
    // Tiles from `end` on do not exist: the last one stands in for them, and its sum is not used.
    HAMILTORCH_DEVICE PackedCursor(const Engine& engine, int matrix, int m, int end, int k_first) {
      const LayoutType& layout = engine.layout;
      const int k_tiles = layout.tiles[kTransposed ? layout.rows_layer(matrix) : layout.columns_layer(matrix)];
      const Packed* from;
      if (layout.weights == Weights::kPackedShared) {
        from = reinterpret_cast<const Packed*>(engine.shared_ + layout.slices[matrix]) +
               (kTransposed ? layout.units(matrix) * (kDepths * 32) : 0);
      } else {
        from = static_cast<const Packed*>(kTransposed ? engine.parameters.packed_transposed[matrix]
                                                      : engine.parameters.packed[matrix]);
      }
      HAMILTORCH_UNROLL
      for (int i = 0; i < kLeft; ++i) {
        const int tile = m + i < end ? m + i : end - 1;
        at_[i] = from + (static_cast<int64_t>(tile) * k_tiles * kDepths + k_first) * 32 + engine.team.lane();
      }
    }
    HAMILTORCH_DEVICE Packed load(int i, int k) const { return at_[i][k * 32]; }

   private:
    const Packed* at_[kLeft];
  };

  template <bool kTransposed>
  class RowMajorCursor {
   public:
    HAMILTORCH_DEVICE RowMajorCursor(const Engine& engine, int matrix, int m, int end, int k_first) {
      const LayoutType& layout = engine.layout;
      const int g = engine.team.lane() >> 2, t = engine.team.lane() & 3;
      const int first = layout.begin(layout.rows_layer(matrix), engine.team.rank()) * kTile;
      const Real* const slice = engine.shared_ + layout.slices[matrix];
      const int stride = layout.slice_stride(matrix);
      HAMILTORCH_UNROLL
      for (int i = 0; i < kLeft; ++i) {
        const int out = (m + i < end ? m + i : end - 1) * kTile + g;
        if constexpr (kTransposed) {
          // Rows four on have a swizzle of their own, eight on the same; eight columns on is one bit turned.
          const Real* const row = slice + (k_first * Math::kDepth + t - first) * stride;
          at_[i][0] = row + swizzled(t, out);
          at_[i][1] = row + (swizzled(t, out) ^ 8);
          at_[i][2] = row + 4 * stride + swizzled(t + 4, out);
          at_[i][3] = row + 4 * stride + (swizzled(t + 4, out) ^ 8);
        } else {
          at_[i][0] = slice + (out - first) * stride;
          at_[i][1] = at_[i][0] + 8 * stride;
        }
      }
      step_ = kTransposed ? stride : 1;
      column_ = k_first * Math::kDepth + t;
      swizzle_ = swizzled(g, 0);
    }
    HAMILTORCH_DEVICE Packed load(int i, int k) const {
      Real a[2][4] = {};
      HAMILTORCH_UNROLL
      for (int part = 0; part < Math::kDepth / 8; ++part) {
        const int in = k * Math::kDepth + 8 * part;
        const int column = (column_ + in) ^ swizzle_;
        HAMILTORCH_UNROLL
        for (int j = 0; j < 4; ++j)
          a[part][j] = kTransposed ? at_[i][j][in * step_] : at_[i][j & 1][j < 2 ? column : column ^ 4];
      }
      return Math::pack(a);
    }

   private:
    const Real* at_[kLeft][kTransposed ? 4 : 2];
    int step_, column_, swizzle_;
  };

  template <bool kTransposed>
  using Cursor = std::conditional_t<Source::kPacked, PackedCursor<kTransposed>, RowMajorCursor<kTransposed>>;

  // Row tiles m_begin .. m_begin + m_count of the product over tiles k_begin .. k_begin + k_count; `x` points at row
  // k_begin of the right operand. Warps take groups of kLeft tiles; where there are fewer groups than warps, they
  // divide the sum over k as well, and the parts are added in shared memory. Ends in `sink(tile, row of the tile, pair,
  // value)`.
  template <bool kTransposed, class Sink>
  HAMILTORCH_DEVICE void multiply(int matrix, int m_begin, int m_count, int k_begin, int k_count, const Real* x,
                                  bool may_split, Sink sink) {
    const int groups = ceil_divide(m_count, kLeft);
    const int splits = may_split && layout.halves == 2 ? splits_of(m_count, kLeft, k_count) : 1;
    const int g = team.lane() >> 2, t = team.lane() & 3;
    const int items = groups * splits, m_end = m_begin + m_count;
    Real* const partials = shared_ + layout.partials;
    HAMILTORCH_NO_UNROLL
    for (int first = 0; first < items; first += kWarps) {
      const int item = first + team.warp();
      const bool active = item < items;
      const int group = item / splits, split = item % splits;
      const int m = m_begin + group * kLeft;
      Real sum[kLeft][kRight][4] = {};
      if (active) {
        const int from = k_count * split / splits, to = k_count * (split + 1) / splits;
        const Cursor<kTransposed> left(*this, matrix, m, m_end, (k_begin + from) * kDepths);
        accumulate(sum, left, x + from * kTile * layout.stride, (to - from) * kDepths);
      }
      if (layout.halves == 1) team.sync_block();  // everyone has read what the sink replaces
      if (!active) continue;
      // The sink is long, so this must not be unrolled; what comes next moves to the front, where its index is fixed.
      HAMILTORCH_NO_UNROLL
      for (int i = 0; i < kLeft && m + i < m_end; ++i) {
        HAMILTORCH_NO_UNROLL
        for (int n = 0; n < kRight; ++n) {
          HAMILTORCH_NO_UNROLL
          for (int upper = 0; upper < 2; ++upper) {
            const Two value = upper ? Two{sum[0][0][2], sum[0][0][3]} : Two{sum[0][0][0], sum[0][0][1]};
            const int row = g + 8 * upper, pair = 4 * n + t;
            if (splits == 1) {
              sink(m + i, row, pair, value);
            } else {
              const int line = (split * m_count + m + i - m_begin) * kTile + row;
              store_two(partials + line * kColumns + 2 * pair, value);
            }
          }
          HAMILTORCH_UNROLL
          for (int j = 0; j + 1 < kRight; ++j) move(sum[0][j], sum[0][j + 1]);
        }
        HAMILTORCH_UNROLL
        for (int j = 0; j + 1 < kLeft; ++j) {
          HAMILTORCH_UNROLL
          for (int n = 0; n < kRight; ++n) move(sum[j][n], sum[j + 1][n]);
        }
      }
    }
    if (splits == 1) return;
    team.sync_block();
    const int count = m_count * kTile * kPairs;
    HAMILTORCH_NO_UNROLL
    for (int i = team.thread(); i < count; i += kThreads) {
      Two value = {0, 0};
      for (int split = 0; split < splits; ++split) add_two(value, load_two(partials + 2 * (split * count + i)));
      const int line = i / kPairs;
      sink(m_begin + line / kTile, line % kTile, i % kPairs, value);
    }
  }

  HAMILTORCH_DEVICE static void move(Real (&to)[4], const Real (&from)[4]) {
    HAMILTORCH_UNROLL
    for (int i = 0; i < 4; ++i) to[i] = from[i];
  }

  HAMILTORCH_DEVICE typename Math::Right load_right(const Real* from) const {
    Real b[2][2] = {};
    HAMILTORCH_UNROLL
    for (int part = 0; part < Math::kDepth / 8; ++part) {
      b[part][0] = from[8 * part * layout.stride];
      b[part][1] = from[(8 * part + 4) * layout.stride];
    }
    return Math::right(b);
  }

  // `count` fragments along k; the next ones of the left operand are on their way while these are multiplied.
  template <class Left>
  HAMILTORCH_DEVICE void accumulate(Real (&sum)[kLeft][kRight][4], const Left& left, const Real* x, int count) const {
    if (count == 0) return;
    const int g = team.lane() >> 2, t = team.lane() & 3, stride = layout.stride;
    const Real* right = x + t * stride + g;
    Packed next[kLeft];
    HAMILTORCH_UNROLL
    for (int i = 0; i < kLeft; ++i) next[i] = left.load(i, 0);
    // Narrow kernels have few independent sums in one fragment and take several at once.
    [[maybe_unused]] constexpr int kAtOnce = kRight == 1 ? 4 : 1;
    HAMILTORCH_UNROLL_BY(kAtOnce)
    for (int k = 0; k < count; ++k) {
      const int following = k + 1 < count ? k + 1 : k;
      typename Math::Left a[kLeft];
      HAMILTORCH_UNROLL
      for (int i = 0; i < kLeft; ++i) {
        a[i] = Math::left(next[i]);
        next[i] = left.load(i, following);
      }
      HAMILTORCH_UNROLL
      for (int n = 0; n < kRight; ++n) {
        Math::template multiply<kLeft, kRight>(sum, n, a, load_right(right + 8 * n));
      }
      right += Math::kDepth * stride;
    }
  }

  Real* const shared_;
  Real* vectors_;
  int current_ = 0;
};

}  // namespace hamiltorch
