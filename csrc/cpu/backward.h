// The adjoint of a rollout. The trajectory is the checkpoint: each step is replayed from its state, then its stages are
// run backward. One scheme serves every method of the table, because a stage z += c dt M dH/dz has the adjoint
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

template <class T>
struct StageTape {
  Evaluation<T> evaluation;
  Tile<T> q, p;  // the state after the stage, where it moved and the next stage reads it
};

template <class T>
struct BackwardTile {
  Tile<T> q[2], p[2];  // states n and n + 1, by n's parity
  FirstLayer<T> first;
  StageTape<T>* tape;           // [stages]
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
  int64_t group_rows;   // samples that all teams hold together
  int64_t chunk_steps;  // steps between two parameter products
  BackwardTile<T>* tiles;
  Factors<T>* factors;  // [matrices()]
  int64_t* cursors;     // [threads][matrices(), in whole cache lines]: factor rows in use, each thread's own count
  Barrier* barriers;
  Barrier* all;

  int64_t matrices() const { return kInner + network.hidden - 1; }
};

// Factor buffers of about this size: long products, and still within the last-level cache.
inline constexpr int64_t kFactorBytes = 10 << 20;

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
  tile.first = {first(), first(), take_base(arena, network, rows)};
  if (!tile.first.base.data) tile.first.base.data = network.biases ? network.biases[0] : nullptr;
  tile.tape = arena.take<StageTape<T>>(rollout.stage_count);
  for (int64_t k = 0; k < rollout.stage_count; ++k) {
    const StageTape<T> tape = {take_evaluation(arena, network, rows, true), state(), state()};
    if (tile.tape) tile.tape[k] = tape;
  }
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
Backward<T> take_backward(Arena& arena, const Rollout<T>& rollout, const BackwardArrays<T>& arrays, int threads) {
  Backward<T> job{};
  job.rollout = &rollout;
  job.arrays = arrays;
  job.plan = make_plan(rollout, threads);
  job.network = take_network(arena, rollout.network, job.plan.packed);
  const Network<T>& network = job.network;
  job.barriers = arena.take<Barrier>(job.plan.teams);
  job.all = arena.take<Barrier>(1);
  job.tiles = arena.take<BackwardTile<T>>(job.plan.teams);
  for (int team = 0; team < job.plan.teams; ++team) {
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
       int64_t group_first, int64_t rows, const Member& member)
      : job_(job),
        network_(job.network),
        rollout_(*job.rollout),
        tile_(tile),
        cursors_(cursors),
        group_size_(group_size),
        offset_(first_row - group_first),
        first_row_(first_row),
        rows_(rows),
        states_(rollout_.steps + 1),
        member_(member),
        half_columns_(share_columns<T>(network_.half, member.index, member.count)),
        first_columns_(share_columns<T>(network_.first(), member.index, member.count)) {}

  // State N, its cotangent, and the last energy's.
  void begin() {
    const Tile<T>* bars[] = {&tile_.sbar, &tile_.rbar, &tile_.basebar};
    for (const Tile<T>* bar : bars)
      for_columns<T>(rows_, first_columns_, [&](int64_t r, int64_t c) { store(bar->row(r) + c, Vec<T>{}); });
    for_columns<T>(rows_, half_columns_, [&](int64_t r, int64_t c) {
      store(tile_.qbar.row(r) + c, Vec<T>{});
      store(tile_.pbar.row(r) + c, Vec<T>{});
    });
    fill_base(network_, rows_, rollout_.condition + first_row_ * network_.condition.in, tile_.first.base, member_);
    read_state(rollout_.steps);
    add_cotangent(rollout_.steps);
    wait_for_all(member_);
    if (!job_.arrays.grad_energies) return;
    first_layer(rollout_.steps);
    const Evaluation<T>& e = tile_.tape[0].evaluation;
    evaluate(network_, rows_, tile_.first, e, member_);
    const auto grad_energy = [&](int64_t r) { return energy_bar(r, rollout_.steps); };
    for (int64_t l = 1; l < network_.hidden; ++l) {
      put_pair(
          kInner + l - 1, [&](int64_t r, int64_t c) { return grad_energy(r) * load(e.delta[l].row(r) + c); },
          [&](int64_t r, int64_t c) { return load(e.value[l - 1].row(r) + c); });
      add_sums(tile_.bias_sums[l], network_.widths[l],
               [&](int64_t r, int64_t c) { return grad_energy(r) * load(e.delta[l].row(r) + c); });
    }
    add_sums(tile_.head_sums, network_.last(),
             [&](int64_t r, int64_t c) { return grad_energy(r) * load(e.value[network_.hidden - 1].row(r) + c); });
    for_columns<T>(rows_, first_columns_, [&](int64_t r, int64_t c) {
      const Vec<T> bar = grad_energy(r) * load(e.delta[0].row(r) + c);
      store(tile_.sbar.row(r) + c, bar);
      store(tile_.rbar.row(r) + c, bar);
      store(tile_.basebar.row(r) + c, bar);
    });
    wait_for_all(member_);
  }

  // From the cotangent of state n + 1 to that of state n.
  void step(int64_t n) {
    replay(n);
    for (int64_t k = rollout_.stage_count - 1; k >= 0; --k) reverse_stage(n, k);
    add_cotangent(n);
  }

  // The last flush, and the results that belong to samples.
  void end() {
    flush(kFromQ, network_.q, tile_.sbar, tile_.q[0], tile_.qbar);
    flush(kFromP, network_.p, tile_.rbar, tile_.p[0], tile_.pbar);
    T* const grad = job_.arrays.grad_z0 + first_row_ * 2 * network_.half;
    write_rows(tile_.qbar, rows_, network_.half, grad, 2 * network_.half, member_);
    write_rows(tile_.pbar, rows_, network_.half, grad + network_.half, 2 * network_.half, member_);
    add_sums(tile_.bias_sums[0], network_.first(),
             [&](int64_t r, int64_t c) { return load(tile_.basebar.row(r) + c); });
    const int64_t conditions = network_.condition.in;
    if (conditions == 0) return;
    const T* condition = rollout_.condition + first_row_ * conditions;
    const Tile<T>& bar = tile_.condition_bar;
    const Range columns = share_columns<T>(conditions, member_.index, member_.count);
    apply_transposed(network_.condition, rows_, tile_.basebar.data, tile_.basebar.stride, bar.data, bar.stride,
                     columns);
    write_rows(bar, rows_, conditions, job_.arrays.grad_condition + first_row_ * conditions, conditions, member_);
    wait_for_all(member_);
    read_rows(condition, conditions, rows_, conditions, bar, member_);
    put_pair(
        kFromCondition, [&](int64_t r, int64_t c) { return load(tile_.basebar.row(r) + c); },
        [&](int64_t r, int64_t c) { return load(bar.row(r) + c); });
  }

 private:
  T energy_bar(int64_t r, int64_t n) const {
    return job_.arrays.grad_energies ? job_.arrays.grad_energies[(first_row_ + r) * states_ + n] : 0;
  }

  void read_state(int64_t n) {
    const int64_t d = network_.half, stride = states_ * 2 * d;
    const T* from = job_.arrays.trajectory + first_row_ * stride + n * 2 * d;
    read_rows(from, stride, rows_, d, tile_.q[n & 1], member_);
    read_rows(from + d, stride, rows_, d, tile_.p[n & 1], member_);
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
    first_layer_part(network_.q, rows_, tile_.q[n & 1], tile_.first.from_q, member_);
    first_layer_part(network_.p, rows_, tile_.p[n & 1], tile_.first.from_p, member_);
  }

  // Adds one block of factor rows to matrix m; the teams' rows stand side by side.
  template <class Out, class In>
  void put_pair(int64_t m, const Out& out, const In& in) {
    const Factors<T>& f = job_.factors[m];
    put(f.out, f.capacity, cursors_[m] + offset_, rows_, f.out_width, member_, out);
    put(f.in, f.capacity, cursors_[m] + offset_, rows_, f.in_width, member_, in);
    cursors_[m] += group_size_;
  }

  // sums[c] += sum over samples of value(r, c), in double: these vectors see every evaluation of the rollout.
  template <class F>
  void add_sums(double* sums, int64_t width, const F& value) {
    const Range columns = share_columns<T>(width, member_.index, member_.count);
    for (int64_t c = columns.begin; c < columns.end; c += kLanes<T>) {
      Vec<T> sum{};
      for (int64_t r = 0; r < rows_; ++r) sum += value(r, c);
      for (int i = 0; i < kLanes<T>; ++i) sums[c + i] += static_cast<double>(sum[i]);
    }
  }

  void replay(int64_t n) {
    read_state(n);
    wait_for_all(member_);
    first_layer(n);
    Tile<T> q = tile_.q[n & 1], p = tile_.p[n & 1];
    for (int64_t k = 0; k < rollout_.stage_count; ++k) {
      const StageTape<T>& tape = tile_.tape[k];
      const Stage& stage = rollout_.stages[k];
      const T step = static_cast<T>(stage.coefficient) * rollout_.dt;
      evaluate(network_, rows_, tile_.first, tape.evaluation, member_);
      if (k + 1 == rollout_.stage_count) return;  // the state it leads to is at hand
      const Tile<T>& delta = tape.evaluation.delta[0];
      if (stage.moves & kMovesP) move(network_.q, rows_, delta, -step, tile_.half, p, tape.p, member_);
      if (stage.moves & kMovesQ) move(network_.p, rows_, delta, step, tile_.half, q, tape.q, member_);
      wait_for_all(member_);
      if (stage.moves & kMovesP) first_layer_part(network_.p, rows_, p = tape.p, tile_.first.from_p, member_);
      if (stage.moves & kMovesQ) first_layer_part(network_.q, rows_, q = tape.q, tile_.first.from_q, member_);
    }
  }

  // The cotangent `bar` of W x goes to x's and to W's.
  void flush(int64_t m, const Weight<T>& w, const Tile<T>& bar, const Tile<T>& x, const Tile<T>& xbar) {
    apply_transposed(w, rows_, bar.data, bar.stride, tile_.half.data, tile_.half.stride, half_columns_);
    for_columns<T>(rows_, half_columns_, [&](int64_t r, int64_t c) {
      store(xbar.row(r) + c, load(xbar.row(r) + c) + load(tile_.half.row(r) + c));
    });
    put_pair(
        m, [&](int64_t r, int64_t c) { return load(bar.row(r) + c); },
        [&](int64_t r, int64_t c) { return load(x.row(r) + c); });
  }

  void reverse_stage(int64_t n, int64_t k) {
    const Stage& stage = rollout_.stages[k];
    const bool moves_p = stage.moves & kMovesP, moves_q = stage.moves & kMovesQ;
    const bool last = k + 1 == rollout_.stage_count;
    const Evaluation<T>& e = tile_.tape[k].evaluation;
    const T dt = rollout_.dt, coefficient = static_cast<T>(stage.coefficient);
    const int64_t top = network_.hidden - 1;

    if (moves_p) flush(kFromP, network_.p, tile_.rbar, last ? tile_.p[(n + 1) & 1] : tile_.tape[k].p, tile_.pbar);
    if (moves_q) flush(kFromQ, network_.q, tile_.sbar, last ? tile_.q[(n + 1) & 1] : tile_.tape[k].q, tile_.qbar);

    // Tangent of the state, dt left out so that dt's own gradient needs no division.
    const auto tangent_of = [&](const Tile<T>& v, const Tile<T>& bar, T factor, int64_t m) {
      for_columns<T>(rows_, half_columns_,
                     [&](int64_t r, int64_t c) { store(v.row(r) + c, factor * load(bar.row(r) + c)); });
      put_pair(
          m, [&](int64_t r, int64_t c) { return dt * load(e.delta[0].row(r) + c); },
          [&](int64_t r, int64_t c) { return load(v.row(r) + c); });
    };
    if (moves_p) tangent_of(tile_.vq, tile_.pbar, -coefficient, kFromQ);
    if (moves_q) tangent_of(tile_.vp, tile_.qbar, coefficient, kFromP);
    wait_for_all(member_);

    const Tile<T>& a0 = tile_.tangent[0];
    if (moves_p) first_layer_part(network_.q, rows_, tile_.vq, a0, member_);
    if (moves_q) first_layer_part(network_.p, rows_, tile_.vp, moves_p ? tile_.scratch : a0, member_);
    if (moves_p && moves_q)
      for_columns<T>(rows_, first_columns_, [&](int64_t r, int64_t c) {
        store(a0.row(r) + c, load(a0.row(r) + c) + load(tile_.scratch.row(r) + c));
      });
    for (int64_t l = 0; l < network_.hidden; ++l) {
      const Range columns = share_columns<T>(network_.widths[l], member_.index, member_.count);
      const Tile<T>&a = tile_.tangent[l], h = tile_.tangent_value[l];
      if (l > 0) {
        const Tile<T>& from = tile_.tangent_value[l - 1];
        apply(network_.inner[l], rows_, from.data, from.stride, a.data, a.stride, columns);
      }
      for_columns<T>(rows_, columns, [&](int64_t r, int64_t c) {
        const Vec<T> rate = load(a.row(r) + c);
        store(h.row(r) + c, rate * load(e.slope[l].row(r) + c));
        if (l == top) store(tile_.tangent_delta[l].row(r) + c, rate * load(e.curvature[l].row(r) + c));
      });
      wait_for_all(member_);
    }
    const Range mine = share(rows_, member_.index, member_.count);
    for (int64_t r = mine.begin; r < mine.end; ++r)
      tile_.dt_sums[member_.index] +=
          static_cast<double>(dot(network_.head, tile_.tangent_value[top].row(r), network_.last()));
    for (int64_t l = top - 1; l >= 0; --l) {
      const Range columns = share_columns<T>(network_.widths[l], member_.index, member_.count);
      const Tile<T>&from = tile_.tangent_delta[l + 1], to = tile_.tangent_delta[l];
      apply_transposed(network_.inner[l + 1], rows_, from.data, from.stride, to.data, to.stride, columns);
      for_columns<T>(rows_, columns, [&](int64_t r, int64_t c) {
        store(to.row(r) + c, load(to.row(r) + c) * load(e.slope[l].row(r) + c) +
                                 load(e.curvature[l].row(r) + c) * load(tile_.tangent[l].row(r) + c));
      });
      if (l > 0) wait_for_all(member_);
    }

    // delta-dot and the energy's own cotangent act through the same factor. The energy of state n is read at stage 0.
    const auto energy_bar_of = [&](int64_t r) { return k == 0 ? energy_bar(r, n) : 0; };
    const auto bar_of = [&](int64_t l) {
      return [&, l](int64_t r, int64_t c) {
        return dt * load(tile_.tangent_delta[l].row(r) + c) + energy_bar_of(r) * load(e.delta[l].row(r) + c);
      };
    };
    for_columns<T>(rows_, first_columns_, [&](int64_t r, int64_t c) {
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
    wait_for_all(member_);
  }

  const Backward<T>& job_;
  const Network<T>& network_;
  const Rollout<T>& rollout_;
  const BackwardTile<T>& tile_;
  int64_t* const cursors_;
  const int64_t group_size_, offset_, first_row_, rows_, states_;
  const Member member_;
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
void clear(T* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] = 0;
}

template <class T>
void backward_thread(void* context, int index) {
  const Backward<T>& job = *static_cast<const Backward<T>*>(context);
  const Rollout<T>& rollout = *job.rollout;
  const Plan& plan = job.plan;
  const Network<T>& network = job.network;
  const Member all = {index, plan.teams * plan.team_size, job.all};
  const int team = index / plan.team_size;
  const Member member = {index % plan.team_size, plan.team_size, job.barriers + team};
  const BackwardTile<T>& tile = job.tiles[team];

  fill_network(network, rollout.network, index, all.count);
  for (int64_t m = 0; m < job.matrices(); ++m) {
    const Factors<T>& f = job.factors[m];
    const Range mine = share(f.out_width * padded<T>(f.in_width), all.index, all.count);
    clear(f.sums + mine.begin, mine.end - mine.begin);
  }
  if (member.index == 0) {
    for (int64_t l = 0; l < network.hidden; ++l) clear(tile.bias_sums[l], padded<T>(network.widths[l]));
    clear(tile.head_sums, padded<T>(network.last()));
    clear(tile.dt_sums, plan.team_size);
  }
  wait_for_all(all);

  int64_t* const cursors = job.cursors + index * round_up(job.matrices(), 8);
  const int64_t groups = ceil_div(rollout.batch, job.group_rows);
  for (int64_t g = 0; g < groups; ++g) {
    const Range group = {rollout.batch * g / groups, rollout.batch * (g + 1) / groups};
    const int64_t size = group.end - group.begin;
    const Range mine = {group.begin + size * team / plan.teams, group.begin + size * (team + 1) / plan.teams};
    Walk<T> walk(job, tile, cursors, size, mine.begin, group.begin, mine.end - mine.begin, member);
    clear(cursors, job.matrices());
    walk.begin();
    int64_t n = rollout.steps;
    do {
      for (int64_t i = 0; i < job.chunk_steps && n > 0; ++i) walk.step(--n);
      if (n == 0) walk.end();
      wait_for_all(all);
      add_outer_products(job.factors, cursors, job.matrices(), all.index, all.count);
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
size_t backward_size(const Rollout<T>& rollout, int threads) {
  if (rollout.batch == 0) return 0;
  Arena arena(nullptr);
  take_backward(arena, rollout, {}, threads);
  return arena.used();
}

template <class T>
Status backward_run(const Rollout<T>& rollout, const BackwardArrays<T>& arrays, int threads, void* workspace,
                    size_t size) {
  if (rollout.batch == 0) {
    const Mlp<T>& mlp = rollout.network;
    for (int64_t l = 0; l <= mlp.hidden; ++l) {
      const int64_t out = l < mlp.hidden ? mlp.widths[l] : 1;
      const int64_t in = l ? mlp.widths[l - 1] : mlp.dim + mlp.condition_dim;
      clear(arrays.grad_weights[l], out * in);
      clear(arrays.grad_biases[l], out);
    }
    *arrays.grad_dt = 0;
    return Status::kOk;
  }
  if (size < backward_size(rollout, threads)) return Status::kWorkspaceTooSmall;
  Arena arena(workspace);
  Backward<T> job = take_backward(arena, rollout, arrays, threads);
  parallel(job.plan.teams * job.plan.team_size, backward_thread<T>, &job);
  return Status::kOk;
}

}  // namespace
}  // namespace hamiltorch
