// Rollouts of T(p) + V(q) on their own, for the sanitizers: odd sizes, every instruction set, several threads. The
// steps are checked in scalar code, gradients against differences along a random direction.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "everywhere.h"

using namespace hamiltorch;

namespace {

const std::vector<Stage> kLeapfrog = {{kMovesP, 0.5}, {kMovesQ, 1}, {kMovesP, 0.5}};
const std::vector<Stage> kDriftFirst = {{kMovesQ, 0.4}, {kMovesP, 1}, {kMovesQ, 0.6}};
const std::vector<Stage> kSymplecticEuler = {{kMovesP, 1}, {kMovesQ, 1}};
const std::vector<Stage> kRepeated = {{kMovesP, 0.2}, {kMovesP, 0.3}, {kMovesQ, 1}, {kMovesP, 0.5}};

struct Case {
  int64_t d, condition, batch, steps;
  std::vector<int64_t> widths, kinetic;  // kinetic: of T's network; none: T has masses
  Activation activation;
  std::vector<Stage> stages;
};

template <class T>
struct Problem {
  Case c;
  T dt = static_cast<T>(0.2);
  Normals normals;
  ScalarNetwork<T> potential;
  std::unique_ptr<ScalarNetwork<T>> kinetic;
  Mlp<T> kinetic_mlp;
  std::vector<T> inverse_mass, z0, condition;

  Problem(const Case& given, unsigned seed)
      : c(given),
        normals(seed),
        potential(c.d, c.condition, c.widths, c.activation, normals),
        inverse_mass(normals.fill<T>(c.d, 0.2, 1)),
        z0(normals.fill<T>(c.batch * 2 * c.d, 1)),
        condition(normals.fill<T>(c.batch * c.condition, 1)) {
    if (!c.kinetic.empty())
      kinetic = std::make_unique<ScalarNetwork<T>>(c.d, c.condition, c.kinetic, c.activation, normals);
  }

  SeparableRollout<T> rollout() {
    if (kinetic) kinetic_mlp = kinetic->mlp();
    return {{potential.mlp(), c.stages.data(), static_cast<int64_t>(c.stages.size()), dt, c.steps, c.batch,
             condition.data(), false},
            kinetic ? &kinetic_mlp : nullptr,
            kinetic ? nullptr : inverse_mass.data()};
  }

  // One step of one sample, in double.
  std::vector<double> step(std::vector<double> z, int64_t sample) const {
    const T* const own = condition.data() + sample * c.condition;
    for (const Stage& stage : c.stages) {
      const bool kicks = stage.moves == kMovesP;
      const std::vector<double> q(z.begin(), z.begin() + c.d), p(z.begin() + c.d, z.end());
      std::vector<double> slope = p;
      if (kicks)
        slope = potential.slope(q, own);
      else if (kinetic)
        slope = kinetic->slope(p, own);
      else
        for (int64_t i = 0; i < c.d; ++i) slope[i] *= inverse_mass[i];
      for (int64_t i = 0; i < c.d; ++i)
        z[kicks ? c.d + i : i] += (kicks ? -1 : 1) * stage.coefficient * double(dt) * slope[i];
    }
    return z;
  }
};

template <class T>
void run(const Case& c, int threads, unsigned seed) {
  Problem<T> p(c, seed);
  const Implementation& implementation = active_implementation();
  const Kernels<T>& kernels = kernels_of<T>(implementation);
  const std::string name = std::string(implementation.name) + (sizeof(T) == 4 ? " f32" : " f64") +
                           " d=" + std::to_string(c.d) + " batch=" + std::to_string(c.batch) +
                           (c.kinetic.empty() ? " masses" : " network") + " threads=" + std::to_string(threads);
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const int64_t dim = 2 * c.d;
  std::vector<T> trajectory(static_cast<size_t>(c.batch * (c.steps + 1) * dim), nan), points[2], directions[2];
  for (int half = 0; half < 2; ++half) {
    const int64_t count = evaluations(p.rollout().rollout, static_cast<Half>(half));
    points[half].assign(static_cast<size_t>(c.batch * count * c.d), nan);
    directions[half] = points[half];
  }
  const auto forward = [&](bool keeps_points) {
    const SeparableRollout<T> rollout = p.rollout();
    const Sizes sizes = kernels.separable_sizes(rollout, false, threads);
    const Buffer workspace(sizes.workspace), prepared(sizes.prepared);
    SeparableArrays<T> arrays = {p.z0.data(), trajectory.data(), {nullptr, nullptr}};
    for (int half = 0; keeps_points && half < 2; ++half) arrays.points[half] = points[half].data();
    expect(kernels.separable_forward(rollout, arrays, threads, {prepared.data, false}, workspace.data,
                                     workspace.bytes) == Status::kOk,
           name + " status");
    if (c.batch > 0)
      expect(kernels.separable_forward(rollout, arrays, threads, {prepared.data, false}, workspace.data, 0) ==
                 Status::kWorkspaceTooSmall,
             name + " small workspace");
  };
  forward(false);
  const std::vector<T> without = trajectory;
  forward(true);
  const double rounding = sizeof(T) == 4 ? 1e-5 : 1e-13;
  for (int64_t s = 0; s < c.batch; ++s) {
    const T* const path = trajectory.data() + s * (c.steps + 1) * dim;
    for (int64_t k = 0; k < c.steps; ++k) {
      const std::vector<double> next = p.step({path + k * dim, path + (k + 1) * dim}, s);
      for (int64_t i = 0; i < dim; ++i) expect(std::fabs(next[i] - path[(k + 1) * dim + i]) < rounding, name + " step");
    }
  }
  for (size_t i = 0; i < trajectory.size(); ++i) expect(trajectory[i] == without[i], name + " without points");
  for (const auto& each : points)
    for (const T x : each) expect(std::isfinite(x), name + " points are written");
  if (c.batch == 0) return;

  Normals normals(seed + 1);
  const std::vector<T> cotangents = normals.fill<T>(c.batch * (c.steps + 1) * dim, 1);
  std::vector<T> grad_z0(p.z0.size(), nan);
  NetworkGradients<T> by_potential(p.potential), by_kinetic(p.kinetic ? *p.kinetic : p.potential);
  std::vector<double> grad_condition(p.condition.size());
  double grad_dt = 0;
  {
    const SeparableRollout<T> rollout = p.rollout();
    const Sizes sizes = kernels.separable_sizes(rollout, true, threads);
    const Buffer workspace(sizes.workspace), prepared(sizes.prepared);
    expect(kernels.separable_adjoint(rollout,
                                     {{points[0].data(), points[1].data()},
                                      cotangents.data(),
                                      {directions[0].data(), directions[1].data()},
                                      grad_z0.data()},
                                     threads, {prepared.data, false}, workspace.data, workspace.bytes) == Status::kOk,
           name + " adjoint status");
    if (c.steps == 0) {
      for (size_t i = 0; i < grad_z0.size(); ++i) expect(grad_z0[i] == cotangents[i], name + " no steps");
      return;
    }
    for (int half = 0; half < (p.kinetic ? 2 : 1); ++half) {
      const NetworkGradients<T>& gradients = half ? by_kinetic : by_potential;
      const Sizes own = kernels.separable_gradient_sizes(rollout, static_cast<Half>(half), threads);
      const Buffer memory(own.workspace), weights(own.prepared);
      const int64_t count = evaluations(rollout.rollout, static_cast<Half>(half));
      std::vector<T> by_point(static_cast<size_t>(c.batch * count * c.condition), nan);
      T part = nan;
      expect(
          kernels.separable_gradient(rollout, static_cast<Half>(half),
                                     {points[half].data(), directions[half].data(), gradients.weight_pointers.data(),
                                      gradients.bias_pointers.data(), &part, c.condition ? by_point.data() : nullptr},
                                     threads, {weights.data, false}, memory.data, memory.bytes) == Status::kOk,
          name + " gradient status");
      grad_dt += part;
      for (size_t i = 0; i < by_point.size(); ++i)
        grad_condition[i / (count * c.condition) * c.condition + i % c.condition] += by_point[i];
    }
  }

  Direction<T> move(normals);
  by_potential.for_each(p.potential, move);
  if (p.kinetic) {
    by_kinetic.for_each(*p.kinetic, move);
  } else {
    for (int64_t i = 0; i < c.d; ++i) {
      double sum = 0;
      for (size_t j = i; j < points[1].size(); j += c.d) sum += double(points[1][j]) * directions[1][j];
      grad_dt += sum * p.inverse_mass[i];
      move(p.inverse_mass[i], sum * double(p.dt));
    }
  }
  for (size_t i = 0; i < grad_z0.size(); ++i) move(p.z0[i], grad_z0[i]);
  for (size_t i = 0; i < grad_condition.size(); ++i) move(p.condition[i], grad_condition[i]);
  move.along(p.dt, grad_dt, 1);
  move.check(name, [&] {
    forward(true);
    return dot(trajectory, cotangents);
  });
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {1, 0, 1, 1, {1}, {}, Activation::kSoftplus, kLeapfrog},
      {3, 2, 5, 3, {7}, {9, 4}, Activation::kTanh, kLeapfrog},
      {17, 0, 33, 2, {33, 7}, {}, Activation::kSilu, kDriftFirst},
      {3, 1, 31, 4, {40, 33, 5}, {5}, Activation::kGelu, kSymplecticEuler},
      {2, 1, 7, 3, {9, 4}, {17}, Activation::kSin, kRepeated},
      {2, 3, 2, 0, {9, 4}, {9}, Activation::kSoftplus, kLeapfrog},
      {2, 0, 0, 3, {9}, {}, Activation::kSin, kLeapfrog},
      // Few samples of a large network: threads share the columns.
      {20, 2, 2, 2, {520, 420}, {520, 420}, Activation::kSilu, kLeapfrog},
      {20, 0, 20, 1, {520, 420}, {}, Activation::kTanh, kLeapfrog},
  };
  return run_everywhere("separable", cases, [](auto zero, const Case& c, int threads, unsigned seed) {
    run<decltype(zero)>(c, threads, seed);
  });
}
