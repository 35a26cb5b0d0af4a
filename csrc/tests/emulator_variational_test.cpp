// The CUDA kernels of discrete Euler-Lagrange rollouts on the emulator, for the sanitizers, as emulator_test.cpp: the
// rollout and its adjoint from every place, with steps that Broyden's method solves and steps that take GMRES. Values
// are compared between places and between orders of the threads; the Python tests compare them with an oracle.
#include <cmath>
#include <limits>
#include <vector>

#include "emulated_block.h"
#include "hamiltorch/cuda_variational.h"

using namespace hamiltorch;

namespace {

template <class T>
class Problem : Inputs<T> {
  using Inputs<T>::kNan, Inputs<T>::keep, Inputs<T>::all, Inputs<T>::normal;

 public:
  Problem(int64_t dim, std::vector<int64_t> widths, int64_t batch, int64_t steps, double dt, Activation activation)
      : dim_(dim), batch_(batch), steps_(steps) {
    rollout_.dim = dim;
    rollout_.widths = widths;
    rollout_.activation = activation;
    const auto matrix = [&](int64_t rows, int64_t columns) {
      rollout_.weights.push_back(normal(rows * columns, 1.5 / std::sqrt(static_cast<double>(columns))));
    };
    matrix(widths[0], dim);
    for (size_t l = 1; l < widths.size(); ++l) matrix(widths[l], widths[l - 1]);
    matrix(widths[0], dim);
    for (const int64_t width : widths) rollout_.biases.push_back(normal(width, 0.3));
    rollout_.head = normal(widths.back(), 1);
    rollout_.base = normal(batch * widths[0], 0.3);
    rollout_.base_stride = widths[0];
    const T inertia = static_cast<T>(1 / dt), friction = static_cast<T>(0.1);
    rollout_.kinetic = all(dim, inertia);
    rollout_.friction = all(dim, friction);
    rollout_.diagonal = all(dim, -(inertia + friction));
    rollout_.inverse = all(dim, -1 / (inertia + friction));
    rollout_.dt = all(1, static_cast<T>(dt));
    rollout_.steps = steps;
    rollout_.batch = batch;
    rollout_.tolerance = sizeof(T) == sizeof(float) ? static_cast<T>(1e-5) : static_cast<T>(1e-11);
    rollout_.max_iterations = 20;
    q0_ = normal(batch * dim, 1);
    q1_ = normal(batch * dim, 1);
    impulses_ = normal(batch * steps * dim, 0.1);
    grad_ = normal(batch * steps * dim, 1);
  }

  CudaDelSize size() const { return {dim_, rollout_.widths, batch_, sizeof(T) == sizeof(double)}; }

  // Everything that both calls write, one after another.
  std::vector<T> run(const CudaBlockPlan& plan, uint64_t seed) const {
    const int64_t states = batch_ * steps_;
    std::vector<T> trajectory(count(batch_ * (steps_ + 2) * dim_), kNan), residual(count(states), kNan);
    std::vector<T> pivot(count(states), kNan), multipliers(count(states * dim_), kNan),
        start(count(2 * batch_ * dim_), kNan);
    std::vector<uint8_t> converged(count(states), 2);
    std::vector<int64_t> iterations(count(states), -1);
    std::vector<char> workspace(count(plan.workspace_bytes));
    const DelArrays<T> arrays = {
        q0_, q1_, impulses_, trajectory.data(), converged.data(), iterations.data(), residual.data(), pivot.data()};
    void* const stream = reinterpret_cast<void*>(seed);
    expect(cuda_del_forward(plan, rollout_, arrays, workspace.data(), 0, stream) == 0, "rollout");
    const DelAdjointArrays<T> adjoint = {trajectory.data(), converged.data(), grad_, multipliers.data(), start.data()};
    expect(cuda_del_adjoint(plan, rollout_, adjoint, workspace.data(), 0, stream) == 0, "adjoint");
    std::vector<T> found;
    for (const std::vector<T>* each : {&trajectory, &residual, &pivot, &multipliers, &start})
      found.insert(found.end(), each->begin(), each->end());
    int64_t most = 0;
    for (size_t i = 0; i < count(states); ++i) {
      expect(converged[i] == 1, "a step has converged");
      most = iterations[i] > most ? iterations[i] : most;
      found.push_back(static_cast<T>(iterations[i]));
    }
    expect(most > 1 && most < 20, "the steps take some iterations");
    return found;
  }

 private:
  int64_t dim_, batch_, steps_;
  CudaDelRollout<T> rollout_{};
  const T *q0_, *q1_, *impulses_, *grad_;
};

}  // namespace

int main() {
  every_place(Problem<float>(3, {20, 5}, 9, 2, 0.8, Activation::kTanh), cuda_del_plan);
#if !defined(__SANITIZE_THREAD__)  // which is many times slower
  every_place(Problem<double>(3, {20, 5}, 9, 2, 0.4, Activation::kSin), cuda_del_plan);
  every_place(Problem<double>(64, {64}, 1, 1, 1.0, Activation::kTanh), cuda_del_plan);  // GMRES begins anew
  every_place(Problem<double>(1, {33, 4, 17}, 17, 2, 0.2, Activation::kGelu), cuda_del_plan);
  every_place(Problem<float>(33, {40}, 2, 1, 0.2, Activation::kSilu), cuda_del_plan);
#endif
  return report("discrete Euler-Lagrange equations");
}
