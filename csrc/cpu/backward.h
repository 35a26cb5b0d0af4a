// The adjoint of a rollout. Where the rollout left no tape the trajectory is the checkpoint, and each step is replayed
// from its state; then its stages are run backward. One scheme serves every method of the table, because a stage z += c
// dt M dH/dz has the adjoint
//   zbar += Hess(z) v,  dtbar += v . dH/dz / dt,  v = c dt M^T zbar,
// and its parameter gradient is that of the scalar v . dH/dz: Hessian-vector products are all that is needed.
//
// The parts of layer 1, s = W_1q q and r = W_1p p, have cotangents of their own, which gather over all evaluations that
// share them and go through W_1 once, when q or p was computed ("flush").
#pragma once
#include "factors.h"
#include "forward.h"

namespace hamiltorch {
namespace {

// What the threads share about the matrices' factors: W_1q, W_1p, W_1c, then the inner layers 1 .. hidden - 1.
enum FirstMatrices { kFromQ, kFromP, kFromCondition, kInner };

// One evaluation as the second derivatives need it, from its record. Curvature is s''(a) dH/ds.
template <class T>
struct Jets {
  Tile<T>*value, *slope, *curvature, *delta;  // [hidden] each
};

template <class T>
struct BackwardTile {
  Tile<T> q[2], p[2];  // states n and n + 1, by n's parity
  FirstLayer<T> first;
  Evaluation<T> evaluation;
  Tape<T> replay;  // of one step
  Jets<T> jets;
  Tile<T> qbar, pbar;           // cotangents of the state
  Tile<T> sbar, rbar, basebar;  // cotangents of layer 1's parts; basebar gathers over the whole rollout
  Tile<T> vq, vp, half;         // tangent of the state; scratch [rows][d]
  Tile<T>* tangent;             // [hidden] a-dot
  Tile<T>* tangent_value;       // [hidden] h-dot
  Tile<T>* tangent_delta;       // [hidden] delta-dot
  Tile<T> scratch;              // [rows][first]
  Tile<T> condition_bar;        // [rows][condition]
  double** bias_sums;           // [hidden] -> [width]
  double* head_sums;            // [last]
  double* dt_sums;              // [team_size]
};

template <class T>
struct Backward {
  const Rollout<T>* rollout;
  BackwardArrays<T> arrays;
  Plan plan;
  Network<T> network;
  Tape<T> tape;         // of the rollout, or without data
  int64_t group_rows;   // samples that all teams hold together
  int64_t chunk_steps;  // steps between two parameter products
  BackwardTile<T>* tiles;
  Worker<T>* workers;   // [threads]
  Factors<T>* factors;  // [matrices()]
  int64_t* cursors;     // [threads][matrices(), in whole cache lines]: factor rows in use, each thread's own count
  T** scratch;          // [threads] -> [widest][kPanel], of the parameter products
  Barrier* barriers;
  Barrier* all;

  int64_t matrices() const { return kInner + network.hidden - 1; }
};

// Factor rows that one step leaves per sample in matrix m.
template <class T>
int64_t factor_rows(const Rollout<T>& rollout, int64_t m) {
  if (m == kFromCondition) return 0;
  if (m >= kInner) return 2 * rollout.stage_count;
  int64_t rows = 0;
  for (int64_t k = 0; k < rollout.stage_count; ++k) {
    const int32_t moves = rollout.stages[k].moves;
    // The half that a stage differentiates in leaves its tangent; the half that it moved is flushed.
    rows += (moves & (m == kFromQ ? kMovesP : kMovesQ)) != 0;
    rows += (moves & (m == kFromQ ? kMovesQ : kMovesP)) != 0;
  }
  return rows;
}

template <class T>
BackwardTile<T> take_backward_tile(Arena& arena, const Rollout<T>& rollout, const Network<T>& network,
                                   const Plan& plan) {
  const int64_t rows = plan.tile_rows, d = network.half, width = network.first();
  const auto state = [&] { return take_tile<T>(arena, rows, d); };
  const auto first = [&] { return take_tile<T>(arena, rows, width); };
  BackwardTile<T> tile;
  for (int i = 0; i < 2; ++i) {
    tile.q[i] = state();
    tile.p[i] = state();
  }
  tile.first = take_first_layer(arena, network, rows);
  tile.evaluation = take_evaluation(arena, network, rows);
  tile.replay = take_tape(arena, rollout, rows, arena.take<T>(tape_numbers(rollout, 1, rows)));
  tile.jets.value = take_layers(arena, network, rows);
  tile.jets.slope = take_layers(arena, network, rows);
  tile.jets.curvature = take_layers(arena, network, rows);
  tile.jets.delta = take_layers(arena, network, rows);
  tile.qbar = state();
  tile.pbar = state();
  tile.sbar = first();
  tile.rbar = first();
  tile.basebar = first();
  tile.vq = state();
  tile.vp = state();
  tile.half = state();
  tile.tangent = take_layers(arena, network, rows);
  tile.tangent_value = take_layers(arena, network, rows);
  tile.tangent_delta = take_layers(arena, network, rows);
  tile.scratch = first();
  tile.condition_bar = take_tile<T>(arena, rows, network.condition.in);
  tile.bias_sums = arena.take<double*>(network.hidden);
  for (int64_t l = 0; l < network.hidden; ++l) {
    double* sums = arena.take<double>(padded<T>(network.widths[l]));
    if (tile.bias_sums) tile.bias_sums[l] = sums;
  }
  tile.head_sums = arena.take<double>(padded<T>(network.last()));
  tile.dt_sums = arena.take<double>(plan.team_size);
  return tile;
}

template <class T>
Backward<T> take_backward(Arena& arena, Arena& prepared, const Rollout<T>& rollout, const BackwardArrays<T>& arrays,
                          int threads, bool filled) {
  Backward<T> job{};
  job.rollout = &rollout;
  job.arrays = arrays;
  job.plan = make_plan(rollout, threads, true);
  job.network = take_network(arena, prepared, rollout.network, job.plan, rollout.bfloat16, filled);
  job.tape = take_tape(arena, rollout, rollout.batch, const_cast<T*>(arrays.tape));
  const Network<T>& network = job.network;
  job.barriers = arena.take<Barrier>(job.plan.teams);
  job.all = arena.take<Barrier>(1);
  job.tiles = arena.take<BackwardTile<T>>(job.plan.teams);
  job.workers = arena.take<Worker<T>>(job.plan.teams * job.plan.team_size);
  for (int team = 0; team < job.plan.teams; ++team) {
    take_workers(arena, job.workers ? job.workers + team * job.plan.team_size : nullptr, job.plan.team_size,
                 job.barriers + team, job.plan.tile_rows, widest(rollout.network), !job.plan.packed, rollout.bfloat16);
    const BackwardTile<T> tile = take_backward_tile(arena, rollout, network, job.plan);
    if (job.tiles) {
      job.tiles[team] = tile;
      job.barriers[team].reset();
    }
  }
  if (job.all) job.all->reset();

  const int64_t groups = ceil_div(ceil_div(rollout.batch, job.plan.teams), job.plan.tile_rows);
  job.group_rows = ceil_div(rollout.batch, groups);
  const auto widths = [&](int64_t m) -> Range {  // out, in
    if (m == kFromQ || m == kFromP) return {network.first(), network.half};
    if (m == kFromCondition) return {network.first(), network.condition.in};
    return {network.widths[m - kInner + 1], network.widths[m - kInner]};
  };
  int64_t bytes = 1;
  for (int64_t m = 0; m < job.matrices(); ++m) {
    const Range w = widths(m);
    bytes += factor_rows(rollout, m) * (padded<T>(w.begin) + padded<T>(w.end)) * static_cast<int64_t>(sizeof(T));
  }
  const int64_t most = kFactorBytes / (bytes * job.group_rows);
  job.chunk_steps = most < 1 ? 1 : most < rollout.steps ? most : rollout.steps;
  const int all = job.plan.teams * job.plan.team_size;
  job.scratch = arena.take<T*>(all);
  for (int i = 0; i < all; ++i) {
    T* const scratch = arena.take<T>(padded<T>(widest(rollout.network)) * kPanel<T>);
    if (job.scratch) job.scratch[i] = scratch;
  }
  job.factors = arena.take<Factors<T>>(job.matrices());
  job.cursors = arena.take<int64_t>(job.plan.teams * job.plan.team_size * round_up(job.matrices(), 8));
  for (int64_t m = 0; m < job.matrices(); ++m) {
    const Range w = widths(m);
    // One block of rows more for the last energy (inner matrices) or the last flush (layer 1).
    const int64_t capacity = (factor_rows(rollout, m) * job.chunk_steps + 1) * job.group_rows;
    const Factors<T> f = take_factors<T>(arena, w.begin, w.end, capacity);
    if (job.factors) job.factors[m] = f;
  }
  return job;
}

// One team's walk backward over its samples of one group. Every member calls the same methods in the same order.
template <class T>
class Walk {
 public:
  Walk(const Backward<T>& job, const BackwardTile<T>& tile, int64_t* cursors, int64_t group_size, int64_t first_row,
       int64_t group_first, int64_t rows, const Worker<T>& worker)
      : job_(job),
        network_(job.network),
        rollout_(*job.rollout),
        tile_(tile),
        tape_(job.tape.rows_from(first_row)),
        cursors_(cursors),
        group_size_(group_size),
        offset_(first_row - group_first),
        first_row_(first_row),
        rows_(rows),
        states_(rollout_.steps + 1),
        worker_(worker),
        half_columns_(worker.columns(network_.half)),
        first_columns_(worker.columns(network_.first())) {}

  // State N, its cotangent, and the last energy's.
  void begin() {
    worker_.wait();  // for the others' last use of the tile
    const Tile<T>* bars[] = {&tile_.sbar, &tile_.rbar, &tile_.basebar};
    for (const Tile<T>* bar : bars)
      over(first_columns_, [&](int64_t r, int64_t c) { store(bar->row(r) + c, Vec<T>{}); });
    over(half_columns_, [&](int64_t r, int64_t c) {
      store(tile_.qbar.row(r) + c, Vec<T>{});
      store(tile_.pbar.row(r) + c, Vec<T>{});
    });
    fill_base(network_, rows_, rollout_.condition + first_row_ * network_.condition.in, tile_.first.base, worker_);
    read_state(rollout_.steps);
    add_cotangent(rollout_.steps);
    if (!job_.arrays.grad_energies) return;
    first_layer(rollout_.steps);
    const Record<T> record = tile_.replay.record(0, 0);
    evaluate(network_, rows_, tile_.first, tile_.evaluation, record, true, worker_);
    expand(record);
    const Jets<T>& e = tile_.jets;
    const auto grad_energy = [&](int64_t r) { return energy_bar(r, rollout_.steps); };
    for (int64_t l = 1; l < network_.hidden; ++l) {
      const auto bar = [&](int64_t r, int64_t c) { return grad_energy(r) * load(e.delta[l].row(r) + c); };
      put_pair(kInner + l - 1, bar, [&](int64_t r, int64_t c) { return load(e.value[l - 1].row(r) + c); });
      add_sums(tile_.bias_sums[l], network_.widths[l], bar);
    }
    add_sums(tile_.head_sums, network_.last(),
             [&](int64_t r, int64_t c) { return grad_energy(r) * load(e.value[network_.hidden - 1].row(r) + c); });
    over(first_columns_, [&](int64_t r, int64_t c) {
      const Vec<T> bar = grad_energy(r) * load(e.delta[0].row(r) + c);
      store(tile_.sbar.row(r) + c, bar);
      store(tile_.rbar.row(r) + c, bar);
      store(tile_.basebar.row(r) + c, bar);
    });
  }

  // From the cotangent of state n + 1 to that of state n.
  void step(int64_t n) {
    read_state(n);
    if (!tape_.data) replay(n);
    for (int64_t k = rollout_.stage_count - 1; k >= 0; --k) reverse_stage(n, k);
    add_cotangent(n);
  }

  // The last flush, and the results that belong to samples.
  void end() {
    flush(kFromQ, network_.q, tile_.sbar, tile_.q[0], tile_.qbar);
    flush(kFromP, network_.p, tile_.rbar, tile_.p[0], tile_.pbar);
    T* const grad = job_.arrays.grad_z0 + first_row_ * 2 * network_.half;
    write_rows(tile_.qbar, rows_, network_.half, grad, 2 * network_.half, worker_);
    write_rows(tile_.pbar, rows_, network_.half, grad + network_.half, 2 * network_.half, worker_);
    add_sums(tile_.bias_sums[0], network_.first(),
             [&](int64_t r, int64_t c) { return load(tile_.basebar.row(r) + c); });
    const int64_t conditions = network_.condition.in;
    if (conditions == 0) return;
    const T* condition = rollout_.condition + first_row_ * conditions;
    const Tile<T>& bar = tile_.condition_bar;
    apply_transposed(network_.condition, rows_, tile_.basebar, bar, worker_, no_more);
    write_rows(bar, rows_, conditions, job_.arrays.grad_condition + first_row_ * conditions, conditions, worker_);
    read_rows(condition, conditions, rows_, conditions, bar, worker_);
    put_pair(
        kFromCondition, [&](int64_t r, int64_t c) { return load(tile_.basebar.row(r) + c); },
        [&](int64_t r, int64_t c) { return load(bar.row(r) + c); });
  }

 private:
  template <class F>
  void over(const Range& columns, const F& f) const {
    for_columns<T>({0, rows_}, columns, f);
  }

  T energy_bar(int64_t r, int64_t n) const {
    return job_.arrays.grad_energies ? job_.arrays.grad_energies[(first_row_ + r) * states_ + n] : 0;
  }

  void read_state(int64_t n) {
    const int64_t d = network_.half, stride = states_ * 2 * d;
    const T* from = job_.arrays.trajectory + first_row_ * stride + n * 2 * d;
    read_rows(from, stride, rows_, d, tile_.q[n & 1], worker_);
    read_rows(from + d, stride, rows_, d, tile_.p[n & 1], worker_);
  }

  void add_cotangent(int64_t n) {
    if (!job_.arrays.grad_trajectory) return;
    const int64_t d = network_.half, stride = states_ * 2 * d;
    const T* from = job_.arrays.grad_trajectory + first_row_ * stride + n * 2 * d;
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = half_columns_.begin; c < half_columns_.end; ++c) {
        tile_.qbar.row(r)[c] += from[r * stride + c];
        tile_.pbar.row(r)[c] += from[r * stride + d + c];
      }
  }

  void first_layer(int64_t n) {
    apply(network_.q, rows_, tile_.q[n & 1], tile_.first.from_q, worker_, no_more);
    apply(network_.p, rows_, tile_.p[n & 1], tile_.first.from_p, worker_, no_more);
  }

  // Adds one block of factor rows to matrix m; the teams' rows stand side by side.
  template <class Out, class In>
  void put_pair(int64_t m, const Out& out, const In& in) {
    const Factors<T>& f = job_.factors[m];
    put(f.out, f.capacity, cursors_[m] + offset_, rows_, worker_.columns(f.out_width), out);
    put(f.in, f.capacity, cursors_[m] + offset_, rows_, worker_.columns(f.in_width), in);
    cursors_[m] += group_size_;
  }

  // sums[c] += sum over samples of value(r, c), in double: these vectors see every evaluation of the rollout.
  template <class F>
  void add_sums(double* sums, int64_t width, const F& value) {
    const Range columns = worker_.columns(width);
    for (int64_t c = columns.begin; c < columns.end; c += kLanes<T>) {
      Vec<T> sum{};
      for (int64_t r = 0; r < rows_; ++r) sum += value(r, c);
      for (int i = 0; i < kLanes<T>; ++i) sums[c + i] += static_cast<double>(sum[i]);
    }
  }

  // The state after stage k, where the stage moved that half.
  Tile<T> p_after(const Tape<T>& tape, int64_t n, int64_t at, int64_t k) const {
    return tape.p_before[k] < 0 ? tile_.p[(n + 1) & 1] : tape.state(at, tape.p_before[k]);
  }
  Tile<T> q_after(const Tape<T>& tape, int64_t n, int64_t at, int64_t k) const {
    return tape.q_before[k] < 0 ? tile_.q[(n + 1) & 1] : tape.state(at, tape.q_before[k]);
  }

  // Step n again, onto the tape of one step. State n + 1 is at hand: what it holds is not computed.
  void replay(int64_t n) {
    const Tape<T>& tape = tile_.replay;
    const Tile<T>& delta = tile_.evaluation.delta[0];
    first_layer(n);
    Tile<T> q = tile_.q[n & 1], p = tile_.p[n & 1];
    for (int64_t k = 0; k < rollout_.stage_count; ++k) {
      const Stage& stage = rollout_.stages[k];
      const T step = static_cast<T>(stage.coefficient) * rollout_.dt;
      evaluate(network_, rows_, tile_.first, tile_.evaluation, tape.record(0, k), false, worker_);
      if (k + 1 == rollout_.stage_count) return;
      const bool moves_p = stage.moves & kMovesP, moves_q = stage.moves & kMovesQ;
      const Tile<T> p_new = p_after(tape, n, 0, k), q_new = q_after(tape, n, 0, k);
      if (moves_p && tape.p_before[k] >= 0) move(network_.q, rows_, delta, -step, tile_.half, p, p_new, worker_);
      if (moves_q && tape.q_before[k] >= 0) move(network_.p, rows_, delta, step, tile_.half, q, q_new, worker_);
      if (moves_p) apply(network_.p, rows_, p = p_new, tile_.first.from_p, worker_, no_more);
      if (moves_q) apply(network_.q, rows_, q = q_new, tile_.first.from_q, worker_, no_more);
    }
  }

  // This member's columns of one evaluation, from its record.
  void expand(const Record<T>& record) {
    const Jets<T>& e = tile_.jets;
    const int64_t top = network_.hidden - 1;
    for (int64_t l = 0; l <= top; ++l) {
      const Tile<T> a = record.a(l), g = l < top ? record.g(l) : Tile<T>{network_.head, 0};
      with_activation(network_.activation, [&](auto tag) {
        over(worker_.columns(network_.widths[l]), [&](int64_t r, int64_t c) {
          const Jet<T> jet = activate<T, decltype(tag)::kind>(load(a.row(r) + c));
          const Vec<T> back = load(g.row(r) + c);
          store(e.value[l].row(r) + c, jet.value);
          store(e.slope[l].row(r) + c, jet.first);
          store(e.curvature[l].row(r) + c, jet.second * back);
          store(e.delta[l].row(r) + c, jet.first * back);
        });
      });
    }
  }

  // The cotangent `bar` of W x goes to x's and to W's.
  void flush(int64_t m, const Weight<T>& w, const Tile<T>& bar, const Tile<T>& x, const Tile<T>& xbar) {
    apply_transposed(w, rows_, bar, tile_.half, worker_, [&](const Range& block, const Range& columns) {
      for_columns<T>(block, columns, [&](int64_t r, int64_t c) {
        store(xbar.row(r) + c, load(xbar.row(r) + c) + load(tile_.half.row(r) + c));
      });
    });
    put_pair(
        m, [&](int64_t r, int64_t c) { return load(bar.row(r) + c); },
        [&](int64_t r, int64_t c) { return load(x.row(r) + c); });
  }

  void reverse_stage(int64_t n, int64_t k) {
    const Stage& stage = rollout_.stages[k];
    const bool moves_p = stage.moves & kMovesP, moves_q = stage.moves & kMovesQ;
    const Tape<T>& tape = tape_.data ? tape_ : tile_.replay;
    const int64_t at = tape_.data ? n : 0;
    const Jets<T>& e = tile_.jets;
    const T dt = rollout_.dt, coefficient = static_cast<T>(stage.coefficient);
    const int64_t top = network_.hidden - 1;

    if (moves_p) flush(kFromP, network_.p, tile_.rbar, p_after(tape, n, at, k), tile_.pbar);
    if (moves_q) flush(kFromQ, network_.q, tile_.sbar, q_after(tape, n, at, k), tile_.qbar);
    expand(tape.record(at, k));

    // Tangent of the state, dt left out so that dt's own gradient needs no division.
    const auto tangent_of = [&](const Tile<T>& v, const Tile<T>& bar, T factor, int64_t m) {
      over(half_columns_, [&](int64_t r, int64_t c) { store(v.row(r) + c, factor * load(bar.row(r) + c)); });
      put_pair(
          m, [&](int64_t r, int64_t c) { return dt * load(e.delta[0].row(r) + c); },
          [&](int64_t r, int64_t c) { return load(v.row(r) + c); });
    };
    if (moves_p) tangent_of(tile_.vq, tile_.pbar, -coefficient, kFromQ);
    if (moves_q) tangent_of(tile_.vp, tile_.qbar, coefficient, kFromP);

    // Forward: a-dot, h-dot, and at the top delta-dot.
    const auto rise = [&](int64_t l, const Range& block, const Range& columns) {
      for_columns<T>(block, columns, [&](int64_t r, int64_t c) {
        const Vec<T> rate = load(tile_.tangent[l].row(r) + c);
        store(tile_.tangent_value[l].row(r) + c, rate * load(e.slope[l].row(r) + c));
        if (l == top) store(tile_.tangent_delta[l].row(r) + c, rate * load(e.curvature[l].row(r) + c));
      });
    };
    const Tile<T>& a0 = tile_.tangent[0];
    const auto rise_first = [&](const Range& block, const Range& columns) { rise(0, block, columns); };
    if (moves_p && moves_q) {
      apply(network_.q, rows_, tile_.vq, tile_.scratch, worker_, no_more);
      apply(network_.p, rows_, tile_.vp, a0, worker_, [&](const Range& block, const Range& columns) {
        for_columns<T>(block, columns, [&](int64_t r, int64_t c) {
          store(a0.row(r) + c, load(a0.row(r) + c) + load(tile_.scratch.row(r) + c));
        });
        rise(0, block, columns);
      });
    } else if (moves_p) {
      apply(network_.q, rows_, tile_.vq, a0, worker_, rise_first);
    } else {
      apply(network_.p, rows_, tile_.vp, a0, worker_, rise_first);
    }
    for (int64_t l = 1; l < network_.hidden; ++l)
      apply(network_.inner[l], rows_, tile_.tangent_value[l - 1], tile_.tangent[l], worker_,
            [&](const Range& block, const Range& columns) { rise(l, block, columns); });
    const Range last = worker_.columns(network_.last());
    for (int64_t r = 0; r < rows_; ++r)
      tile_.dt_sums[worker_.member.index] += static_cast<double>(
          dot(network_.head + last.begin, tile_.tangent_value[top].row(r) + last.begin, last.size()));

    // Backward: delta-dot.
    for (int64_t l = top - 1; l >= 0; --l) {
      const Tile<T>& to = tile_.tangent_delta[l];
      apply_transposed(network_.inner[l + 1], rows_, tile_.tangent_delta[l + 1], to, worker_,
                       [&](const Range& block, const Range& columns) {
                         for_columns<T>(block, columns, [&](int64_t r, int64_t c) {
                           store(to.row(r) + c,
                                 load(to.row(r) + c) * load(e.slope[l].row(r) + c) +
                                     load(e.curvature[l].row(r) + c) * load(tile_.tangent[l].row(r) + c));
                         });
                       });
    }

    // delta-dot and the energy's own cotangent act through the same factor. The energy of state n is read at stage 0.
    const auto energy_bar_of = [&](int64_t r) { return k == 0 ? energy_bar(r, n) : 0; };
    const auto bar_of = [&](int64_t l) {
      return [&, l](int64_t r, int64_t c) {
        return dt * load(tile_.tangent_delta[l].row(r) + c) + energy_bar_of(r) * load(e.delta[l].row(r) + c);
      };
    };
    over(first_columns_, [&](int64_t r, int64_t c) {
      const Vec<T> bar = bar_of(0)(r, c);
      // A half that was flushed above starts anew.
      store(tile_.rbar.row(r) + c, moves_p ? bar : load(tile_.rbar.row(r) + c) + bar);
      store(tile_.sbar.row(r) + c, moves_q ? bar : load(tile_.sbar.row(r) + c) + bar);
      store(tile_.basebar.row(r) + c, load(tile_.basebar.row(r) + c) + bar);
    });
    for (int64_t l = 1; l < network_.hidden; ++l) {
      put_pair(
          kInner + l - 1, [&](int64_t r, int64_t c) { return dt * load(e.delta[l].row(r) + c); },
          [&](int64_t r, int64_t c) { return load(tile_.tangent_value[l - 1].row(r) + c); });
      put_pair(kInner + l - 1, bar_of(l), [&](int64_t r, int64_t c) { return load(e.value[l - 1].row(r) + c); });
      add_sums(tile_.bias_sums[l], network_.widths[l], bar_of(l));
    }
    add_sums(tile_.head_sums, network_.last(), [&](int64_t r, int64_t c) {
      return dt * load(tile_.tangent_value[top].row(r) + c) + energy_bar_of(r) * load(e.value[top].row(r) + c);
    });
  }

  const Backward<T>& job_;
  const Network<T>& network_;
  const Rollout<T>& rollout_;
  const BackwardTile<T>& tile_;
  const Tape<T> tape_;
  int64_t* const cursors_;
  const int64_t group_size_, offset_, first_row_, rows_, states_;
  const Worker<T>& worker_;
  const Range half_columns_, first_columns_;
};

// The sums that the teams kept apart: biases, the output layer, dt.
template <class T>
void gather(const Backward<T>& job) {
  const Network<T>& network = job.network;
  const auto total = [&](auto pick, int64_t i) {
    double sum = 0;
    for (int team = 0; team < job.plan.teams; ++team) sum += pick(job.tiles[team])[i];
    return static_cast<T>(sum);
  };
  for (int64_t l = 0; l < network.hidden; ++l)
    for (int64_t i = 0; i < network.widths[l]; ++i)
      job.arrays.grad_biases[l][i] = total([&](const BackwardTile<T>& tile) { return tile.bias_sums[l]; }, i);
  for (int64_t i = 0; i < network.last(); ++i)
    job.arrays.grad_weights[network.hidden][i] = total([](const BackwardTile<T>& tile) { return tile.head_sums; }, i);
  double head_bias = 0, dt = 0;
  if (job.arrays.grad_energies)
    for (int64_t i = 0; i < job.rollout->batch * (job.rollout->steps + 1); ++i)
      head_bias += static_cast<double>(job.arrays.grad_energies[i]);
  for (int team = 0; team < job.plan.teams; ++team)
    for (int i = 0; i < job.plan.team_size; ++i) dt += job.tiles[team].dt_sums[i];
  job.arrays.grad_biases[network.hidden][0] = static_cast<T>(head_bias);
  *job.arrays.grad_dt = static_cast<T>(dt);
}

template <class T>
void backward_thread(void* context, int index) {
  const Backward<T>& job = *static_cast<const Backward<T>*>(context);
  const Rollout<T>& rollout = *job.rollout;
  const Plan& plan = job.plan;
  const Network<T>& network = job.network;
  const Member all = {index, plan.teams * plan.team_size, job.all};
  const int team = index / plan.team_size;
  const Worker<T>& worker = job.workers[index];
  const BackwardTile<T>& tile = job.tiles[team];

  for (int64_t m = 0; m < job.matrices(); ++m) {
    const Factors<T>& f = job.factors[m];
    const Range mine = share(f.out_width * padded<T>(f.in_width), all.index, all.count);
    clear(f.sums + mine.begin, mine.end - mine.begin);
  }
  if (worker.member.index == 0) {
    for (int64_t l = 0; l < network.hidden; ++l) clear(tile.bias_sums[l], padded<T>(network.widths[l]));
    clear(tile.head_sums, padded<T>(network.last()));
    clear(tile.dt_sums, plan.team_size);
  }
  prepare(network, rollout.network, all);

  int64_t* const cursors = job.cursors + index * round_up(job.matrices(), 8);
  const int64_t groups = ceil_div(rollout.batch, job.group_rows);
  for (int64_t g = 0; g < groups; ++g) {
    const Range group = {rollout.batch * g / groups, rollout.batch * (g + 1) / groups};
    const int64_t size = group.end - group.begin;
    const Range mine = {group.begin + size * team / plan.teams, group.begin + size * (team + 1) / plan.teams};
    Walk<T> walk(job, tile, cursors, size, mine.begin, group.begin, mine.size(), worker);
    clear(cursors, job.matrices());
    walk.begin();
    int64_t n = rollout.steps;
    do {
      for (int64_t i = 0; i < job.chunk_steps && n > 0; ++i) walk.step(--n);
      if (n == 0) walk.end();
      wait_for_all(all);
      add_outer_products(job.factors, cursors, job.matrices(), job.scratch[index], all.index, all.count);
      wait_for_all(all);
      clear(cursors, job.matrices());
    } while (n > 0);
  }
  for (int64_t m = 0; m < job.matrices(); ++m) {
    const Factors<T>& f = job.factors[m];
    const int64_t columns = rollout.network.dim + rollout.network.condition_dim;
    const int64_t offset = m == kFromQ ? 0 : m == kFromP ? network.half : rollout.network.dim;
    T* const to = m < kInner ? job.arrays.grad_weights[0] + offset : job.arrays.grad_weights[m - kInner + 1];
    write_sums(f, to, m < kInner ? columns : f.in_width, share(f.out_width, all.index, all.count));
  }
  if (index == 0) gather(job);
}

template <class T>
Sizes backward_measure(const Rollout<T>& rollout, int threads) {
  if (rollout.batch == 0) return {0, 0, 0};
  Arena arena(nullptr), prepared(nullptr);
  const Plan plan = take_backward(arena, prepared, rollout, {}, threads, false).plan;
  return {arena.used(), prepared.used(), layout(plan)};
}

template <class T>
Status backward_run(const Rollout<T>& rollout, const BackwardArrays<T>& arrays, int threads, const Prepared& kept,
                    void* workspace, size_t size) {
  if (rollout.batch == 0) {
    const Mlp<T>& mlp = rollout.network;
    for (int64_t l = 0; l <= mlp.hidden; ++l) {
      const int64_t out = l < mlp.hidden ? mlp.widths[l] : 1;
      clear(arrays.grad_weights[l], out * columns_of(mlp, l));
      clear(arrays.grad_biases[l], out);
    }
    *arrays.grad_dt = 0;
    return Status::kOk;
  }
  if (size < backward_measure(rollout, threads).workspace) return Status::kWorkspaceTooSmall;
  Arena arena(workspace), prepared(kept.memory);
  Backward<T> job = take_backward(arena, prepared, rollout, arrays, threads, kept.filled);
  parallel(job.plan.teams * job.plan.team_size, backward_thread<T>, &job);
  return Status::kOk;
}

}  // namespace
}  // namespace hamiltorch
