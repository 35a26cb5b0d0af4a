// Fixed points D = F(D) of the samples of a tile, each a system that is solved, or given up, on its own: from an
// extrapolation of the last ones by Anderson's acceleration, and where that does not contract by Newton's method. And
// systems of linear equations of a tile, which adjoints solve.
//
// Every member of a team holds all of this for itself and comes to the same bits and decisions; what it shares with the
// others lies in the equations:
//
//     int64_t width() const, limit() const;              // of D; most iterations
//     const Tile<T>& image() const;                      // F(D) by line, once it is found
//     void find_image(slots, lines, at) const;           // of the points at.row(slot)
//     void linearise(slots, lines, at) const;            // likewise, and what products with F's derivative need
//     void multiply(slots, lines, j, product) const;     // product, by line = (1 - F') krylov.direction(slot, j)
//     T bound(slot) const;                               // what a solved slot's error is at most
//     T scale(slot) const;                               // one plus the largest entry of the slot's solution
//     void begin(slot, line) const;                      // the image in this line is that of where the solve started
//     void take(slot, line) const;                       // the image in this line is that of the slot's point
//     void find_unseen(slots, lines) const;              // of the points at hand, as against those taken before
//     T unseen(line) const;                              // how far what depends on D beside its image has moved
#pragma once
#include "hamiltorch/iteration.h"
#include "linear.h"

namespace hamiltorch {
namespace {

inline constexpr int kTurns = kMostDifferences + 1;

template <class T>
struct FixedPoint {
  Tile<T> displacement;  // [width]: D, and where a solve starts
  Tile<T> images[kHistory], residuals[kHistory];
  Krylov<T> krylov;
  Tile<T> residual, step, tried, tried_residual;  // Newton's; residual: what the equations leave of D
  T *error, *length, *target, *left;
  T* slack;  // how many times its bound a residual may be; the caller's, who sets it to one ahead of the first solve
  int64_t *iterations, *remembered;
  uint8_t* solved;
  int32_t *all, *open, *slow, *trying;  // lists of slots
};

// All but the displacement.
template <class T>
FixedPoint<T> take_fixed_point(Arena& arena, int64_t rows, int64_t width) {
  FixedPoint<T> solve{};
  Tile<T>* const whole[] = {&solve.residual,  &solve.step,      &solve.tried,        &solve.tried_residual,
                            &solve.images[0], &solve.images[1], &solve.residuals[0], &solve.residuals[1]};
  for (Tile<T>* each : whole) *each = take_cleared<T>(arena, rows, width);
  solve.krylov = take_krylov<T>(arena, rows, width);
  T** const numbers[] = {&solve.error, &solve.length, &solve.target, &solve.left};
  for (T** number : numbers) *number = arena.take<T>(rows);
  solve.iterations = arena.take<int64_t>(rows);
  solve.remembered = arena.take<int64_t>(rows);
  solve.solved = arena.take<uint8_t>(rows);
  int32_t** const lists[] = {&solve.all, &solve.open, &solve.slow, &solve.trying};
  for (int32_t** list : lists) *list = arena.take<int32_t>(rows);
  if (solve.all)
    for (int64_t slot = 0; slot < rows; ++slot) solve.all[slot] = static_cast<int32_t>(slot);
  return solve;
}

// solve.displacement = where a solve starts: the polynomial through D of the last `known` steps, as the sum of their
// backward differences. As many of them are taken as shrink, by half at least: more would follow what is not smooth.
// last(j, r) is D's row of j + 1 steps ago.
template <class T, class Last>
void extrapolate(const FixedPoint<T>& solve, int64_t known, const Last& last, int64_t rows, int64_t width) {
  known = known < kMostDifferences ? known : kMostDifferences;
  for (int64_t r = 0; r < rows; ++r) {
    T* const start = solve.displacement.row(r);
    const T* steps[kMostDifferences];  // what is not known is in none of the differences that are taken
    for (int j = 0; j < kMostDifferences; ++j) steps[j] = j < known ? last(j, r) : start;
    const auto differences = [&](int64_t c, Vec<T>(&of)[kMostDifferences]) {
      for (int j = 0; j < kMostDifferences; ++j) of[j] = load(steps[j] + c);
      for (int order = 1; order < kMostDifferences; ++order)
        for (int j = kMostDifferences - 1; j >= order; --j) of[j] = of[j - 1] - of[j];
    };
    Vec<T> squares[kMostDifferences] = {};
    for_vectors<T>(width, [&](int64_t c) {
      Vec<T> of[kMostDifferences];
      differences(c, of);
      for (int j = 0; j < kMostDifferences; ++j) squares[j] += of[j] * of[j];
    });
    int64_t terms = known > 0;
    while (terms < known && horizontal_sum<T>(squares[terms]) < horizontal_sum<T>(squares[terms - 1]) / 4) ++terms;
    for_vectors<T>(width, [&](int64_t c) {
      Vec<T> of[kMostDifferences], sum{};
      differences(c, of);
      for (int j = 0; j < kMostDifferences; ++j)
        if (j < terms) sum += of[j];
      store(start + c, sum);
    });
  }
}

// Of how many steps D is known ahead of step n. What look_back tells is good enough to take a line, or a parabola,
// through, and then through D of true steps alone.
inline int64_t steps_known(int64_t n, bool looked_back) { return looked_back && (n == 1 || n == 2) ? n + 1 : n; }

// before = D of a step earlier than the first, on the line through the first's and what it was this part of a step
// before that, which `before` has.
template <class T>
void look_back(const FixedPoint<T>& solve, T part, const Tile<T>& before, int64_t rows, int64_t width) {
  for_columns<T>({0, rows}, {0, width}, [&](int64_t r, int64_t c) {
    const Vec<T> now = load(solve.displacement.row(r) + c);
    store(before.row(r) + c, now - (now - load(before.row(r) + c)) / part);
  });
}

// D of the next iteration by Anderson's acceleration: of all mixtures of this image and those before, that whose
// residuals mix to the shortest. The image and its residual are then the newest remembered.
template <class T>
void accelerate(const FixedPoint<T>& solve, int64_t slot, int64_t width, const T* image) {
  static_assert(kHistory == 2);
  const int64_t count = solve.remembered[slot]++, known = count < 2 ? count : 2, newest = (count + 1) % 2;
  T* const to = solve.displacement.row(slot);
  const auto rest = [&](int64_t c) { return load(image + c) - load(to + c); };
  // Changes from the newest remembered to this (1), and from the one before to the newest (2).
  T first = 0, second = 0;
  const T *rest1 = solve.residuals[newest].row(slot), *rest2 = solve.residuals[1 - newest].row(slot);
  const T *image1 = solve.images[newest].row(slot), *image2 = solve.images[1 - newest].row(slot);
  if (known > 0) {
    Vec<T> s11{}, s12{}, s22{}, s1{}, s2{};
    for_vectors<T>(width, [&](int64_t c) {
      const Vec<T> f = rest(c), f1 = load(rest1 + c), d1 = f - f1;
      s11 += d1 * d1;
      s1 += d1 * f;
      if (known == 1) return;
      const Vec<T> d2 = f1 - load(rest2 + c);
      s12 += d1 * d2;
      s22 += d2 * d2;
      s2 += d2 * f;
    });
    const T a11 = horizontal_sum<T>(s11), a12 = horizontal_sum<T>(s12), a22 = horizontal_sum<T>(s22);
    const T b1 = horizontal_sum<T>(s1), b2 = horizontal_sum<T>(s2), determinant = a11 * a22 - a12 * a12;
    if (determinant > static_cast<T>(kIndependent) * a11 * a22) {
      first = (b1 * a22 - b2 * a12) / determinant;
      second = (b2 * a11 - b1 * a12) / determinant;
    } else if (a11 > 0) {
      first = b1 / a11;
    }
  }
  T *const kept_image = solve.images[1 - newest].row(slot), *const kept_rest = solve.residuals[1 - newest].row(slot);
  for_vectors<T>(width, [&](int64_t c) {
    const Vec<T> g = load(image + c);
    Vec<T> next = g;
    store(kept_rest + c, rest(c));
    if (known > 0) {
      const Vec<T> g1 = load(image1 + c);
      next -= first * (g - g1);
      if (known > 1) next -= second * (g1 - load(image2 + c));
    }
    store(to + c, next);
    store(kept_image + c, g);
  });
}

// A residual's largest entry as a part of the solution's; not a number where that is infinite.
template <class T, class Equations>
T error_of(const Equations& equations, int64_t slot, T most) {
  const T scale = equations.scale(slot);
  return scale < static_cast<T>(__builtin_inf()) ? most / scale : static_cast<T>(__builtin_nan(""));
}

// Of residuals before and after an iteration: how many times its bound the latter may be, the next iteration's then
// being within it.
template <class T>
T slack_of(T before, T after) {
  const T seen = before / (static_cast<T>(kCaution) * after), most = static_cast<T>(kMostSlack);
  return !(seen > 1) ? 1 : seen < most ? seen : most;
}

// Iterates every slot from solve.displacement on, and leaves D there, which is an image: its own residual is within the
// bound, as far as the last iterations tell where nothing has measured it (Hairer and Wanner, Solving Ordinary
// Differential Equations II, section IV.8, end their solves so). What else depends on D is heard where it moves by more
// than the image. What was seen in an earlier solve counts for half as much in each that sees nothing of its own.
// Returns how many slots are left to Newton's method, listed in solve.slow.
template <class T, class Equations>
int64_t iterate(const FixedPoint<T>& solve, const Equations& equations, int64_t rows) {
  const int64_t width = equations.width();
  int64_t open = rows, slow = 0;
  for (int64_t slot = 0; slot < rows; ++slot) {
    solve.open[slot] = static_cast<int32_t>(slot);
    solve.remembered[slot] = 0;
    solve.solved[slot] = 0;
    solve.length[slot] = static_cast<T>(__builtin_inf());
  }
  for (int64_t iteration = 0; iteration < equations.limit() && open > 0; ++iteration) {
    equations.find_image(solve.open, open, solve.displacement);
    if (iteration == 1) equations.find_unseen(solve.open, open);  // from a start to its image
    const bool ends = iteration + 1 == equations.limit();
    int64_t still = 0;
    for (int64_t i = 0; i < open; ++i) {
      const int32_t slot = solve.open[i];
      T* const displacement = solve.displacement.row(slot);
      const T* const image = equations.image().row(i);
      ++solve.iterations[slot];
      if (iteration == 0) equations.begin(slot, i);
      const T most = largest_of<T>(width, [&](int64_t c) { return load(image + c) - load(displacement + c); });
      const T error = error_of(equations, slot, most), bound = equations.bound(slot);
      T& slack = solve.slack[slot];
      if (iteration > 0) {
        const T unseen = iteration == 1 ? equations.unseen(i) : 0;
        const T seen = slack_of(solve.length[slot], unseen > most ? unseen : most);
        slack = iteration == 1 || seen < slack ? seen : slack;
      }
      equations.take(slot, i);
      solve.solved[slot] = error <= slack * bound;
      solve.error[slot] = !solve.solved[slot] || error <= bound ? error : error < bound * slack ? error / slack : bound;
      const bool contracts = most <= static_cast<T>(kSlowly) * solve.length[slot];  // not where it is not a number
      if (!solve.solved[slot] && contracts && !ends) {
        solve.length[slot] = most;
        accelerate(solve, slot, width, image);
        solve.open[still++] = slot;
        continue;
      }
      if (!solve.solved[slot] && !ends && error < static_cast<T>(__builtin_inf())) {
        slack = 1;
        solve.slow[slow++] = slot;
        continue;
      }
      if (iteration == 0) slack = slack > 2 ? slack / 2 : 1;
      for_vectors<T>(width, [&](int64_t c) { store(displacement + c, load(image + c)); });
    }
    open = still;
  }
  return slow;
}

// `at`, linearised, whose image is in this line, becomes the slot's point, and `rest` what the equations leave of it.
template <class T, class Equations>
void take_point(const FixedPoint<T>& solve, const Equations& equations, int64_t slot, int64_t line, const Tile<T>& at,
                const Tile<T>& rest) {
  const int64_t width = equations.width();
  for_vectors<T>(width, [&](int64_t c) {
    store(solve.displacement.row(slot) + c, load(at.row(slot) + c));
    store(solve.residual.row(slot) + c, load(rest.row(slot) + c));
  });
  equations.take(slot, line);
  solve.length[slot] = norm(solve.residual.row(slot), width);
  solve.error[slot] = error_of(equations, slot, largest(solve.residual.row(slot), width));
}

// Goes on with the `count` slots in solve.slow by Newton's method: GMRES finds the steps by products with 1 - F', each
// the work of one gradient; a step is halved until the residual falls.
template <class T, class Equations>
void finish_by_newton(const FixedPoint<T>& solve, const Equations& equations, int64_t count) {
  const int64_t width = equations.width();
  const auto find_rest = [&](const int32_t* slots, int64_t lines, const Tile<T>& at, const Tile<T>& rest) {
    equations.linearise(slots, lines, at);
    for (int64_t i = 0; i < lines; ++i) {
      const int64_t slot = slots[i];
      ++solve.iterations[slot];
      for_vectors<T>(width, [&](int64_t c) {
        store(rest.row(slot) + c, load(equations.image().row(i) + c) - load(at.row(slot) + c));
      });
    }
  };
  find_rest(solve.slow, count, solve.displacement, solve.residual);
  for (int64_t i = 0; i < count; ++i)
    take_point(solve, equations, solve.slow[i], i, solve.displacement, solve.residual);

  int64_t open = count;
  for (int64_t i = 0; i < count; ++i) solve.open[i] = solve.slow[i];
  for (int64_t iteration = 0; iteration < equations.limit() && open > 0; ++iteration) {
    for (int64_t i = 0; i < open; ++i)
      solve.target[solve.open[i]] = static_cast<T>(kLeastForcing) * solve.length[solve.open[i]];
    solve_krylov(solve.krylov, solve.open, open, width, solve.residual, solve.target, solve.step, solve.left,
                 solve.tried_residual, [&](const int32_t* slots, int64_t lines, int64_t j, const Tile<T>& product) {
                   equations.multiply(slots, lines, j, product);
                 });
    int64_t trying = 0;
    for (int64_t i = 0; i < open; ++i) {
      const int32_t slot = solve.open[i];
      const T most = largest(solve.step.row(slot), width);
      // Of a system that is not solved the step says nothing of its length.
      solve.solved[slot] = solve.left[slot] <= static_cast<T>(kMostForcing) * solve.length[slot] &&
                           most <= kRoundings * kEpsilon<T> * equations.scale(slot);
      if (!solve.solved[slot] && most < static_cast<T>(__builtin_inf())) solve.trying[trying++] = slot;
    }
    open = 0;
    T part = 1;
    for (int halving = 0; halving < kHalvings && trying > 0; ++halving, part /= 2) {
      for (int64_t i = 0; i < trying; ++i) {
        const int64_t slot = solve.trying[i];
        for_vectors<T>(width, [&](int64_t c) {
          store(solve.tried.row(slot) + c,
                load(solve.displacement.row(slot) + c) + part * load(solve.step.row(slot) + c));
        });
      }
      find_rest(solve.trying, trying, solve.tried, solve.tried_residual);
      int64_t still = 0;
      for (int64_t i = 0; i < trying; ++i) {
        const int32_t slot = solve.trying[i];
        if (norm(solve.tried_residual.row(slot), width) <=
            (1 - static_cast<T>(kDecrease) * part) * solve.length[slot]) {
          take_point(solve, equations, slot, i, solve.tried, solve.tried_residual);
          solve.solved[slot] = solve.error[slot] <= equations.bound(slot);
          if (!solve.solved[slot]) solve.open[open++] = slot;
        } else {
          solve.trying[still++] = slot;
        }
      }
      trying = still;
    }
  }
}

inline constexpr int kCycles = 16;  // of GMRES, each from where the one before ended

// Solves A x = solve.residual for the `count` slots in solve.slow. multiply(slots, lines, row, product) writes A times
// row(slot) to the lines of `product`. Where A is singular, or near to it, x is zero and the slot unsolved.
template <class T, class Multiply>
void solve_linear(const FixedPoint<T>& solve, int64_t width, int64_t count, const Tile<T>& x,
                  const Multiply& multiply) {
  const auto solution = [&](int64_t slot) { return x.row(slot); };
  int64_t open = count;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t slot = solve.open[i] = solve.slow[i];
    solve.length[slot] = norm(solve.residual.row(slot), width);
    solve.target[slot] = kLeastRoundings * kEpsilon<T> * solve.length[slot];
    solve.solved[slot] = 1;
    for_vectors<T>(width, [&](int64_t c) {
      store(solve.tried.row(slot) + c, load(solve.residual.row(slot) + c));
      store(x.row(slot) + c, Vec<T>{});
    });
  }
  for (int cycle = 0; cycle < kCycles && open > 0; ++cycle) {
    solve_krylov(solve.krylov, solve.open, open, width, solve.tried, solve.target, solve.step, solve.left,
                 solve.tried_residual, [&](const int32_t* slots, int64_t lines, int64_t j, const Tile<T>& product) {
                   multiply(slots, lines, [&](int64_t slot) { return solve.krylov.direction(slot, j); }, product);
                 });
    int64_t still = 0;
    for (int64_t i = 0; i < open; ++i) {
      const int32_t slot = solve.open[i];
      add_scaled(x.row(slot), static_cast<T>(1), solve.step.row(slot), width);
      if (solve.left[slot] > solve.target[slot]) solve.open[still++] = slot;
    }
    open = still;
    if (open == 0) break;
    multiply(solve.open, open, solution, solve.tried_residual);
    for (int64_t i = 0; i < open; ++i) {
      const int32_t slot = solve.open[i];
      for_vectors<T>(width, [&](int64_t c) {
        store(solve.tried.row(slot) + c, load(solve.residual.row(slot) + c) - load(solve.tried_residual.row(i) + c));
      });
      solve.left[slot] = norm(solve.tried.row(slot), width);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const int32_t slot = solve.slow[i];
    const T enough = square_root(kEpsilon<T>) * solve.length[slot];
    if (!(solve.length[slot] < static_cast<T>(__builtin_inf()))) {  // what is not a number stays none
      for_vectors<T>(width, [&](int64_t c) { store(x.row(slot) + c, load(solve.residual.row(slot) + c)); });
    } else if (!(solve.left[slot] <= enough)) {
      solve.solved[slot] = 0;
      for_vectors<T>(width, [&](int64_t c) { store(x.row(slot) + c, Vec<T>{}); });
    }
  }
}

}  // namespace
}  // namespace hamiltorch
