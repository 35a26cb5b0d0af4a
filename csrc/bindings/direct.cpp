// Rollouts of tensors past torch's dispatcher, whose share of a small rollout is several times the native part's.
#include "direct.h"

#include <pybind11/stl.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "method.h"
#include "run.h"
#include "tensors.h"

namespace py = pybind11;

namespace hamiltorch {
namespace {

// What a rollout and its adjoint have in common, as Python hands it over.
struct DirectCall {
  py::tuple weights, biases;
  int32_t activation;
  const Method& method;
  py::object dt, condition;
  int64_t condition_dim;
  bool bfloat16;
  bool recording;  // then a tensor that requires a gradient is declined
  int threads;
  const Implementation& implementation = active_implementation();
};

// Rollouts of tensors past torch's dispatcher, for calls of which no gradient is recorded and that nothing else
// watches. Whatever is out of the ordinary is declined with None and not judged: that is for the checks in Python.
class Direct {
 public:
  Direct(const py::object& exchange, py::object tensor, py::object parameter)
      : tensors_(exchange, std::move(tensor), std::move(parameter)) {}

  py::object rollout(const DirectCall& call, const py::object& z0, const py::object& steps, bool return_energy,
                     int64_t tape_bytes) const {
    py::object result = rollout_of<float>(call, z0, steps, return_energy, tape_bytes);
    return result.is_none() ? rollout_of<double>(call, z0, steps, return_energy, tape_bytes) : result;
  }

  py::object rollout_backward(const DirectCall& call, const py::object& trajectory, const py::object& tape,
                              const py::object& grad_trajectory, const py::object& grad_energies) const {
    py::object result = rollout_backward_of<float>(call, trajectory, tape, grad_trajectory, grad_energies);
    return result.is_none() ? rollout_backward_of<double>(call, trajectory, tape, grad_trajectory, grad_energies)
                            : result;
  }

 private:
  using Shape = std::vector<int64_t>;

  template <class T>
  struct Taken {
    Rollout<T> rollout;
    std::vector<const T*> weights, biases;
    Shape widths;
  };

  template <class T>
  py::object rollout_of(const DirectCall& call, const py::object& z0, const py::object& steps, bool return_energy,
                        int64_t tape_bytes) const {
    const auto start = view<T>(call, z0);
    if (!start || start->ndim == 0) return py::none();
    Shape shape(start->shape, start->shape + start->ndim - 1);
    const int64_t dim = start->shape[start->ndim - 1];
    Taken<T> taken;
    if (!take(call, shape, dim, taken) || !take_steps(steps, taken.rollout.steps)) return py::none();

    shape.push_back(taken.rollout.steps + 1);
    const py::object energies = return_energy ? tensors_.result<T>(z0, shape) : py::none();
    shape.push_back(dim);
    py::object trajectory = tensors_.result<T>(z0, shape);
    const int64_t numbers = tape_bytes ? kernels_of<T>(call.implementation).tape_size(taken.rollout) : 0;
    const bool taped = numbers > 0 && numbers <= tape_bytes / static_cast<int64_t>(sizeof(T));
    const py::object tape = taped ? tensors_.result<T>(z0, {numbers}) : py::none();
    run_forward<T>(call.implementation, taken.rollout,
                   {start->data, data<T>(trajectory), data<T>(energies), data<T>(tape)}, call.threads);
    return py::make_tuple(trajectory, energies, tape);
  }

  template <class T>
  py::object rollout_backward_of(const DirectCall& call, const py::object& trajectory, const py::object& tape,
                                 const py::object& grad_trajectory, const py::object& grad_energies) const {
    const auto states = view<T>(call, trajectory);
    if (!states || states->ndim != 3 || states->shape[1] == 0) return py::none();
    const int64_t batch = states->shape[0], points = states->shape[1], dim = states->shape[2];
    Taken<T> taken;
    if (!take(call, {batch}, dim, taken)) return py::none();
    taken.rollout.steps = points - 1;
    T *on_states = nullptr, *on_energies = nullptr, *kept = nullptr;
    if (!tape.is_none() &&
        !take_optional(call, tape, {kernels_of<T>(call.implementation).tape_size(taken.rollout)}, kept))
      return py::none();
    if (!take_optional(call, grad_trajectory, {batch, points, dim}, on_states) ||
        !take_optional(call, grad_energies, {batch, points}, on_energies))
      return py::none();

    const py::object grad_z0 = tensors_.empty(trajectory, {batch, dim}), grad_dt = tensors_.empty(trajectory, {});
    const py::object grad_condition =
        call.condition.is_none() ? py::none() : tensors_.empty(trajectory, {batch, call.condition_dim});
    const size_t layers = taken.weights.size();
    py::tuple grad_weights(layers), grad_biases(layers);
    std::vector<T*> weights, biases;
    int64_t width = dim + call.condition_dim;
    for (size_t l = 0; l < layers; ++l) {
      const int64_t outputs = taken.widths[l];
      grad_weights[l] = tensors_.empty(trajectory, {outputs, width});
      grad_biases[l] = tensors_.empty(trajectory, {outputs});
      weights.push_back(data<T>(grad_weights[l]));
      biases.push_back(data<T>(grad_biases[l]));
      width = outputs;
    }
    run_backward<T>(call.implementation, taken.rollout,
                    {states->data, kept, on_states, on_energies, data<T>(grad_z0), data<T>(grad_dt), weights.data(),
                     biases.data(), data<T>(grad_condition)},
                    call.threads);
    return py::make_tuple(grad_z0, grad_dt, grad_weights, grad_biases, grad_condition);
  }

  template <class T>
  std::optional<View<T>> view(const DirectCall& call, py::handle tensor) const {
    auto result = tensors_.view<T>(tensor);
    if (result && call.recording && tensors_.requires_grad(tensor)) return {};
    return result;
  }

  // Of a tensor that `empty` has made, or of None.
  template <class T>
  T* data(py::handle tensor) const {
    if (tensor.is_none()) return nullptr;
    const auto memory = tensors_.view<T>(tensor);
    if (!memory) throw std::runtime_error("new_empty must return a plain tensor");
    return memory->data;
  }

  // All of the rollout but its steps. `batch` is z0's shape without the last dimension, which is `dim`.
  template <class T>
  bool take(const DirectCall& call, const Shape& batch, int64_t dim, Taken<T>& taken) const {
    const size_t layers = call.weights.size();
    if (dim == 0 || dim % 2 || layers < 2 || call.biases.size() != layers) return false;
    taken.weights.reserve(layers), taken.biases.reserve(layers), taken.widths.reserve(layers);
    int64_t width = dim + call.condition_dim;
    for (size_t l = 0; l < layers; ++l) {
      const auto weight = view<T>(call, call.weights[l]), bias = view<T>(call, call.biases[l]);
      if (!weight || !bias || weight->ndim != 2) return false;
      const int64_t outputs = l + 1 < layers ? weight->shape[0] : 1;
      if (outputs == 0 || !weight->has_shape({outputs, width}) || !bias->has_shape({outputs})) return false;
      taken.weights.push_back(weight->data);
      taken.biases.push_back(bias->data);
      taken.widths.push_back(outputs);
      width = outputs;
    }
    Rollout<T>& rollout = taken.rollout;
    rollout.network = {dim,
                       call.condition_dim,
                       static_cast<int64_t>(layers - 1),
                       static_cast<Activation>(call.activation),
                       taken.widths.data(),
                       taken.weights.data(),
                       taken.biases.data()};
    rollout.stages = call.method.stages.data();
    rollout.stage_count = static_cast<int64_t>(call.method.stages.size());
    rollout.bfloat16 = call.bfloat16 && sizeof(T) == sizeof(float);
    if (rollout.bfloat16 && !call.implementation.multiply_add_bfloat16) return false;
    rollout.batch = 1;
    for (const int64_t size : batch) rollout.batch *= size;
    return take_condition(call, batch, rollout.condition) && take_time_step(call, rollout.dt);
  }

  template <class T>
  bool take_condition(const DirectCall& call, const Shape& batch, const T*& condition) const {
    condition = nullptr;
    if (call.condition.is_none() || call.condition_dim == 0) return call.condition.is_none() && call.condition_dim == 0;
    const auto given = view<T>(call, call.condition);
    Shape shape = batch;
    shape.push_back(call.condition_dim);
    if (!given || !given->has_shape(shape)) return false;
    condition = given->data;
    return true;
  }

  template <class T>
  bool take_time_step(const DirectCall& call, T& dt) const {
    if (PyFloat_Check(call.dt.ptr())) {
      const double given = PyFloat_AS_DOUBLE(call.dt.ptr());
      dt = static_cast<T>(given);
      return std::abs(given) <= std::numeric_limits<T>::max();
    }
    const auto given = view<T>(call, call.dt);
    if (!given || given->ndim != 0) return false;
    dt = *given->data;
    return std::isfinite(dt);
  }

  static bool take_steps(const py::object& given, int64_t& steps) {
    if (!PyLong_CheckExact(given.ptr())) return false;
    int overflow;
    steps = PyLong_AsLongLongAndOverflow(given.ptr(), &overflow);
    return !overflow && steps >= 0 && steps < std::numeric_limits<int64_t>::max();
  }

  template <class T>
  bool take_optional(const DirectCall& call, const py::object& given, const Shape& shape, T*& memory) const {
    if (given.is_none()) return true;
    const auto found = view<T>(call, given);
    if (!found || !found->has_shape(shape)) return false;
    memory = found->data;
    return true;
  }

  Tensors tensors_;
};

}  // namespace

void bind_direct(py::module_& m) {
  py::class_<Direct>(
      m, "Direct",
      "Rollouts of tensors on the CPU past torch's dispatcher: `exchange` is the tensor type's capsule of "
      "DLPack's C functions, or None where it has none.")
      .def(py::init<py::object, py::object, py::object>(), py::arg("exchange"), py::arg("tensor"), py::arg("parameter"))
      .def(
          "rollout",
          [](const Direct& direct, py::tuple weights, py::tuple biases, int32_t activation, const Method& method,
             py::object dt, py::object condition, int64_t condition_dim, bool bfloat16, bool recording, int threads,
             const py::object& z0, const py::object& steps, bool return_energy, int64_t tape_bytes) {
            return direct.rollout({std::move(weights), std::move(biases), activation, method, std::move(dt),
                                   std::move(condition), condition_dim, bfloat16, recording, threads},
                                  z0, steps, return_energy, tape_bytes);
          },
          "(trajectory, energies or None, tape or None where it would take more than tape_bytes); None where an "
          "argument is not plain or does not fit. With `recording` a tensor that requires a gradient is not plain.",
          py::arg("weights"), py::arg("biases"), py::arg("activation"), py::arg("method"), py::arg("dt"),
          py::arg("condition"), py::arg("condition_dim"), py::arg("bfloat16"), py::arg("recording"), py::arg("threads"),
          py::arg("z0"), py::arg("steps"), py::arg("return_energy"), py::arg("tape_bytes"))
      .def(
          "rollout_backward",
          [](const Direct& direct, py::tuple weights, py::tuple biases, int32_t activation, const Method& method,
             py::object dt, py::object condition, int64_t condition_dim, bool bfloat16, bool recording, int threads,
             const py::object& trajectory, const py::object& tape, const py::object& grad_trajectory,
             const py::object& grad_energies) {
            return direct.rollout_backward({std::move(weights), std::move(biases), activation, method, std::move(dt),
                                            std::move(condition), condition_dim, bfloat16, recording, threads},
                                           trajectory, tape, grad_trajectory, grad_energies);
          },
          "Its adjoint: gradients by z0, dt, the weights, the biases and the condition, or None in the same cases.",
          py::arg("weights"), py::arg("biases"), py::arg("activation"), py::arg("method"), py::arg("dt"),
          py::arg("condition"), py::arg("condition_dim"), py::arg("bfloat16"), py::arg("recording"), py::arg("threads"),
          py::arg("trajectory"), py::arg("tape"), py::arg("grad_trajectory"), py::arg("grad_energies"));
}

}  // namespace hamiltorch
