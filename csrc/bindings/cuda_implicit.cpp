#include "cuda_implicit.h"

#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "block_description.h"
#include "hamiltorch/cuda_implicit.h"

namespace py = pybind11;

namespace hamiltorch {
namespace {

using Stages = std::vector<std::tuple<double, double, double>>;  // coefficient, at_q, at_p

struct Description : BlockDescription {
  Stages stages;
};

template <class T>
CudaImplicitRollout<T> rollout(const Description& d) {
  CudaImplicitRollout<T> result{};
  d.fill(&result);
  for (const auto& [coefficient, at_q, at_p] : d.stages)
    result.stages.push_back({kMovesP | kMovesQ, coefficient, at_q, at_p});
  return result;
}

template <class T>
void forward(const CudaBlockPlan& plan, const Description& d, Address z0, Address trajectory, Address points,
             Address converged, Address iterations, Address residual, const Place& place) {
  const ImplicitArrays<T> arrays = {pointer<T>(z0),
                                    pointer<T>(trajectory),
                                    pointer<T>(points),
                                    pointer<uint8_t>(converged),
                                    pointer<int64_t>(iterations),
                                    pointer<T>(residual)};
  const py::gil_scoped_release release;
  check_call(cuda_implicit_forward(plan, rollout<T>(d), arrays, pointer<void>(place.workspace), place.device,
                                   pointer<void>(place.stream)));
}

template <class T>
void adjoint(const CudaBlockPlan& plan, const Description& d, Address points, Address converged,
             Address grad_trajectory, Address directions, Address grad_z0, const Place& place) {
  const ImplicitAdjointArrays<T> arrays = {pointer<T>(points), pointer<uint8_t>(converged), pointer<T>(grad_trajectory),
                                           pointer<T>(directions), pointer<T>(grad_z0)};
  const py::gil_scoped_release release;
  check_call(cuda_implicit_adjoint(plan, rollout<T>(d), arrays, pointer<void>(place.workspace), place.device,
                                   pointer<void>(place.stream)));
}

Description description(bool is_double, int64_t dim, std::vector<int64_t> widths, int32_t activation,
                        std::vector<Address> weights, std::vector<Address> biases, Address head, Address base,
                        int64_t base_stride, Stages stages, Address dt, int64_t steps, int64_t batch, double tolerance,
                        int64_t max_iterations) {
  Description d{{is_double, dim, std::move(widths), activation, std::move(weights), std::move(biases), head, base,
                 base_stride, dt, steps, batch, tolerance, max_iterations},
                std::move(stages)};
  d.check(2);
  if (d.stages.empty() || d.stages.size() > kMostStages)
    throw py::value_error("stages must be 1 to " + std::to_string(kMostStages) + ", got " +
                          std::to_string(d.stages.size()));
  for (const auto& [coefficient, at_q, at_p] : d.stages)
    if (at_q == 0 && at_p == 0) throw py::value_error("every stage must be implicit");
  return d;
}

}  // namespace

void bind_cuda_implicit(py::module_& m) {
  py::class_<Description>(m, "CudaImplicitRollout", py::module_local(),
                          "A network, stages (coefficient, at_q, at_p) that move both halves, and the size of a "
                          "rollout, as CudaImplicitRollout in hamiltorch/cuda_implicit.h.")
      .def(py::init(&description), py::arg("is_double"), py::arg("dim"), py::arg("widths"), py::arg("activation"),
           py::arg("weights"), py::arg("biases"), py::arg("head"), py::arg("base"), py::arg("base_stride"),
           py::arg("stages"), py::arg("dt"), py::arg("steps"), py::arg("batch"), py::arg("tolerance"),
           py::arg("max_iterations"));

  m.def(
      "cuda_implicit_plan",
      [](int64_t dim, std::vector<int64_t> widths, int64_t batch, int64_t stages, bool is_double,
         const std::vector<int>& gpu) {
        if (widths.empty()) throw py::value_error("widths must be those of one hidden layer or more");
        CudaBlockPlan plan{};
        std::string why;
        if (!cuda_implicit_plan({dim, std::move(widths), batch, stages, is_double}, described_gpu(gpu), &plan, &why))
          throw py::value_error(why);
        return plan;
      },
      "The plan for a GPU so described; ValueError says why there is none.", py::arg("dim"), py::arg("widths"),
      py::arg("batch"), py::arg("stages"), py::arg("is_double"), py::arg("gpu"));
  m.def(
      "cuda_implicit_forward",
      [](const CudaBlockPlan& plan, const Description& rollout, Address z0, Address trajectory, Address points,
         Address converged, Address iterations, Address residual, Address workspace, int device, Address stream) {
        (rollout.is_double ? forward<double> : forward<float>)(plan, rollout, z0, trajectory, points, converged,
                                                               iterations, residual, {workspace, device, stream});
      },
      "Roll out; arrays as implicit_forward's.", py::arg("plan"), py::arg("rollout"), py::arg("z0"),
      py::arg("trajectory"), py::arg("points"), py::arg("converged"), py::arg("iterations"), py::arg("residual"),
      py::arg("workspace"), py::arg("device"), py::arg("stream"));
  m.def(
      "cuda_implicit_adjoint",
      [](const CudaBlockPlan& plan, const Description& rollout, Address points, Address converged,
         Address grad_trajectory, Address directions, Address grad_z0, Address workspace, int device, Address stream) {
        (rollout.is_double ? adjoint<double> : adjoint<float>)(plan, rollout, points, converged, grad_trajectory,
                                                               directions, grad_z0, {workspace, device, stream});
      },
      "Directions of the adjoint; arrays as implicit_adjoint's.", py::arg("plan"), py::arg("rollout"),
      py::arg("points"), py::arg("converged"), py::arg("grad_trajectory"), py::arg("directions"), py::arg("grad_z0"),
      py::arg("workspace"), py::arg("device"), py::arg("stream"));
}

}  // namespace hamiltorch
