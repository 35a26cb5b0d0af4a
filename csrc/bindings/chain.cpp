#include "chain.h"

#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "addresses.h"
#include "hamiltorch/cuda_rollout.h"

namespace py = pybind11;

namespace hamiltorch {
namespace {

// A network and a method in layer-1 space as Python describes them; T is known only when it runs.
struct Description {
  bool is_double;
  std::vector<int64_t> widths;
  int32_t activation;
  std::vector<Address> weights, biases;
  Address head;
  std::vector<std::pair<int32_t, double>> stages;
  Address dt;
  int64_t steps, batch;
};

template <class T>
ChainNetwork<T> network(const Description& d) {
  ChainNetwork<T> result;
  result.widths = d.widths;
  result.activation = static_cast<Activation>(d.activation);
  for (const Address weight : d.weights) result.weights.push_back(pointer<T>(weight));
  for (const Address bias : d.biases) result.biases.push_back(pointer<T>(bias));
  result.head = pointer<T>(d.head);
  for (const auto& [moves, coefficient] : d.stages) result.stages.push_back({moves, coefficient});
  result.dt = pointer<T>(d.dt);
  result.steps = d.steps;
  result.batch = d.batch;
  return result;
}

void check(int error) {
  if (error) throw std::runtime_error(std::string("the CUDA rollout failed: ") + cuda_error_text(error));
}

template <class T>
void forward(const CudaPlan& plan, const Description& d, Address s0, Address r0, Address impulses, Address energy_parts,
             Address workspace, int device, Address stream) {
  const ChainForward<T> arrays = {pointer<T>(s0), pointer<T>(r0), pointer<T>(impulses), pointer<T>(energy_parts)};
  const ChainNetwork<T> chain = network<T>(d);
  const py::gil_scoped_release release;
  check(cuda_chain_forward(plan, chain, arrays, pointer<void>(workspace), device, pointer<void>(stream)));
}

struct Adjoint {
  Address s, r, u_q, u_p, grad_energies;
  bool last_energy;
  Address s_bar, r_bar, impulses, dt_parts;
  std::vector<Address> left, right;
  Address head;
};

template <class T>
void backward(const CudaPlan& plan, const Description& d, const Adjoint& a, Address workspace, int device,
              Address stream) {
  ChainBackward<T> arrays{};
  arrays.s = pointer<T>(a.s);
  arrays.r = pointer<T>(a.r);
  arrays.u_q = pointer<T>(a.u_q);
  arrays.u_p = pointer<T>(a.u_p);
  arrays.grad_energies = pointer<T>(a.grad_energies);
  arrays.last_energy = a.last_energy;
  arrays.s_bar = pointer<T>(a.s_bar);
  arrays.r_bar = pointer<T>(a.r_bar);
  arrays.impulses = pointer<T>(a.impulses);
  arrays.dt_parts = pointer<T>(a.dt_parts);
  for (size_t l = 0; l < a.left.size(); ++l) {
    arrays.left[l] = pointer<T>(a.left[l]);
    arrays.right[l] = pointer<T>(a.right[l]);
  }
  arrays.head = pointer<T>(a.head);
  const ChainNetwork<T> chain = network<T>(d);
  const py::gil_scoped_release release;
  check(cuda_chain_backward(plan, chain, arrays, pointer<void>(workspace), device, pointer<void>(stream)));
}

Description description(bool is_double, std::vector<int64_t> widths, int32_t activation, std::vector<Address> weights,
                        std::vector<Address> biases, Address head, std::vector<std::pair<int32_t, double>> stages,
                        Address dt, int64_t steps, int64_t batch) {
  if (activation < 0 || activation >= kActivations)
    throw py::value_error("activation must be a code below " + std::to_string(kActivations) + ", got " +
                          std::to_string(activation));
  if (widths.empty() || widths.size() > kMostHidden || weights.size() != widths.size() ||
      biases.size() != widths.size() || stages.empty() || stages.size() > kMostStages)
    throw py::value_error("weights and biases must be as many as hidden widths, 1 to " + std::to_string(kMostHidden) +
                          ", and stages 1 to " + std::to_string(kMostStages));
  return {is_double,
          std::move(widths),
          activation,
          std::move(weights),
          std::move(biases),
          head,
          std::move(stages),
          dt,
          steps,
          batch};
}

}  // namespace

void bind_chain(py::module_& m) {
  py::class_<CudaPlan>(m, "CudaPlan", py::module_local(),
                       "One way to run a rollout on a GPU; see hamiltorch_ext.cuda_plans.")
      .def_property_readonly("team", [](const CudaPlan& plan) { return static_cast<int>(plan.team); })
      .def_property_readonly("precision", [](const CudaPlan& plan) { return static_cast<int>(plan.precision); })
      .def_readonly("members", &CudaPlan::members)
      .def_readonly("right", &CudaPlan::right)
      .def_readonly("weights", &CudaPlan::weights)
      .def_readonly("in_place", &CudaPlan::in_place)
      .def_readonly("vectors_global", &CudaPlan::vectors_global)
      .def_readonly("teams", &CudaPlan::teams)
      .def_readonly("shared_bytes", &CudaPlan::shared_bytes)
      .def_readonly("workspace_bytes", &CudaPlan::workspace_bytes)
      .def_readonly("predicted_us", &CudaPlan::predicted_us);

  py::class_<Description>(m, "Chain", py::module_local(),
                          "A network in layer-1 space, a method and the size of a rollout.")
      .def(py::init(&description), py::arg("is_double"), py::arg("widths"), py::arg("activation"), py::arg("weights"),
           py::arg("biases"), py::arg("head"), py::arg("stages"), py::arg("dt"), py::arg("steps"), py::arg("batch"));

  m.def(
      "gpu_description",
      [](int device) {
        const GpuDescription gpu = gpu_description(device);
        return std::make_tuple(gpu.capability, gpu.multiprocessors, gpu.shared_bytes, gpu.clusters[0], gpu.clusters[1],
                               gpu.clusters[2], gpu.clusters[3]);
      },
      "Compute capability (90 for 9.0; 0 without a device), multiprocessors, shared memory of a block in bytes, and "
      "how "
      "many clusters of 2, 4, 8 and 16 blocks the device holds at once.",
      py::arg("device"));
  m.def(
      "cuda_plans",
      [](std::vector<int64_t> widths, int64_t batch, std::vector<int32_t> moves, int32_t precision, bool adjoint,
         const std::vector<int>& gpu) {
        if (gpu.size() != 7) throw py::value_error("gpu must be what gpu_description returns: 7 numbers");
        std::string why;
        const ChainSize size = {std::move(widths), batch, std::move(moves), static_cast<Precision>(precision), adjoint};
        std::vector<CudaPlan> plans =
            cuda_plans(size, {gpu[0], gpu[1], gpu[2], {gpu[3], gpu[4], gpu[5], gpu[6]}}, &why);
        if (plans.empty()) throw py::value_error(why);
        return plans;
      },
      "Plans that run on a GPU so described, the best by prediction first; ValueError says why there is none.",
      py::arg("widths"), py::arg("batch"), py::arg("moves"), py::arg("precision"), py::arg("adjoint"), py::arg("gpu"));
  m.def(
      "chain_forward",
      [](const CudaPlan& plan, const Description& chain, Address s0, Address r0, Address impulses, Address energy_parts,
         Address workspace, int device, Address stream) {
        (chain.is_double ? forward<double> : forward<float>)(plan, chain, s0, r0, impulses, energy_parts, workspace,
                                                             device, stream);
      },
      "A rollout in layer-1 space; arrays as ChainForward in hamiltorch/cuda_rollout.h.", py::arg("plan"),
      py::arg("chain"), py::arg("s0"), py::arg("r0"), py::arg("impulses"), py::arg("energy_parts"),
      py::arg("workspace"), py::arg("device"), py::arg("stream"));
  m.def(
      "chain_backward",
      [](const CudaPlan& plan, const Description& chain, Address s, Address r, Address u_q, Address u_p,
         Address grad_energies, bool last_energy, Address s_bar, Address r_bar, Address impulses, Address dt_parts,
         std::vector<Address> left, std::vector<Address> right, Address head, Address workspace, int device,
         Address stream) {
        if (left.size() != chain.widths.size() || right.size() != left.size())
          throw py::value_error("left and right must be as many as hidden widths");
        const Adjoint adjoint = {s,     r,     u_q,      u_p,      grad_energies,   last_energy,
                                 s_bar, r_bar, impulses, dt_parts, std::move(left), std::move(right),
                                 head};
        (chain.is_double ? backward<double> : backward<float>)(plan, chain, adjoint, workspace, device, stream);
      },
      "Its adjoint; arrays as ChainBackward in hamiltorch/cuda_rollout.h.", py::arg("plan"), py::arg("chain"),
      py::arg("s"), py::arg("r"), py::arg("u_q"), py::arg("u_p"), py::arg("grad_energies"), py::arg("last_energy"),
      py::arg("s_bar"), py::arg("r_bar"), py::arg("impulses"), py::arg("dt_parts"), py::arg("left"), py::arg("right"),
      py::arg("head"), py::arg("workspace"), py::arg("device"), py::arg("stream"));
}

}  // namespace hamiltorch
