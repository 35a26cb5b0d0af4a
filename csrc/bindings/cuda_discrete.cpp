#include "cuda_discrete.h"

#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "block_description.h"
#include "hamiltorch/cuda_discrete.h"

namespace py = pybind11;

namespace hamiltorch {
namespace {

struct Description : BlockDescription {
  Address head_bias, dissipation;
  int64_t columns;
  Address forces, decay;
};

template <class T>
CudaDiscreteRollout<T> rollout(const Description& d) {
  CudaDiscreteRollout<T> result{};
  d.fill(&result);
  result.head_bias = pointer<T>(d.head_bias);
  result.dissipation = pointer<T>(d.dissipation);
  result.columns = d.columns;
  result.forces = pointer<T>(d.forces);
  result.decay = pointer<T>(d.decay);
  return result;
}

template <class T>
void forward(const CudaBlockPlan& plan, const Description& d, Address z0, Address trajectory, Address changes,
             Address converged, Address iterations, Address residual, const Place& place) {
  const DiscreteArrays<T> arrays = {pointer<T>(z0),
                                    pointer<T>(trajectory),
                                    pointer<T>(changes),
                                    pointer<uint8_t>(converged),
                                    pointer<int64_t>(iterations),
                                    pointer<T>(residual)};
  const py::gil_scoped_release release;
  check_call(cuda_discrete_forward(plan, rollout<T>(d), arrays, pointer<void>(place.workspace), place.device,
                                   pointer<void>(place.stream)));
}

template <class T>
void adjoint(const CudaBlockPlan& plan, const Description& d, Address trajectory, Address changes, Address converged,
             Address grad_trajectory, Address points, Address directions, Address multipliers, Address gradients,
             Address energy_weights, Address grad_z0, Address grad_dt, Address grad_decay, const Place& place) {
  const DiscreteAdjointArrays<T> arrays = {
      pointer<T>(trajectory),     pointer<T>(changes),    pointer<uint8_t>(converged), pointer<T>(grad_trajectory),
      pointer<T>(points),         pointer<T>(directions), pointer<T>(multipliers),     pointer<T>(gradients),
      pointer<T>(energy_weights), pointer<T>(grad_z0),    pointer<double>(grad_dt),    pointer<double>(grad_decay)};
  const py::gil_scoped_release release;
  check_call(cuda_discrete_adjoint(plan, rollout<T>(d), arrays, pointer<void>(place.workspace), place.device,
                                   pointer<void>(place.stream)));
}

Description description(bool is_double, int64_t dim, std::vector<int64_t> widths, int32_t activation,
                        std::vector<Address> weights, std::vector<Address> biases, Address head, Address base,
                        int64_t base_stride, Address head_bias, Address dissipation, int64_t columns, Address forces,
                        Address decay, Address dt, int64_t steps, int64_t batch, double tolerance,
                        int64_t max_iterations) {
  Description d{{is_double, dim, std::move(widths), activation, std::move(weights), std::move(biases), head, base,
                 base_stride, dt, steps, batch, tolerance, max_iterations},
                head_bias,
                dissipation,
                columns,
                forces,
                decay};
  d.check(2);
  return d;
}

}  // namespace

void bind_cuda_discrete(py::module_& m) {
  py::class_<Description>(m, "CudaDiscreteRollout", py::module_local(),
                          "A network, the ports of a system, and the size of a rollout, as CudaDiscreteRollout in "
                          "hamiltorch/cuda_discrete.h.")
      .def(py::init(&description), py::arg("is_double"), py::arg("dim"), py::arg("widths"), py::arg("activation"),
           py::arg("weights"), py::arg("biases"), py::arg("head"), py::arg("base"), py::arg("base_stride"),
           py::arg("head_bias"), py::arg("dissipation"), py::arg("columns"), py::arg("forces"), py::arg("decay"),
           py::arg("dt"), py::arg("steps"), py::arg("batch"), py::arg("tolerance"), py::arg("max_iterations"));

  m.def(
      "cuda_discrete_plan",
      [](int64_t dim, std::vector<int64_t> widths, int64_t batch, bool is_double, const std::vector<int>& gpu) {
        if (widths.empty()) throw py::value_error("widths must be those of one hidden layer or more");
        CudaBlockPlan plan{};
        std::string why;
        if (!cuda_discrete_plan({dim, std::move(widths), batch, is_double}, described_gpu(gpu), &plan, &why))
          throw py::value_error(why);
        return plan;
      },
      "The plan for a GPU so described; ValueError says why there is none.", py::arg("dim"), py::arg("widths"),
      py::arg("batch"), py::arg("is_double"), py::arg("gpu"));
  m.def(
      "cuda_discrete_forward",
      [](const CudaBlockPlan& plan, const Description& rollout, Address z0, Address trajectory, Address changes,
         Address converged, Address iterations, Address residual, Address workspace, int device, Address stream) {
        (rollout.is_double ? forward<double> : forward<float>)(plan, rollout, z0, trajectory, changes, converged,
                                                               iterations, residual, {workspace, device, stream});
      },
      "Roll out; arrays as discrete_forward's.", py::arg("plan"), py::arg("rollout"), py::arg("z0"),
      py::arg("trajectory"), py::arg("changes"), py::arg("converged"), py::arg("iterations"), py::arg("residual"),
      py::arg("workspace"), py::arg("device"), py::arg("stream"));
  m.def(
      "cuda_discrete_adjoint",
      [](const CudaBlockPlan& plan, const Description& rollout, Address trajectory, Address changes, Address converged,
         Address grad_trajectory, Address points, Address directions, Address multipliers, Address gradients,
         Address energy_weights, Address grad_z0, Address grad_dt, Address grad_decay, Address workspace, int device,
         Address stream) {
        (rollout.is_double ? adjoint<double> : adjoint<float>)(plan, rollout, trajectory, changes, converged,
                                                               grad_trajectory, points, directions, multipliers,
                                                               gradients, energy_weights, grad_z0, grad_dt, grad_decay,
                                                               {workspace, device, stream});
      },
      "What the adjoint leaves; arrays as discrete_adjoint's.", py::arg("plan"), py::arg("rollout"),
      py::arg("trajectory"), py::arg("changes"), py::arg("converged"), py::arg("grad_trajectory"), py::arg("points"),
      py::arg("directions"), py::arg("multipliers"), py::arg("gradients"), py::arg("energy_weights"),
      py::arg("grad_z0"), py::arg("grad_dt"), py::arg("grad_decay"), py::arg("workspace"), py::arg("device"),
      py::arg("stream"));
}

}  // namespace hamiltorch
