// The gradient of S = factor * sum of u . dN/dz(z, c) over many rows (z, c, u), by the network's parameters and the
// conditions. The rows have nothing to do with one another: they are dealt to threads, and their outer products are
// summed as the rollouts' are.
//
// A `Source` says what the rows are and may sum more of them:
//
//     struct Sums;                                           // of one thread
//     int64_t rows() const;
//     T factor() const;
//     const Mlp<T>& network() const;
//     bool whole() const;                                    // whether its input is one, not q and p
//     const T* condition(int64_t row) const;                 // [condition_dim], where there is one
//     bool read(int64_t row, T* z, T* u) const;              // [dim] each; false: both are zero, and so is all else
//     Sums take_sums(Arena&) const;
//     void clear_sums(const Sums&) const;
//     void add(const Sums&, const T* z, const T* u, double along) const;  // along = u . dN/dz
#pragma once
#include "curvature.h"
#include "factors.h"

namespace hamiltorch {
namespace {

// Where the sums go.
template <class T>
struct DirectionalArrays {
  T* const* grad_weights;  // [hidden + 1], shapes of the weights
  T* const* grad_biases;   // [hidden], shapes of the hidden layers' biases
  T* grad_condition;       // [rows][condition_dim]; null where condition_dim is 0
};

enum DirectionalMatrices { kStates, kCondition, kFirstInner };

template <class T, class Source>
struct DirectionalTile {
  Tile<T> points, directions;  // [rows][dim]: z and u
  Tile<T> condition;           // [rows][condition]
  Tile<T> base, from_x;
  Curvature<T> kept;
  Lines<T> work;
  Tile<T> condition_bar;
  int32_t* slots;
  double** bias_sums;  // [hidden] -> [width]
  double* head_sums;
  typename Source::Sums sums;
};

template <class T, class Source>
struct DirectionalJob {
  const Source* source;
  DirectionalArrays<T> arrays;
  Network<T> network;
  Plan plan;
  int64_t chunk;  // rows between two products
  DirectionalTile<T, Source>* tiles;
  Worker<T>* workers;
  Factors<T>* factors;  // [matrices()]
  T** scratch;          // [threads] -> [widest][kPanel]
  Barrier* all;

  int64_t matrices() const { return kFirstInner + network.hidden - 1; }
  // Factor rows of a row: every weight but the condition's meets a value and its change.
  static int64_t factor_rows(int64_t m) { return m == kCondition ? 1 : 2; }
};

template <class T, class Source>
DirectionalTile<T, Source> take_directional_tile(Arena& arena, const Source& source, const Network<T>& network,
                                                 int64_t rows) {
  DirectionalTile<T, Source> tile;
  tile.points = take_tile<T>(arena, rows, network.inputs());
  tile.directions = take_tile<T>(arena, rows, network.inputs());
  tile.condition = take_tile<T>(arena, rows, network.condition.in);
  tile.base = take_tile<T>(arena, rows, network.first());
  tile.from_x = take_tile<T>(arena, rows, network.first());
  tile.kept = take_curvature(arena, network, rows);
  tile.work = take_lines(arena, network, rows, true);
  tile.condition_bar = take_tile<T>(arena, rows, network.condition.in);
  tile.slots = arena.take<int32_t>(rows);
  tile.bias_sums = arena.take<double*>(network.hidden);
  for (int64_t l = 0; l < network.hidden; ++l) {
    double* const sums = arena.take<double>(padded<T>(network.widths[l]));
    if (tile.bias_sums) tile.bias_sums[l] = sums;
  }
  tile.head_sums = arena.take<double>(padded<T>(network.last()));
  tile.sums = source.take_sums(arena);
  if (tile.slots)
    for (int64_t r = 0; r < rows; ++r) tile.slots[r] = static_cast<int32_t>(r);
  const Tile<T>* const read[] = {&tile.points, &tile.directions, &tile.condition};
  for (const Tile<T>* each : read)  // their padding is put into factors
    if (each->data) clear(each->data, rows * each->stride);
  return tile;
}

template <class T, class Source>
DirectionalJob<T, Source> take_directional(Arena& arena, Arena& prepared, const Source& source, int threads,
                                           bool filled) {
  DirectionalJob<T, Source> job{};
  job.source = &source;
  const Mlp<T>& mlp = source.network();
  job.plan = make_solo_plan(mlp, source.rows(), 6, threads);
  job.plan.whole = source.whole();
  job.network = take_network(arena, prepared, mlp, job.plan, false, filled);
  const Network<T>& network = job.network;
  job.tiles = arena.take<DirectionalTile<T, Source>>(job.plan.teams);
  job.workers = arena.take<Worker<T>>(job.plan.teams);
  job.scratch = arena.take<T*>(job.plan.teams);
  job.all = arena.take<Barrier>(1);
  const int64_t scratch_rows = widest(mlp) > mlp.dim ? widest(mlp) : mlp.dim;
  for (int i = 0; i < job.plan.teams; ++i) {
    const DirectionalTile<T, Source> tile = take_directional_tile<T>(arena, source, network, job.plan.tile_rows);
    T* const scratch = arena.take<T>(padded<T>(scratch_rows) * kPanel<T>);
    if (!job.tiles) continue;
    job.tiles[i] = tile;
    job.scratch[i] = scratch;
    job.workers[i] = solo_worker<T>();
  }
  if (job.all) job.all->reset();

  const auto widths = [&](int64_t m) -> Range {  // out, in
    if (m == kStates) return {network.first(), network.inputs()};
    if (m == kCondition) return {network.first(), network.condition.in};
    return {network.widths[m - kFirstInner + 1], network.widths[m - kFirstInner]};
  };
  int64_t bytes = 0;
  for (int64_t m = 0; m < job.matrices(); ++m) {
    const Range w = widths(m);
    bytes += job.factor_rows(m) * (padded<T>(w.begin) + padded<T>(w.end)) * static_cast<int64_t>(sizeof(T));
  }
  const int64_t fitting = kFactorBytes / bytes, least = job.plan.teams * job.plan.tile_rows;
  job.chunk = fitting < least ? least : fitting < source.rows() ? fitting : source.rows();
  job.factors = arena.take<Factors<T>>(job.matrices());
  for (int64_t m = 0; m < job.matrices(); ++m) {
    const Range w = widths(m);
    const Factors<T> f = take_factors<T>(arena, w.begin, w.end, job.factor_rows(m) * job.chunk);
    if (job.factors) job.factors[m] = f;
  }
  return job;
}

template <class T, class Source>
void read_directional(const DirectionalJob<T, Source>& job, const DirectionalTile<T, Source>& tile, int64_t first,
                      int64_t count) {
  const int64_t dim = job.network.inputs(), in = job.network.condition.in;
  for (int64_t r = 0; r < count; ++r) {
    T *const z = tile.points.row(r), *const u = tile.directions.row(r), *const c = tile.condition.row(r);
    const bool used = job.source->read(first + r, z, u);
    if (!used) {
      clear(z, dim);
      clear(u, dim);
    }
    const T* const condition = in ? job.source->condition(first + r) : nullptr;
    for (int64_t i = 0; i < in; ++i) c[i] = used ? condition[i] : 0;
  }
}

// One tile of rows, from `first` on; their factor rows begin at `row` times the matrix's rows of one.
template <class T, class Source>
void add_directional(const DirectionalJob<T, Source>& job, const DirectionalTile<T, Source>& tile, int64_t first,
                     int64_t count, int64_t row, const Worker<T>& worker) {
  const Network<T>& network = job.network;
  const Lines<T>& work = tile.work;
  const int64_t d = network.half, top = network.hidden - 1, in = network.condition.in;
  const T factor = job.source->factor();
  const auto second = [&](const Tile<T>& pair) { return Tile<T>{pair.data + d, pair.stride}; };
  const auto at = [](const Tile<T>& tile) { return [&](int64_t r, int64_t c) { return load(tile.row(r) + c); }; };
  read_directional(job, tile, first, count);

  const auto add_to = [&](const Tile<T>& to, const Tile<T>& term) {
    return [&](const Range& block, const Range& columns) {
      for_columns<T>(block, columns,
                     [&](int64_t r, int64_t c) { store(to.row(r) + c, load(to.row(r) + c) + load(term.row(r) + c)); });
    };
  };
  const Tile<T> bias = {network.biases[0], 0};
  Tile<T> base = bias;
  if (in) {
    base = tile.base;
    apply(network.condition, count, tile.condition, base, worker, add_to(base, bias));
  }
  apply(network.q, count, tile.points, tile.from_x, worker, add_to(tile.from_x, base));
  evaluate_curvature(network, tile.slots, count, tile.from_x, second(tile.points), tile.kept, work, worker);
  apply(network.q, count, tile.directions, work.tangent_value[0], worker, no_more);
  apply(network.p, count, second(tile.directions), work.tangent[0], worker,
        add_to(work.tangent[0], work.tangent_value[0]));
  multiply_hessian(network, tile.slots, count, tile.kept, work, worker);
  // The changes of the last layer's values are the head's gradient, and their product with it that of N.
  for_columns<T>({0, count}, {0, network.last()}, [&](int64_t r, int64_t c) {
    store(work.tangent_value[top].row(r) + c,
          load(tile.kept.first[top].row(r) + c) * load(work.tangent[top].row(r) + c));
  });

  const auto put_rows = [&](int64_t m, int64_t offset, const auto& out, const auto& values) {
    const Factors<T>& f = job.factors[m];
    const int64_t row0 = job.factor_rows(m) * row + offset;
    put(f.out, f.capacity, row0, count, {0, f.out_width}, out);
    put(f.in, f.capacity, row0, count, {0, f.in_width}, values);
  };
  const auto add_to_sums = [&](double* sums, int64_t width, const Tile<T>& values) {
    for_columns<T>({0, 1}, {0, width}, [&](int64_t, int64_t c) {
      Vec<T> sum{};
      for (int64_t r = 0; r < count; ++r) sum += load(values.row(r) + c);
      for (int i = 0; i < kLanes<T>; ++i) sums[c + i] += static_cast<double>(factor * sum[i]);
    });
  };
  const auto cotangent = [&](const Tile<T>& delta) {
    return [&, factor](int64_t r, int64_t c) { return factor * load(delta.row(r) + c); };
  };
  for (int64_t l = 0; l <= top; ++l) {
    const int64_t m = l ? kFirstInner + l - 1 : int64_t{kStates};
    put_rows(m, 0, cotangent(work.tangent_delta[l]), at(l ? work.value[l - 1] : tile.points));
    put_rows(m, count, cotangent(work.delta[l]), at(l ? work.tangent_value[l - 1] : tile.directions));
    add_to_sums(tile.bias_sums[l], network.widths[l], work.tangent_delta[l]);
  }
  if (in) {
    put_rows(kCondition, 0, cotangent(work.tangent_delta[0]), at(tile.condition));
    apply_transposed(network.condition, count, work.tangent_delta[0], tile.condition_bar, worker, no_more);
    for (int64_t r = 0; r < count; ++r)
      for (int64_t c = 0; c < in; ++c)
        job.arrays.grad_condition[(first + r) * in + c] = factor * tile.condition_bar.row(r)[c];
  }
  add_to_sums(tile.head_sums, network.last(), work.tangent_value[top]);
  for (int64_t r = 0; r < count; ++r)
    job.source->add(tile.sums, tile.points.row(r), tile.directions.row(r),
                    static_cast<double>(dot(network.head, work.tangent_value[top].row(r), network.last())));
}

template <class T, class Source>
void directional_thread(void* context, int index) {
  const DirectionalJob<T, Source>& job = *static_cast<const DirectionalJob<T, Source>*>(context);
  const Network<T>& network = job.network;
  const DirectionalTile<T, Source>& tile = job.tiles[index];
  const Member all = {index, job.plan.teams, job.all};
  for (int64_t m = 0; m < job.matrices(); ++m) {
    const Factors<T>& f = job.factors[m];
    const Range mine = share(f.out_width * padded<T>(f.in_width), index, job.plan.teams);
    clear(f.sums + mine.begin, mine.size());
  }
  for (int64_t l = 0; l < network.hidden; ++l) clear(tile.bias_sums[l], padded<T>(network.widths[l]));
  clear(tile.head_sums, padded<T>(network.last()));
  job.source->clear_sums(tile.sums);
  prepare(network, job.source->network(), all);

  const int64_t chunks = ceil_div(job.source->rows(), job.chunk);
  for (int64_t i = 0; i < chunks; ++i) {
    const Range chunk = share(job.source->rows(), i, chunks), mine = share(chunk.size(), index, job.plan.teams);
    const int64_t tiles = ceil_div(mine.size(), job.plan.tile_rows);
    for (int64_t t = 0; t < tiles; ++t) {
      const Range part = share(mine.size(), t, tiles);
      const int64_t row = mine.begin + part.begin;
      add_directional(job, tile, chunk.begin + row, part.size(), row, job.workers[index]);
    }
    wait_for_all(all);
    // Of few matrices: a network's layers.
    for (int64_t m = 0; m < job.matrices(); ++m) {
      const Factors<T>& f = job.factors[m];
      const Range panels = share(ceil_div(f.in_width, kPanel<T>), index, job.plan.teams);
      for (int64_t panel = panels.begin; panel < panels.end; ++panel)
        add_outer_panel(f, panel, job.factor_rows(m) * chunk.size(), job.scratch[index]);
    }
    wait_for_all(all);
  }
  const int64_t columns = network.inputs() + network.condition.in;
  for (int64_t m = 0; m < job.matrices(); ++m) {
    const Factors<T>& f = job.factors[m];
    T* const first = job.arrays.grad_weights[0];
    T* const to = m == kStates      ? first
                  : m == kCondition ? first + network.inputs()
                                    : job.arrays.grad_weights[m - kFirstInner + 1];
    write_sums(f, to, m < kFirstInner ? columns : f.in_width, share(f.out_width, index, job.plan.teams));
  }
}

// sums_of(sums)[c] of all threads, for tiles that they kept apart.
template <class T, class Source, class F>
void write_thread_sums(const DirectionalJob<T, Source>& job, T* to, int64_t count, const F& sums_of) {
  for (int64_t c = 0; c < count; ++c) {
    double sum = 0;
    for (int i = 0; i < job.plan.teams; ++i) sum += sums_of(job.tiles[i])[c];
    to[c] = static_cast<T>(sum);
  }
}

template <class T, class Source>
Sizes directional_measure(const Source& source, int threads) {
  if (source.rows() == 0) return {0, 0, 0};
  Arena arena(nullptr), prepared(nullptr);
  const Plan plan = take_directional<T>(arena, prepared, source, threads, false).plan;
  return {arena.used(), prepared.used(), layout(plan)};
}

// finish(job) writes the source's own sums.
template <class T, class Source, class Finish>
Status directional_run(const Source& source, const DirectionalArrays<T>& arrays, int threads, const Prepared& kept,
                       void* workspace, size_t size, const Finish& finish) {
  if (source.rows() == 0) return Status::kOk;
  if (size < directional_measure<T>(source, threads).workspace) return Status::kWorkspaceTooSmall;
  Arena arena(workspace), prepared(kept.memory);
  DirectionalJob<T, Source> job = take_directional<T>(arena, prepared, source, threads, kept.filled);
  job.arrays = arrays;
  parallel(job.plan.teams, directional_thread<T, Source>, &job);
  using Of = const DirectionalTile<T, Source>&;
  const Network<T>& network = job.network;
  for (int64_t l = 0; l < network.hidden; ++l)
    write_thread_sums(job, arrays.grad_biases[l], network.widths[l], [&](Of tile) { return tile.bias_sums[l]; });
  write_thread_sums(job, arrays.grad_weights[network.hidden], network.last(), [](Of tile) { return tile.head_sums; });
  finish(job);
  return Status::kOk;
}

}  // namespace
}  // namespace hamiltorch
