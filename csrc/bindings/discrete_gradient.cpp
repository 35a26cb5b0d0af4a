// Rollouts by the discrete gradient on contiguous memory. Shapes are checked in Python.
#include "discrete_gradient.h"

#include <pybind11/stl.h>

#include "description.h"
#include "hamiltorch/discrete_gradient.h"
#include "run.h"

namespace py = pybind11;

namespace hamiltorch {
namespace {

// A rollout as Python describes it, and what is beside H.
struct DiscreteDescription {
  const Description& rollout;
  Address dissipation;
  int64_t columns;
  Address forces, decay;
};

template <class T, class Arrays>
void run_discrete(const DiscreteDescription& description, double tolerance, int64_t max_iterations,
                  const Arrays& arrays, bool back, int threads,
                  Kernel<DiscreteRollout<T>, Arrays> Kernels<T>::* kernel) {
  const Native<T> native(description.rollout);
  const DiscreteRollout<T> rollout = {native.rollout,
                                      static_cast<T>(tolerance),
                                      max_iterations,
                                      pointer<T>(description.dissipation),
                                      description.columns,
                                      pointer<T>(description.forces),
                                      pointer<T>(description.decay)};
  const Kernels<T>& kernels = kernels_of<T>(native.implementation);
  const py::gil_scoped_release release;
  run(native.implementation, native.rollout.network, false, kernels.discrete_sizes(rollout, back, threads),
      kernels.*kernel, rollout, arrays, threads);
}

template <class T>
void forward(const DiscreteDescription& d, double tolerance, int64_t max_iterations, Address z0, Address trajectory,
             Address changes, Address converged, Address iterations, Address residual, int threads) {
  run_discrete<T>(d, tolerance, max_iterations,
                  DiscreteArrays<T>{pointer<T>(z0), pointer<T>(trajectory), pointer<T>(changes),
                                    pointer<uint8_t>(converged), pointer<int64_t>(iterations), pointer<T>(residual)},
                  false, threads, &Kernels<T>::discrete_forward);
}

template <class T>
void adjoint(const DiscreteDescription& d, Address trajectory, Address changes, Address converged,
             Address grad_trajectory, Address points, Address directions, Address multipliers, Address gradients,
             Address energy_weights, Address grad_z0, Address grad_dt, Address grad_decay, int threads) {
  run_discrete<T>(d, 0, 0,
                  DiscreteAdjointArrays<T>{pointer<T>(trajectory), pointer<T>(changes), pointer<uint8_t>(converged),
                                           pointer<T>(grad_trajectory), pointer<T>(points), pointer<T>(directions),
                                           pointer<T>(multipliers), pointer<T>(gradients), pointer<T>(energy_weights),
                                           pointer<T>(grad_z0), pointer<double>(grad_dt), pointer<double>(grad_decay)},
                  true, threads, &Kernels<T>::discrete_adjoint);
}

}  // namespace

void bind_discrete_gradient(py::module_& m) {
  m.def(
      "discrete_forward",
      [](const Description& rollout, Address dissipation, int64_t columns, Address forces, Address decay,
         double tolerance, int64_t max_iterations, Address z0, Address trajectory, Address changes, Address converged,
         Address iterations, Address residual, int threads) {
        (rollout.is_double ? forward<double> : forward<float>)({rollout, dissipation, columns, forces, decay},
                                                               tolerance, max_iterations, z0, trajectory, changes,
                                                               converged, iterations, residual, threads);
      },
      "Roll out by the discrete gradient. dissipation (dim, columns), or (dim) with 0 columns, forces (batch, steps, "
      "dim), decay (dim / 2), each or 0; trajectory (batch, steps + 1, dim), changes (batch, steps, dim) or 0; the "
      "others (batch, steps), of bool, int64 and the states' type.",
      py::arg("rollout"), py::arg("dissipation"), py::arg("columns"), py::arg("forces"), py::arg("decay"),
      py::arg("tolerance"), py::arg("max_iterations"), py::arg("z0"), py::arg("trajectory"), py::arg("changes"),
      py::arg("converged"), py::arg("iterations"), py::arg("residual"), py::arg("threads"));
  m.def(
      "discrete_adjoint",
      [](const Description& rollout, Address dissipation, int64_t columns, Address forces, Address decay,
         Address trajectory, Address changes, Address converged, Address grad_trajectory, Address points,
         Address directions, Address multipliers, Address gradients, Address energy_weights, Address grad_z0,
         Address grad_dt, Address grad_decay, int threads) {
        (rollout.is_double ? adjoint<double> : adjoint<float>)({rollout, dissipation, columns, forces, decay},
                                                               trajectory, changes, converged, grad_trajectory, points,
                                                               directions, multipliers, gradients, energy_weights,
                                                               grad_z0, grad_dt, grad_decay, threads);
      },
      "Points, directions, multipliers and, or 0, discrete gradients of the adjoint, (batch, steps, dim); weights of "
      "the energies, (batch, steps); the gradient by z0, and of double those by dt, (batch), and decay, (batch, dim / "
      "2) or 0.",
      py::arg("rollout"), py::arg("dissipation"), py::arg("columns"), py::arg("forces"), py::arg("decay"),
      py::arg("trajectory"), py::arg("changes"), py::arg("converged"), py::arg("grad_trajectory"), py::arg("points"),
      py::arg("directions"), py::arg("multipliers"), py::arg("gradients"), py::arg("energy_weights"),
      py::arg("grad_z0"), py::arg("grad_dt"), py::arg("grad_decay"), py::arg("threads"));
}

}  // namespace hamiltorch
