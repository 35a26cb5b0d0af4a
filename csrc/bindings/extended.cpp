// Rollouts in Tao's extended phase space on contiguous memory. Shapes are checked in Python.
#include "extended.h"

#include <pybind11/stl.h>

#include "description.h"
#include "hamiltorch/extended.h"
#include "run.h"

namespace py = pybind11;

namespace hamiltorch {
namespace {

template <class T, class Arrays>
void run_extended(const Description& description, double binding, const Arrays& arrays, bool back, int threads,
                  Kernel<ExtendedRollout<T>, Arrays> Kernels<T>::* kernel) {
  const Native<T> native(description);
  const ExtendedRollout<T> rollout = {native.rollout, binding};
  const Kernels<T>& kernels = kernels_of<T>(native.implementation);
  const py::gil_scoped_release release;
  run(native.implementation, native.rollout.network, false, kernels.extended_sizes(rollout, back, threads),
      kernels.*kernel, rollout, arrays, threads);
}

template <class T>
void forward(const Description& d, double binding, Address z0, Address trajectory, Address points, Address turned,
             int threads) {
  run_extended<T>(d, binding,
                  ExtendedArrays<T>{pointer<T>(z0), pointer<T>(trajectory), pointer<T>(points), pointer<T>(turned)},
                  false, threads, &Kernels<T>::extended_forward);
}

template <class T>
void adjoint(const Description& d, double binding, Address points, Address turned, Address grad_trajectory,
             Address directions, Address grad_z0, Address grad_angle, int threads) {
  run_extended<T>(d, binding,
                  ExtendedAdjointArrays<T>{pointer<T>(points), pointer<T>(turned), pointer<T>(grad_trajectory),
                                           pointer<T>(directions), pointer<T>(grad_z0), pointer<double>(grad_angle)},
                  true, threads, &Kernels<T>::extended_adjoint);
}

}  // namespace

void bind_extended(py::module_& m) {
  m.def("extended_points", &extended_points, "Points of a sample's rollout at which the gradient is taken.",
        py::arg("steps"));
  m.def(
      "extended_forward",
      [](const Description& rollout, double binding, Address z0, Address trajectory, Address points, Address turned,
         int threads) {
        (rollout.is_double ? forward<double> : forward<float>)(rollout, binding, z0, trajectory, points, turned,
                                                               threads);
      },
      "Roll out in the extended phase space. trajectory (batch, steps + 1, dim); points (batch, 3 steps + 1, dim) and "
      "turned (batch, steps, dim), or 0.",
      py::arg("rollout"), py::arg("binding"), py::arg("z0"), py::arg("trajectory"), py::arg("points"),
      py::arg("turned"), py::arg("threads"));
  m.def(
      "extended_adjoint",
      [](const Description& rollout, double binding, Address points, Address turned, Address grad_trajectory,
         Address directions, Address grad_z0, Address grad_angle, int threads) {
        (rollout.is_double ? adjoint<double> : adjoint<float>)(rollout, binding, points, turned, grad_trajectory,
                                                               directions, grad_z0, grad_angle, threads);
      },
      "Directions of the adjoint at the points, and the gradients by z0 and, (batch) of double, by the angle.",
      py::arg("rollout"), py::arg("binding"), py::arg("points"), py::arg("turned"), py::arg("grad_trajectory"),
      py::arg("directions"), py::arg("grad_z0"), py::arg("grad_angle"), py::arg("threads"));
}

}  // namespace hamiltorch
