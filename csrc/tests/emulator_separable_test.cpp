// The CUDA kernels of rollouts of T(p) + V(q) on the emulator, for the sanitizers, as emulator_extended_test.cpp: the
// rollout and its adjoint from every place, with a network T and with masses.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "expect.h"
#include "hamiltorch/cuda_separable.h"

using namespace hamiltorch;

namespace {

using Widths = std::vector<int64_t>;

// Stoermer-Verlet; no widths of T: masses.
template <class T>
class Problem {
 public:
  Problem(int64_t dim, const Widths& potential, const Widths& kinetic, int64_t batch, int64_t steps) : generator_(1) {
    for (const Half half : {kPotential, kKinetic}) {
      const Widths& widths = half == kPotential ? potential : kinetic;
      CudaBlockRollout<T>& network = rollout_.networks[half];
      network.dim = dim;
      network.widths = widths;
      network.activation = Activation::kTanh;
      network.dt = keep({static_cast<T>(0.3)});
      network.steps = steps;
      network.batch = batch;
      if (widths.empty()) continue;
      for (size_t l = 0; l < widths.size(); ++l) {
        const int64_t columns = l == 0 ? dim : widths[l - 1];
        network.weights.push_back(normal(widths[l] * columns, 1.5 / std::sqrt(static_cast<double>(columns))));
        network.biases.push_back(normal(widths[l], 0.3));
      }
      network.head = normal(widths.back(), 1 / std::sqrt(static_cast<double>(widths.back())));
      network.base = normal(batch * widths[0], 0.3);
      network.base_stride = widths[0];
    }
    if (kinetic.empty()) rollout_.inverse_mass = keep(std::vector<T>(count(dim), static_cast<T>(0.7)));
    rollout_.stages = {{kMovesP, 0.5}, {kMovesQ, 1.0}, {kMovesP, 0.5}};
    z0_ = normal(batch * 2 * dim, 1);
    grad_ = normal(batch * (steps + 1) * 2 * dim, 1);
  }

  CudaSeparableSize size() const {
    const CudaBlockRollout<T>& first = rollout_.networks[kPotential];
    return {first.dim, {first.widths, rollout_.networks[kKinetic].widths}, first.batch, sizeof(T) == sizeof(double)};
  }

  // Everything that both calls write, one after another.
  std::vector<T> run(const CudaBlockPlan& plan, uint64_t seed) const {
    const CudaBlockRollout<T>& first = rollout_.networks[kPotential];
    const size_t d = count(first.dim), samples = count(first.batch), steps = count(first.steps);
    std::vector<T> trajectory(samples * (steps + 1) * 2 * d, kNan), grad_z0(samples * 2 * d, kNan);
    std::vector<T> at_q(samples * (steps + 1) * d, kNan), at_p(samples * steps * d, kNan);
    std::vector<T> along_q(at_q), along_p(at_p);
    std::vector<char> workspace(count(plan.workspace_bytes));
    void* const stream = reinterpret_cast<void*>(seed);
    const SeparableArrays<T> arrays = {z0_, trajectory.data(), {at_q.data(), at_p.data()}};
    expect(cuda_separable_forward(plan, rollout_, arrays, workspace.data(), 0, stream) == 0, "rollout");
    const SeparableAdjointArrays<T> adjoint = {
        {at_q.data(), at_p.data()}, grad_, {along_q.data(), along_p.data()}, grad_z0.data()};
    expect(cuda_separable_adjoint(plan, rollout_, adjoint, workspace.data(), 0, stream) == 0, "adjoint");
    std::vector<T> found;
    for (const std::vector<T>* each : {&trajectory, &at_q, &at_p, &along_q, &along_p, &grad_z0})
      found.insert(found.end(), each->begin(), each->end());
    for (const T value : found) expect(std::isfinite(value), "everything is written");
    return found;
  }

 private:
  static constexpr T kNan = std::numeric_limits<T>::quiet_NaN();
  static size_t count(int64_t n) { return static_cast<size_t>(n); }

  const T* keep(std::vector<T> values) {
    memory_.push_back(std::move(values));
    return memory_.back().data();
  }
  const T* normal(int64_t n, double scale) {
    std::normal_distribution<double> distribution;
    std::vector<T> values(count(n));
    for (T& value : values) value = static_cast<T>(scale * distribution(generator_));
    return keep(std::move(values));
  }

  std::mt19937 generator_;
  std::vector<std::vector<T>> memory_;
  CudaSeparableRollout<T> rollout_{};
  const T *z0_, *grad_;
};

// On devices with less and less shared memory, until none is left on which it runs.
template <class T>
void every_place(const Problem<T>& problem) {
  GpuDescription gpu = {90, 2, 232448, {}};
  CudaBlockPlan plan{};
  std::string why;
  std::vector<T> first;
  while (cuda_separable_plan(problem.size(), gpu, &plan, &why)) {
    const std::string name =
        "weights " + std::to_string(plan.weights) + (plan.vectors_global ? ", vectors global" : "");
    for (const uint64_t seed : {1, 2}) {
      const std::vector<T> got = problem.run(plan, seed);
      if (first.empty()) first = got;
      expect(std::memcmp(got.data(), first.data(), got.size() * sizeof(T)) == 0,
             name + " under seed " + std::to_string(seed) + " differs from the first");
    }
    gpu.shared_bytes = static_cast<int>(plan.shared_bytes) - 1;
  }
  expect(!first.empty(), "there is a place");
}

}  // namespace

int main() {
  every_place(Problem<float>(3, {20, 5}, {7}, 17, 2));  // more than both blocks take at once
#if !defined(__SANITIZE_THREAD__)                       // which is many times slower
  every_place(Problem<double>(17, {33, 4}, {}, 2, 1));
  every_place(Problem<float>(33, {5}, {5, 40}, 1, 2));
#endif
  if (failures) {
    std::printf("%d failed\n", failures);
  } else {
    std::printf("emulated tests of T(p) + V(q) passed\n");
  }
  return failures != 0;
}
