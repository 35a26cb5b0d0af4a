// hamiltorch_ext._C: converts arguments, releases the GIL, maps statuses to exceptions. Shapes are checked in Python;
// what is checked here is what only a value can show.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
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
#include "hamiltorch/device.h"
#include "hamiltorch/rollout.h"

namespace py = pybind11;

namespace hamiltorch {
namespace {

// One buffer per calling thread, kept between calls while it is of modest size: fresh pages cost more than small
// rollouts do.
class Workspace {
 public:
  void* at_least(size_t size) {
    if (size > size_) {
      buffer_.reset();
      size_ = 0;
      const size_t rounded = (size + 4095) / 4096 * 4096;
      buffer_.reset(std::aligned_alloc(4096, rounded));
      if (!buffer_) throw std::bad_alloc();
      size_ = rounded;
    }
    return buffer_.get();
  }

  void trim() {
    if (size_ <= kKept) return;
    buffer_.reset();
    size_ = 0;
  }

 private:
  static constexpr size_t kKept = size_t{64} << 20;
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> buffer_;
  size_t size_ = 0;
};

Workspace& workspace() {
  static thread_local Workspace instance;
  return instance;
}

// The network and the method as Python describes them; T is known only when it runs.
struct Description {
  bool is_double;
  int64_t dim, condition_dim;
  std::vector<int64_t> widths;
  int32_t activation;
  std::vector<Address> weights, biases;
  std::vector<std::pair<int32_t, double>> stages;
  double dt;
  int64_t steps, batch;
  Address condition;
};

template <class T>
struct Prepared {
  std::vector<T*> weights, biases;
  std::vector<Stage> stages;
  Rollout<T> rollout;

  explicit Prepared(const Description& d) : weights(pointers<T>(d.weights)), biases(pointers<T>(d.biases)) {
    if (!std::isfinite(d.dt)) throw py::value_error("dt must be finite, got " + std::to_string(d.dt));
    if (d.activation < 0 || d.activation >= kActivations)
      throw py::value_error("activation must be a code below " + std::to_string(kActivations) + ", got " +
                            std::to_string(d.activation));
    if (weights.size() != d.widths.size() + 1 || biases.size() != weights.size() || d.widths.empty() ||
        d.stages.empty())
      throw py::value_error("weights and biases must be one more than hidden widths, and there must be a stage");
    for (const auto& [moves, coefficient] : d.stages) stages.push_back({moves, coefficient});
    rollout = {{d.dim, d.condition_dim, static_cast<int64_t>(d.widths.size()), static_cast<Activation>(d.activation),
                d.widths.data(), weights.data(), biases.data()},
               stages.data(),
               static_cast<int64_t>(stages.size()),
               static_cast<T>(d.dt),
               d.steps,
               d.batch,
               pointer<T>(d.condition)};
  }
};

template <class T>
void forward(const Description& description, Address z0, Address trajectory, Address energies, int threads) {
  const Prepared<T> prepared(description);
  const ForwardArrays<T> arrays = {pointer<T>(z0), pointer<T>(trajectory), pointer<T>(energies)};
  const py::gil_scoped_release release;
  Status status;
  do {  // asked again where another thread chose another instruction set in between
    const size_t size = forward_workspace(prepared.rollout, threads);
    status = rollout_forward(prepared.rollout, arrays, threads, workspace().at_least(size), size);
  } while (status == Status::kWorkspaceTooSmall);
  workspace().trim();
}

struct Gradients {
  Address z0, dt;
  std::vector<Address> weights, biases;
  Address condition;
};

template <class T>
void backward(const Description& description, Address trajectory, Address grad_trajectory, Address grad_energies,
              const Gradients& gradients, int threads) {
  const Prepared<T> prepared(description);
  const std::vector<T*> weights = pointers<T>(gradients.weights), biases = pointers<T>(gradients.biases);
  const BackwardArrays<T> arrays = {
      pointer<T>(trajectory),
      pointer<T>(grad_trajectory),
      pointer<T>(grad_energies),
      pointer<T>(gradients.z0),
      pointer<T>(gradients.dt),
      weights.data(),
      biases.data(),
      pointer<T>(gradients.condition),
  };
  const py::gil_scoped_release release;
  Status status;
  do {
    const size_t size = backward_workspace(prepared.rollout, threads);
    status = rollout_backward(prepared.rollout, arrays, threads, workspace().at_least(size), size);
  } while (status == Status::kWorkspaceTooSmall);
  workspace().trim();
}

std::vector<std::string> instruction_sets() {
  const Implementation* all[8];
  const int count = supported_implementations(all, 8);
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) names.emplace_back(all[i]->name);
  return names;
}

// Floating-point operations per second that `threads` threads reach in multiply-adds on registers for about `seconds`.
double measure_peak(int threads, double seconds) {
  struct Job {
    const Implementation* implementation;
    double seconds;
    std::vector<double> rates;
  } job = {&active_implementation(), seconds, std::vector<double>(static_cast<size_t>(threads), 0.0)};
  const py::gil_scoped_release release;
  parallel(
      threads,
      [](void* context, int index) {
        Job& mine = *static_cast<Job*>(context);
        const auto start = std::chrono::steady_clock::now();
        double operations = 0, elapsed = 0;
        do {
          operations += mine.implementation->multiply_add(1 << 16);
          elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        } while (elapsed < mine.seconds);
        mine.rates[static_cast<size_t>(index)] = operations / elapsed;
      },
      &job);
  double total = 0;
  for (const double rate : job.rates) total += rate;
  return total;
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

  py::class_<Description>(m, "Rollout", "A network, a method and the size of a rollout.")
      .def(py::init([](bool is_double, int64_t dim, int64_t condition_dim, std::vector<int64_t> widths,
                       int32_t activation, std::vector<Address> weights, std::vector<Address> biases,
                       std::vector<std::pair<int32_t, double>> stages, double dt, int64_t steps, int64_t batch,
                       Address condition) {
             return Description{is_double,
                                dim,
                                condition_dim,
                                std::move(widths),
                                activation,
                                std::move(weights),
                                std::move(biases),
                                std::move(stages),
                                dt,
                                steps,
                                batch,
                                condition};
           }),
           py::arg("is_double"), py::arg("dim"), py::arg("condition_dim"), py::arg("widths"), py::arg("activation"),
           py::arg("weights"), py::arg("biases"), py::arg("stages"), py::arg("dt"), py::arg("steps"), py::arg("batch"),
           py::arg("condition"));

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

  bind_chain(m);

  m.def("instruction_sets", &instruction_sets, "Instruction sets that this processor runs, widest last.");
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
  m.def("measure_peak", &measure_peak, "float32 multiply-add rate of `threads` threads in operations per second.",
        py::arg("threads"), py::arg("seconds"));
  m.def("cuda", &cuda, "What the CUDA part can say: architectures built, device 0, or why there is none.");
}
