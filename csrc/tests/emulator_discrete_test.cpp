// The CUDA kernels of rollouts by the discrete gradient on the emulator, for the sanitizers, as
// emulator_variational_test.cpp: the rollout and its adjoint from every place, of systems with ports and without, with
// steps that plain iteration solves and steps that take Newton's method. Values are compared between places and between
// orders of the threads; the Python tests compare them with an oracle.
#include <cmath>
#include <limits>
#include <vector>

#include "emulated_block.h"
#include "hamiltorch/cuda_discrete.h"

using namespace hamiltorch;

namespace {

template <class T>
class Problem : Inputs<T> {
  using Inputs<T>::kNan, Inputs<T>::keep, Inputs<T>::all, Inputs<T>::normal;

 public:
  Problem(int64_t dim, std::vector<int64_t> widths, int64_t batch, int64_t steps, double dt, bool ports) {
    rollout_.dim = dim;
    rollout_.widths = widths;
    rollout_.activation = Activation::kTanh;
    const auto matrix = [&](int64_t rows, int64_t columns) {
      rollout_.weights.push_back(normal(rows * columns, 1.5 / std::sqrt(static_cast<double>(columns))));
    };
    matrix(widths[0], dim);
    for (size_t l = 1; l < widths.size(); ++l) matrix(widths[l], widths[l - 1]);
    matrix(widths[0], dim);
    for (const int64_t width : widths) rollout_.biases.push_back(normal(width, 0.3));
    rollout_.head = normal(widths.back(), 1 / std::sqrt(static_cast<double>(widths.back())));
    rollout_.head_bias = normal(1, 1);
    rollout_.base = normal(batch * widths[0], 0.3);
    rollout_.base_stride = widths[0];
    rollout_.dt = keep({static_cast<T>(dt)});
    rollout_.steps = steps;
    rollout_.batch = batch;
    rollout_.tolerance = sizeof(T) == sizeof(float) ? static_cast<T>(1e-6) : static_cast<T>(1e-13);
    rollout_.max_iterations = 50;
    if (ports) {
      rollout_.columns = 2;
      rollout_.dissipation = normal(2 * dim * rollout_.columns, 0.3);
      rollout_.forces = normal(batch * steps * 2 * dim, 1);
      rollout_.decay = keep(std::vector<T>(count(dim), static_cast<T>(0.9)));
    }
    z0_ = normal(batch * 2 * dim, 1);
    grad_ = normal(batch * (steps + 1) * 2 * dim, 1);
  }

  CudaDiscreteSize size() const { return {rollout_.dim, rollout_.widths, rollout_.batch, sizeof(T) == sizeof(double)}; }

  // Everything that both calls write, one after another.
  std::vector<T> run(const CudaBlockPlan& plan, uint64_t seed) const {
    const size_t state = count(2 * rollout_.dim), samples = count(rollout_.batch);
    const size_t solves = samples * count(rollout_.steps), changed = solves * state;
    std::vector<T> trajectory((solves + samples) * state, kNan), changes(changed, kNan), residual(solves, kNan);
    std::vector<T> points(changed, kNan), directions(changed, kNan), multipliers(changed, kNan);
    std::vector<T> gradients(changed, kNan), energy_weights(solves, kNan), grad_z0(samples * state, kNan);
    std::vector<double> grad_dt(samples, kNan), grad_decay(samples * count(rollout_.dim), kNan);
    std::vector<uint8_t> converged(solves, 2);
    std::vector<int64_t> iterations(solves, -1);
    std::vector<char> workspace(count(plan.workspace_bytes));
    const DiscreteArrays<T> arrays = {
        z0_, trajectory.data(), changes.data(), converged.data(), iterations.data(), residual.data()};
    void* const stream = reinterpret_cast<void*>(seed);
    expect(cuda_discrete_forward(plan, rollout_, arrays, workspace.data(), 0, stream) == 0, "rollout");
    const DiscreteAdjointArrays<T> adjoint = {
        trajectory.data(),  changes.data(),   converged.data(),      grad_,          points.data(),  directions.data(),
        multipliers.data(), gradients.data(), energy_weights.data(), grad_z0.data(), grad_dt.data(), grad_decay.data()};
    expect(cuda_discrete_adjoint(plan, rollout_, adjoint, workspace.data(), 0, stream) == 0, "adjoint");
    std::vector<T> found;
    for (const std::vector<T>* each :
         {&trajectory, &changes, &residual, &points, &directions, &multipliers, &gradients, &energy_weights, &grad_z0})
      found.insert(found.end(), each->begin(), each->end());
    for (const double value : grad_dt) found.push_back(static_cast<T>(value));
    if (rollout_.decay)
      for (const double value : grad_decay) found.push_back(static_cast<T>(value));
    for (size_t i = 0; i < solves; ++i) {
      expect(converged[i] == 1, "a step has converged");
      expect(iterations[i] > 0 && iterations[i] < 60, "the steps take some iterations");
      found.push_back(static_cast<T>(iterations[i]));
    }
    for (const T value : found) expect(std::isfinite(value), "everything is written");
    return found;
  }

 private:
  CudaDiscreteRollout<T> rollout_{};
  const T *z0_, *grad_;
};

}  // namespace

int main() {
  every_place(Problem<float>(3, {20, 5}, 17, 2, 0.15, true), cuda_discrete_plan);  // more than both blocks take at once
#if !defined(__SANITIZE_THREAD__)                                                  // which is many times slower
  every_place(Problem<double>(3, {20}, 9, 1, 1.5, false), cuda_discrete_plan);     // Newton's method takes over
  every_place(Problem<double>(17, {33, 4}, 2, 1, 0.2, true), cuda_discrete_plan);
  every_place(Problem<float>(33, {5}, 1, 2, 0.2, false), cuda_discrete_plan);
#endif
  return report("the discrete gradient");
}
