// How a team of blocks divides a network and its own memory: plain arithmetic, the same on the host, which allocates,
// and on the device, which reads and writes. Sizes and offsets are in elements of the state's type.
#pragma once
#include "hamiltorch/cuda_rollout.h"
#include "platform.h"

namespace hamiltorch {

inline constexpr int kTile = 16;      // rows of a fragment: layers are padded to whole tiles
inline constexpr int kThreads = 256;  // of a block
inline constexpr int kWarps = kThreads / 32;
inline constexpr int kCounterStride = 32;  // a grid team's counter has a cache line of its own

// Where a member finds the weights.
enum class Weights : int32_t {
  kShared = 0,    // its rows, row-major in shared memory, read in both directions
  kPackedShared,  // whole matrices as fragments of both directions, in shared memory: small networks, teams of one
  kPackedGlobal,  // the same in global memory, streamed through the caches
};

HAMILTORCH_HOST_DEVICE inline int tiles_of(int64_t width) { return static_cast<int>((width + kTile - 1) / kTile); }
HAMILTORCH_HOST_DEVICE inline int ceil_divide(int a, int b) { return (a + b - 1) / b; }

// Row stride of an activation buffer whose fragments are read without bank conflicts: 8 or 24 modulo 32.
HAMILTORCH_HOST_DEVICE inline int activation_stride(int columns) {
  return columns % 32 == 8 || columns % 32 == 24 ? columns : columns + 8;
}

// Column of a row-major slice: any four neighbours of eight neighbouring rows, and any eight neighbours of four, are
// in different banks, so both directions of a product read it at full speed. Row strides are multiples of 32.
HAMILTORCH_HOST_DEVICE inline int swizzled(int row, int column) { return column ^ ((row & 3) << 3 | (row & 4)); }

// What a kernel is: how many columns (samples, or sample and tangent) and row tiles a warp holds in registers.
struct Shape {
  int right;  // blocks of 8 columns
  int left;   // row tiles of a warp
  HAMILTORCH_HOST_DEVICE int columns() const { return 8 * right; }
};

// With states: a layer of them stands after the hidden ones, and a matrix for each of them joins it to layer 0: one, or
// two of equal width.
template <int kStates>
struct BasicLayout {
  int hidden, widths[kMostHidden];
  int tiles[kMostHidden];  // row tiles of a layer
  int each[kMostHidden];   // those that every member has room for; the last members may have fewer, or none
  int members;             // blocks of a team
  int columns;
  int stride;  // of activation buffers
  int halves;  // activation buffers a member owns: 2, or 1 where a product's result replaces its input
  Weights weights;
  bool exchange_global;  // teams of a grid exchange through global memory, clusters and teams of one in shared memory
  bool vectors_global;

  // Offsets in the member's shared memory.
  int exchange, half_size;  // halves x (all rows of the widest layer, or partial sums from every member)
  int local;                // a member's own rows of the widest layer; unused in a team of one
  int partials;
  int vectors, vectors_size;
  int slices[kMostHidden];  // row-major matrices, or where the packed ones begin
  int scratch_size;         // exchange, local and partials: what nobody needs once a gradient has been gathered
  int shared_size;          // whatever is in it
  bool fits;                // whether 32 bits can count all of this
  // Offsets in the vectors.
  int kept[kMostHidden];  // [each * 16][columns]: what the way back through a layer needs
  int terms;              // [each * 16][columns] of the last layer: the energy's sum
  int states, state_size;
  int more;  // what else the algorithm has

  HAMILTORCH_HOST_DEVICE int begin(int layer, int rank) const {
    const int first = rank * each[layer], all = tiles[layer];
    return first < all ? first : all;
  }
  HAMILTORCH_HOST_DEVICE int count(int layer, int rank) const { return begin(layer, rank + 1) - begin(layer, rank); }
  // Matrix l joins layer l - 1 to layer l. Matrix 0 joins layer 0 to itself or to a state; a second state's stands
  // after the last layer's.
  HAMILTORCH_HOST_DEVICE int layers() const { return hidden + (kStates > 0 ? 1 : 0); }
  HAMILTORCH_HOST_DEVICE int matrices() const { return hidden + (kStates == 2 ? 1 : 0); }
  HAMILTORCH_HOST_DEVICE int rows_layer(int matrix) const { return kStates == 2 && matrix == hidden ? 0 : matrix; }
  HAMILTORCH_HOST_DEVICE int columns_layer(int matrix) const {
    if (kStates > 0 && (matrix == 0 || matrix == hidden)) return hidden;
    return matrix == 0 ? 0 : matrix - 1;
  }
  HAMILTORCH_HOST_DEVICE int slice_stride(int matrix) const {
    return ceil_divide(kTile * tiles[columns_layer(matrix)], 32) * 32;
  }
  // Fragments of 16 x 16 in one direction of a packed matrix.
  HAMILTORCH_HOST_DEVICE int64_t units(int matrix) const {
    return static_cast<int64_t>(tiles[rows_layer(matrix)]) * tiles[columns_layer(matrix)];
  }
};
using Layout = BasicLayout<0>;
using OneStateLayout = BasicLayout<1>;
using StateLayout = BasicLayout<2>;

// How many warps share the sum over k of one product whose result has `tiles` row tiles.
HAMILTORCH_HOST_DEVICE inline int splits_of(int tiles, int left, int k_tiles) {
  const int groups = ceil_divide(tiles, left);
  const int splits = groups == 0 ? 1 : kWarps / groups;
  return splits < 1 ? 1 : splits < k_tiles ? splits : k_tiles;
}

// Vectors of layer 0's rows that a rollout keeps, each [rows][samples]; the adjoint then one a_1 for every stage.
enum ForwardState { kS, kR, kImpulseQ, kImpulseP, kForwardStates };
enum BackwardState { kReplayS, kReplayR, kBarS, kBarR, kTangent, kSumQ, kSumP, kBackwardStates };

struct LayoutRequest {
  int hidden;
  const int64_t* widths;
  int64_t state_width;  // of the layer of states, where there is one
  int members;
  Shape shape;
  Weights weights;
  TeamKind team;
  bool in_place;  // one activation buffer; only in a team of one, with at most kWarps groups of rows a layer
  bool vectors_global;
  int kept_count;   // vectors of every layer's rows that an evaluation keeps
  int terms_count;  // of the last layer's
  int state_count;  // vectors of layer 0's rows that the algorithm keeps
  int state_columns;
  int64_t more;       // elements of what else it has
  int64_t kept_from;  // where in shared memory what is not scratch begins at the earliest
  int unit_size;      // elements of one packed 16 x 16 unit
};

template <class Layout>
Layout make_layout(const LayoutRequest& request) {
  Layout a{};
  a.hidden = request.hidden;
  a.members = request.members;
  a.columns = request.shape.columns();
  a.stride = activation_stride(a.columns);
  a.halves = request.in_place ? 1 : 2;
  a.weights = request.weights;
  a.exchange_global = request.team == TeamKind::kGrid;
  a.vectors_global = request.vectors_global;
  a.fits = true;
  // Counted in 64 bits, kept in 32: what they cannot hold no device has.
  const auto narrow = [&a](int64_t n) {
    a.fits = a.fits && n <= INT32_MAX;
    return static_cast<int>(n <= INT32_MAX ? n : 0);
  };
  int64_t used = 0;
  const auto take = [&](int64_t size) {
    const int64_t offset = used;
    used += (size + 31) / 32 * 32;
    return narrow(offset);
  };
  int64_t most = 0, most_each = 0;
  for (int l = 0; l < a.layers(); ++l) {
    a.widths[l] = narrow(l < a.hidden ? request.widths[l] : request.state_width);
    a.tiles[l] = tiles_of(a.widths[l]);
    a.each[l] = ceil_divide(a.tiles[l], a.members);
    most = a.tiles[l] > most ? a.tiles[l] : most;
    most_each = a.each[l] > most_each ? a.each[l] : most_each;
  }
  const bool solo = request.team == TeamKind::kSolo;
  const int64_t gathered = most * kTile * a.stride, scattered = solo ? 0 : a.members * most_each * kTile * a.columns;
  a.half_size = narrow(((gathered > scattered ? gathered : scattered) + 31) / 32 * 32);
  a.exchange = a.exchange_global ? 0 : take(int64_t{a.halves} * a.half_size);
  a.local = solo ? 0 : take(most_each * kTile * a.stride);
  int64_t partials = 2 * kThreads;  // what the block's sums need
  for (int matrix = 0; matrix < a.matrices() && !request.in_place; ++matrix) {
    const int from = a.columns_layer(matrix), to = a.rows_layer(matrix);
    const auto need = [&](int64_t tiles, int k_tiles) {
      const int splits = splits_of(static_cast<int>(tiles), request.shape.left, k_tiles);
      const int64_t size = splits > 1 ? splits * tiles * kTile * a.columns : 0;
      partials = size > partials ? size : partials;
    };
    for (int rank = 0; rank < a.members; ++rank) need(a.count(to, rank), a.tiles[from]);
    if (solo) need(a.tiles[from], a.tiles[to]);
  }
  a.partials = take(partials);
  a.scratch_size = narrow(used);
  if (used < request.kept_from) used = request.kept_from;

  int64_t vectors = 0;
  const auto keep = [&](int layer, int64_t columns, int64_t count) {
    const int64_t offset = vectors;
    vectors += a.each[layer] * kTile * columns * count;
    return narrow(offset);
  };
  for (int l = 0; l < a.hidden; ++l) a.kept[l] = keep(l, a.columns, request.kept_count);
  a.terms = keep(a.hidden - 1, a.columns, request.terms_count);
  a.state_size = narrow(int64_t{a.each[0]} * kTile * request.state_columns);
  a.states = keep(0, request.state_columns, request.state_count);
  a.more = narrow(vectors);
  vectors += request.more;
  a.vectors_size = narrow(vectors);
  a.vectors = a.vectors_global ? 0 : take(vectors);

  for (int matrix = 0; matrix < a.matrices(); ++matrix) {
    if (a.weights == Weights::kShared)
      a.slices[matrix] = take(int64_t{a.each[a.rows_layer(matrix)]} * kTile * a.slice_stride(matrix));
    if (a.weights == Weights::kPackedShared) a.slices[matrix] = take(2 * a.units(matrix) * request.unit_size);
  }
  a.shared_size = narrow(used);
  return a;
}

}  // namespace hamiltorch
