// The adjoint of a rollout in layer-1 space. A stage with impulse x = c dt delta_1 at a_1 = s + r has the adjoint
//   x_bar = -u_p - G r_bar (kick) or u_q + G^T s_bar (drift),  v = c dt x_bar,  dt_bar += c x_bar . delta_1,
//   s_bar += K v,  r_bar += K v,  K = d delta_1 / d a_1 (symmetric),
// so one Hessian-vector product of the inner network is all it needs, and the same pass leaves the factors of every
// parameter gradient. States are replayed, step by step, from those that the caller hands over.
//
// A column pair is one sample: value and tangent.
#pragma once
#include "chain_forward.h"

namespace hamiltorch {

template <class Engine>
class Backward {
 public:
  using Real = typename Engine::Real;
  using Two = typename Engine::Two;
  static constexpr int kSamples = Engine::kPairs;

  HAMILTORCH_DEVICE Backward(Engine& engine, const Chain<Real>& chain, const ChainBackward<Real>& arrays)
      : engine_(engine),
        chain_(chain),
        arrays_(arrays),
        width_(engine.layout.widths[0]),
        begin_(engine.layout.begin(0, engine.team.rank()) * kTile),
        dt_(*chain.dt),
        moves_a_step_(moves_before(chain_.stage_count)) {}

  HAMILTORCH_DEVICE void run() {
    const int64_t passes = (chain_.batch + kSamples - 1) / kSamples;
    for (int64_t pass = engine_.team.index(); pass < passes; pass += engine_.team.count()) {
      first_ = pass * kSamples;
      walk();
    }
    write_dt();
  }

 private:
  HAMILTORCH_DEVICE Real& vector(int which, int row, int sample) const {
    return engine_.state(which)[row * kSamples + sample];
  }
  HAMILTORCH_DEVICE Real& stage_input(int k, int row, int sample) const {
    return vector(kBackwardStates + k, row, sample);
  }
  HAMILTORCH_DEVICE bool inside(int row, int sample) const {
    return begin_ + row < width_ && first_ + sample < chain_.batch;
  }
  // One number of [batch][count][width_0]; zero for what is padding or not given.
  HAMILTORCH_DEVICE Real load(const Real* from, int64_t count, int64_t n, int row, int sample) const {
    if (!from || !inside(row, sample)) return 0;
    return from[((first_ + sample) * count + n) * width_ + begin_ + row];
  }

  // Moves of the stages before k. Counted anew: an array would hold this object, and all it points to, in memory.
  HAMILTORCH_DEVICE int moves_before(int k) const {
    int moves = 0;
    for (int i = 0; i < k; ++i)
      moves += ((chain_.stages[i].moves & kMovesQ) != 0) + ((chain_.stages[i].moves & kMovesP) != 0);
    return moves;
  }

  // Writes the factors of one evaluation's parameter gradients, or nothing in the replay.
  struct Factors {
    const Backward& walk;
    int64_t evaluation;  // below zero: none
    int64_t state;       // whose energy this is, below zero: none

    HAMILTORCH_DEVICE void put(Real* to, int layer, int64_t line, int row, int sample, Real value) const {
      const Layout& layout = walk.engine_.layout;
      const int at = layout.begin(layer, walk.engine_.team.rank()) * kTile + row;
      if (at < layout.widths[layer] && walk.first_ + sample < walk.chain_.batch)
        to[(line * walk.chain_.batch + walk.first_ + sample) * layout.widths[layer] + at] = value;
    }
    HAMILTORCH_DEVICE void value(int layer, int row, int sample, Two h) const {
      if (evaluation < 0) return;
      put(walk.arrays_.right[layer + 1], layer, 2 * evaluation, row, sample, h.y);
      put(walk.arrays_.right[layer + 1], layer, 2 * evaluation + 1, row, sample, h.x);
    }
    HAMILTORCH_DEVICE void delta(int layer, int row, int sample, Two delta) const {
      if (evaluation < 0) return;
      put(walk.arrays_.left[layer], layer, 2 * evaluation, row, sample, delta.x);
      put(walk.arrays_.left[layer], layer, 2 * evaluation + 1, row, sample, delta.y);
    }
    HAMILTORCH_DEVICE Two top(int row, int sample, Real head, Two h) const {
      Real energy = 0;
      if (state >= 0 && walk.arrays_.grad_energies && walk.first_ + sample < walk.chain_.batch)
        energy = walk.arrays_.grad_energies[(walk.first_ + sample) * (walk.chain_.steps + 1) + state];
      if (evaluation >= 0)
        put(walk.arrays_.head, walk.engine_.layout.hidden - 1, evaluation, row, sample, h.y + energy * h.x);
      return {head, energy * head};
    }
  };

  enum Purpose { kReplay, kAdjoint, kLastEnergy };  // of an evaluation

  HAMILTORCH_DEVICE void walk() {
    engine_.for_own(0, [&](int row, int sample) {
      vector(kBarS, row, sample) = load(arrays_.s_bar, 1, 0, row, sample);
      vector(kBarR, row, sample) = load(arrays_.r_bar, 1, 0, row, sample);
    });
    for (int64_t n = chain_.steps - (arrays_.last_energy ? 0 : 1); n >= 0; --n) {
      const bool last = n == chain_.steps;
      start_step(n);
      // The stages forward, to know every a_1, then backward.
      const int replays = last ? 0 : chain_.stage_count - 1, evaluations = last ? 1 : replays + chain_.stage_count;
      HAMILTORCH_NO_UNROLL
      for (int i = 0; i < evaluations; ++i) {
        const Purpose purpose = last ? kLastEnergy : i < replays ? kReplay : kAdjoint;
        const int k = last ? 0 : purpose == kReplay ? i : evaluations - 1 - i;
        const int32_t moves = purpose == kReplay ? moved_again(k) : chain_.stages[k].moves;
        if (purpose == kAdjoint) start_adjoint(n, k, moves);
        if (purpose != kReplay || moves) evaluate(purpose, n, k, moves);
        if (purpose == kReplay) finish_replay(n, k, moves);
      }
      if (!last) store_impulses(n);
    }
    engine_.for_own(0, [&](int row, int sample) {
      if (!inside(row, sample)) return;
      const int64_t at = (first_ + sample) * width_ + begin_ + row;
      arrays_.s_bar[at] = vector(kBarS, row, sample);
      arrays_.r_bar[at] = vector(kBarR, row, sample);
    });
    engine_.team.sync_block();
  }

  HAMILTORCH_DEVICE void start_step(int64_t n) {
    engine_.for_own(0, [&](int row, int sample) {
      vector(kReplayS, row, sample) = load(arrays_.s, chain_.steps + 1, n, row, sample);
      vector(kReplayR, row, sample) = load(arrays_.r, chain_.steps + 1, n, row, sample);
      stage_input(0, row, sample) = vector(kReplayS, row, sample) + vector(kReplayR, row, sample);
      vector(kSumQ, row, sample) = vector(kSumP, row, sample) = 0;
    });
    engine_.team.sync_block();
  }

  // What stage k moves and a later stage moves again. The rest is then known: it is the next state's.
  HAMILTORCH_DEVICE int32_t moved_again(int k) const {
    int32_t later = 0;
    for (int i = k + 1; i < chain_.stage_count; ++i) later |= chain_.stages[i].moves;
    return chain_.stages[k].moves & later;
  }

  HAMILTORCH_DEVICE void finish_replay(int64_t n, int k, int32_t moved) {
    if (moved)
      apply_impulse(
          engine_, moved, [&](int row, int sample, Two v) { vector(kReplayS, row, sample) += v.x; },
          [&](int row, int sample, Two v) { vector(kReplayR, row, sample) -= v.x; });
    const int32_t known = chain_.stages[k].moves & ~moved;
    engine_.for_own(0, [&](int row, int sample) {
      if (known & kMovesQ) vector(kReplayS, row, sample) = load(arrays_.s, chain_.steps + 1, n + 1, row, sample);
      if (known & kMovesP) vector(kReplayR, row, sample) = load(arrays_.r, chain_.steps + 1, n + 1, row, sample);
      stage_input(k + 1, row, sample) = vector(kReplayS, row, sample) + vector(kReplayR, row, sample);
    });
    engine_.team.sync_block();
  }

  // kTangent = v / dt = c x_bar, summed over the halves that move.
  HAMILTORCH_DEVICE void start_adjoint(int64_t n, int k, int32_t moves) {
    const Real coefficient = static_cast<Real>(chain_.stages[k].coefficient);
    engine_.for_own(0, [&](int row, int sample) {
      Real u = 0;
      if (moves & kMovesQ) u += load(arrays_.u_q, chain_.steps, n, row, sample);
      if (moves & kMovesP) u -= load(arrays_.u_p, chain_.steps, n, row, sample);
      vector(kTangent, row, sample) = coefficient * u;
      if (moves & kMovesP) engine_.publish_to_all(0, row, sample, {vector(kBarR, row, sample), 0});
    });
    if (moves & kMovesP) {
      engine_.share();
      engine_.dense(0, [&](int row, int sample, Two v) { vector(kTangent, row, sample) -= coefficient * v.x; });
    }
    engine_.team.sync_block();
    if (!(moves & kMovesQ)) return;
    engine_.for_own(
        0, [&](int row, int sample) { engine_.publish_to_self(row, sample, {vector(kBarS, row, sample), 0}); });
    engine_.settle();
    engine_.transposed(0, engine_.own_rows(),
                       [&](int row, int sample, Two v) { vector(kTangent, row, sample) += coefficient * v.x; });
    engine_.team.sync_block();
  }

  HAMILTORCH_DEVICE void evaluate(Purpose purpose, int64_t n, int k, int32_t moves) {
    const Real coefficient = static_cast<Real>(chain_.stages[k].coefficient);
    const Factors factors{*this, purpose == kReplay ? -1 : n * chain_.stage_count + k,
                          purpose != kReplay && k == 0 ? n : -1};
    evaluate_up<Jets>(
        engine_,
        [&](int row, int sample) -> Two {
          return {stage_input(k, row, sample), purpose == kAdjoint ? dt_ * vector(kTangent, row, sample) : 0};
        },
        factors);
    evaluate_down<Jets>(engine_, factors, [&](int row, int sample, Two delta) {
      const Real x = coefficient * dt_ * delta.x;
      if (purpose == kReplay) return publish_impulse(engine_, moves, row, sample, {x, 0});
      if (purpose == kAdjoint) {
        int64_t line = n * moves_a_step_ + moves_before(k);
        if (moves & kMovesQ) {
          vector(kSumQ, row, sample) += x;
          factors.put(arrays_.left[0], 0, line, row, sample, vector(kBarS, row, sample));
          factors.put(arrays_.right[0], 0, line, row, sample, x);
          ++line;
        }
        if (moves & kMovesP) {
          vector(kSumP, row, sample) -= x;
          factors.put(arrays_.left[0], 0, line, row, sample, x);
          factors.put(arrays_.right[0], 0, line, row, sample, -vector(kBarR, row, sample));
        }
        dt_bar_ += static_cast<double>(vector(kTangent, row, sample)) * delta.x;
      }
      vector(kBarS, row, sample) += delta.y;
      vector(kBarR, row, sample) += delta.y;
    });
    if (purpose != kReplay) engine_.team.sync_block();
  }

  HAMILTORCH_DEVICE void store_impulses(int64_t n) {
    engine_.for_own(0, [&](int row, int sample) {
      if (!inside(row, sample)) return;
      for (int half = 0; half < 2; ++half)
        arrays_.impulses[((half * chain_.batch + first_ + sample) * chain_.steps + n) * width_ + begin_ + row] =
            vector(half == 0 ? kSumQ : kSumP, row, sample);
    });
    engine_.team.sync_block();
  }

  // The block's part of dt's gradient, added in a fixed order.
  HAMILTORCH_DEVICE void write_dt() {
    double* const sums = reinterpret_cast<double*>(engine_.scratch());
    engine_.team.sync_block();
    sums[engine_.team.thread()] = dt_bar_;
    engine_.team.sync_block();
    if (engine_.team.thread() != 0) return;
    double sum = 0;
    for (int i = 0; i < kThreads; ++i) sum += sums[i];
    arrays_.dt_parts[engine_.team.index() * engine_.layout.members + engine_.team.rank()] = static_cast<Real>(sum);
  }

  Engine& engine_;
  const Chain<Real>& chain_;
  const ChainBackward<Real>& arrays_;
  const int width_, begin_;
  const Real dt_;
  int64_t first_ = 0;
  const int moves_a_step_;
  double dt_bar_ = 0;
};

}  // namespace hamiltorch
