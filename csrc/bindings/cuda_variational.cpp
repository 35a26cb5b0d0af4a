#include "cuda_variational.h"

#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "block_description.h"
#include "hamiltorch/cuda_variational.h"

namespace py = pybind11;

namespace hamiltorch {
namespace {

struct Description : BlockDescription {
  Address kinetic, friction, diagonal, inverse;
};

template <class T>
CudaDelRollout<T> rollout(const Description& d) {
  CudaDelRollout<T> result{};
  d.fill(&result);
  result.kinetic = pointer<T>(d.kinetic);
  result.friction = pointer<T>(d.friction);
  result.diagonal = pointer<T>(d.diagonal);
  result.inverse = pointer<T>(d.inverse);
  return result;
}

template <class T>
void forward(const CudaBlockPlan& plan, const Description& d, Address q0, Address q1, Address impulses,
             Address trajectory, Address converged, Address iterations, Address residual, Address smallest_pivot,
             const Place& place) {
  const DelArrays<T> arrays = {pointer<T>(q0),
                               pointer<T>(q1),
                               pointer<T>(impulses),
                               pointer<T>(trajectory),
                               pointer<uint8_t>(converged),
                               pointer<int64_t>(iterations),
                               pointer<T>(residual),
                               pointer<T>(smallest_pivot)};
  const py::gil_scoped_release release;
  check_call(cuda_del_forward(plan, rollout<T>(d), arrays, pointer<void>(place.workspace), place.device,
                              pointer<void>(place.stream)));
}

template <class T>
void adjoint(const CudaBlockPlan& plan, const Description& d, Address trajectory, Address converged,
             Address grad_trajectory, Address multipliers, Address grad_start, const Place& place) {
  const DelAdjointArrays<T> arrays = {pointer<T>(trajectory), pointer<uint8_t>(converged), pointer<T>(grad_trajectory),
                                      pointer<T>(multipliers), pointer<T>(grad_start)};
  const py::gil_scoped_release release;
  check_call(cuda_del_adjoint(plan, rollout<T>(d), arrays, pointer<void>(place.workspace), place.device,
                              pointer<void>(place.stream)));
}

Description description(bool is_double, int64_t dim, std::vector<int64_t> widths, int32_t activation,
                        std::vector<Address> weights, std::vector<Address> biases, Address head, Address base,
                        int64_t base_stride, Address kinetic, Address friction, Address diagonal, Address inverse,
                        Address dt, int64_t steps, int64_t batch, double tolerance, int64_t max_iterations) {
  Description d{{is_double, dim, std::move(widths), activation, std::move(weights), std::move(biases), head, base,
                 base_stride, dt, steps, batch, tolerance, max_iterations},
                kinetic,
                friction,
                diagonal,
                inverse};
  d.check(2);
  return d;
}

}  // namespace

void bind_cuda_variational(py::module_& m) {
  py::class_<CudaBlockPlan>(m, "CudaBlockPlan", py::module_local(),
                            "Where the blocks of a rollout on a GPU whose steps are equations find things.")
      .def_readonly("weights", &CudaBlockPlan::weights)
      .def_readonly("vectors_global", &CudaBlockPlan::vectors_global)
      .def_readonly("blocks", &CudaBlockPlan::blocks)
      .def_readonly("shared_bytes", &CudaBlockPlan::shared_bytes)
      .def_readonly("workspace_bytes", &CudaBlockPlan::workspace_bytes);

  py::class_<Description>(m, "CudaDelRollout", py::module_local(),
                          "A discrete Lagrangian and the size of a rollout, as CudaDelRollout in "
                          "hamiltorch/cuda_variational.h.")
      .def(py::init(&description), py::arg("is_double"), py::arg("dim"), py::arg("widths"), py::arg("activation"),
           py::arg("weights"), py::arg("biases"), py::arg("head"), py::arg("base"), py::arg("base_stride"),
           py::arg("kinetic"), py::arg("friction"), py::arg("diagonal"), py::arg("inverse"), py::arg("dt"),
           py::arg("steps"), py::arg("batch"), py::arg("tolerance"), py::arg("max_iterations"));

  m.def(
      "cuda_del_plan",
      [](int64_t dim, std::vector<int64_t> widths, int64_t batch, bool is_double, const std::vector<int>& gpu) {
        CudaBlockPlan plan{};
        std::string why;
        if (!cuda_del_plan({dim, std::move(widths), batch, is_double}, described_gpu(gpu), &plan, &why))
          throw py::value_error(why);
        return plan;
      },
      "The plan for a GPU so described; ValueError says why there is none.", py::arg("dim"), py::arg("widths"),
      py::arg("batch"), py::arg("is_double"), py::arg("gpu"));
  m.def(
      "cuda_del_forward",
      [](const CudaBlockPlan& plan, const Description& rollout, Address q0, Address q1, Address impulses,
         Address trajectory, Address converged, Address iterations, Address residual, Address smallest_pivot,
         Address workspace, int device, Address stream) {
        (rollout.is_double ? forward<double> : forward<float>)(plan, rollout, q0, q1, impulses, trajectory, converged,
                                                               iterations, residual, smallest_pivot,
                                                               {workspace, device, stream});
      },
      "Roll out; arrays as del_forward's.", py::arg("plan"), py::arg("rollout"), py::arg("q0"), py::arg("q1"),
      py::arg("impulses"), py::arg("trajectory"), py::arg("converged"), py::arg("iterations"), py::arg("residual"),
      py::arg("smallest_pivot"), py::arg("workspace"), py::arg("device"), py::arg("stream"));
  m.def(
      "cuda_del_adjoint",
      [](const CudaBlockPlan& plan, const Description& rollout, Address trajectory, Address converged,
         Address grad_trajectory, Address multipliers, Address grad_start, Address workspace, int device,
         Address stream) {
        (rollout.is_double ? adjoint<double> : adjoint<float>)(plan, rollout, trajectory, converged, grad_trajectory,
                                                               multipliers, grad_start, {workspace, device, stream});
      },
      "Multipliers of the adjoint; arrays as del_adjoint's.", py::arg("plan"), py::arg("rollout"),
      py::arg("trajectory"), py::arg("converged"), py::arg("grad_trajectory"), py::arg("multipliers"),
      py::arg("grad_start"), py::arg("workspace"), py::arg("device"), py::arg("stream"));
}

}  // namespace hamiltorch
