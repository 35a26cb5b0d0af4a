// Rollouts by implicit stages on contiguous memory. Shapes are checked in Python.
#include "implicit.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "description.h"
#include "hamiltorch/implicit.h"
#include "parameter_gradients.h"
#include "run.h"

namespace py = pybind11;

namespace hamiltorch {
namespace {

// An implicit rollout and its sizes, found by `sizes_of` (kernels, rollout), for `kernel` to run.
template <class T, class Arrays, class SizesOf>
void run_implicit(const Description& description, double tolerance, int64_t max_iterations, const Arrays& arrays,
                  int threads, const SizesOf& sizes_of, Kernel<ImplicitRollout<T>, Arrays> Kernels<T>::* kernel) {
  const Native<T> native(description);
  for (const Stage& stage : description.method.stages)
    if (stage.moves != (kMovesP | kMovesQ) || (stage.at_q == 0 && stage.at_p == 0))
      throw py::value_error("every stage must move both halves and be implicit");
  const ImplicitRollout<T> rollout = {native.rollout, static_cast<T>(tolerance), max_iterations};
  const Kernels<T>& kernels = kernels_of<T>(native.implementation);
  const py::gil_scoped_release release;
  run(native.implementation, native.rollout.network, false, sizes_of(kernels, rollout), kernels.*kernel, rollout,
      arrays, threads);
}

template <class T>
void forward(const Description& d, double tolerance, int64_t max_iterations, Address z0, Address trajectory,
             Address points, Address converged, Address iterations, Address residual, int threads) {
  run_implicit<T>(
      d, tolerance, max_iterations,
      ImplicitArrays<T>{pointer<T>(z0), pointer<T>(trajectory), pointer<T>(points), pointer<uint8_t>(converged),
                        pointer<int64_t>(iterations), pointer<T>(residual)},
      threads,
      [&](const Kernels<T>& kernels, const ImplicitRollout<T>& rollout) {
        return kernels.implicit_sizes(rollout, points != 0, threads);
      },
      &Kernels<T>::implicit_forward);
}

template <class T>
void adjoint(const Description& d, Address points, Address converged, Address grad_trajectory, Address directions,
             Address grad_z0, int threads) {
  run_implicit<T>(
      d, 0, 0,
      ImplicitAdjointArrays<T>{pointer<T>(points), pointer<uint8_t>(converged), pointer<T>(grad_trajectory),
                               pointer<T>(directions), pointer<T>(grad_z0)},
      threads,
      [&](const Kernels<T>& kernels, const ImplicitRollout<T>& rollout) {
        return kernels.implicit_sizes(rollout, true, threads);
      },
      &Kernels<T>::implicit_adjoint);
}

template <class T>
void gradient(const Description& d, Address points, Address converged, Address directions,
              const ParameterGradients& gradients, int threads) {
  const NativeGradients<T> to(d, gradients.weights, gradients.biases);
  run_implicit<T>(
      d, 0, 0,
      ImplicitGradientArrays<T>{pointer<T>(points), pointer<uint8_t>(converged), pointer<T>(directions),
                                to.weights.data(), to.biases.data(), pointer<T>(gradients.dt),
                                pointer<T>(gradients.condition)},
      threads,
      [&](const Kernels<T>& kernels, const ImplicitRollout<T>& rollout) {
        return kernels.implicit_gradient_sizes(rollout, threads);
      },
      &Kernels<T>::implicit_gradient);
}

}  // namespace

void bind_implicit(py::module_& m) {
  m.def(
      "implicit_forward",
      [](const Description& rollout, double tolerance, int64_t max_iterations, Address z0, Address trajectory,
         Address points, Address converged, Address iterations, Address residual, int threads) {
        (rollout.is_double ? forward<double> : forward<float>)(rollout, tolerance, max_iterations, z0, trajectory,
                                                               points, converged, iterations, residual, threads);
      },
      "Roll out by implicit stages. trajectory (batch, steps + 1, dim), points (batch, steps, stages, dim) or 0; the "
      "others (batch, steps), of bool, int64 and the states' type.",
      py::arg("rollout"), py::arg("tolerance"), py::arg("max_iterations"), py::arg("z0"), py::arg("trajectory"),
      py::arg("points"), py::arg("converged"), py::arg("iterations"), py::arg("residual"), py::arg("threads"));
  m.def(
      "implicit_adjoint",
      [](const Description& rollout, Address points, Address converged, Address grad_trajectory, Address directions,
         Address grad_z0, int threads) {
        (rollout.is_double ? adjoint<double> : adjoint<float>)(rollout, points, converged, grad_trajectory, directions,
                                                               grad_z0, threads);
      },
      "Directions of the adjoint, (batch, steps, stages, dim), and the gradient by z0.", py::arg("rollout"),
      py::arg("points"), py::arg("converged"), py::arg("grad_trajectory"), py::arg("directions"), py::arg("grad_z0"),
      py::arg("threads"));
  m.def(
      "implicit_gradient",
      [](const Description& rollout, Address points, Address converged, Address directions,
         std::vector<Address> grad_weights, std::vector<Address> grad_biases, Address grad_dt, Address grad_condition,
         int threads) {
        (rollout.is_double
             ? gradient<double>
             : gradient<float>)(rollout, points, converged, directions,
                                {std::move(grad_weights), std::move(grad_biases), grad_dt, grad_condition}, threads);
      },
      "The adjoint's gradients from its directions; grad_condition (batch, steps, stages, condition_dim) or 0.",
      py::arg("rollout"), py::arg("points"), py::arg("converged"), py::arg("directions"), py::arg("grad_weights"),
      py::arg("grad_biases"), py::arg("grad_dt"), py::arg("grad_condition"), py::arg("threads"));
}

}  // namespace hamiltorch
