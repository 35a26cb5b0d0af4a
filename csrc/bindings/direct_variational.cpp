// Discrete Euler-Lagrange rollouts of tensors past torch's dispatcher, whose share of a small one is as large as the
// native part's.
#include "direct_variational.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "arguments.h"
#include "networks.h"
#include "run.h"
#include "tensors.h"

namespace py = pybind11;

namespace hamiltorch {
namespace {

// What a rollout and its adjoint have in common, as Python hands it over.
struct DelCall {
  py::object network, mass;
  py::object dt, damping;  // numbers or tensors
  py::object condition;
  py::tuple settings;  // steps, tolerance, most iterations
  int threads;
  const Implementation& implementation = active_implementation();
};

// What is out of the ordinary is declined with None. So is an empty batch, which no kernel looks at.
class DirectDel {
 public:
  DirectDel(Tensors tensors, Networks networks) : tensors_(std::move(tensors)), networks_(std::move(networks)) {}

  py::object rollout(const DelCall& call, const py::object& q0, const py::object& q1, const py::object& impulses,
                     bool recording) const {
    return of_either_type([&](auto number) { return rollout_of<decltype(number)>(call, q0, q1, impulses, recording); });
  }

  py::object rollout_backward(const DelCall& call, const py::object& trajectory, const py::object& converged,
                              const py::object& grad_trajectory, bool by_impulses, bool by_others) const {
    return of_either_type([&](auto number) {
      return rollout_backward_of<decltype(number)>(call, trajectory, converged, grad_trajectory, by_impulses,
                                                   by_others);
    });
  }

 private:
  template <class T>
  struct Taken {
    DelRollout<T> rollout;
    PythonNetwork network;
    Layers<T> layers;
    std::vector<T> damping;  // where it is a number
  };

  template <class T>
  py::object rollout_of(const DelCall& call, const py::object& q0, const py::object& q1, const py::object& impulses,
                        bool recording) const {
    const Arguments<T> given(tensors_, false);
    const auto start = given.view(q0);
    if (!start || start->ndim != 2) return py::none();
    const int64_t batch = start->shape[0], d = start->shape[1];
    Taken<T> taken;
    if (!take(call, batch, d, taken)) return py::none();
    const int64_t steps = taken.rollout.steps;
    T *second = nullptr, *pushed = nullptr;
    if (!given.take(q1, {batch, d}, second) || !given.take_optional(impulses, {batch, steps, d}, pushed))
      return py::none();
    const py::handle inputs[] = {q0, q1, impulses, call.dt, call.damping, call.condition, call.mass};
    const bool recorded = recording && requires_grad(inputs, taken.network);
    if (recorded)  // autograd keeps none that was born in inference mode
      for (const py::handle input : inputs)
        if (tensors_.is_plain(input) && tensors_.is_inference(input)) return py::none();

    const Result<T> trajectory = tensors_.result<T>({batch, steps + 2, d});
    const Result<bool> converged = tensors_.result<bool>({batch, steps});
    const Result<int64_t> iterations = tensors_.result<int64_t>({batch, steps});
    const Result<T> residual = tensors_.result<T>({batch, steps}), pivot = tensors_.result<T>({batch, steps});
    run_del(call.implementation, taken.rollout,
            DelArrays<T>{start->data, second, pushed, trajectory.data, reinterpret_cast<uint8_t*>(converged.data),
                         iterations.data, residual.data, pivot.data},
            call.threads, &Kernels<T>::del_sizes, &Kernels<T>::del_forward);

    int64_t failed = 0;
    for (int64_t row = 1; steps > 0 && row <= batch; ++row) failed += !converged.data[row * steps - 1];
    py::object parameters = py::none();
    if (recorded) parameters = joined(taken.network);
    return py::make_tuple(
        py::make_tuple(trajectory.tensor, converged.tensor, iterations.tensor, residual.tensor, pivot.tensor), failed,
        parameters);
  }

  template <class T>
  py::object rollout_backward_of(const DelCall& call, const py::object& trajectory, const py::object& converged,
                                 const py::object& grad_trajectory, bool by_impulses, bool by_others) const {
    const Arguments<T> given(tensors_, false);
    const auto points = given.view(trajectory);
    if (!points || points->ndim != 3) return py::none();
    const int64_t batch = points->shape[0], d = points->shape[2];
    Taken<T> taken;
    if (!take(call, batch, d, taken)) return py::none();
    const DelRollout<T>& rollout = taken.rollout;
    const int64_t steps = rollout.steps, stride = (steps + 2) * d;
    const auto solved = tensors_.view<bool>(converged);
    T* cotangents = nullptr;
    if (points->shape[1] != steps + 2 || !solved || !solved->has_shape({batch, steps}) ||
        !given.take(grad_trajectory, {batch, steps + 2, d}, cotangents))
      return py::none();

    // Memory of a gradient: a result where it is by a tensor.
    std::vector<std::unique_ptr<T[]>> spare;
    const auto gradient = [&](bool wanted, const std::vector<int64_t>& shape) -> Result<T> {
      if (wanted) return tensors_.result<T>(shape);
      size_t size = 1;
      for (const int64_t count : shape) size *= static_cast<size_t>(count);
      spare.emplace_back(new T[size]);
      return {py::none(), spare.back().get()};
    };
    const uint8_t* const flags = reinterpret_cast<const uint8_t*>(solved->data);
    const Result<T> on_steps = gradient(false, {batch, steps, d}), on_start = gradient(false, {batch, 2, d});
    const Result<T> by_q0 = gradient(true, {batch, d}), by_q1 = gradient(true, {batch, d});
    const Result<T> multipliers = gradient(by_impulses, {batch, steps, d});
    for (int64_t row = 0; row < batch; ++row)
      std::copy_n(cotangents + row * stride + 2 * d, steps * d, on_steps.data + row * steps * d);
    run_del(call.implementation, rollout,
            DelAdjointArrays<T>{points->data, flags, on_steps.data, multipliers.data, on_start.data}, call.threads,
            &Kernels<T>::del_sizes, &Kernels<T>::del_adjoint);
    for (int64_t row = 0; row < batch; ++row)
      for (int64_t i = 0; i < d; ++i) {
        const T *const own = cotangents + row * stride, *const later = on_start.data + row * 2 * d;
        by_q0.data[row * d + i] = own[i] + later[i];
        by_q1.data[row * d + i] = own[d + i] + later[d + i];
      }

    const size_t layers = taken.layers.weights.size();
    constexpr size_t kOthers = 7;  // what comes before the weights
    py::tuple gradients(kOthers + 2 * layers);
    for (size_t i = 0; i < gradients.size(); ++i) gradients[i] = py::none();
    gradients[0] = by_q0.tensor, gradients[1] = by_q1.tensor;
    if (by_others) {
      const int64_t columns = rollout.network.condition_dim, intervals = steps + 1;
      const Result<T> dt = gradient(tensors_.is_plain(call.dt), {});
      const Result<T> damping = gradient(tensors_.is_plain(call.damping), {d}), mass = gradient(true, {d});
      const Result<T> by_interval = gradient(false, {batch, intervals, columns});
      const Result<T> condition = gradient(columns > 0, {batch, columns});
      gradients[3] = dt.tensor, gradients[4] = damping.tensor, gradients[5] = condition.tensor;
      gradients[6] = mass.tensor;
      std::vector<T*> weights, biases;
      int64_t inputs = 2 * d + columns;
      for (size_t l = 0; l < layers; ++l) {
        const int64_t outputs = taken.layers.widths[l];
        const Result<T> weight = gradient(true, {outputs, inputs});
        const Result<T> bias = gradient(!taken.network.biases[l].is_none(), {outputs});
        gradients[kOthers + l] = weight.tensor, gradients[kOthers + layers + l] = bias.tensor;
        weights.push_back(weight.data), biases.push_back(bias.data);
        inputs = outputs;
      }
      biases.back()[0] = 0;  // no derivative of L_d has it
      run_del(call.implementation, rollout,
              DelGradientArrays<T>{points->data, flags, multipliers.data, weights.data(), biases.data(), mass.data,
                                   damping.data, dt.data, by_interval.data},
              call.threads, &Kernels<T>::del_gradient_sizes, &Kernels<T>::del_gradient);
      for (int64_t row = 0; row < batch; ++row)
        for (int64_t c = 0; c < columns; ++c) {
          double sum = 0;
          for (int64_t k = 0; k < intervals; ++k)
            sum += static_cast<double>(by_interval.data[(row * intervals + k) * columns + c]);
          condition.data[row * columns + c] = static_cast<T>(sum);
        }
    }
    if (by_impulses) {
      for (int64_t i = 0; i < batch * steps * d; ++i) multipliers.data[i] = -multipliers.data[i];
      gradients[2] = multipliers.tensor;
    }
    return std::move(gradients);
  }

  // All but the points and the impulses.
  template <class T>
  bool take(const DelCall& call, int64_t batch, int64_t d, Taken<T>& taken) const {
    auto network = networks_.read(call.network);
    if (!network || batch == 0 || d == 0) return false;
    taken.network = std::move(*network);
    const int64_t condition_dim = taken.network.condition_dim;
    const Arguments<T> given(tensors_, false);
    DelRollout<T>& rollout = taken.rollout;
    T *mass = nullptr, *damping = nullptr;
    if (!given.take_layers(taken.network, 2 * d + condition_dim, taken.layers) || !given.take(call.mass, {d}, mass) ||
        !given.take_condition(call.condition, std::vector<int64_t>{batch, condition_dim}, rollout.condition) ||
        !given.take_number(call.dt, rollout.dt) || rollout.dt == 0)
      return false;
    if (!given.take_optional(call.damping, {d}, damping) || !damping) {
      T everywhere = 0;
      if (!call.damping.is_none() && (tensors_.is_plain(call.damping) || !given.take_number(call.damping, everywhere)))
        return false;
      taken.damping.assign(static_cast<size_t>(d), everywhere);
      damping = taken.damping.data();
    }
    if (call.settings.size() != 3 || !take_count(call.settings[0], 0, rollout.steps) ||
        !given.take_number(call.settings[1], rollout.tolerance) || !(rollout.tolerance > 0) ||
        !take_count(call.settings[2], 1, rollout.max_iterations))
      return false;
    rollout.network = network_of(taken.network, 2 * d, taken.layers);
    rollout.mass = mass;
    rollout.damping = damping;
    rollout.batch = batch;
    return true;
  }

  template <size_t count>
  bool requires_grad(const py::handle (&inputs)[count], const PythonNetwork& network) const {
    const auto tracked = [&](py::handle input) { return tensors_.is_plain(input) && tensors_.requires_grad(input); };
    return std::any_of(std::begin(inputs), std::end(inputs), tracked) ||
           std::any_of(network.weights.begin(), network.weights.end(), tracked) ||
           std::any_of(network.biases.begin(), network.biases.end(), tracked);
  }

  static py::tuple joined(const PythonNetwork& network) {
    const size_t layers = network.weights.size();
    py::tuple parameters(2 * layers);
    for (size_t l = 0; l < layers; ++l) {
      parameters[l] = network.weights[l];
      parameters[layers + l] = network.biases[l];
    }
    return parameters;
  }

  Tensors tensors_;
  Networks networks_;
};

}  // namespace

void bind_direct_variational(py::module_& m) {
  py::class_<DirectDel>(m, "DirectDel",
                        "Discrete Euler-Lagrange rollouts of tensors on the CPU past torch's dispatcher; arguments as "
                        "Direct's.")
      .def(py::init([](const py::object& exchange, py::object tensor, py::object parameter, py::object module,
                       py::object linear, py::dict activations) {
             return DirectDel(Tensors(exchange, std::move(tensor), std::move(parameter)),
                              Networks(std::move(module), std::move(linear), std::move(activations)));
           }),
           py::arg("exchange"), py::arg("tensor"), py::arg("parameter"), py::arg("module"), py::arg("linear"),
           py::arg("activations"))
      .def(
          "rollout",
          [](const DirectDel& direct, py::object network, py::object mass, py::object dt, py::object damping,
             py::object condition, py::tuple settings, int threads, const py::object& q0, const py::object& q1,
             const py::object& impulses, bool recording) {
            return direct.rollout({std::move(network), std::move(mass), std::move(dt), std::move(damping),
                                   std::move(condition), std::move(settings), threads},
                                  q0, q1, impulses, recording);
          },
          "(trajectory, converged, iterations, residual, smallest_pivot), how many samples failed, and the weights and "
          "biases if with `recording` anything requires a gradient, else None. None in place of all where an argument "
          "is not plain or does not fit.",
          py::arg("network"), py::arg("mass"), py::arg("dt"), py::arg("damping"), py::arg("condition"),
          py::arg("settings"), py::arg("threads"), py::arg("q0"), py::arg("q1"), py::arg("impulses"),
          py::arg("recording"))
      .def(
          "rollout_backward",
          [](const DirectDel& direct, py::object network, py::object mass, py::object dt, py::object damping,
             py::object condition, py::tuple settings, int threads, const py::object& trajectory,
             const py::object& converged, const py::object& grad_trajectory, bool by_impulses, bool by_others) {
            return direct.rollout_backward({std::move(network), std::move(mass), std::move(dt), std::move(damping),
                                            std::move(condition), std::move(settings), threads},
                                           trajectory, converged, grad_trajectory, by_impulses, by_others);
          },
          "Gradients by q0, q1, the impulses, dt, damping, the condition, the masses, the weights and the biases: None "
          "by what is no tensor, by the impulses without `by_impulses`, by what follows them without `by_others`. None "
          "in place of all in the same cases.",
          py::arg("network"), py::arg("mass"), py::arg("dt"), py::arg("damping"), py::arg("condition"),
          py::arg("settings"), py::arg("threads"), py::arg("trajectory"), py::arg("converged"),
          py::arg("grad_trajectory"), py::arg("by_impulses"), py::arg("by_others"));
}

}  // namespace hamiltorch
