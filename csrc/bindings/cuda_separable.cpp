#include "cuda_separable.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "block_description.h"
#include "hamiltorch/cuda_separable.h"

namespace py = pybind11;

namespace hamiltorch {
namespace {

// What is said of a network: is_double, dim, widths, activation, weights, biases, head, base, base_stride.
using Network = std::tuple<bool, int64_t, std::vector<int64_t>, int32_t, std::vector<Address>, std::vector<Address>,
                           Address, Address, int64_t>;
using Stages = std::vector<std::tuple<int32_t, double>>;  // what it moves, coefficient

struct Description {
  BlockDescription potential;
  std::optional<BlockDescription> kinetic;
  Address inverse_mass;
  Stages stages;
};

BlockDescription described(const Network& network, Address dt, int64_t steps, int64_t batch) {
  const auto& [is_double, dim, widths, activation, weights, biases, head, base, base_stride] = network;
  BlockDescription d{is_double, dim,         widths, activation, weights, biases, head,
                     base,      base_stride, dt,     steps,      batch,   0,      0};
  d.check(1);
  return d;
}

Description description(const Network& potential, const std::optional<Network>& kinetic, Address inverse_mass,
                        Stages stages, Address dt, int64_t steps, int64_t batch) {
  Description d{described(potential, dt, steps, batch), {}, inverse_mass, std::move(stages)};
  if (kinetic) d.kinetic = described(*kinetic, dt, steps, batch);
  if (!kinetic == !inverse_mass) throw py::value_error("T must be a network or have masses");
  if (kinetic && (d.kinetic->is_double != d.potential.is_double || d.kinetic->dim != d.potential.dim))
    throw py::value_error("T and V must have one type and one size");
  if (d.stages.empty() || d.stages.size() > static_cast<size_t>(kMostStages))
    throw py::value_error("stages must be 1 to " + std::to_string(kMostStages));
  for (const auto& stage : d.stages)
    if (std::get<0>(stage) != kMovesP && std::get<0>(stage) != kMovesQ)
      throw py::value_error("every stage must move one half");
  return d;
}

template <class T>
CudaSeparableRollout<T> rollout(const Description& d) {
  CudaSeparableRollout<T> result{};
  d.potential.fill(&result.networks[kPotential]);
  if (d.kinetic) d.kinetic->fill(&result.networks[kKinetic]);
  result.inverse_mass = pointer<T>(d.inverse_mass);
  for (const auto& [moves, coefficient] : d.stages) result.stages.push_back({moves, coefficient});
  return result;
}

template <class T>
void forward(const CudaBlockPlan& plan, const Description& d, Address z0, Address trajectory, Address points_q,
             Address points_p, const Place& place) {
  const SeparableArrays<T> arrays = {
      pointer<T>(z0), pointer<T>(trajectory), {pointer<T>(points_q), pointer<T>(points_p)}};
  const py::gil_scoped_release release;
  check_call(cuda_separable_forward(plan, rollout<T>(d), arrays, pointer<void>(place.workspace), place.device,
                                    pointer<void>(place.stream)));
}

template <class T>
void adjoint(const CudaBlockPlan& plan, const Description& d, Address points_q, Address points_p,
             Address grad_trajectory, Address directions_q, Address directions_p, Address grad_z0, const Place& place) {
  const SeparableAdjointArrays<T> arrays = {{pointer<T>(points_q), pointer<T>(points_p)},
                                            pointer<T>(grad_trajectory),
                                            {pointer<T>(directions_q), pointer<T>(directions_p)},
                                            pointer<T>(grad_z0)};
  const py::gil_scoped_release release;
  check_call(cuda_separable_adjoint(plan, rollout<T>(d), arrays, pointer<void>(place.workspace), place.device,
                                    pointer<void>(place.stream)));
}

}  // namespace

void bind_cuda_separable(py::module_& m) {
  py::class_<Description>(m, "CudaSeparableRollout", py::module_local(),
                          "The networks V and T, or 1 / m in T's place, and the size of a rollout, as "
                          "CudaSeparableRollout in hamiltorch/cuda_separable.h. A network is (is_double, dim, widths, "
                          "activation, weights, biases, head, base, base_stride).")
      .def(py::init(&description), py::arg("potential"), py::arg("kinetic").none(true), py::arg("inverse_mass"),
           py::arg("stages"), py::arg("dt"), py::arg("steps"), py::arg("batch"));

  m.def(
      "cuda_separable_plan",
      [](int64_t dim, std::vector<int64_t> potential, std::vector<int64_t> kinetic, int64_t batch, bool is_double,
         const std::vector<int>& gpu) {
        if (potential.empty()) throw py::value_error("potential must be widths of one hidden layer or more");
        CudaBlockPlan plan{};
        std::string why;
        const CudaSeparableSize size = {dim, {std::move(potential), std::move(kinetic)}, batch, is_double};
        if (!cuda_separable_plan(size, described_gpu(gpu), &plan, &why)) throw py::value_error(why);
        return plan;
      },
      "The plan for a GPU so described, kinetic being empty where there are masses; ValueError says why there is none.",
      py::arg("dim"), py::arg("potential"), py::arg("kinetic"), py::arg("batch"), py::arg("is_double"), py::arg("gpu"));
  m.def(
      "cuda_separable_forward",
      [](const CudaBlockPlan& plan, const Description& rollout, Address z0, Address trajectory, Address points_q,
         Address points_p, Address workspace, int device, Address stream) {
        (rollout.potential.is_double ? forward<double> : forward<float>)(plan, rollout, z0, trajectory, points_q,
                                                                         points_p, {workspace, device, stream});
      },
      "Roll out; arrays as separable_forward's.", py::arg("plan"), py::arg("rollout"), py::arg("z0"),
      py::arg("trajectory"), py::arg("points_q"), py::arg("points_p"), py::arg("workspace"), py::arg("device"),
      py::arg("stream"));
  m.def(
      "cuda_separable_adjoint",
      [](const CudaBlockPlan& plan, const Description& rollout, Address points_q, Address points_p,
         Address grad_trajectory, Address directions_q, Address directions_p, Address grad_z0, Address workspace,
         int device, Address stream) {
        (rollout.potential.is_double ? adjoint<double> : adjoint<float>)(plan, rollout, points_q, points_p,
                                                                         grad_trajectory, directions_q, directions_p,
                                                                         grad_z0, {workspace, device, stream});
      },
      "Directions of the adjoint; arrays as separable_adjoint's.", py::arg("plan"), py::arg("rollout"),
      py::arg("points_q"), py::arg("points_p"), py::arg("grad_trajectory"), py::arg("directions_q"),
      py::arg("directions_p"), py::arg("grad_z0"), py::arg("workspace"), py::arg("device"), py::arg("stream"));
}

}  // namespace hamiltorch
