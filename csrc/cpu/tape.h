// What the adjoint needs of a rollout's evaluations: of each the pre-activations a_l and, below the last layer,
// dH/dh_l; of each step the states between stages that no other record has. A rollout may leave it for its adjoint (all
// steps), or the adjoint replays one step at a time into a tape of that length.
#pragma once
#include "weight.h"

namespace hamiltorch {
namespace {

// One evaluation's record of a tile of samples. Without data: nothing is kept.
template <class T>
struct Record {
  T* data;                 // of the evaluation
  int64_t batch, row;      // samples on the tape, and the tile's first
  const int64_t* columns;  // [2 hidden]: before a_0, a_1, ..., dH/dh_0, ..., dH/dh_{hidden - 2}, and in all
  int64_t hidden;

  explicit operator bool() const { return data != nullptr; }
  Tile<T> slot(int64_t i) const {
    const int64_t stride = columns[i + 1] - columns[i];
    return {data + columns[i] * batch + row * stride, stride};
  }
  Tile<T> a(int64_t l) const { return slot(l); }
  Tile<T> g(int64_t l) const { return slot(hidden + l); }
};

template <class T>
struct Tape {
  T* data;
  int64_t batch, row;
  int64_t hidden, half, stages;
  const int64_t* columns;   // of an evaluation, as above
  const int64_t* p_before;  // [stages]: states kept in a step before this stage's p, or -1: p is that of the next state
  const int64_t* q_before;  // [stages]
  int64_t kept;             // states kept in a step

  int64_t step_columns() const { return stages * columns[2 * hidden - 1] + kept * padded<T>(half); }
  Tape rows_from(int64_t first) const {
    Tape tape = *this;
    tape.row = first;
    return tape;
  }

  Record<T> record(int64_t n, int64_t k) const {
    T* const at = data ? data + batch * (n * step_columns() + k * columns[2 * hidden - 1]) : nullptr;
    return {at, batch, row, columns, hidden};
  }
  Tile<T> state(int64_t n, int64_t before) const {
    const int64_t stride = padded<T>(half);
    T* const at = data + batch * (n * step_columns() + stages * columns[2 * hidden - 1] + before * stride);
    return {at + row * stride, stride};
  }
};

// Columns of one evaluation's record.
template <class T>
int64_t record_columns(const Mlp<T>& mlp) {
  int64_t columns = 0;
  for (int64_t l = 0; l < mlp.hidden; ++l) columns += (l + 1 < mlp.hidden ? 2 : 1) * padded<T>(mlp.widths[l]);
  return columns;
}

// The halves that stage k moves and a later stage of the step moves again.
template <class T>
int32_t keeps(const Rollout<T>& rollout, int64_t k) {
  int32_t later = 0;
  for (int64_t i = k + 1; i < rollout.stage_count; ++i) later |= rollout.stages[i].moves;
  return rollout.stages[k].moves & later;
}

template <class T>
int64_t tape_numbers(const Rollout<T>& rollout, int64_t steps, int64_t batch) {
  int64_t columns = rollout.stage_count * record_columns(rollout.network);
  for (int64_t k = 0; k < rollout.stage_count; ++k)
    columns += (((keeps(rollout, k) & kMovesP) != 0) + ((keeps(rollout, k) & kMovesQ) != 0)) *
               padded<T>(rollout.network.dim / 2);
  return steps * batch * columns;
}

template <class T>
Tape<T> take_tape(Arena& arena, const Rollout<T>& rollout, int64_t batch, T* data) {
  const Mlp<T>& mlp = rollout.network;
  const int64_t hidden = mlp.hidden, stages = rollout.stage_count;
  int64_t* const columns = arena.take<int64_t>(2 * hidden);
  int64_t* const p_before = arena.take<int64_t>(stages);
  int64_t* const q_before = arena.take<int64_t>(stages);
  Tape<T> tape{data, batch, 0, hidden, mlp.dim / 2, stages, columns, p_before, q_before, 0};
  if (!columns) return tape;
  columns[0] = 0;
  for (int64_t i = 0; i < 2 * hidden - 1; ++i)
    columns[i + 1] = columns[i] + padded<T>(mlp.widths[i < hidden ? i : i - hidden]);
  for (int64_t k = 0; k < stages; ++k) {
    p_before[k] = keeps(rollout, k) & kMovesP ? tape.kept++ : -1;
    q_before[k] = keeps(rollout, k) & kMovesQ ? tape.kept++ : -1;
  }
  return tape;
}

}  // namespace
}  // namespace hamiltorch
