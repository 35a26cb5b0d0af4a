// The CUDA kernels on the emulator, for the sanitizers: every plan, forward and back, on a small problem. Under the
// thread sanitizer a missing barrier is a data race between fibers. Values are compared between plans and between
// orders of the threads; the Python tests compare them with the oracle.
#include "../emulator/emulator.h"

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "expect.h"
#include "hamiltorch/cuda_rollout.h"

using namespace hamiltorch;

namespace {

template <class T>
class Problem {
 public:
  Problem(std::vector<int64_t> widths, std::vector<Stage> stages, int64_t batch, int64_t steps, Activation activation)
      : generator_(1), widths_(std::move(widths)) {
    network_.widths = widths_;
    network_.activation = activation;
    network_.stages = std::move(stages);
    network_.steps = steps;
    network_.batch = batch;
    for (size_t l = 0; l < widths_.size(); ++l) {
      const int64_t in = widths_[l == 0 ? 0 : l - 1];
      network_.weights.push_back(normal(widths_[l] * in, 1 / std::sqrt(static_cast<double>(in))));
      network_.biases.push_back(normal(widths_[l], 0.3));
    }
    network_.head = normal(widths_.back(), 1);
    network_.dt = normal(1, 0.1);
    s_ = normal(batch * (steps + 1) * widths_[0], 1);
    r_ = normal(batch * (steps + 1) * widths_[0], 1);
    u_q_ = normal(batch * steps * widths_[0], 1);
    u_p_ = normal(batch * steps * widths_[0], 1);
    grad_energies_ = normal(batch * (steps + 1), 1);
  }

  const ChainNetwork<T>& network() const { return network_; }

  // Everything that a call writes, one after another.
  std::vector<T> forward(const CudaPlan& plan, uint64_t seed) {
    const size_t state = size(network_.batch * (network_.steps + 1)), width = size(widths_[0]);
    std::vector<T> impulses(2 * state * width, kNan), parts(size(plan.members) * state, kNan);
    std::vector<char> workspace(static_cast<size_t>(plan.workspace_bytes) + 16);
    expect(cuda_chain_forward(plan, network_, ChainForward<T>{s_, r_, impulses.data(), parts.data()}, workspace.data(),
                              0, reinterpret_cast<void*>(seed)) == 0,
           "forward");
    for (size_t i = 0; i < state; ++i) {  // energies are sums over members
      T sum = 0;
      for (int member = 0; member < plan.members; ++member) sum += parts[size(member) * state + i];
      impulses.push_back(sum);
    }
    return impulses;
  }

  std::vector<T> backward(const CudaPlan& plan, uint64_t seed) {
    const int64_t batch = network_.batch, steps = network_.steps, width = widths_[0];
    const int64_t evaluations = steps * static_cast<int64_t>(network_.stages.size()) + 1;
    int64_t moves = 0;
    for (const Stage& stage : network_.stages) moves += (stage.moves & 1) + (stage.moves >> 1);
    std::vector<std::vector<T>> out;
    const auto room = [&](int64_t count) {
      out.emplace_back(size(count), kNan);
      return out.size() - 1;
    };
    const size_t s_bar = room(batch * width), r_bar = room(batch * width), impulses = room(2 * batch * steps * width);
    const size_t head = room(evaluations * batch * widths_.back());
    std::vector<size_t> left = {room(steps * moves * batch * width)}, right = {room(steps * moves * batch * width)};
    for (size_t l = 1; l < widths_.size(); ++l) {
      left.push_back(room(evaluations * 2 * batch * widths_[l]));
      right.push_back(room(evaluations * 2 * batch * widths_[l - 1]));
    }
    for (size_t i = 0; i < out[s_bar].size(); ++i) out[s_bar][i] = out[r_bar][i] = static_cast<T>(0.1);
    std::vector<T> dt_parts(size(plan.teams * plan.members), kNan);
    ChainBackward<T> arrays{};
    arrays.s = s_;
    arrays.r = r_;
    arrays.u_q = u_q_;
    arrays.u_p = u_p_;
    arrays.grad_energies = grad_energies_;
    arrays.last_energy = true;
    arrays.s_bar = out[s_bar].data();
    arrays.r_bar = out[r_bar].data();
    arrays.impulses = out[impulses].data();
    arrays.dt_parts = dt_parts.data();
    for (size_t l = 0; l < widths_.size(); ++l) {
      arrays.left[l] = out[left[l]].data();
      arrays.right[l] = out[right[l]].data();
    }
    arrays.head = out[head].data();
    std::vector<char> workspace(static_cast<size_t>(plan.workspace_bytes) + 16);
    expect(cuda_chain_backward(plan, network_, arrays, workspace.data(), 0, reinterpret_cast<void*>(seed)) == 0,
           "backward");
    std::vector<T> all(1, 0);
    for (const T part : dt_parts) all[0] += part;
    for (const std::vector<T>& each : out) all.insert(all.end(), each.begin(), each.end());
    return all;
  }

 private:
  static constexpr T kNan = std::numeric_limits<T>::quiet_NaN();
  static size_t size(int64_t n) { return static_cast<size_t>(n); }

  const T* normal(int64_t count, double scale) {
    std::normal_distribution<double> distribution;
    std::vector<T> values(size(count));
    for (T& value : values) value = static_cast<T>(scale * distribution(generator_));
    memory_.push_back(std::move(values));
    return memory_.back().data();
  }

  std::mt19937 generator_;
  std::vector<int64_t> widths_;
  std::vector<std::vector<T>> memory_;
  ChainNetwork<T> network_;
  const T *s_, *r_, *u_q_, *u_p_, *grad_energies_;
};

template <class T>
double distance(const std::vector<T>& a, const std::vector<T>& b) {
  double difference = 0, norm = 1e-30;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (double(a[i]) - double(b[i])) * (double(a[i]) - double(b[i]));
    norm += double(b[i]) * double(b[i]);
  }
  return a.size() == b.size() ? std::sqrt(difference / norm) : std::numeric_limits<double>::infinity();
}

template <class T>
void every_plan(Problem<T> problem, Precision precision, double bound, GpuDescription gpu) {
  for (const bool adjoint : {false, true}) {
    ChainSize size = {problem.network().widths, problem.network().batch, {}, precision, adjoint};
    for (const Stage& stage : problem.network().stages) size.moves.push_back(stage.moves);
    std::string why;
    const std::vector<CudaPlan> plans = cuda_plans(size, gpu, &why);
    expect(!plans.empty(), why);
    std::vector<T> first;
    for (const CudaPlan& plan : plans) {
      const std::string name = std::string(adjoint ? "backward" : "forward") + " team " +
                               std::to_string(int(plan.team)) + " of " + std::to_string(plan.members) + " right " +
                               std::to_string(plan.right) + " weights " + std::to_string(plan.weights);
      const auto run = [&](uint64_t seed) {
        return adjoint ? problem.backward(plan, seed) : problem.forward(plan, seed);
      };
      const std::vector<T> got = run(1);
      if (first.empty()) first = got;
      expect(distance(got, first) < bound, name + " differs from the first plan");
      const std::vector<T> again = run(2);
      expect(std::memcmp(got.data(), again.data(), got.size() * sizeof(T)) == 0,
             name + " depends on the threads' order");
    }
  }
}

// A neighbour's number, with and without the barrier that it takes.
bool neighbours_agree(bool with_barrier, uint64_t seed) {
  std::atomic<bool> right = true;
  emulator::run({1, 2, 64, 64 * sizeof(int), seed}, [&](int, int rank, int thread) {
    const auto at = [](int member, int i) { return static_cast<int*>(emulator::shared_memory(member)) + i % 64; };
    *at(rank, thread) = thread;
    if (with_barrier) emulator::sync_team();
    emulator::sync_block();
    if (*at(1 - rank, thread + 1) != (thread + 1) % 64) right = false;
    emulator::sync_team();
  });
  return right;
}

void emulator_itself() {
  for (uint64_t seed = 0; seed < 8; ++seed) expect(neighbours_agree(true, seed), "a team's barrier orders its threads");
#if !defined(__SANITIZE_THREAD__)  // which would rightly report the race, and the threads that never end
  bool missed = true;
  for (uint64_t seed = 0; seed < 8; ++seed) missed = missed && neighbours_agree(false, seed);
  expect(!missed, "a missing barrier shows under some order of the threads");
  try {
    emulator::run({1, 1, 32, 0, 0}, [](int, int, int thread) {
      if (thread > 0) emulator::sync_block();
    });
    expect(false, "a thread that waits for ever is reported");
  } catch (const std::runtime_error& error) {
    expect(std::strstr(error.what(), "deadlock") != nullptr, error.what());
  }
#endif
}

}  // namespace

int main() {
  const std::vector<Stage> leapfrog = {{kMovesP, 0.5}, {kMovesQ, 1.0}, {kMovesP, 0.5}};
  const std::vector<Stage> euler = {{kMovesP | kMovesQ, 1.0}};
  const GpuDescription hopper = {90, 4, 232448, {2, 1, 0, 0}}, small = {80, 4, 28000, {}};
  emulator_itself();
  // One problem for everything that has barriers of its own; the thread sanitizer, many times slower, sees no more.
  every_plan(Problem<float>({20, 33}, leapfrog, 5, 1, Activation::kSoftplus), Precision::kFloat32, 1e-5, hopper);
  every_plan(Problem<float>({40, 20}, euler, 3, 1, Activation::kSin), Precision::kFloat32, 1e-5, small);
#if !defined(__SANITIZE_THREAD__)
  every_plan(Problem<double>({20, 33}, leapfrog, 5, 1, Activation::kTanh), Precision::kFloat64, 1e-13, hopper);
  every_plan(Problem<float>({40}, euler, 3, 1, Activation::kSilu), Precision::kFloat32, 1e-5, hopper);
  every_plan(Problem<float>({70, 20, 5}, euler, 3, 1, Activation::kSin), Precision::kFloat32, 1e-5, small);
  every_plan(Problem<float>({20, 33}, leapfrog, 5, 1, Activation::kGelu), Precision::kTf32, 1e-2, hopper);
  every_plan(Problem<float>({20, 33}, leapfrog, 5, 1, Activation::kSin), Precision::kBfloat16, 1e-1, hopper);
#endif
  if (failures) {
    std::printf("%d failed\n", failures);
  } else {
    std::printf("emulator tests passed\n");
  }
  return failures != 0;
}
