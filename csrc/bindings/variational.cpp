// Discrete Euler-Lagrange rollouts on contiguous memory. Shapes are checked in Python.
#include "variational.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "addresses.h"
#include "hamiltorch/variational.h"
#include "parameter_gradients.h"
#include "run.h"

namespace py = pybind11;

namespace hamiltorch {
namespace {

// The discrete Lagrangian and the size of a rollout as Python describes them; T is known only when it runs.
struct DelDescription {
  bool is_double;
  int64_t dim, condition_dim;
  std::vector<int64_t> widths;
  int32_t activation;
  std::vector<Address> weights, biases;
  Address mass, damping;
  double dt;
  int64_t steps, batch;
  Address condition;
  double tolerance;
  int64_t max_iterations;
};

template <class T, class Arrays>
void describe_and_run(const DelDescription& d, const Arrays& arrays, int threads,
                      Sizes (*Kernels<T>::*sizes)(const DelRollout<T>&, int),
                      Kernel<DelRollout<T>, Arrays> Kernels<T>::* kernel) {
  const std::vector<T*> weights = pointers<T>(d.weights), biases = pointers<T>(d.biases);
  if (weights.size() != d.widths.size() + 1 || biases.size() != weights.size() || d.widths.empty())
    throw py::value_error("weights and biases must be one more than hidden widths");
  if (d.activation < 0 || d.activation >= kActivations) throw py::value_error("activation must be a known code");
  const DelRollout<T> rollout = {
      {d.dim, d.condition_dim, static_cast<int64_t>(d.widths.size()), static_cast<Activation>(d.activation),
       d.widths.data(), weights.data(), biases.data()},
      pointer<T>(d.mass),
      pointer<T>(d.damping),
      static_cast<T>(d.dt),
      d.steps,
      d.batch,
      pointer<T>(d.condition),
      static_cast<T>(d.tolerance),
      d.max_iterations};
  run_del(active_implementation(), rollout, arrays, threads, sizes, kernel);
}

template <class T>
void forward(const DelDescription& d, Address q0, Address q1, Address impulses, Address trajectory, Address converged,
             Address iterations, Address residual, Address smallest_pivot, int threads) {
  describe_and_run<T>(d,
                      DelArrays<T>{pointer<T>(q0), pointer<T>(q1), pointer<T>(impulses), pointer<T>(trajectory),
                                   pointer<uint8_t>(converged), pointer<int64_t>(iterations), pointer<T>(residual),
                                   pointer<T>(smallest_pivot)},
                      threads, &Kernels<T>::del_sizes, &Kernels<T>::del_forward);
}

template <class T>
void adjoint(const DelDescription& d, Address trajectory, Address converged, Address grad_trajectory,
             Address multipliers, Address grad_start, int threads) {
  describe_and_run<T>(d,
                      DelAdjointArrays<T>{pointer<T>(trajectory), pointer<uint8_t>(converged),
                                          pointer<T>(grad_trajectory), pointer<T>(multipliers), pointer<T>(grad_start)},
                      threads, &Kernels<T>::del_sizes, &Kernels<T>::del_adjoint);
}

struct DelGradients {
  std::vector<Address> weights, biases;
  Address mass, damping, dt, condition;
};

template <class T>
void gradient(const DelDescription& d, Address trajectory, Address converged, Address multipliers,
              const DelGradients& gradients, int threads) {
  const NativeGradients<T> to(d, gradients.weights, gradients.biases);
  describe_and_run<T>(
      d,
      DelGradientArrays<T>{pointer<T>(trajectory), pointer<uint8_t>(converged), pointer<T>(multipliers),
                           to.weights.data(), to.biases.data(), pointer<T>(gradients.mass),
                           pointer<T>(gradients.damping), pointer<T>(gradients.dt), pointer<T>(gradients.condition)},
      threads, &Kernels<T>::del_gradient_sizes, &Kernels<T>::del_gradient);
}

}  // namespace

void bind_variational(py::module_& m) {
  py::class_<DelDescription>(m, "DelRollout", "A discrete Lagrangian and the size of a rollout; addresses may be 0.")
      .def(py::init([](bool is_double, int64_t dim, int64_t condition_dim, std::vector<int64_t> widths,
                       int32_t activation, std::vector<Address> weights, std::vector<Address> biases, Address mass,
                       Address damping, double dt, int64_t steps, int64_t batch, Address condition, double tolerance,
                       int64_t max_iterations) {
             return DelDescription{is_double,
                                   dim,
                                   condition_dim,
                                   std::move(widths),
                                   activation,
                                   std::move(weights),
                                   std::move(biases),
                                   mass,
                                   damping,
                                   dt,
                                   steps,
                                   batch,
                                   condition,
                                   tolerance,
                                   max_iterations};
           }),
           py::arg("is_double"), py::arg("dim"), py::arg("condition_dim"), py::arg("widths"), py::arg("activation"),
           py::arg("weights"), py::arg("biases"), py::arg("mass"), py::arg("damping"), py::arg("dt"), py::arg("steps"),
           py::arg("batch"), py::arg("condition"), py::arg("tolerance"), py::arg("max_iterations"));
  m.def(
      "del_forward",
      [](const DelDescription& rollout, Address q0, Address q1, Address impulses, Address trajectory, Address converged,
         Address iterations, Address residual, Address smallest_pivot, int threads) {
        (rollout.is_double ? forward<double> : forward<float>)(rollout, q0, q1, impulses, trajectory, converged,
                                                               iterations, residual, smallest_pivot, threads);
      },
      "Roll out. q0, q1 (batch, d), impulses (batch, steps, d) or 0, trajectory (batch, steps + 2, d); the others "
      "(batch, steps), of bool, int64 and twice the configurations' type.",
      py::arg("rollout"), py::arg("q0"), py::arg("q1"), py::arg("impulses"), py::arg("trajectory"),
      py::arg("converged"), py::arg("iterations"), py::arg("residual"), py::arg("smallest_pivot"), py::arg("threads"));
  m.def(
      "del_adjoint",
      [](const DelDescription& rollout, Address trajectory, Address converged, Address grad_trajectory,
         Address multipliers, Address grad_start, int threads) {
        (rollout.is_double ? adjoint<double> : adjoint<float>)(rollout, trajectory, converged, grad_trajectory,
                                                               multipliers, grad_start, threads);
      },
      "Multipliers of the adjoint: converged (batch, steps), grad_trajectory and multipliers (batch, steps, d), "
      "grad_start (batch, 2, d).",
      py::arg("rollout"), py::arg("trajectory"), py::arg("converged"), py::arg("grad_trajectory"),
      py::arg("multipliers"), py::arg("grad_start"), py::arg("threads"));
  m.def(
      "del_gradient",
      [](const DelDescription& rollout, Address trajectory, Address converged, Address multipliers,
         std::vector<Address> grad_weights, std::vector<Address> grad_biases, Address grad_mass, Address grad_damping,
         Address grad_dt, Address grad_condition, int threads) {
        (rollout.is_double ? gradient<double> : gradient<float>)(rollout, trajectory, converged, multipliers,
                                                                 {std::move(grad_weights), std::move(grad_biases),
                                                                  grad_mass, grad_damping, grad_dt, grad_condition},
                                                                 threads);
      },
      "The adjoint's gradients from its multipliers; grad_condition (batch, steps + 1, condition_dim) or 0.",
      py::arg("rollout"), py::arg("trajectory"), py::arg("converged"), py::arg("multipliers"), py::arg("grad_weights"),
      py::arg("grad_biases"), py::arg("grad_mass"), py::arg("grad_damping"), py::arg("grad_dt"),
      py::arg("grad_condition"), py::arg("threads"));
}

}  // namespace hamiltorch
