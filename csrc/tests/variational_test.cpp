// Discrete Euler-Lagrange rollouts on their own, for the sanitizers: odd sizes, every instruction set, several threads.
// The equations are checked in scalar code, gradients against differences along a random direction.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#define HAMILTORCH_VECTOR_BYTES 16
#include "../cpu/linear.h"
#include "everywhere.h"

using namespace hamiltorch;

namespace {

struct Case {
  int64_t d, condition, batch, steps;
  std::vector<int64_t> widths;
  Activation activation;
  double dt;
  bool impulses;
};

template <class T>
struct Problem {
  Case c;
  T dt;
  Normals normals;
  ScalarNetwork<T> network;
  std::vector<T> mass, damping, start, condition, impulses;  // start: all q0, then all q1

  Problem(const Case& given, unsigned seed)
      : c(given),
        dt(static_cast<T>(given.dt)),
        normals(seed),
        network(2 * c.d, c.condition, c.widths, c.activation, normals),
        mass(normals.fill<T>(c.d, 0.1, 1.5)),
        damping(normals.fill<T>(c.d, 0.1, 0.3)),
        start(normals.fill<T>(c.batch * c.d, 1)) {
    const std::vector<T> velocity = normals.fill<T>(c.batch * c.d, 1);
    for (size_t i = 0; i < velocity.size(); ++i) start.push_back(start[i] + dt * velocity[i]);
    condition = normals.fill<T>(c.batch * c.condition, 1);
    if (c.impulses) impulses = normals.fill<T>(c.batch * c.steps * c.d, 0.05);
  }

  DelRollout<T> rollout(double tolerance) const {
    return {network.mlp(),
            mass.data(),
            damping.data(),
            dt,
            c.steps,
            c.batch,
            condition.data(),
            static_cast<T>(tolerance),
            20};
  }
};

// dN by (x, y) of one sample, in double.
template <class T>
std::vector<double> slope(const Problem<T>& p, const T* x, const T* y, int64_t sample) {
  std::vector<double> points(x, x + p.c.d);
  points.insert(points.end(), y, y + p.c.d);
  return p.network.slope(points, p.condition.data() + sample * p.c.condition);
}

// The largest entry of step k's equations over what they may be.
template <class T>
double residual(const Problem<T>& p, const T* q, int64_t sample, int64_t k) {
  const int64_t d = p.c.d;
  const T *before = q + k * d, *x = before + d, *y = x + d;
  const std::vector<double> old = slope(p, before, x, sample), now = slope(p, x, y, sample);
  double worst = 0, most = 0;
  for (int64_t i = 0; i < d; ++i) {
    const double m = double(p.mass[i]) / p.dt, f = double(p.damping[i]) / 2;
    double carried = (m - f) * (double(x[i]) - before[i]) + p.dt * old[d + i];
    if (p.c.impulses) carried += p.impulses[(sample * p.c.steps + k) * d + i];
    const double r = carried - (m + f) * (double(y[i]) - x[i]) + p.dt * now[i];
    worst = std::max(worst, std::fabs(r));
    most = std::max(most, std::fabs(carried));
  }
  return worst / (1 + most);
}

template <class T>
void run(const Case& c, int threads, unsigned seed) {
  Problem<T> p(c, seed);
  const std::string name = std::string(active_implementation().name) + (sizeof(T) == 4 ? " f32" : " f64") +
                           " d=" + std::to_string(c.d) + " batch=" + std::to_string(c.batch) +
                           " dt=" + std::to_string(c.dt) + " threads=" + std::to_string(threads);
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const double tolerance = sizeof(T) == 4 ? 2e-6 : 1e-12;
  const size_t solves = static_cast<size_t>(c.batch * c.steps);
  std::vector<T> trajectory(static_cast<size_t>(c.batch * (c.steps + 2) * c.d), nan), errors(solves, nan),
      pivots(solves, nan);
  std::vector<uint8_t> converged(solves, 2);
  std::vector<int64_t> iterations(solves, -1);
  const auto forward = [&] {
    const DelRollout<T> rollout = p.rollout(tolerance);
    const Sizes sizes = del_sizes(rollout, threads);
    const Buffer workspace(sizes.workspace), prepared(sizes.prepared);
    const DelArrays<T> arrays = {p.start.data(),
                                 p.start.data() + c.batch * c.d,
                                 c.impulses ? p.impulses.data() : nullptr,
                                 trajectory.data(),
                                 converged.data(),
                                 iterations.data(),
                                 errors.data(),
                                 pivots.data()};
    expect(
        del_forward(rollout, arrays, threads, {prepared.data, false}, workspace.data, workspace.bytes) == Status::kOk,
        name + " status");
    if (c.batch > 0)
      expect(del_forward(rollout, arrays, threads, {prepared.data, false}, workspace.data, 0) ==
                 Status::kWorkspaceTooSmall,
             name + " small workspace");
  };
  forward();
  for (int64_t s = 0; s < c.batch; ++s)
    for (int64_t k = 0; k < c.steps; ++k) {
      const size_t i = static_cast<size_t>(s * c.steps + k);
      expect(converged[i] == 1, name + " converged");
      expect(iterations[i] >= 0 && errors[i] >= 0 && pivots[i] >= 0, name + " status is written");
      const double rounding = 100 * c.d * (sizeof(T) == 4 ? 6e-8 : 1e-16) / c.dt;
      expect(residual(p, trajectory.data() + s * (c.steps + 2) * c.d, s, k) < 1.01 * tolerance + rounding,
             name + " equations");
    }
  if (c.batch == 0) return;

  Normals normals(seed + 1);
  std::vector<T> cotangents(static_cast<size_t>(c.batch * c.steps * c.d)), multipliers(cotangents.size(), nan);
  for (T& x : cotangents) x = static_cast<T>(normals.next());
  std::vector<T> grad_start(static_cast<size_t>(c.batch * 2 * c.d), nan), grad_mass(p.mass.size(), nan),
      grad_damping(p.damping.size(), nan), grad_condition(static_cast<size_t>(c.batch * (c.steps + 1) * c.condition));
  NetworkGradients<T> gradients(p.network);
  T grad_dt = nan;
  {
    const DelRollout<T> rollout = p.rollout(tolerance);
    const Sizes sizes = del_sizes(rollout, threads), gradient = del_gradient_sizes(rollout, threads);
    const Buffer workspace(std::max(sizes.workspace, gradient.workspace)), prepared(sizes.prepared),
        other(gradient.prepared);
    const bool same = sizes.layout == gradient.layout;
    expect(!same || sizes.prepared == gradient.prepared, name + " one set of weights");
    expect(del_adjoint(rollout,
                       {trajectory.data(), converged.data(), cotangents.data(), multipliers.data(), grad_start.data()},
                       threads, {prepared.data, false}, workspace.data, workspace.bytes) == Status::kOk,
           name + " adjoint status");
    expect(del_gradient(rollout,
                        {trajectory.data(), converged.data(), multipliers.data(), gradients.weight_pointers.data(),
                         gradients.bias_pointers.data(), grad_mass.data(), grad_damping.data(), &grad_dt,
                         c.condition ? grad_condition.data() : nullptr},
                        threads, {same ? prepared.data : other.data, same}, workspace.data,
                        workspace.bytes) == Status::kOk,
           name + " gradient status");
  }

  Direction<T> move(normals);
  gradients.for_each(p.network, move);
  for (size_t i = 0; i < grad_mass.size(); ++i) move(p.mass[i], grad_mass[i]);
  for (size_t i = 0; i < grad_damping.size(); ++i) move(p.damping[i], grad_damping[i]);
  for (size_t i = 0; i < p.impulses.size(); ++i) move(p.impulses[i], -double(multipliers[i]));
  for (int64_t s = 0; s < c.batch; ++s) {
    for (int64_t i = 0; i < c.d; ++i)
      for (int64_t end = 0; end < 2; ++end)
        move(p.start[(end * c.batch + s) * c.d + i], grad_start[(2 * s + end) * c.d + i]);
    for (int64_t i = 0; i < c.condition; ++i) {
      double sum = 0;
      for (int64_t j = 0; j <= c.steps; ++j) sum += grad_condition[(s * (c.steps + 1) + j) * c.condition + i];
      move(p.condition[s * c.condition + i], sum);
    }
  }
  move.along(p.dt, grad_dt, 1);
  move.check(name, [&] {
    forward();
    double sum = 0;
    for (int64_t s = 0; s < c.batch; ++s)
      for (int64_t i = 0; i < c.steps * c.d; ++i)
        sum += double(trajectory[(s * (c.steps + 2) + 2) * c.d + i]) * cotangents[s * c.steps * c.d + i];
    return sum;
  });
}

// Without pivots the first of these systems divides by zero and the second loses all digits.
void eliminate_with_pivots() {
  for (const double corner : {0.0, 1e-18}) {
    std::vector<double> numbers(3 * padded<double>(3), 0.0);
    const Tile<double> m = {numbers.data(), padded<double>(3)};
    const double rows[3][3] = {{corner, 2, 1}, {1, 1, 0}, {3, -1, 4}}, x[3] = {1, -2, 3};
    std::vector<double> b(padded<double>(3), 0.0);
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j) {
        m.row(i)[j] = rows[i][j];
        b[i] += rows[i][j] * x[j];
      }
    const double pivot = eliminate(3, m, b.data());
    for (int i = 0; i < 3; ++i) expect(std::fabs(b[i] - x[i]) < 1e-14, "elimination with pivots");
    expect(pivot > 0.1 && pivot < 1, "the smallest pivot");
  }
  std::vector<double> singular(2 * padded<double>(2), 0.0), b(padded<double>(2), 1.0);
  singular[0] = singular[1] = singular[padded<double>(2)] = singular[padded<double>(2) + 1] = 2;
  expect(eliminate(2, Tile<double>{singular.data(), padded<double>(2)}, b.data()) == 0, "a singular matrix");
  for (const float size : {1e30f, 1e-30f}) {
    std::vector<float> x(padded<float>(2), 0.0f);
    x[0] = 3 * size, x[1] = 4 * size;
    expect(std::fabs(norm(x.data(), 2) / (5 * size) - 1) < 1e-6f, "the norm of large and small numbers");
  }
}

}  // namespace

int main() {
  eliminate_with_pivots();
  const std::vector<Case> cases = {
      {1, 0, 1, 1, {1}, Activation::kSoftplus, 0.1, false},
      {3, 2, 5, 3, {7}, Activation::kTanh, 0.1, true},
      {17, 0, 33, 2, {33, 7}, Activation::kSilu, 0.1, false},
      {3, 1, 31, 4, {64, 33, 5}, Activation::kGelu, 0.1, true},
      {2, 3, 2, 0, {9, 4}, Activation::kSoftplus, 0.1, false},
      {2, 0, 0, 3, {9}, Activation::kSin, 0.1, false},
      {70, 2, 3, 2, {130, 90}, Activation::kSilu, 0.1, true},
      // Long steps: the matrix is factorised, and not every step is taken whole.
      {31, 1, 3, 2, {40}, Activation::kTanh, 1.5, false},
      // Few samples of large networks: threads share the columns.
      {20, 2, 2, 3, {520, 420}, Activation::kSilu, 0.1, true},
      {31, 1, 3, 2, {1700}, Activation::kTanh, 1.5, false},
  };
  return run_everywhere("variational", cases, [](auto zero, const Case& c, int threads, unsigned seed) {
    run<decltype(zero)>(c, threads, seed);
  });
}
