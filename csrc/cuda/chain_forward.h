// A whole rollout in layer-1 space: every team takes its samples through all steps.
#pragma once
#include "chain.h"
#include "network.h"

namespace hamiltorch {

// Ends an evaluation with impulses: after `evaluate_down` has published x, s += G x where q moves, r -= G^T x where p
// moves. Everyone sees the new vectors when it returns.
template <class Engine, class AddS, class AddR>
HAMILTORCH_DEVICE void apply_impulse(Engine& engine, int32_t moves, AddS add_s, AddR add_r) {
  if (moves & kMovesQ) {
    engine.share();
    engine.dense(0, add_s);
    engine.team.sync_block();
  } else {
    engine.settle();
  }
  if (moves & kMovesP) {
    engine.transposed(0, moves & kMovesQ ? engine.own_rows_gathered(0) : engine.own_rows(), add_r);
    engine.team.sync_block();
  }
}

// Where an impulse must be put for `apply_impulse`.
template <class Engine>
HAMILTORCH_DEVICE void publish_impulse(Engine& engine, int32_t moves, int row, int pair, typename Engine::Two x) {
  if (moves & kMovesQ) {
    engine.publish_to_all(0, row, pair, x);
  } else {
    engine.publish_to_self(row, pair, x);
  }
}

template <class Engine>
class Forward {
 public:
  using Real = typename Engine::Real;
  using Two = typename Engine::Two;

  HAMILTORCH_DEVICE Forward(Engine& engine, const Chain<Real>& chain, const ChainForward<Real>& arrays)
      : engine_(engine),
        chain_(chain),
        arrays_(arrays),
        width_(engine.layout.widths[0]),
        begin_(engine.layout.begin(0, engine.team.rank()) * kTile),
        dt_(*chain.dt) {}

  HAMILTORCH_DEVICE void run() {
    const int64_t passes = (chain_.batch + Engine::kColumns - 1) / Engine::kColumns;
    for (int64_t pass = engine_.team.index(); pass < passes; pass += engine_.team.count()) {
      first_ = pass * Engine::kColumns;
      roll();
    }
  }

 private:
  HAMILTORCH_DEVICE Real* vector(int which, int row, int pair) const {
    return engine_.state(which) + row * Engine::kColumns + 2 * pair;
  }
  HAMILTORCH_DEVICE void add(int which, int row, int pair, Two value) const {
    Two sum = load_two(vector(which, row, pair));
    add_two(sum, value);
    store_two(vector(which, row, pair), sum);
  }
  HAMILTORCH_DEVICE bool inside(int row, int64_t sample) const {
    return begin_ + row < width_ && sample < chain_.batch;
  }
  HAMILTORCH_DEVICE Two load(const Real* from, int row, int pair) const {  // from: [batch][width_0]
    const int64_t sample = first_ + 2 * pair, at = sample * width_ + begin_ + row;
    return {inside(row, sample) ? from[at] : Real(0), inside(row, sample + 1) ? from[at + width_] : Real(0)};
  }
  HAMILTORCH_DEVICE void store_impulse(int half, int64_t n, int row, int pair, Two value) const {
    const int64_t sample = first_ + 2 * pair, states = chain_.steps + 1;
    Real* const to = arrays_.impulses + ((half * chain_.batch + sample) * states + n) * width_ + begin_ + row;
    if (inside(row, sample)) to[0] = value.x;
    if (inside(row, sample + 1)) to[states * width_] = value.y;
  }

  // What an evaluation leaves besides delta_1: the terms of the energy's sum over the last layer.
  struct Energies {
    Engine& engine;
    bool wanted;
    HAMILTORCH_DEVICE void value(int, int, int, Two) const {}
    HAMILTORCH_DEVICE void delta(int, int, int, Two) const {}
    HAMILTORCH_DEVICE Two top(int row, int pair, Real head, Two h) const {
      if (wanted) store_two(engine.terms() + row * Engine::kColumns + 2 * pair, Two{head * h.x, head * h.y});
      return {head, head};
    }
  };

  HAMILTORCH_DEVICE void roll() {
    engine_.for_own(0, [&](int row, int pair) {
      store_two(vector(kS, row, pair), load(arrays_.s0, row, pair));
      store_two(vector(kR, row, pair), load(arrays_.r0, row, pair));
      store_two(vector(kImpulseQ, row, pair), Two{0, 0});
      store_two(vector(kImpulseP, row, pair), Two{0, 0});
      store_impulse(0, 0, row, pair, {0, 0});
      store_impulse(1, 0, row, pair, {0, 0});
    });
    engine_.team.sync_block();
    const bool with_energies = arrays_.energy_parts != nullptr;
    for (int64_t n = 0; n < chain_.steps || (n == chain_.steps && with_energies); ++n) {
      const bool last = n == chain_.steps;  // whose energy alone is asked for
      HAMILTORCH_NO_UNROLL
      for (int k = 0; k < (last ? 1 : chain_.stage_count); ++k) {
        const Energies energies{engine_, k == 0 && with_energies};
        evaluate_up<Samples>(
            engine_,
            [&](int row, int pair) -> Two {
              Two a = load_two(vector(kS, row, pair));
              add_two(a, load_two(vector(kR, row, pair)));
              return a;
            },
            energies);
        if (energies.wanted) add_energies(n);
        if (!last) move(k, energies);
      }
      if (last) break;
      engine_.for_own(0, [&](int row, int pair) {
        store_impulse(0, n + 1, row, pair, load_two(vector(kImpulseQ, row, pair)));
        store_impulse(1, n + 1, row, pair, load_two(vector(kImpulseP, row, pair)));
      });
    }
    engine_.team.sync_block();
  }

  // The rest of a stage, from the evaluation's top down.
  HAMILTORCH_DEVICE void move(int k, const Energies& energies) {
    const int32_t moves = chain_.stages[k].moves;
    const Real factor = static_cast<Real>(chain_.stages[k].coefficient) * dt_;
    evaluate_down<Samples>(engine_, energies, [&](int row, int pair, Two delta) {
      const Two x = {factor * delta.x, factor * delta.y};
      if (moves & kMovesQ) add(kImpulseQ, row, pair, x);
      if (moves & kMovesP) add(kImpulseP, row, pair, {-x.x, -x.y});
      publish_impulse(engine_, moves, row, pair, x);
    });
    apply_impulse(
        engine_, moves, [&](int row, int pair, Two v) { add(kS, row, pair, v); },
        [&](int row, int pair, Two v) { add(kR, row, pair, {-v.x, -v.y}); });
  }

  // The member's part of the energies of state n: a warp for each column.
  HAMILTORCH_DEVICE void add_energies(int64_t n) const {
    engine_.team.sync_block();
    const int rank = engine_.team.rank(), rows = engine_.layout.count(engine_.layout.hidden - 1, rank) * kTile;
    for (int column = engine_.team.warp(); column < Engine::kColumns; column += kWarps) {
      Real sum = 0;
      for (int row = engine_.team.lane(); row < rows; row += 32)
        sum += engine_.terms()[row * Engine::kColumns + column];
      for (int mask = 16; mask > 0; mask >>= 1) sum += warp_shuffle_xor(sum, mask);
      const int64_t sample = first_ + column;
      if (engine_.team.lane() == 0 && sample < chain_.batch)
        arrays_.energy_parts[(rank * chain_.batch + sample) * (chain_.steps + 1) + n] = sum;
    }
  }

  Engine& engine_;
  const Chain<Real>& chain_;
  const ChainForward<Real>& arrays_;
  const int width_, begin_;
  const Real dt_;
  int64_t first_ = 0;
};

}  // namespace hamiltorch
