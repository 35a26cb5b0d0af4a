// The CUDA kernels of rollouts in the extended phase space on the emulator, for the sanitizers, as
// emulator_variational_test.cpp: the rollout and its adjoint from every place. Values are compared between places and
// between orders of the threads; the Python tests compare them with an oracle.
#include <cmath>
#include <limits>
#include <vector>

#include "emulated_block.h"
#include "hamiltorch/cuda_extended.h"

using namespace hamiltorch;

namespace {

template <class T>
class Problem : Inputs<T> {
  using Inputs<T>::kNan, Inputs<T>::keep, Inputs<T>::all, Inputs<T>::normal;

 public:
  Problem(int64_t dim, std::vector<int64_t> widths, int64_t batch, int64_t steps) {
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
    rollout_.dt = keep({static_cast<T>(0.3)});
    rollout_.steps = steps;
    rollout_.batch = batch;
    rollout_.binding = 2;
    z0_ = normal(batch * 2 * dim, 1);
    grad_ = normal(batch * (steps + 1) * 2 * dim, 1);
  }

  CudaExtendedSize size() const { return {rollout_.dim, rollout_.widths, rollout_.batch, sizeof(T) == sizeof(double)}; }

  // Everything that both calls write, one after another.
  std::vector<T> run(const CudaBlockPlan& plan, uint64_t seed) const {
    const size_t state = count(2 * rollout_.dim), samples = count(rollout_.batch), steps = count(rollout_.steps);
    const size_t points = samples * count(extended_points(rollout_.steps)) * state;
    std::vector<T> trajectory(samples * (steps + 1) * state, kNan), at(points, kNan), directions(points, kNan);
    std::vector<T> turned(samples * steps * state, kNan), grad_z0(samples * state, kNan);
    std::vector<double> grad_angle(samples, std::numeric_limits<double>::quiet_NaN());
    std::vector<char> workspace(count(plan.workspace_bytes));
    const ExtendedArrays<T> arrays = {z0_, trajectory.data(), at.data(), turned.data()};
    void* const stream = reinterpret_cast<void*>(seed);
    expect(cuda_extended_forward(plan, rollout_, arrays, workspace.data(), 0, stream) == 0, "rollout");
    const ExtendedAdjointArrays<T> adjoint = {at.data(),         turned.data(),  grad_,
                                              directions.data(), grad_z0.data(), grad_angle.data()};
    expect(cuda_extended_adjoint(plan, rollout_, adjoint, workspace.data(), 0, stream) == 0, "adjoint");
    std::vector<T> found;
    for (const std::vector<T>* each : {&trajectory, &at, &turned, &directions, &grad_z0})
      found.insert(found.end(), each->begin(), each->end());
    for (const double angle : grad_angle) found.push_back(static_cast<T>(angle));
    for (const T value : found) expect(std::isfinite(value), "everything is written");
    return found;
  }

 private:
  CudaExtendedRollout<T> rollout_{};
  const T *z0_, *grad_;
};

}  // namespace

int main() {
  every_place(Problem<float>(3, {20, 5}, 17, 2), cuda_extended_plan);  // more than both blocks take at once
#if !defined(__SANITIZE_THREAD__)                                      // which is many times slower
  every_place(Problem<double>(17, {33, 4}, 2, 1), cuda_extended_plan);
  every_place(Problem<float>(33, {5}, 1, 2), cuda_extended_plan);
#endif
  return report("the extended phase space");
}
