// Rollouts by implicit stages on their own, for the sanitizers: odd sizes, every instruction set, several threads. The
// steps are checked in scalar code, gradients against differences along a random direction.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "everywhere.h"

using namespace hamiltorch;

namespace {

constexpr int32_t kBoth = kMovesP | kMovesQ;
const std::vector<Stage> kStormerVerlet = {{kBoth, 0.5, 0, 1}, {kBoth, 0.5, 1, 0}};
const std::vector<Stage> kMidpoint = {{kBoth, 1, 0.5, 0.5}};
const std::vector<Stage> kUneven = {{kBoth, 0.75, 0.25, 1}, {kBoth, 0.25, 0.5, 0.5}};

struct Case {
  int64_t d, condition, batch, steps;
  std::vector<int64_t> widths;
  Activation activation;
  double dt;
  std::vector<Stage> stages;
};

template <class T>
struct Problem {
  Case c;
  T dt;
  Normals normals;
  ScalarNetwork<T> network;
  std::vector<T> z0, condition;

  Problem(const Case& given, unsigned seed)
      : c(given),
        dt(static_cast<T>(given.dt)),
        normals(seed),
        network(2 * c.d, c.condition, c.widths, c.activation, normals),
        z0(normals.fill<T>(c.batch * 2 * c.d, 1)),
        condition(normals.fill<T>(c.batch * c.condition, 1)) {}

  ImplicitRollout<T> rollout(double tolerance) const {
    return {{network.mlp(), c.stages.data(), static_cast<int64_t>(c.stages.size()), dt, c.steps, c.batch,
             condition.data(), false},
            static_cast<T>(tolerance),
            50};
  }
};

// What the equations of one step leave of its stages' points w, [stages][2d], and of its end, in double.
template <class T>
double residual(const Problem<T>& p, const T* from, const T* points, const T* to, int64_t sample) {
  const int64_t d = p.c.d;
  std::vector<double> z(from, from + 2 * d);
  double worst = 0;
  const auto compare = [&](double expected, T found) {
    const double off = std::fabs(expected - double(found)) / (1 + std::fabs(expected));
    if (!(off <= worst)) worst = std::isnan(off) ? HUGE_VAL : off;
  };
  for (const Stage& stage : p.c.stages) {
    const std::vector<double> g =
        p.network.slope({points, points + 2 * d}, p.condition.data() + sample * p.c.condition);
    const double step = stage.coefficient * double(p.dt);
    for (int64_t c = 0; c < d; ++c) {
      compare(z[c] + stage.at_q * step * g[d + c], points[c]);
      compare(z[d + c] - stage.at_p * step * g[c], points[d + c]);
      z[c] += step * g[d + c];
      z[d + c] -= step * g[c];
    }
    points += 2 * d;
  }
  for (int64_t c = 0; c < 2 * d; ++c) compare(z[c], to[c]);
  return worst;
}

template <class T>
void run(const Case& c, int threads, unsigned seed) {
  Problem<T> p(c, seed);
  const Implementation& implementation = active_implementation();
  const Kernels<T>& kernels = kernels_of<T>(implementation);
  const std::string name = std::string(implementation.name) + (sizeof(T) == 4 ? " f32" : " f64") +
                           " d=" + std::to_string(c.d) + " batch=" + std::to_string(c.batch) +
                           " stages=" + std::to_string(c.stages.size()) + " threads=" + std::to_string(threads);
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const double tolerance = sizeof(T) == 4 ? 1e-6 : 1e-13;
  const int64_t dim = 2 * c.d, stages = static_cast<int64_t>(c.stages.size());
  const size_t solves = static_cast<size_t>(c.batch * c.steps), states = static_cast<size_t>(c.batch * (c.steps + 1));
  std::vector<T> trajectory(states * dim, nan), summed(trajectory), errors(solves, nan),
      points(solves * stages * dim, nan);
  std::vector<uint8_t> converged(solves, 2);
  std::vector<int64_t> iterations(solves, -1);
  const auto forward = [&](bool keeps_points, std::vector<T>& to) {
    const ImplicitRollout<T> rollout = p.rollout(tolerance);
    const Sizes sizes = kernels.implicit_sizes(rollout, keeps_points, threads);
    const Buffer workspace(sizes.workspace), prepared(sizes.prepared);
    const ImplicitArrays<T> arrays = {p.z0.data(),      to.data(),         keeps_points ? points.data() : nullptr,
                                      converged.data(), iterations.data(), errors.data()};
    expect(kernels.implicit_forward(rollout, arrays, threads, {prepared.data, false}, workspace.data,
                                    workspace.bytes) == Status::kOk,
           name + " status");
    if (c.batch > 0)
      expect(kernels.implicit_forward(rollout, arrays, threads, {prepared.data, false}, workspace.data, 0) ==
                 Status::kWorkspaceTooSmall,
             name + " small workspace");
  };
  forward(false, summed);
  forward(true, trajectory);
  const double allowed = 20 * tolerance * static_cast<double>(c.steps + 1);
  for (int64_t s = 0; s < c.batch; ++s) {
    const T* const path = trajectory.data() + s * (c.steps + 1) * dim;
    for (int64_t k = 0; k < c.steps; ++k) {
      const size_t i = static_cast<size_t>(s * c.steps + k);
      expect(converged[i] == 1 && iterations[i] > 0 && errors[i] <= tolerance, name + " converged");
      expect(residual(p, path + k * dim, points.data() + i * stages * dim, path + (k + 1) * dim, s) < 20 * tolerance,
             name + " step");
    }
    for (int64_t i = 0; i < (c.steps + 1) * dim; ++i)
      expect(std::fabs(double(path[i]) - summed[s * (c.steps + 1) * dim + i]) < allowed, name + " without points");
  }
  if (c.batch == 0) return;

  Normals normals(seed + 1);
  std::vector<T> cotangents(trajectory.size()), directions(points.size(), nan), grad_z0(p.z0.size(), nan);
  for (T& x : cotangents) x = static_cast<T>(normals.next());
  std::vector<T> grad_condition(solves * stages * c.condition, nan);
  NetworkGradients<T> gradients(p.network);
  T grad_dt = nan;
  {
    const ImplicitRollout<T> rollout = p.rollout(tolerance);
    const Sizes sizes = kernels.implicit_sizes(rollout, true, threads),
                gradient = kernels.implicit_gradient_sizes(rollout, threads);
    const Buffer workspace(std::max(sizes.workspace, gradient.workspace)), prepared(sizes.prepared),
        other(gradient.prepared);
    expect(kernels.implicit_adjoint(
               rollout, {points.data(), converged.data(), cotangents.data(), directions.data(), grad_z0.data()},
               threads, {prepared.data, false}, workspace.data, workspace.bytes) == Status::kOk,
           name + " adjoint status");
    if (c.steps == 0) {
      for (size_t i = 0; i < grad_z0.size(); ++i) expect(grad_z0[i] == cotangents[i], name + " no steps");
      return;
    }
    expect(kernels.implicit_gradient(
               rollout,
               {points.data(), converged.data(), directions.data(), gradients.weight_pointers.data(),
                gradients.bias_pointers.data(), &grad_dt, c.condition ? grad_condition.data() : nullptr},
               threads, {other.data, false}, workspace.data, workspace.bytes) == Status::kOk,
           name + " gradient status");
  }

  Direction<T> move(normals);
  gradients.for_each(p.network, move);
  for (size_t i = 0; i < grad_z0.size(); ++i) move(p.z0[i], grad_z0[i]);
  for (int64_t s = 0; s < c.batch; ++s)
    for (int64_t i = 0; i < c.condition; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < c.steps * stages; ++j)
        sum += grad_condition[(s * c.steps * stages + j) * c.condition + i];
      move(p.condition[s * c.condition + i], sum);
    }
  move.along(p.dt, grad_dt, 1);
  move.check(name, [&] {
    forward(true, trajectory);
    return dot(trajectory, cotangents);
  });
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {1, 0, 1, 1, {1}, Activation::kSoftplus, 0.1, kMidpoint},
      {3, 2, 5, 3, {7}, Activation::kTanh, 0.2, kStormerVerlet},
      {17, 0, 33, 2, {33, 7}, Activation::kSilu, 0.1, kMidpoint},
      {3, 1, 31, 4, {40, 33, 5}, Activation::kGelu, 0.1, kStormerVerlet},
      {2, 3, 2, 0, {9, 4}, Activation::kSoftplus, 0.1, kMidpoint},
      {2, 0, 0, 3, {9}, Activation::kSin, 0.1, kMidpoint},
      // In layer-1 space where no points are kept.
      {60, 2, 31, 3, {33, 20}, Activation::kTanh, 0.1, kStormerVerlet},
      {60, 0, 2, 30, {33, 20}, Activation::kTanh, 0.1, kMidpoint},
      {60, 0, 2, 30, {33, 20}, Activation::kTanh, 0.1, kUneven},
      // Newton's method takes over.
      {4, 0, 9, 2, {24}, Activation::kTanh, 1.2, kMidpoint},
      {2, 0, 60, 1, {16}, Activation::kTanh, 2.5, kMidpoint},
      // Few samples of a large network: threads share the columns.
      {20, 2, 2, 2, {520, 420}, Activation::kSilu, 0.1, kStormerVerlet},
      {20, 0, 20, 2, {1300}, Activation::kTanh, 0.1, kMidpoint},
      // The same in layer-1 space, with panels and in torch's layout.
      {300, 0, 4, 3, {300}, Activation::kTanh, 0.1, kStormerVerlet},
      {300, 0, 2, 3, {330}, Activation::kTanh, 0.1, kStormerVerlet},
      {300, 0, 4, 3, {290, 250}, Activation::kTanh, 0.1, kStormerVerlet},
      {300, 0, 20, 3, {290}, Activation::kTanh, 0.1, kMidpoint},
  };
  return run_everywhere("implicit", cases, [](auto zero, const Case& c, int threads, unsigned seed) {
    run<decltype(zero)>(c, threads, seed);
  });
}
