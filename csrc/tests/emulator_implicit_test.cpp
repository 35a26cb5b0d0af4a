// The CUDA kernels of rollouts by implicit stages on the emulator, for the sanitizers, as
// emulator_variational_test.cpp: the rollout and its adjoint from every place, with stages that plain iteration solves
// and stages that take Newton's method. Values are compared between places and between orders of the threads; the
// Python tests compare them with an oracle.
#include <cmath>
#include <limits>
#include <vector>

#include "emulated_block.h"
#include "hamiltorch/cuda_implicit.h"

using namespace hamiltorch;

namespace {

const std::vector<Stage> kStormerVerlet = {{kMovesP | kMovesQ, 0.5, 0, 1}, {kMovesP | kMovesQ, 0.5, 1, 0}};
const std::vector<Stage> kMidpoint = {{kMovesP | kMovesQ, 1, 0.5, 0.5}};

template <class T>
class Problem : Inputs<T> {
  using Inputs<T>::kNan, Inputs<T>::keep, Inputs<T>::all, Inputs<T>::normal;

 public:
  Problem(int64_t dim, std::vector<int64_t> widths, int64_t batch, int64_t steps, double dt,
          std::vector<Stage> stages) {
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
    rollout_.base = normal(batch * widths[0], 0.3);
    rollout_.base_stride = widths[0];
    rollout_.dt = keep({static_cast<T>(dt)});
    rollout_.steps = steps;
    rollout_.batch = batch;
    rollout_.tolerance = sizeof(T) == sizeof(float) ? static_cast<T>(1e-6) : static_cast<T>(1e-13);
    rollout_.max_iterations = 50;
    rollout_.stages = std::move(stages);
    z0_ = normal(batch * 2 * dim, 1);
    grad_ = normal(batch * (steps + 1) * 2 * dim, 1);
  }

  CudaImplicitSize size() const {
    return {rollout_.dim, rollout_.widths, rollout_.batch, static_cast<int64_t>(rollout_.stages.size()),
            sizeof(T) == sizeof(double)};
  }

  // Everything that both calls write, one after another.
  std::vector<T> run(const CudaBlockPlan& plan, uint64_t seed) const {
    const size_t state = count(2 * rollout_.dim), samples = count(rollout_.batch);
    const size_t solves = samples * count(rollout_.steps), points = solves * rollout_.stages.size() * state;
    std::vector<T> trajectory((solves + samples) * state, kNan), at(points, kNan), residual(solves, kNan);
    std::vector<T> directions(points, kNan), grad_z0(samples * state, kNan);
    std::vector<uint8_t> converged(solves, 2);
    std::vector<int64_t> iterations(solves, -1);
    std::vector<char> workspace(count(plan.workspace_bytes));
    const ImplicitArrays<T> arrays = {
        z0_, trajectory.data(), at.data(), converged.data(), iterations.data(), residual.data()};
    void* const stream = reinterpret_cast<void*>(seed);
    expect(cuda_implicit_forward(plan, rollout_, arrays, workspace.data(), 0, stream) == 0, "rollout");
    const ImplicitAdjointArrays<T> adjoint = {at.data(), converged.data(), grad_, directions.data(), grad_z0.data()};
    expect(cuda_implicit_adjoint(plan, rollout_, adjoint, workspace.data(), 0, stream) == 0, "adjoint");
    std::vector<T> found;
    for (const std::vector<T>* each : {&trajectory, &at, &residual, &directions, &grad_z0})
      found.insert(found.end(), each->begin(), each->end());
    for (size_t i = 0; i < solves; ++i) {
      expect(converged[i] == 1, "a step has converged");
      expect(iterations[i] > 2 && iterations[i] < 60, "the steps take some iterations");
      found.push_back(static_cast<T>(iterations[i]));
    }
    for (const T value : found) expect(std::isfinite(value), "everything is written");
    return found;
  }

 private:
  CudaImplicitRollout<T> rollout_{};
  const T *z0_, *grad_;
};

}  // namespace

int main() {
  every_place(Problem<float>(3, {20, 5}, 17, 2, 0.15, kStormerVerlet),
              cuda_implicit_plan);  // more than both blocks take at once
#if !defined(__SANITIZE_THREAD__)   // which is many times slower
  every_place(Problem<double>(3, {20}, 9, 1, 1.5, kMidpoint), cuda_implicit_plan);  // Newton's method takes over
  every_place(Problem<double>(17, {33, 4}, 2, 1, 0.2, kMidpoint), cuda_implicit_plan);
  every_place(Problem<float>(33, {5}, 1, 2, 0.2, kStormerVerlet), cuda_implicit_plan);
#endif
  return report("implicit stages");
}
