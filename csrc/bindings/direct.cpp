// Rollouts of tensors past torch's dispatcher, whose share of a small rollout is several times the native part's.
#include "direct.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "arguments.h"
#include "method.h"
#include "networks.h"
#include "run.h"
#include "tensors.h"

namespace py = pybind11;

namespace hamiltorch {
namespace {

// What a rollout and its adjoint have in common, as Python hands it over.
struct DirectCall {
  py::object network;
  const Method& method;
  py::object dt, condition;
  bool bfloat16;
  bool recording;  // then a tensor that requires a gradient is declined
  int threads;
  const Implementation& implementation = active_implementation();
};

// Rollouts of tensors past torch's dispatcher, for calls of which no gradient is recorded and that nothing else
// watches. Whatever is out of the ordinary is declined with None and not judged: that is for the checks in Python.
class Direct {
 public:
  Direct(Tensors tensors, Networks networks) : tensors_(std::move(tensors)), networks_(std::move(networks)) {}

  py::object rollout(const DirectCall& call, const py::object& z0, const py::object& steps, bool return_energy,
                     int64_t tape_bytes) const {
    return of_either_type(
        [&](auto number) { return rollout_of<decltype(number)>(call, z0, steps, return_energy, tape_bytes); });
  }

  py::object rollout_backward(const DirectCall& call, const py::object& trajectory, const py::object& tape,
                              const py::object& grad_trajectory, const py::object& grad_energies) const {
    return of_either_type([&](auto number) {
      return rollout_backward_of<decltype(number)>(call, trajectory, tape, grad_trajectory, grad_energies);
    });
  }

 private:
  using Shape = std::vector<int64_t>;

  template <class T>
  struct Taken {
    Rollout<T> rollout;
    PythonNetwork network;
    Layers<T> layers;
  };

  template <class T>
  py::object rollout_of(const DirectCall& call, const py::object& z0, const py::object& steps, bool return_energy,
                        int64_t tape_bytes) const {
    const auto start = arguments<T>(call).view(z0);
    if (!start || start->ndim == 0) return py::none();
    Shape shape(start->shape, start->shape + start->ndim - 1);
    const int64_t dim = start->shape[start->ndim - 1];
    Taken<T> taken;
    if (!take(call, shape, dim, taken) || !take_count(steps, 0, taken.rollout.steps)) return py::none();

    shape.push_back(taken.rollout.steps + 1);
    Result<T> energies, tape;
    if (return_energy) energies = tensors_.result<T>(shape);
    shape.push_back(dim);
    const Result<T> trajectory = tensors_.result<T>(shape);
    const int64_t numbers = tape_bytes ? kernels_of<T>(call.implementation).tape_size(taken.rollout) : 0;
    if (numbers > 0 && numbers <= tape_bytes / static_cast<int64_t>(sizeof(T))) tape = tensors_.result<T>({numbers});
    run_forward<T>(call.implementation, taken.rollout, {start->data, trajectory.data, energies.data, tape.data},
                   call.threads);
    return py::make_tuple(trajectory.tensor, energies.tensor, tape.tensor);
  }

  template <class T>
  py::object rollout_backward_of(const DirectCall& call, const py::object& trajectory, const py::object& tape,
                                 const py::object& grad_trajectory, const py::object& grad_energies) const {
    const Arguments<T> given = arguments<T>(call);
    const auto states = given.view(trajectory);
    if (!states || states->ndim != 3 || states->shape[1] == 0) return py::none();
    const int64_t batch = states->shape[0], points = states->shape[1], dim = states->shape[2];
    Taken<T> taken;
    if (!take(call, {batch}, dim, taken)) return py::none();
    taken.rollout.steps = points - 1;
    T *on_states = nullptr, *on_energies = nullptr, *kept = nullptr;
    if (!tape.is_none() && !given.take(tape, {kernels_of<T>(call.implementation).tape_size(taken.rollout)}, kept))
      return py::none();
    if (!given.take_optional(grad_trajectory, {batch, points, dim}, on_states) ||
        !given.take_optional(grad_energies, {batch, points}, on_energies))
      return py::none();

    const int64_t condition_dim = taken.network.condition_dim;
    const Result<T> grad_z0 = tensors_.result<T>({batch, dim}), grad_dt = tensors_.result<T>({});
    Result<T> grad_condition;
    if (!call.condition.is_none()) grad_condition = tensors_.result<T>({batch, condition_dim});
    const size_t layers = taken.layers.weights.size();
    py::tuple grad_weights(layers), grad_biases(layers);
    std::vector<T*> weights, biases;
    int64_t width = dim + condition_dim;
    for (size_t l = 0; l < layers; ++l) {
      const int64_t outputs = taken.layers.widths[l];
      const Result<T> weight = tensors_.result<T>({outputs, width}), bias = tensors_.result<T>({outputs});
      grad_weights[l] = weight.tensor;
      grad_biases[l] = bias.tensor;
      weights.push_back(weight.data);
      biases.push_back(bias.data);
      width = outputs;
    }
    run_backward<T>(call.implementation, taken.rollout,
                    {states->data, kept, on_states, on_energies, grad_z0.data, grad_dt.data, weights.data(),
                     biases.data(), grad_condition.data},
                    call.threads);
    return py::make_tuple(grad_z0.tensor, grad_dt.tensor, grad_weights, grad_biases, grad_condition.tensor);
  }

  template <class T>
  Arguments<T> arguments(const DirectCall& call) const {
    return {tensors_, call.recording};
  }

  // All of the rollout but its steps. `batch` is z0's shape without the last dimension, which is `dim`.
  template <class T>
  bool take(const DirectCall& call, const Shape& batch, int64_t dim, Taken<T>& taken) const {
    auto network = networks_.read(call.network);
    if (!network || dim == 0 || dim % 2) return false;
    taken.network = std::move(*network);
    const int64_t condition_dim = taken.network.condition_dim;
    const Arguments<T> given = arguments<T>(call);
    if (!given.take_layers(taken.network, dim + condition_dim, taken.layers)) return false;
    Rollout<T>& rollout = taken.rollout;
    rollout.network = network_of(taken.network, dim, taken.layers);
    rollout.stages = call.method.stages.data();
    rollout.stage_count = static_cast<int64_t>(call.method.stages.size());
    rollout.bfloat16 = call.bfloat16 && sizeof(T) == sizeof(float);
    if (rollout.bfloat16 && !call.implementation.multiply_add_bfloat16) return false;
    rollout.batch = 1;
    for (const int64_t size : batch) rollout.batch *= size;
    Shape shape = batch;
    shape.push_back(condition_dim);
    return given.take_condition(call.condition, shape, rollout.condition) && given.take_number(call.dt, rollout.dt);
  }

  Tensors tensors_;
  Networks networks_;
};

}  // namespace

void bind_direct(py::module_& m) {
  py::class_<Direct>(
      m, "Direct",
      "Rollouts of tensors on the CPU past torch's dispatcher. `exchange` is the tensor type's capsule of DLPack's C "
      "functions, or None where it has none; the other arguments are the types that are read, and the activations' "
      "codes.")
      .def(py::init([](const py::object& exchange, py::object tensor, py::object parameter, py::object module,
                       py::object linear, py::dict activations) {
             return Direct(Tensors(exchange, std::move(tensor), std::move(parameter)),
                           Networks(std::move(module), std::move(linear), std::move(activations)));
           }),
           py::arg("exchange"), py::arg("tensor"), py::arg("parameter"), py::arg("module"), py::arg("linear"),
           py::arg("activations"))
      .def(
          "rollout",
          [](const Direct& direct, py::object network, const Method& method, py::object dt, py::object condition,
             bool bfloat16, bool recording, int threads, const py::object& z0, const py::object& steps,
             bool return_energy, int64_t tape_bytes) {
            return direct.rollout(
                {std::move(network), method, std::move(dt), std::move(condition), bfloat16, recording, threads}, z0,
                steps, return_energy, tape_bytes);
          },
          "(trajectory, energies or None, tape or None where it would take more than tape_bytes); None where an "
          "argument is not plain or does not fit. With `recording` a tensor that requires a gradient is not plain.",
          py::arg("network"), py::arg("method"), py::arg("dt"), py::arg("condition"), py::arg("bfloat16"),
          py::arg("recording"), py::arg("threads"), py::arg("z0"), py::arg("steps"), py::arg("return_energy"),
          py::arg("tape_bytes"))
      .def(
          "rollout_backward",
          [](const Direct& direct, py::object network, const Method& method, py::object dt, py::object condition,
             bool bfloat16, bool recording, int threads, const py::object& trajectory, const py::object& tape,
             const py::object& grad_trajectory, const py::object& grad_energies) {
            return direct.rollout_backward(
                {std::move(network), method, std::move(dt), std::move(condition), bfloat16, recording, threads},
                trajectory, tape, grad_trajectory, grad_energies);
          },
          "Its adjoint: gradients by z0, dt, the weights, the biases and the condition, or None in the same cases.",
          py::arg("network"), py::arg("method"), py::arg("dt"), py::arg("condition"), py::arg("bfloat16"),
          py::arg("recording"), py::arg("threads"), py::arg("trajectory"), py::arg("tape"), py::arg("grad_trajectory"),
          py::arg("grad_energies"));
}

}  // namespace hamiltorch
