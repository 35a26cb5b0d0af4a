// Rollouts by the discrete gradient on their own, for the sanitizers: odd sizes, every instruction set, several
// threads, with and without dissipation, forces and friction. The steps' equations are checked in scalar code,
// gradients against differences along a random direction.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "everywhere.h"

using namespace hamiltorch;

namespace {

const std::vector<Stage> kOne = {{kMovesP | kMovesQ, 1, 0.5, 0.5}};
enum Ports { kNone, kDiagonal, kMatrix };

struct Case {
  int64_t d, condition, batch, steps;
  std::vector<int64_t> widths;
  Activation activation;
  Ports ports;
  double dt = 0.3;
};

template <class T>
struct Problem {
  Case c;
  T dt;
  Normals normals;
  ScalarNetwork<T> network;
  std::vector<T> z0, condition, dissipation, forces, decay;

  Problem(const Case& given, unsigned seed)
      : c(given),
        dt(static_cast<T>(c.dt)),
        normals(seed),
        network(2 * c.d, c.condition, c.widths, c.activation, normals),
        z0(normals.fill<T>(c.batch * 2 * c.d, 1)),
        condition(normals.fill<T>(c.batch * c.condition, 1)) {
    if (c.ports == kNone) return;
    dissipation = normals.fill<T>(2 * c.d * (c.ports == kMatrix ? columns() : 1), 0.4);
    forces = normals.fill<T>(c.batch * c.steps * 2 * c.d, 0.5);
    decay = normals.fill<T>(c.d, 0.05, 0.8);
  }

  int64_t columns() const { return c.ports == kMatrix ? 3 : 0; }

  // Of the given stages: those of a rollout are counted, and those of its points are one a step.
  Rollout<T> rollout() const { return {network.mlp(), kOne.data(), 1, dt, c.steps, c.batch, condition.data(), false}; }
  DiscreteRollout<T> discrete() const {
    const auto or_null = [](const std::vector<T>& x) { return x.empty() ? nullptr : x.data(); };
    return {rollout(),     sizeof(T) == 4 ? T(1e-6) : T(1e-14), 50, or_null(dissipation), columns(), or_null(forces),
            or_null(decay)};
  }

  // The largest entry of what a step's equations leave, from one state to the next.
  double rest(const T* from, const T* to, int64_t sample, int64_t step) const {
    const int64_t dim = 2 * c.d;
    const T* const own = condition.data() + sample * c.condition;
    std::vector<double> z(from, from + dim), y(to, to + dim), middle, change, flowing;
    for (int64_t i = 0; i < c.d && !decay.empty(); ++i) {
      z[c.d + i] *= decay[i];
      y[c.d + i] /= decay[i];
    }
    double square = 0, along = 0;
    for (int64_t i = 0; i < dim; ++i) {
      middle.push_back((z[i] + y[i]) / 2);
      change.push_back(y[i] - z[i]);
      square += change[i] * change[i];
    }
    const std::vector<double> g = network.slope(middle, own);
    for (int64_t i = 0; i < dim; ++i) along += g[i] * change[i];
    const double factor = (network.energy(y, own) - network.energy(z, own) - along) / square;
    for (int64_t i = 0; i < dim; ++i) flowing.push_back(g[i] + factor * change[i]);
    double most = 0;
    for (int64_t i = 0; i < dim; ++i) {
      double rate = i < c.d ? flowing[c.d + i] : -flowing[i - c.d];
      if (!forces.empty()) rate += forces[(sample * c.steps + step) * dim + i];
      for (int64_t j = 0; j < dim; ++j) {
        double entry = 0;  // of L L^T
        if (c.ports == kDiagonal && i == j) entry = double(dissipation[i]) * dissipation[i];
        for (int64_t k = 0; k < columns(); ++k)
          entry += double(dissipation[i * columns() + k]) * dissipation[j * columns() + k];
        rate -= entry * flowing[j];
      }
      most = std::fmax(most, std::fabs(change[i] - double(dt) * rate));
    }
    return most;
  }
};

template <class T>
void run(const Case& c, int threads, unsigned seed) {
  Problem<T> p(c, seed);
  const Implementation& implementation = active_implementation();
  const Kernels<T>& kernels = kernels_of<T>(implementation);
  const std::string name = std::string(implementation.name) + (sizeof(T) == 4 ? " f32" : " f64") +
                           " d=" + std::to_string(c.d) + " batch=" + std::to_string(c.batch) +
                           " threads=" + std::to_string(threads) + " ports=" + std::to_string(c.ports);
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const int64_t dim = 2 * c.d, length = (c.steps + 1) * dim, solves = c.batch * c.steps;
  const auto numbers = [&](int64_t size) { return std::vector<T>(static_cast<size_t>(size), nan); };
  std::vector<T> trajectory = numbers(c.batch * length), changes = numbers(solves * dim), residual = numbers(solves);
  std::vector<uint8_t> converged(static_cast<size_t>(solves), 2);
  std::vector<int64_t> iterations(static_cast<size_t>(solves), -1);
  const auto forward = [&](bool keeps) {
    const DiscreteRollout<T> rollout = p.discrete();
    const Sizes sizes = kernels.discrete_sizes(rollout, false, threads);
    const Buffer workspace(sizes.workspace), prepared(sizes.prepared);
    const DiscreteArrays<T> arrays = {p.z0.data(),      trajectory.data(), keeps ? changes.data() : nullptr,
                                      converged.data(), iterations.data(), residual.data()};
    const auto run = [&](size_t size) {
      return kernels.discrete_forward(rollout, arrays, threads, {prepared.data, false}, workspace.data, size);
    };
    expect(run(workspace.bytes) == Status::kOk, name + " status");
    if (c.batch > 0) expect(run(0) == Status::kWorkspaceTooSmall, name + " small workspace");
  };
  forward(false);
  const std::vector<T> without = trajectory;
  forward(true);
  for (size_t i = 0; i < trajectory.size(); ++i) expect(trajectory[i] == without[i], name + " without changes");
  for (int64_t i = 0; i < solves; ++i)
    expect(converged[i] == 1 && iterations[i] > 0 && residual[i] >= 0, name + " solved");
  for (const T x : changes) expect(std::isfinite(x), name + " changes are written");
  for (int64_t s = 0; s < std::min<int64_t>(c.batch, 4); ++s)  // scalar code takes its time
    for (int64_t n = 0; n < c.steps; ++n) {
      const T* const from = trajectory.data() + s * length + n * dim;
      expect(p.rest(from, from + dim, s, n) < (sizeof(T) == 4 ? 2e-4 : 1e-9), name + " equations");
    }
  if (c.batch == 0) return;

  Normals normals(seed + 1);
  const std::vector<T> cotangents = normals.fill<T>(c.batch * length, 1);
  std::vector<T> grad_z0 = numbers(c.batch * dim), points = numbers(solves * dim), directions = points;
  std::vector<T> multipliers = points, gradients = points, weights = numbers(solves);
  std::vector<double> grad_dt(static_cast<size_t>(c.batch), std::nan("")), grad_condition(p.condition.size());
  std::vector<double> grad_decay(static_cast<size_t>(p.decay.empty() ? 0 : c.batch * c.d), std::nan(""));
  NetworkGradients<T> network(p.network);
  T along = nan;
  const DiscreteRollout<T> rollout = p.discrete();
  {
    const Sizes sizes = kernels.discrete_sizes(rollout, true, threads);
    const Buffer workspace(sizes.workspace), prepared(sizes.prepared);
    expect(
        kernels.discrete_adjoint(rollout,
                                 {trajectory.data(), changes.data(), converged.data(), cotangents.data(), points.data(),
                                  directions.data(), multipliers.data(), gradients.data(), weights.data(),
                                  grad_z0.data(), grad_dt.data(), grad_decay.empty() ? nullptr : grad_decay.data()},
                                 threads, {prepared.data, false}, workspace.data, workspace.bytes) == Status::kOk,
        name + " adjoint status");
  }
  for (const std::vector<T>* each : {&points, &directions, &multipliers, &gradients, &weights})
    for (const T x : *each) expect(std::isfinite(x), name + " the adjoint's results are written");
  if (c.steps == 0) {
    for (size_t i = 0; i < grad_z0.size(); ++i) expect(grad_z0[i] == cotangents[i], name + " no steps");
    return;
  }
  {
    // Along directions.
    const ImplicitRollout<T> stages = {rollout.rollout, 0, 0};
    const Sizes own = kernels.implicit_gradient_sizes(stages, threads);
    const Buffer memory(own.workspace), panels(own.prepared);
    std::vector<T> by_point = numbers(solves * c.condition);
    expect(
        kernels.implicit_gradient(stages,
                                  {points.data(), converged.data(), directions.data(), network.weight_pointers.data(),
                                   network.bias_pointers.data(), &along, c.condition ? by_point.data() : nullptr},
                                  threads, {panels.data, false}, memory.data, memory.bytes) == Status::kOk,
        name + " gradient status");
    for (size_t i = 0; i < by_point.size(); ++i)
      grad_condition[i / (c.steps * c.condition) * c.condition + i % c.condition] += by_point[i];
  }
  // Of the energies at both ends: rollouts of no steps.
  std::vector<T> ends, end_weights, end_conditions;
  for (int64_t i = 0; i < solves; ++i)
    for (const T sign : {T(-1), T(1)}) {
      for (int64_t k = 0; k < dim; ++k) ends.push_back(points[i * dim + k] + sign * changes[i * dim + k] / 2);
      end_weights.push_back(sign * p.dt * weights[i]);
      for (int64_t k = 0; k < c.condition; ++k) end_conditions.push_back(p.condition[i / c.steps * c.condition + k]);
    }
  NetworkGradients<T> by_energy(p.network);
  std::vector<T> last_bias = numbers(1), by_state = numbers(2 * solves * dim),
                 by_end = numbers(2 * solves * c.condition);
  T nothing = nan;
  by_energy.bias_pointers.push_back(last_bias.data());
  {
    Rollout<T> none = rollout.rollout;
    none.steps = 0;
    none.batch = 2 * solves;
    none.condition = end_conditions.data();
    const Sizes sizes = kernels.backward_sizes(none, threads);
    const Buffer memory(sizes.workspace), panels(sizes.prepared);
    expect(kernels.backward(none,
                            {ends.data(), nullptr, nullptr, end_weights.data(), by_state.data(), &nothing,
                             by_energy.weight_pointers.data(), by_energy.bias_pointers.data(),
                             c.condition ? by_end.data() : nullptr},
                            threads, {panels.data, false}, memory.data, memory.bytes) == Status::kOk,
           name + " energies status");
  }
  for (size_t i = 0; i < by_end.size(); ++i)
    grad_condition[i / (2 * c.steps * c.condition) * c.condition + i % c.condition] += by_end[i];

  double by_dt = along;
  for (const double each : grad_dt) by_dt += each;
  Direction<T> move(normals);
  move.along(p.dt, by_dt, 1);
  for (size_t l = 0; l < network.weights.size(); ++l)
    for (size_t i = 0; i < network.weights[l].size(); ++i)
      move(p.network.weights[l][i], double(network.weights[l][i]) + by_energy.weights[l][i]);
  for (size_t l = 0; l < network.biases.size(); ++l)
    for (size_t i = 0; i < network.biases[l].size(); ++i)
      move(p.network.biases[l][i], double(network.biases[l][i]) + by_energy.biases[l][i]);
  for (size_t i = 0; i < grad_z0.size(); ++i) move(p.z0[i], grad_z0[i]);
  for (size_t i = 0; i < grad_condition.size(); ++i) move(p.condition[i], grad_condition[i]);
  for (size_t i = 0; i < p.forces.size(); ++i) move(p.forces[i], double(p.dt) * multipliers[i]);
  for (int64_t i = 0; i < c.d && !p.decay.empty(); ++i) {
    double sum = 0;
    for (int64_t s = 0; s < c.batch; ++s) sum += grad_decay[s * c.d + i];
    move(p.decay[i], sum);
  }
  // -dt v . L L^T D by L.
  const int64_t columns = c.ports == kMatrix ? p.columns() : 1;
  for (size_t e = 0; e < p.dissipation.size(); ++e) {
    const int64_t row = static_cast<int64_t>(e) / columns, column = static_cast<int64_t>(e) % columns;
    double sum = 0;
    for (int64_t i = 0; i < solves; ++i) {
      const T *const v = multipliers.data() + i * dim, *const D = gradients.data() + i * dim;
      double by_v = 0, by_gradient = 0;  // L^T v and L^T D
      for (int64_t k = 0; k < dim; ++k) {
        if (c.ports == kDiagonal && k != row) continue;
        by_v += double(p.dissipation[k * columns + column]) * v[k];
        by_gradient += double(p.dissipation[k * columns + column]) * D[k];
      }
      sum -= double(p.dt) * (v[row] * by_gradient + D[row] * by_v);
    }
    move(p.dissipation[e], sum);
  }
  move.check(name, [&] {
    forward(false);
    return dot(trajectory, cotangents);
  });
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {1, 0, 1, 1, {1}, Activation::kSoftplus, kNone},
      {3, 2, 5, 6, {7}, Activation::kTanh, kMatrix},
      {17, 0, 33, 2, {33, 7}, Activation::kSilu, kDiagonal},
      {3, 1, 31, 4, {40, 33, 5}, Activation::kGelu, kNone},
      {2, 3, 2, 0, {9, 4}, Activation::kSoftplus, kDiagonal},
      {2, 0, 0, 3, {9}, Activation::kSin, kNone},
      // Where plain iteration does not contract.
      {2, 0, 9, 3, {24, 16}, Activation::kTanh, kMatrix, 1},
      // Few samples of a large network: threads share the columns, in panels and in torch's layout.
      {20, 2, 2, 2, {520, 420}, Activation::kSilu, kMatrix},
      {20, 0, 3, 2, {2000}, Activation::kTanh, kDiagonal},
      {20, 0, 12, 2, {2000}, Activation::kTanh, kMatrix},
      {20, 0, 20, 1, {520, 420}, Activation::kTanh, kMatrix},
  };
  return run_everywhere("discrete gradient", cases, [](auto zero, const Case& c, int threads, unsigned seed) {
    run<decltype(zero)>(c, threads, seed);
  });
}
