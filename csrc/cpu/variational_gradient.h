// The gradient of S = -sum l . r by all that the discrete Lagrangian is made of. Over an interval (x, y) S has minus
// the derivative of L_d in the direction (u, v), the multipliers of the steps that its x and its y end. Intervals have
// nothing to do with one another: they are rows, dealt to threads, whose outer products are summed as the rollouts'
// are.
#pragma once
#include "curvature.h"
#include "factors.h"
#include "hamiltorch/variational.h"

namespace hamiltorch {
namespace {

enum IntervalMatrices { kStates, kCondition, kFirstInner };

template <class T>
struct IntervalTile {
  Tile<T> points, directions;  // [rows][2d]: (x, y) and (u, v)
  Tile<T> condition;           // [rows][condition]
  Tile<T> base, from_x;
  Curvature<T> kept;
  Lines<T> work;
  Tile<T> condition_bar;
  int32_t* slots;
  double** bias_sums;  // [hidden] -> [width]
  double *head_sums, *mass_sums, *damping_sums, *dt_sum;
};

template <class T>
struct IntervalJob {
  const DelRollout<T>* rollout;
  DelGradientArrays<T> arrays;
  Network<T> network;
  Plan plan;
  int64_t chunk;  // rows between two products
  IntervalTile<T>* tiles;
  Worker<T>* workers;
  Factors<T>* factors;  // [matrices()]
  T** scratch;          // [threads] -> [widest][kPanel]
  Barrier* all;

  int64_t matrices() const { return kFirstInner + network.hidden - 1; }
  int64_t rows() const { return rollout->batch * (rollout->steps + 1); }
  // Factor rows of an interval: every weight but the condition's meets a value and its change.
  static int64_t factor_rows(int64_t m) { return m == kCondition ? 1 : 2; }
};

template <class T>
IntervalTile<T> take_interval_tile(Arena& arena, const Network<T>& network, int64_t rows) {
  const int64_t d = network.half;
  IntervalTile<T> tile;
  tile.points = take_tile<T>(arena, rows, 2 * d);
  tile.directions = take_tile<T>(arena, rows, 2 * d);
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
  tile.mass_sums = arena.take<double>(d);
  tile.damping_sums = arena.take<double>(d);
  tile.dt_sum = arena.take<double>(1);
  if (tile.slots)
    for (int64_t r = 0; r < rows; ++r) tile.slots[r] = static_cast<int32_t>(r);
  const Tile<T>* const read[] = {&tile.points, &tile.directions, &tile.condition};
  for (const Tile<T>* each : read)  // their padding is put into factors
    if (each->data) clear(each->data, rows * each->stride);
  return tile;
}

template <class T>
IntervalJob<T> take_intervals(Arena& arena, Arena& prepared, const DelRollout<T>& rollout, int threads, bool filled) {
  IntervalJob<T> job{};
  job.rollout = &rollout;
  const Mlp<T>& mlp = rollout.network;
  job.plan = make_solo_plan(mlp, job.rows(), 6, threads);
  job.network = take_network(arena, prepared, mlp, job.plan, false, filled);
  const Network<T>& network = job.network;
  job.tiles = arena.take<IntervalTile<T>>(job.plan.teams);
  job.workers = arena.take<Worker<T>>(job.plan.teams);
  job.scratch = arena.take<T*>(job.plan.teams);
  job.all = arena.take<Barrier>(1);
  const int64_t scratch_rows = widest(mlp) > mlp.dim ? widest(mlp) : mlp.dim;
  for (int i = 0; i < job.plan.teams; ++i) {
    const IntervalTile<T> tile = take_interval_tile(arena, network, job.plan.tile_rows);
    T* const scratch = arena.take<T>(padded<T>(scratch_rows) * kPanel<T>);
    if (!job.tiles) continue;
    job.tiles[i] = tile;
    job.scratch[i] = scratch;
    job.workers[i] = solo_worker<T>();
  }
  if (job.all) job.all->reset();

  const auto widths = [&](int64_t m) -> Range {  // out, in
    if (m == kStates) return {network.first(), 2 * network.half};
    if (m == kCondition) return {network.first(), network.condition.in};
    return {network.widths[m - kFirstInner + 1], network.widths[m - kFirstInner]};
  };
  int64_t bytes = 0;
  for (int64_t m = 0; m < job.matrices(); ++m) {
    const Range w = widths(m);
    bytes += job.factor_rows(m) * (padded<T>(w.begin) + padded<T>(w.end)) * static_cast<int64_t>(sizeof(T));
  }
  const int64_t fitting = kFactorBytes / bytes, least = job.plan.teams * job.plan.tile_rows;
  job.chunk = fitting < least ? least : fitting < job.rows() ? fitting : job.rows();
  job.factors = arena.take<Factors<T>>(job.matrices());
  for (int64_t m = 0; m < job.matrices(); ++m) {
    const Range w = widths(m);
    const Factors<T> f = take_factors<T>(arena, w.begin, w.end, job.factor_rows(m) * job.chunk);
    if (job.factors) job.factors[m] = f;
  }
  return job;
}

// Reads the points and directions of `count` intervals from `first` on. Where an interval has no multiplier that is its
// step's own, because the sample had failed, its points may be anything: both are then zero, and so is all that
// follows.
template <class T>
void read_intervals(const IntervalJob<T>& job, const IntervalTile<T>& tile, int64_t first, int64_t count) {
  const DelRollout<T>& rollout = *job.rollout;
  const int64_t d = job.network.half, in = job.network.condition.in, steps = rollout.steps;
  for (int64_t r = 0; r < count; ++r) {
    const int64_t sample = (first + r) / (steps + 1), j = (first + r) % (steps + 1);
    const bool ends_x = j > 0 && job.arrays.converged[sample * steps + j - 1];
    const bool ends_y = j < steps && job.arrays.converged[sample * steps + j];
    const bool used = ends_x || ends_y;
    const T* const points = job.arrays.trajectory + (sample * (steps + 2) + j) * d;
    const T* const multiplier = job.arrays.multipliers + (sample * steps + j) * d;
    for (int64_t c = 0; c < 2 * d; ++c) tile.points.row(r)[c] = used ? points[c] : 0;
    for (int64_t c = 0; c < d; ++c) {
      tile.directions.row(r)[c] = ends_x ? multiplier[c - d] : 0;
      tile.directions.row(r)[d + c] = ends_y ? multiplier[c] : 0;
    }
    for (int64_t c = 0; c < in; ++c) tile.condition.row(r)[c] = used ? rollout.condition[sample * in + c] : 0;
  }
}

// One tile of intervals, from `first` on; their factor rows begin at `row` times the matrix's rows of an interval.
template <class T>
void add_intervals(const IntervalJob<T>& job, const IntervalTile<T>& tile, int64_t first, int64_t count, int64_t row,
                   const Worker<T>& worker) {
  const DelRollout<T>& rollout = *job.rollout;
  const Network<T>& network = job.network;
  const Lines<T>& work = tile.work;
  const int64_t d = network.half, top = network.hidden - 1, in = network.condition.in;
  const T dt = rollout.dt;
  const auto second = [&](const Tile<T>& pair) { return Tile<T>{pair.data + d, pair.stride}; };
  const auto at = [](const Tile<T>& tile) { return [&](int64_t r, int64_t c) { return load(tile.row(r) + c); }; };
  read_intervals(job, tile, first, count);

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
  const auto subtract_sums = [&](double* sums, int64_t width, const Tile<T>& values) {
    for_columns<T>({0, 1}, {0, width}, [&](int64_t, int64_t c) {
      Vec<T> sum{};
      for (int64_t r = 0; r < count; ++r) sum += load(values.row(r) + c);
      for (int i = 0; i < kLanes<T>; ++i) sums[c + i] -= static_cast<double>(dt * sum[i]);
    });
  };
  const auto cotangent = [&](const Tile<T>& delta) {
    return [&, dt](int64_t r, int64_t c) { return -dt * load(delta.row(r) + c); };
  };
  for (int64_t l = 0; l <= top; ++l) {
    const int64_t m = l ? kFirstInner + l - 1 : int64_t{kStates};
    put_rows(m, 0, cotangent(work.tangent_delta[l]), at(l ? work.value[l - 1] : tile.points));
    put_rows(m, count, cotangent(work.delta[l]), at(l ? work.tangent_value[l - 1] : tile.directions));
    subtract_sums(tile.bias_sums[l], network.widths[l], work.tangent_delta[l]);
  }
  if (in) {
    put_rows(kCondition, 0, cotangent(work.tangent_delta[0]), at(tile.condition));
    apply_transposed(network.condition, count, work.tangent_delta[0], tile.condition_bar, worker, no_more);
    for (int64_t r = 0; r < count; ++r)
      for (int64_t c = 0; c < in; ++c)
        job.arrays.grad_condition[(first + r) * in + c] = -dt * tile.condition_bar.row(r)[c];
  }
  subtract_sums(tile.head_sums, network.last(), work.tangent_value[top]);
  for (int64_t r = 0; r < count; ++r) {
    const T *x = tile.points.row(r), *u = tile.directions.row(r);
    double along = static_cast<double>(dot(network.head, work.tangent_value[top].row(r), network.last()));
    for (int64_t c = 0; c < d; ++c) {
      const double velocity = static_cast<double>((x[d + c] - x[c]) / dt);
      const double apart = static_cast<double>(u[d + c] - u[c]);
      tile.mass_sums[c] -= velocity * apart;
      along -= static_cast<double>(rollout.mass[c] / dt) * velocity * apart;
      tile.damping_sums[c] += velocity * static_cast<double>(dt * (u[d + c] + u[c]) / 2);
    }
    *tile.dt_sum -= along;
  }
}

template <class T>
void interval_thread(void* context, int index) {
  const IntervalJob<T>& job = *static_cast<const IntervalJob<T>*>(context);
  const Network<T>& network = job.network;
  const IntervalTile<T>& tile = job.tiles[index];
  const int64_t d = network.half;
  const Member all = {index, job.plan.teams, job.all};
  for (int64_t m = 0; m < job.matrices(); ++m) {
    const Factors<T>& f = job.factors[m];
    const Range mine = share(f.out_width * padded<T>(f.in_width), index, job.plan.teams);
    clear(f.sums + mine.begin, mine.size());
  }
  for (int64_t l = 0; l < network.hidden; ++l) clear(tile.bias_sums[l], padded<T>(network.widths[l]));
  clear(tile.head_sums, padded<T>(network.last()));
  clear(tile.mass_sums, d);
  clear(tile.damping_sums, d);
  *tile.dt_sum = 0;
  prepare(network, job.rollout->network, all);

  const int64_t chunks = ceil_div(job.rows(), job.chunk);
  for (int64_t i = 0; i < chunks; ++i) {
    const Range chunk = share(job.rows(), i, chunks), mine = share(chunk.size(), index, job.plan.teams);
    const int64_t tiles = ceil_div(mine.size(), job.plan.tile_rows);
    for (int64_t t = 0; t < tiles; ++t) {
      const Range part = share(mine.size(), t, tiles);
      const int64_t row = mine.begin + part.begin;
      add_intervals(job, tile, chunk.begin + row, part.size(), row, job.workers[index]);
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
  const int64_t columns = 2 * d + network.condition.in;
  for (int64_t m = 0; m < job.matrices(); ++m) {
    const Factors<T>& f = job.factors[m];
    T* const first = job.arrays.grad_weights[0];
    T* const to = m == kStates ? first : m == kCondition ? first + 2 * d : job.arrays.grad_weights[m - kFirstInner + 1];
    write_sums(f, to, m < kFirstInner ? columns : f.in_width, share(f.out_width, index, job.plan.teams));
  }
}

// The sums that the threads kept apart.
template <class T>
void gather_intervals(const IntervalJob<T>& job) {
  const Network<T>& network = job.network;
  const auto write = [&](T* to, int64_t count, const auto& sums_of) {
    for (int64_t c = 0; c < count; ++c) {
      double sum = 0;
      for (int i = 0; i < job.plan.teams; ++i) sum += sums_of(job.tiles[i])[c];
      to[c] = static_cast<T>(sum);
    }
  };
  using Of = const IntervalTile<T>&;
  for (int64_t l = 0; l < network.hidden; ++l)
    write(job.arrays.grad_biases[l], network.widths[l], [&](Of tile) { return tile.bias_sums[l]; });
  write(job.arrays.grad_weights[network.hidden], network.last(), [](Of tile) { return tile.head_sums; });
  write(job.arrays.grad_mass, network.half, [](Of tile) { return tile.mass_sums; });
  write(job.arrays.grad_damping, network.half, [](Of tile) { return tile.damping_sums; });
  write(job.arrays.grad_dt, 1, [](Of tile) { return tile.dt_sum; });
}

template <class T>
Sizes interval_measure(const DelRollout<T>& rollout, int threads) {
  if (rollout.batch == 0) return {0, 0, 0};
  Arena arena(nullptr), prepared(nullptr);
  const Plan plan = take_intervals(arena, prepared, rollout, threads, false).plan;
  return {arena.used(), prepared.used(), layout(plan)};
}

template <class T>
Status interval_run(const DelRollout<T>& rollout, const DelGradientArrays<T>& arrays, int threads, const Prepared& kept,
                    void* workspace, size_t size) {
  if (rollout.batch == 0) return Status::kOk;
  if (size < interval_measure(rollout, threads).workspace) return Status::kWorkspaceTooSmall;
  Arena arena(workspace), prepared(kept.memory);
  IntervalJob<T> job = take_intervals(arena, prepared, rollout, threads, kept.filled);
  job.arrays = arrays;
  parallel(job.plan.teams, interval_thread<T>, &job);
  gather_intervals(job);
  return Status::kOk;
}

}  // namespace
}  // namespace hamiltorch
