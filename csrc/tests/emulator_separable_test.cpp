// The CUDA kernels of rollouts of T(p) + V(q) on the emulator, for the sanitizers, as emulator_extended_test.cpp: the
// rollout and its adjoint from every place, with a network T and with masses.
#include <cmath>
#include <limits>
#include <vector>

#include "emulated_block.h"
#include "hamiltorch/cuda_separable.h"

using namespace hamiltorch;

namespace {

using Widths = std::vector<int64_t>;

// Stoermer-Verlet; no widths of T: masses.
template <class T>
class Problem : Inputs<T> {
  using Inputs<T>::kNan, Inputs<T>::keep, Inputs<T>::all, Inputs<T>::normal;

 public:
  Problem(int64_t dim, const Widths& potential, const Widths& kinetic, int64_t batch, int64_t steps) {
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
  CudaSeparableRollout<T> rollout_{};
  const T *z0_, *grad_;
};

}  // namespace

int main() {
  every_place(Problem<float>(3, {20, 5}, {7}, 17, 2), cuda_separable_plan);  // more than both blocks take at once
#if !defined(__SANITIZE_THREAD__)                                            // which is many times slower
  every_place(Problem<double>(17, {33, 4}, {}, 2, 1), cuda_separable_plan);
  every_place(Problem<float>(33, {5}, {5, 40}, 1, 2), cuda_separable_plan);
#endif
  return report("T(p) + V(q)");
}
