// Rollouts of H = T(p) + V(q) on contiguous memory. Shapes are checked in Python.
#include "separable.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "description.h"
#include "hamiltorch/separable.h"
#include "parameter_gradients.h"
#include "run.h"

namespace py = pybind11;

namespace hamiltorch {
namespace {

// The rollout's description is V's; T has one of its own, or masses.
struct SeparableDescription {
  Description potential;
  std::unique_ptr<Description> kinetic;
  Address inverse_mass;

  SeparableDescription(Description v, const Description* t, Address inverse_mass)
      : potential(std::move(v)), kinetic(t ? new Description(*t) : nullptr), inverse_mass(inverse_mass) {
    if (!kinetic == !inverse_mass) throw py::value_error("T must be a network or have masses");
    if (t && (t->is_double != potential.is_double || t->dim != potential.dim))
      throw py::value_error("T and V must have one type and one size");
    for (const Stage& stage : potential.method.stages)
      if ((stage.moves != kMovesP && stage.moves != kMovesQ) || stage.at_q != 0 || stage.at_p != 0)
        throw py::value_error("every stage must move one half and be explicit");
  }
};

template <class T>
struct NativeSeparable {
  Native<T> potential;
  std::unique_ptr<Native<T>> kinetic;
  SeparableRollout<T> rollout;
  const Kernels<T>& kernels = kernels_of<T>(potential.implementation);

  explicit NativeSeparable(const SeparableDescription& d)
      : potential(d.potential), kinetic(d.kinetic ? new Native<T>(*d.kinetic) : nullptr) {
    rollout = {potential.rollout, kinetic ? &kinetic->rollout.network : nullptr, pointer<T>(d.inverse_mass)};
  }

  // kernel(prepared, memory, size), where the weights of V and of a network T are prepared together.
  template <class Kernel>
  void run_both(const Sizes& sizes, const Kernel& kernel) const {
    const py::gil_scoped_release release;
    const Implementation& implementation = potential.implementation;
    std::string key = prepared_key(implementation, rollout.rollout.network, false, sizes.layout);
    if (rollout.kinetic) key += prepared_key(implementation, *rollout.kinetic, false, sizes.layout);
    run(std::move(key), sizes, kernel);
  }
};

template <class T>
void forward(const SeparableDescription& d, Address z0, Address trajectory, Address points_q, Address points_p,
             int threads) {
  const NativeSeparable<T> native(d);
  const SeparableArrays<T> arrays = {
      pointer<T>(z0), pointer<T>(trajectory), {pointer<T>(points_q), pointer<T>(points_p)}};
  native.run_both(native.kernels.separable_sizes(native.rollout, false, threads),
                  [&](const Prepared& prepared, void* memory, size_t size) {
                    return native.kernels.separable_forward(native.rollout, arrays, threads, prepared, memory, size);
                  });
}

template <class T>
void adjoint(const SeparableDescription& d, Address points_q, Address points_p, Address grad_trajectory,
             Address directions_q, Address directions_p, Address grad_z0, int threads) {
  const NativeSeparable<T> native(d);
  const SeparableAdjointArrays<T> arrays = {{pointer<T>(points_q), pointer<T>(points_p)},
                                            pointer<T>(grad_trajectory),
                                            {pointer<T>(directions_q), pointer<T>(directions_p)},
                                            pointer<T>(grad_z0)};
  native.run_both(native.kernels.separable_sizes(native.rollout, true, threads),
                  [&](const Prepared& prepared, void* memory, size_t size) {
                    return native.kernels.separable_adjoint(native.rollout, arrays, threads, prepared, memory, size);
                  });
}

template <class T>
void gradient(const SeparableDescription& d, bool of_kinetic, Address points, Address directions,
              const ParameterGradients& gradients, int threads) {
  const NativeSeparable<T> native(d);
  const Half half = of_kinetic ? kKinetic : kPotential;
  const NativeGradients<T> to(of_kinetic ? *d.kinetic : d.potential, gradients.weights, gradients.biases);
  const SeparableGradientArrays<T> arrays = {pointer<T>(points),       pointer<T>(directions),
                                             to.weights.data(),        to.biases.data(),
                                             pointer<T>(gradients.dt), pointer<T>(gradients.condition)};
  const py::gil_scoped_release release;
  const Mlp<T>& network = of_kinetic ? *native.rollout.kinetic : native.rollout.rollout.network;
  const Sizes sizes = native.kernels.separable_gradient_sizes(native.rollout, half, threads);
  run(prepared_key(native.potential.implementation, network, false, sizes.layout), sizes,
      [&](const Prepared& prepared, void* memory, size_t size) {
        return native.kernels.separable_gradient(native.rollout, half, arrays, threads, prepared, memory, size);
      });
}

}  // namespace

void bind_separable(py::module_& m) {
  py::class_<SeparableDescription>(m, "SeparableRollout",
                                   "A rollout of T(p) + V(q): V's rollout, and T's, which says its network, or the "
                                   "address of 1 / m (d).")
      .def(py::init<Description, const Description*, Address>(), py::arg("potential"), py::arg("kinetic").none(true),
           py::arg("inverse_mass"))
      .def_property_readonly(
          "evaluations",
          [](const SeparableDescription& d) {
            const Method& method = d.potential.method;
            Rollout<double> rollout{};
            rollout.stages = method.stages.data();
            rollout.stage_count = static_cast<int64_t>(method.stages.size());
            rollout.steps = d.potential.steps;
            return std::make_pair(evaluations(rollout, kPotential), evaluations(rollout, kKinetic));
          },
          "Points of V and of T along a sample's rollout.");
  m.def(
      "separable_forward",
      [](const SeparableDescription& rollout, Address z0, Address trajectory, Address points_q, Address points_p,
         int threads) {
        (rollout.potential.is_double ? forward<double> : forward<float>)(rollout, z0, trajectory, points_q, points_p,
                                                                         threads);
      },
      "Roll out. trajectory (batch, steps + 1, 2d); points (batch, evaluations, d) of V and of T, or 0.",
      py::arg("rollout"), py::arg("z0"), py::arg("trajectory"), py::arg("points_q"), py::arg("points_p"),
      py::arg("threads"));
  m.def(
      "separable_adjoint",
      [](const SeparableDescription& rollout, Address points_q, Address points_p, Address grad_trajectory,
         Address directions_q, Address directions_p, Address grad_z0, int threads) {
        (rollout.potential.is_double ? adjoint<double> : adjoint<float>)(rollout, points_q, points_p, grad_trajectory,
                                                                         directions_q, directions_p, grad_z0, threads);
      },
      "Directions of the adjoint at V's and T's points, and the gradient by z0.", py::arg("rollout"),
      py::arg("points_q"), py::arg("points_p"), py::arg("grad_trajectory"), py::arg("directions_q"),
      py::arg("directions_p"), py::arg("grad_z0"), py::arg("threads"));
  m.def(
      "separable_gradient",
      [](const SeparableDescription& rollout, bool of_kinetic, Address points, Address directions,
         std::vector<Address> grad_weights, std::vector<Address> grad_biases, Address grad_dt, Address grad_condition,
         int threads) {
        if (of_kinetic && !rollout.kinetic) throw py::value_error("T has masses, and no network");
        (rollout.potential.is_double
             ? gradient<double>
             : gradient<float>)(rollout, of_kinetic, points, directions,
                                {std::move(grad_weights), std::move(grad_biases), grad_dt, grad_condition}, threads);
      },
      "Gradients by the parameters of V or of the network T, from its points and directions; grad_dt is that one's "
      "part, grad_condition (batch, evaluations, condition_dim) or 0.",
      py::arg("rollout"), py::arg("of_kinetic"), py::arg("points"), py::arg("directions"), py::arg("grad_weights"),
      py::arg("grad_biases"), py::arg("grad_dt"), py::arg("grad_condition"), py::arg("threads"));
}

}  // namespace hamiltorch
