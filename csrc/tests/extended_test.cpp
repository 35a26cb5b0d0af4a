// Rollouts in Tao's extended phase space on their own, for the sanitizers: odd sizes, every instruction set, several
// threads. The steps are checked in scalar code, gradients against differences along a random direction.
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

constexpr double kBinding = 1.7;
const std::vector<Stage> kThree(3, {kMovesP | kMovesQ, 1});  // as many as there are gradients a step
const std::vector<Stage> kOne = {{kMovesP | kMovesQ, 1, 0.5, 0.5}};

struct Case {
  int64_t d, condition, batch, steps;
  std::vector<int64_t> widths;
  Activation activation;
};

template <class T>
struct Problem {
  Case c;
  T dt = static_cast<T>(0.2);
  Normals normals;
  ScalarNetwork<T> network;
  std::vector<T> z0, condition;

  Problem(const Case& given, unsigned seed)
      : c(given),
        normals(seed),
        network(2 * c.d, c.condition, c.widths, c.activation, normals),
        z0(normals.fill<T>(c.batch * 2 * c.d, 1)),
        condition(normals.fill<T>(c.batch * c.condition, 1)) {}

  Rollout<T> rollout(const std::vector<Stage>& stages, int64_t steps) const {
    return {network.mlp(),    stages.data(), static_cast<int64_t>(stages.size()), dt, steps, c.batch,
            condition.data(), false};
  }

  // The states of one sample, in double.
  std::vector<double> path(int64_t sample) const {
    const int64_t d = c.d;
    const T* const own = condition.data() + sample * c.condition;
    const T* const start = z0.data() + sample * 2 * d;
    std::vector<double> q(start, start + d), p(start + d, start + 2 * d), x = q, y = p, states(start, start + 2 * d);
    const double half = double(dt) / 2, cosine = std::cos(2 * kBinding * double(dt)),
                 sine = std::sin(2 * kBinding * double(dt));
    // By H(at_q, at_p): the copies that it does not read move.
    const auto flow = [&](const std::vector<double>& at_q, const std::vector<double>& at_p, std::vector<double>& of_q,
                          std::vector<double>& of_p) {
      std::vector<double> point = at_q;
      point.insert(point.end(), at_p.begin(), at_p.end());
      const std::vector<double> slope = network.slope(point, own);
      for (int64_t i = 0; i < d; ++i) {
        of_q[i] += half * slope[d + i];
        of_p[i] -= half * slope[i];
      }
    };
    for (int64_t n = 0; n < c.steps; ++n) {
      flow(q, y, x, p);
      flow(x, p, q, y);
      for (int64_t i = 0; i < d; ++i) {
        const double u = q[i] - x[i], v = p[i] - y[i], sum_q = q[i] + x[i], sum_p = p[i] + y[i];
        q[i] = (sum_q + cosine * u + sine * v) / 2;
        x[i] = (sum_q - cosine * u - sine * v) / 2;
        p[i] = (sum_p + cosine * v - sine * u) / 2;
        y[i] = (sum_p - cosine * v + sine * u) / 2;
      }
      flow(x, p, q, y);
      flow(q, y, x, p);
      states.insert(states.end(), q.begin(), q.end());
      states.insert(states.end(), p.begin(), p.end());
    }
    return states;
  }
};

template <class T>
void run(const Case& c, int threads, unsigned seed) {
  Problem<T> p(c, seed);
  const Implementation& implementation = active_implementation();
  const Kernels<T>& kernels = kernels_of<T>(implementation);
  const std::string name = std::string(implementation.name) + (sizeof(T) == 4 ? " f32" : " f64") +
                           " d=" + std::to_string(c.d) + " batch=" + std::to_string(c.batch) +
                           " threads=" + std::to_string(threads);
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const int64_t dim = 2 * c.d, length = (c.steps + 1) * dim, count = extended_points(c.steps);
  const auto numbers = [&](int64_t size) { return std::vector<T>(static_cast<size_t>(size), nan); };
  std::vector<T> trajectory = numbers(c.batch * length), points = numbers(c.batch * count * dim);
  std::vector<T> turned = numbers(c.batch * c.steps * dim), directions = points;
  const auto forward = [&](bool keeps) {
    const ExtendedRollout<T> rollout = {p.rollout(kThree, c.steps), kBinding};
    const Sizes sizes = kernels.extended_sizes(rollout, false, threads);
    const Buffer workspace(sizes.workspace), prepared(sizes.prepared);
    const ExtendedArrays<T> arrays = {p.z0.data(), trajectory.data(), keeps ? points.data() : nullptr,
                                      keeps ? turned.data() : nullptr};
    const auto run = [&](size_t size) {
      return kernels.extended_forward(rollout, arrays, threads, {prepared.data, false}, workspace.data, size);
    };
    expect(run(workspace.bytes) == Status::kOk, name + " status");
    if (c.batch > 0) expect(run(0) == Status::kWorkspaceTooSmall, name + " small workspace");
  };
  forward(false);
  const std::vector<T> without = trajectory;
  forward(true);
  for (int64_t s = 0; s < c.batch; ++s) {
    const std::vector<double> want = p.path(s);
    for (int64_t i = 0; i < length; ++i)
      expect(std::fabs(want[i] - trajectory[s * length + i]) < (sizeof(T) == 4 ? 1e-4 : 1e-12), name + " states");
  }
  for (size_t i = 0; i < trajectory.size(); ++i) expect(trajectory[i] == without[i], name + " without points");
  for (const T x : points) expect(std::isfinite(x), name + " points are written");
  for (const T x : turned) expect(std::isfinite(x), name + " differences are written");
  if (c.batch == 0) return;

  Normals normals(seed + 1);
  const std::vector<T> cotangents = normals.fill<T>(c.batch * length, 1);
  std::vector<T> grad_z0 = numbers(c.batch * dim);
  std::vector<double> grad_angle(static_cast<size_t>(c.batch), std::nan("")), grad_condition(p.condition.size());
  NetworkGradients<T> gradients(p.network);
  T along = nan;
  {
    const ExtendedRollout<T> rollout = {p.rollout(kThree, c.steps), kBinding};
    const Sizes sizes = kernels.extended_sizes(rollout, true, threads);
    const Buffer workspace(sizes.workspace), prepared(sizes.prepared);
    expect(kernels.extended_adjoint(
               rollout,
               {points.data(), turned.data(), cotangents.data(), directions.data(), grad_z0.data(), grad_angle.data()},
               threads, {prepared.data, false}, workspace.data, workspace.bytes) == Status::kOk,
           name + " adjoint status");
    if (c.steps == 0) {
      for (size_t i = 0; i < grad_z0.size(); ++i) expect(grad_z0[i] == cotangents[i], name + " no steps");
      return;
    }
    // A rollout of so many stages, one a step.
    const ImplicitRollout<T> stages = {p.rollout(kOne, count), 0, 0};
    const Sizes own = kernels.implicit_gradient_sizes(stages, threads);
    const Buffer memory(own.workspace), weights(own.prepared);
    const std::vector<uint8_t> converged(static_cast<size_t>(c.batch * count), 1);
    std::vector<T> by_point = numbers(c.batch * count * c.condition);
    expect(
        kernels.implicit_gradient(stages,
                                  {points.data(), converged.data(), directions.data(), gradients.weight_pointers.data(),
                                   gradients.bias_pointers.data(), &along, c.condition ? by_point.data() : nullptr},
                                  threads, {weights.data, false}, memory.data, memory.bytes) == Status::kOk,
        name + " gradient status");
    for (size_t i = 0; i < by_point.size(); ++i)
      grad_condition[i / (count * c.condition) * c.condition + i % c.condition] += by_point[i];
  }

  double grad_dt = along;
  for (const double each : grad_angle) grad_dt += 2 * kBinding * each;
  Direction<T> move(normals);
  move.along(p.dt, grad_dt, 1);
  gradients.for_each(p.network, move);
  for (size_t i = 0; i < grad_z0.size(); ++i) move(p.z0[i], grad_z0[i]);
  for (size_t i = 0; i < grad_condition.size(); ++i) move(p.condition[i], grad_condition[i]);
  move.check(name, [&] {
    forward(false);
    return dot(trajectory, cotangents);
  });
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {1, 0, 1, 1, {1}, Activation::kSoftplus},
      {3, 2, 5, 3, {7}, Activation::kTanh},
      {17, 0, 33, 2, {33, 7}, Activation::kSilu},
      {3, 1, 31, 4, {40, 33, 5}, Activation::kGelu},
      {2, 3, 2, 0, {9, 4}, Activation::kSoftplus},
      {2, 0, 0, 3, {9}, Activation::kSin},
      // Few samples of a large network: threads share the columns, in panels and in torch's layout.
      {20, 2, 2, 2, {520, 420}, Activation::kSilu},
      {20, 0, 20, 1, {520, 420}, Activation::kTanh},
  };
  return run_everywhere("extended", cases, [](auto zero, const Case& c, int threads, unsigned seed) {
    run<decltype(zero)>(c, threads, seed);
  });
}
