// The adjoint of a discrete Euler-Lagrange rollout: the multipliers, from the last step to the first. Their systems
// have the transposed Newton matrices, which change as little from step to step as those of the rollout.
#pragma once
#include "variational.h"

namespace hamiltorch {
namespace {

// tile.multiplier = the inverse of the transposed matrix times tile.right for the slots of converged steps, zero for
// others; tile.own = W_1x^T H W_1x times that. `converged` is the first slot's flag, `stride` the next one's distance.
template <class T>
void solve_adjoint(const DelSystem<T>& system, const DelTile<T>& tile, int64_t rows, const uint8_t* converged,
                   int64_t stride, const Worker<T>& worker) {
  const Network<T>& network = system.network;
  const int64_t d = network.half;
  const T dt = system.rollout->dt;
  const Tile<T>& left = tile.tried_residual;
  const Sides<T> transposed = {network.q, network.p};
  // tile.out = what leaves by y of the lines of tile.in, which enter by x; adds what leaves by x to tile.own.
  const auto multiply = [&](const int32_t* slots, int64_t count) {
    multiply_mixed(system, tile, transposed, slots, count, worker);
    bring_back(network.q, count, tile.work.tangent_delta[0], tile.other, worker);
    for (int64_t i = 0; i < count; ++i) add_scaled(tile.own.row(slots[i]), static_cast<T>(1), tile.other.row(i), d);
  };

  int64_t open = 0, slow = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t slot = static_cast<int32_t>(r);
    tile.length[r] = norm(tile.right.row(r), d);
    tile.target[r] = 4 * kEpsilon<T> * tile.length[r];
    if (tile.memory.pairs[r] == kMostPairs) tile.memory.pairs[r] = 0;
    for_vectors<T>(d, [&](int64_t c) {
      const Vec<T> right = load(tile.right.row(r) + c);
      store(left.row(r) + c, -right);
      store(tile.step.row(r) + c, right);
      store(tile.multiplier.row(r) + c, Vec<T>{});
      store(tile.own.row(r) + c, Vec<T>{});
    });
    if (!converged[r * stride] || tile.length[r] == 0) continue;
    if (!(tile.length[r] < static_cast<T>(__builtin_inf()))) {
      tile.slow[slow++] = slot;
      continue;
    }
    multiply_inverse(tile.memory, r, d, system.inverse, tile.step.row(r));
    tile.open[open++] = slot;
  }
  for (int step = 0; step < kMostQuickSteps && open > 0; ++step) {
    read_lines(tile, tile.open, open, d, tile.step);
    multiply(tile.open, open);
    int64_t still = 0;
    for (int64_t i = 0; i < open; ++i) {
      const int32_t slot = tile.open[i];
      T* const own = tile.step.row(slot);
      for_vectors<T>(d, [&](int64_t c) {
        store(tile.multiplier.row(slot) + c, load(tile.multiplier.row(slot) + c) + load(own + c));
        store(left.row(slot) + c,
              load(left.row(slot) + c) + load(system.diagonal + c) * load(own + c) + dt * load(tile.out.row(i) + c));
      });
      const T before = tile.length[slot], length = tile.length[slot] = norm(left.row(slot), d);
      const bool falls = length <= static_cast<T>(kQuickly) * before;
      if (falls) learn_step(tile.memory, slot, d, system.inverse, left.row(slot), own, tile.tried.row(slot));
      // Where rounding keeps it from falling further, it is solved as well.
      if (length <= (falls ? 1 : 8) * tile.target[slot]) continue;
      if (falls && step + 1 < kMostQuickSteps) {
        tile.open[still++] = slot;
      } else {
        tile.memory.pairs[slot] = 0;
        tile.slow[slow++] = slot;
      }
    }
    open = still;
  }
  if (slow == 0) return;
  for (int64_t i = 0; i < slow; ++i) tile.target[tile.slow[i]] /= 2;
  solve_by_products(system, tile, transposed, tile.slow, slow, worker);
  for (int64_t i = 0; i < slow; ++i) {
    const int32_t slot = tile.slow[i];
    tile.pivot[slot] = 1;
    if (!(tile.left[slot] <= 64 * tile.target[slot])) solve_by_matrix(system, tile, transposed, slot, worker);
    for_vectors<T>(d, [&](int64_t c) {
      const Vec<T> found = load(tile.step.row(slot) + c);
      store(tile.multiplier.row(slot) + c, tile.pivot[slot] == 0 ? Vec<T>{} : found);  // singular: a constant
      store(tile.own.row(slot) + c, Vec<T>{});
    });
  }
  if (slow == 0) return;
  read_lines(tile, tile.slow, slow, d, tile.multiplier);
  multiply(tile.slow, slow);
}

// From the last step to the first, then the interval (q0, q1). With l the multiplier of the step that ends in y and l'
// the next one's, the cotangent on y is g - D2 D2 L_d(x, y) l' - (what the next interval leaves on its own x), and this
// interval leaves D1 D1 L_d(x, y) l + D1 D2 L_d(x, y) l' on x.
template <class T>
void roll_del_back(const DelJob<T>& job, const DelTile<T>& tile, int64_t row, int64_t rows, const Worker<T>& worker) {
  const DelSystem<T>& system = job.system;
  const Network<T>& network = system.network;
  const DelRollout<T>& rollout = *system.rollout;
  const DelAdjointArrays<T>& arrays = job.adjoint;
  const int64_t d = network.half, steps = rollout.steps, stride = (steps + 2) * d;
  const Tile<T>&next = tile.carried, on_x = tile.residual;
  if (steps == 0) {
    if (worker.member.index == 0) clear(arrays.grad_start + row * 2 * d, rows * 2 * d);
    return;
  }
  const Worker<T> alone = solo_worker<T>();
  const auto for_states = [&](const auto& f) { for_columns<T>({0, rows}, {0, d}, f); };
  for_states([&](int64_t r, int64_t c) {
    store(next.row(r) + c, Vec<T>{});
    store(on_x.row(r) + c, Vec<T>{});
    store(tile.later.row(r) + c, Vec<T>{});
  });
  clear(tile.memory.pairs, rows);
  fill_base(system.network, rows, rollout.condition + row * system.network.condition.in, tile.base, worker);
  const auto load_interval = [&](int64_t first_point) {
    const T* const points = arrays.trajectory + row * stride + first_point * d;
    read_rows(points, stride, rows, d, tile.q, alone);
    read_rows(points + d, stride, rows, d, tile.y, alone);
    begin_interval(system, tile, rows, worker);
    evaluate_at(system, tile, tile.all, rows, tile.y, worker);
  };
  // What the interval makes of `next`, which is a direction in y: tile.out on y, tile.later on x.
  const auto spread_next = [&] {
    read_lines(tile, tile.all, rows, d, next);
    multiply_mixed(system, tile, {network.p, network.p}, tile.all, rows, worker);
    bring_back(network.q, rows, tile.work.tangent_delta[0], tile.other, worker);
    for_states([&](int64_t r, int64_t c) { store(tile.later.row(r) + c, load(tile.other.row(r) + c)); });
  };
  // tile.right -= what y = q_{k+2} has from the steps after k.
  const auto take_from_later = [&] {
    for_states([&](int64_t r, int64_t c) {
      const Vec<T> kinetic = load(system.kinetic + c) - load(system.friction + c);
      store(tile.right.row(r) + c, load(tile.right.row(r) + c) - load(on_x.row(r) + c) -
                                       kinetic * load(next.row(r) + c) - rollout.dt * load(tile.out.row(r) + c));
    });
  };
  // on_x and next of the interval of step k.
  const auto leave_on_x = [&](int64_t k) {
    for (int64_t r = 0; r < rows; ++r) {
      // After a failure all multipliers are zero; what the network made of them there need not be.
      const bool converged = arrays.converged[(row + r) * steps + k];
      for_vectors<T>(d, [&](int64_t c) {
        const Vec<T> own = load(tile.multiplier.row(r) + c), later = load(next.row(r) + c);
        const Vec<T> local = load(system.kinetic + c) * (own - later) + load(system.friction + c) * (own + later);
        const Vec<T> learned = load(tile.own.row(r) + c) + load(tile.later.row(r) + c);
        store(on_x.row(r) + c, converged ? local + rollout.dt * learned : local);
        store(next.row(r) + c, own);
      });
    }
  };
  for (int64_t k = steps; k-- > 0;) {
    load_interval(k + 1);
    for_states([&](int64_t r, int64_t c) { store(tile.right.row(r) + c, Vec<T>{}); });  // what failed left its padding
    read_rows(arrays.grad_trajectory + (row * steps + k) * d, steps * d, rows, d, tile.right, alone);
    if (k + 1 < steps) {  // nothing comes after the last step
      spread_next();
      take_from_later();
    }
    solve_adjoint(system, tile, rows, arrays.converged + row * steps + k, steps, worker);
    write_rows(tile.multiplier, rows, d, arrays.multipliers + (row * steps + k) * d, steps * d, worker);
    leave_on_x(k);
  }
  load_interval(0);
  for_states([&](int64_t r, int64_t c) {
    store(tile.right.row(r) + c, Vec<T>{});
    store(tile.multiplier.row(r) + c, Vec<T>{});
    store(tile.own.row(r) + c, Vec<T>{});
  });
  spread_next();
  take_from_later();
  leave_on_x(0);
  const Range mine = worker.share_of(rows);
  for (int64_t r = mine.begin; r < mine.end; ++r) {
    const bool converged = arrays.converged[(row + r) * steps];
    T* const to = arrays.grad_start + (row + r) * 2 * d;
    for (int64_t c = 0; c < d; ++c) {
      to[c] = converged ? -on_x.row(r)[c] : 0;
      to[d + c] = converged ? tile.right.row(r)[c] : 0;
    }
  }
}

template <class T>
Status del_adjoint_run(const DelRollout<T>& rollout, const DelAdjointArrays<T>& arrays, int threads,
                       const Prepared& kept, void* workspace, size_t size) {
  return run_job<roll_del_back<T>>(rollout.batch, kept, workspace, size, del_taker(rollout, threads),
                                   [&](DelJob<T>& job) { job.adjoint = arrays; });
}

}  // namespace
}  // namespace hamiltorch
