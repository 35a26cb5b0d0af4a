#include "cuda_extended.h"

#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "block_description.h"
#include "hamiltorch/cuda_extended.h"

namespace py = pybind11;

namespace hamiltorch {
namespace {

struct Description : BlockDescription {
  double binding;
};

template <class T>
CudaExtendedRollout<T> rollout(const Description& d) {
  CudaExtendedRollout<T> result{};
  d.fill(&result);
  result.binding = d.binding;
  return result;
}

template <class T>
void forward(const CudaBlockPlan& plan, const Description& d, Address z0, Address trajectory, Address points,
             Address turned, const Place& place) {
  const ExtendedArrays<T> arrays = {pointer<T>(z0), pointer<T>(trajectory), pointer<T>(points), pointer<T>(turned)};
  const py::gil_scoped_release release;
  check_call(cuda_extended_forward(plan, rollout<T>(d), arrays, pointer<void>(place.workspace), place.device,
                                   pointer<void>(place.stream)));
}

template <class T>
void adjoint(const CudaBlockPlan& plan, const Description& d, Address points, Address turned, Address grad_trajectory,
             Address directions, Address grad_z0, Address grad_angle, const Place& place) {
  const ExtendedAdjointArrays<T> arrays = {pointer<T>(points),     pointer<T>(turned),  pointer<T>(grad_trajectory),
                                           pointer<T>(directions), pointer<T>(grad_z0), pointer<double>(grad_angle)};
  const py::gil_scoped_release release;
  check_call(cuda_extended_adjoint(plan, rollout<T>(d), arrays, pointer<void>(place.workspace), place.device,
                                   pointer<void>(place.stream)));
}

Description description(bool is_double, int64_t dim, std::vector<int64_t> widths, int32_t activation,
                        std::vector<Address> weights, std::vector<Address> biases, Address head, Address base,
                        int64_t base_stride, double binding, Address dt, int64_t steps, int64_t batch) {
  Description d{{is_double, dim, std::move(widths), activation, std::move(weights), std::move(biases), head, base,
                 base_stride, dt, steps, batch, 0, 0},
                binding};
  d.check(2);
  return d;
}

}  // namespace

void bind_cuda_extended(py::module_& m) {
  py::class_<Description>(m, "CudaExtendedRollout", py::module_local(),
                          "A network, the binding of the two copies of the phase space, and the size of a rollout, as "
                          "CudaExtendedRollout in hamiltorch/cuda_extended.h.")
      .def(py::init(&description), py::arg("is_double"), py::arg("dim"), py::arg("widths"), py::arg("activation"),
           py::arg("weights"), py::arg("biases"), py::arg("head"), py::arg("base"), py::arg("base_stride"),
           py::arg("binding"), py::arg("dt"), py::arg("steps"), py::arg("batch"));

  m.def(
      "cuda_extended_plan",
      [](int64_t dim, std::vector<int64_t> widths, int64_t batch, bool is_double, const std::vector<int>& gpu) {
        if (widths.empty()) throw py::value_error("widths must be those of one hidden layer or more");
        CudaBlockPlan plan{};
        std::string why;
        if (!cuda_extended_plan({dim, std::move(widths), batch, is_double}, described_gpu(gpu), &plan, &why))
          throw py::value_error(why);
        return plan;
      },
      "The plan for a GPU so described; ValueError says why there is none.", py::arg("dim"), py::arg("widths"),
      py::arg("batch"), py::arg("is_double"), py::arg("gpu"));
  m.def(
      "cuda_extended_forward",
      [](const CudaBlockPlan& plan, const Description& rollout, Address z0, Address trajectory, Address points,
         Address turned, Address workspace, int device, Address stream) {
        (rollout.is_double ? forward<double> : forward<float>)(plan, rollout, z0, trajectory, points, turned,
                                                               {workspace, device, stream});
      },
      "Roll out; arrays as extended_forward's.", py::arg("plan"), py::arg("rollout"), py::arg("z0"),
      py::arg("trajectory"), py::arg("points"), py::arg("turned"), py::arg("workspace"), py::arg("device"),
      py::arg("stream"));
  m.def(
      "cuda_extended_adjoint",
      [](const CudaBlockPlan& plan, const Description& rollout, Address points, Address turned, Address grad_trajectory,
         Address directions, Address grad_z0, Address grad_angle, Address workspace, int device, Address stream) {
        (rollout.is_double ? adjoint<double> : adjoint<float>)(plan, rollout, points, turned, grad_trajectory,
                                                               directions, grad_z0, grad_angle,
                                                               {workspace, device, stream});
      },
      "Directions of the adjoint; arrays as extended_adjoint's.", py::arg("plan"), py::arg("rollout"),
      py::arg("points"), py::arg("turned"), py::arg("grad_trajectory"), py::arg("directions"), py::arg("grad_z0"),
      py::arg("grad_angle"), py::arg("workspace"), py::arg("device"), py::arg("stream"));
}

}  // namespace hamiltorch
