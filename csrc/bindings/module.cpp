// hamiltorch_ext._C: converts arguments, releases the GIL, maps statuses to exceptions. Shapes are checked in Python;
// what is checked here is what only a value can show.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../cpu/implementation.h"
#include "../cpu/parallel.h"
#include "addresses.h"
#include "chain.h"
#include "cuda_discrete.h"
#include "cuda_extended.h"
#include "cuda_implicit.h"
#include "cuda_separable.h"
#include "cuda_variational.h"
#include "description.h"
#include "direct.h"
#include "direct_variational.h"
#include "discrete_gradient.h"
#include "extended.h"
#include "hamiltorch/device.h"
#include "hamiltorch/rollout.h"
#include "implicit.h"
#include "method.h"
#include "run.h"
#include "separable.h"
#include "variational.h"

namespace py = pybind11;

namespace hamiltorch {
namespace {

template <class T>
void forward(const Description& description, Address z0, Address trajectory, Address energies, int threads) {
  const Native<T> native(description);
  run_forward<T>(native.implementation, native.rollout,
                 {pointer<T>(z0), pointer<T>(trajectory), pointer<T>(energies), nullptr}, threads);
}

struct Gradients {
  Address z0, dt;
  std::vector<Address> weights, biases;
  Address condition;
};

template <class T>
void backward(const Description& description, Address trajectory, Address grad_trajectory, Address grad_energies,
              const Gradients& gradients, int threads) {
  const Native<T> native(description);
  const std::vector<T*> weights = pointers<T>(gradients.weights), biases = pointers<T>(gradients.biases);
  run_backward<T>(native.implementation, native.rollout,
                  {pointer<T>(trajectory), nullptr, pointer<T>(grad_trajectory), pointer<T>(grad_energies),
                   pointer<T>(gradients.z0), pointer<T>(gradients.dt), weights.data(), biases.data(),
                   pointer<T>(gradients.condition)},
                  threads);
}

std::vector<std::string> instruction_sets() {
  const Implementation* all[8];
  const int count = supported_implementations(all, 8);
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) names.emplace_back(all[i]->name);
  return names;
}

// How much `threads` threads do in a second: each calls `work(index)`, which says how much it did, for about `seconds`.
double measure_rate(int threads, double seconds, const std::function<double(int)>& work) {
  struct Job {
    const std::function<double(int)>& work;
    double seconds;
    std::vector<double> rates;
  } job = {work, seconds, std::vector<double>(static_cast<size_t>(threads), 0.0)};
  const py::gil_scoped_release release;
  parallel(
      threads,
      [](void* context, int index) {
        Job& mine = *static_cast<Job*>(context);
        const auto start = std::chrono::steady_clock::now();
        double done = 0, elapsed = 0;
        do {
          done += mine.work(index);
          elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        } while (elapsed < mine.seconds);
        mine.rates[static_cast<size_t>(index)] = done / elapsed;
      },
      &job);
  double total = 0;
  for (const double rate : job.rates) total += rate;
  return total;
}

double measure_peak(double (*multiply_add)(int64_t), int threads, double seconds) {
  return measure_rate(threads, seconds, [multiply_add](int) { return multiply_add(1 << 16); });
}

double measure_read(int threads, size_t bytes, double seconds) {
  constexpr int64_t kAtLeast = 1 << 18;  // floats at a time: reading fewer would measure the clock
  const Implementation& implementation = active_implementation();
  const int64_t unit = threads * kReadUnit * static_cast<int64_t>(sizeof(float));
  const int64_t each = (static_cast<int64_t>(std::max<size_t>(bytes, 1)) + unit - 1) / unit * kReadUnit;  // floats
  const int64_t times = std::max<int64_t>(1, kAtLeast / (2 * each));
  float* values = static_cast<float*>(workspace().at_least(static_cast<size_t>(each * threads) * sizeof(float)));
  std::fill_n(values, each * threads, 1.0f);
  const double rate = measure_rate(threads, seconds, [&](int index) {
    volatile float sink = implementation.read(values + index * each, each, times);
    static_cast<void>(sink);
    return static_cast<double>(2 * each * times) * sizeof(float);
  });
  workspace().trim();
  return rate;
}

py::dict cuda() {
  const CudaReport report = cuda_report();
  py::dict result;
  result["architectures"] = cuda_architectures();
  result["available"] = report.state == CudaState::kReady;
  result["message"] = std::string(report.message);
  result["device_count"] = report.device_count;
  result["name"] = std::string(report.name);
  result["capability"] = report.capability;
  result["multiprocessors"] = report.multiprocessors;
  result["memory_bytes"] = report.memory_bytes;
  return result;
}

}  // namespace
}  // namespace hamiltorch

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  using namespace hamiltorch;
  m.doc() = "Native kernels of hamiltorch_ext. Addresses are of contiguous memory that the caller keeps alive.";
  m.attr("__version__") = HAMILTORCH_VERSION;

  py::class_<Method>(m, "Method",
                     "A method's stages: (moves, coefficient, at_q, at_p) each, as in hamiltorch/rollout.h.")
      .def(py::init<const std::vector<std::tuple<int32_t, double, double, double>>&>(), py::arg("stages"));

  py::class_<Description>(m, "Rollout", "A network, a method and the size of a rollout.")
      .def(
          py::init([](bool is_double, int64_t dim, int64_t condition_dim, std::vector<int64_t> widths,
                      int32_t activation, std::vector<Address> weights, std::vector<Address> biases,
                      const Method& method, double dt, int64_t steps, int64_t batch, Address condition, bool bfloat16) {
            return Description{is_double,
                               dim,
                               condition_dim,
                               std::move(widths),
                               activation,
                               std::move(weights),
                               std::move(biases),
                               method,
                               dt,
                               steps,
                               batch,
                               condition,
                               bfloat16};
          }),
          py::arg("is_double"), py::arg("dim"), py::arg("condition_dim"), py::arg("widths"), py::arg("activation"),
          py::arg("weights"), py::arg("biases"), py::arg("method"), py::arg("dt"), py::arg("steps"), py::arg("batch"),
          py::arg("condition"), py::arg("bfloat16"));

  m.def(
      "rollout_forward",
      [](const Description& rollout, Address z0, Address trajectory, Address energies, int threads) {
        (rollout.is_double ? forward<double> : forward<float>)(rollout, z0, trajectory, energies, threads);
      },
      "Roll out. z0 (batch, dim), trajectory (batch, steps + 1, dim), energies (batch, steps + 1) or 0.",
      py::arg("rollout"), py::arg("z0"), py::arg("trajectory"), py::arg("energies"), py::arg("threads"));
  m.def(
      "rollout_backward",
      [](const Description& rollout, Address trajectory, Address grad_trajectory, Address grad_energies,
         Address grad_z0, Address grad_dt, std::vector<Address> grad_weights, std::vector<Address> grad_biases,
         Address grad_condition, int threads) {
        const Gradients gradients = {grad_z0, grad_dt, std::move(grad_weights), std::move(grad_biases), grad_condition};
        (rollout.is_double ? backward<double> : backward<float>)(rollout, trajectory, grad_trajectory, grad_energies,
                                                                 gradients, threads);
      },
      "The adjoint of rollout_forward. Cotangents may be 0 for none; gradients are overwritten.", py::arg("rollout"),
      py::arg("trajectory"), py::arg("grad_trajectory"), py::arg("grad_energies"), py::arg("grad_z0"),
      py::arg("grad_dt"), py::arg("grad_weights"), py::arg("grad_biases"), py::arg("grad_condition"),
      py::arg("threads"));

  bind_direct(m);
  bind_chain(m);
  bind_implicit(m);
  bind_separable(m);
  bind_extended(m);
  bind_discrete_gradient(m);
  bind_variational(m);
  bind_direct_variational(m);
  bind_cuda_variational(m);
  bind_cuda_implicit(m);
  bind_cuda_extended(m);
  bind_cuda_discrete(m);
  bind_cuda_separable(m);

  m.def("instruction_sets", &instruction_sets, "Instruction sets that this processor runs, the fastest last.");
  m.def("instruction_set", [] { return std::string(active_implementation().name); }, "The instruction set in use.");
  m.def(
      "use_instruction_set",
      [](const std::string& name) {
        if (use_implementation(name.c_str())) return;
        std::string known;
        for (const std::string& each : instruction_sets()) known += (known.empty() ? "" : ", ") + each;
        throw py::value_error("instruction set must be one of " + known + " on this processor, got " + name);
      },
      "Choose the instruction set of all further calls.", py::arg("name"));
  m.def(
      "measure_peak",
      [](int threads, double seconds) { return measure_peak(active_implementation().multiply_add, threads, seconds); },
      "float32 multiply-add rate of `threads` threads in operations per second.", py::arg("threads"),
      py::arg("seconds"));
  m.def(
      "measure_peak_bfloat16",
      [](int threads, double seconds) {
        return supports_bfloat16() ? measure_peak(active_implementation().multiply_add_bfloat16, threads, seconds) : 0;
      },
      "The same of bfloat16 pairs with float32 sums; 0 where the instruction set in use has none.", py::arg("threads"),
      py::arg("seconds"));
  m.def("measure_read", &measure_read,
        "Bytes per second at which `threads` threads read an array of `bytes` forth and back, each its own part.",
        py::arg("threads"), py::arg("bytes"), py::arg("seconds"));
  m.def("supports_bfloat16", &supports_bfloat16, "Whether the instruction set in use multiplies bfloat16.");
  m.def("cuda", &cuda, "What the CUDA part can say: architectures built, device 0, or why there is none.");
}
