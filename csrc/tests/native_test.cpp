// The native core on its own, for the sanitizers: odd sizes, every instruction set, teams of several threads. Values
// are checked against a scalar rollout in double, gradients against differences along a random direction.
#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../cpu/implementation.h"
#include "../cpu/parallel.h"
#include "../cuda/scalar_math.h"
#include "expect.h"
#include "hamiltorch/device.h"

using namespace hamiltorch;

namespace {

struct Case {
  int64_t d, condition, batch, steps;
  std::vector<int64_t> widths;
  Activation activation;
  std::vector<Stage> stages;
  bool energies;
};

const std::vector<Stage> kLeapfrog = {{kMovesP, 0.5}, {kMovesQ, 1.0}, {kMovesP, 0.5}};
const std::vector<Stage> kEuler = {{kMovesP | kMovesQ, 1.0}};

template <class T>
struct Problem {
  Case c;
  T dt = static_cast<T>(0.1);
  bool bfloat16 = false;
  std::vector<std::vector<T>> weights, biases;
  std::vector<T> z0, condition;
  mutable std::vector<const T*> weight_pointers, bias_pointers;

  Problem(const Case& given, unsigned seed) : c(given) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    const auto fill = [&](int64_t n, double scale) {
      std::vector<T> v(static_cast<size_t>(n));
      for (T& x : v) x = static_cast<T>(scale * normal(generator));
      return v;
    };
    int64_t in = 2 * c.d + c.condition;
    for (const int64_t width : c.widths) {
      weights.push_back(fill(width * in, 1.0 / std::sqrt(static_cast<double>(in))));
      biases.push_back(fill(width, 0.3));
      in = width;
    }
    weights.push_back(fill(in, 1.0));
    biases.push_back(fill(1, 1.0));
    z0 = fill(c.batch * 2 * c.d, 1.0);
    condition = fill(c.batch * c.condition, 1.0);
  }

  Rollout<T> rollout() const {
    weight_pointers.clear();
    bias_pointers.clear();
    for (const auto& w : weights) weight_pointers.push_back(w.data());
    for (const auto& b : biases) bias_pointers.push_back(b.data());
    return {{2 * c.d, c.condition, static_cast<int64_t>(c.widths.size()), c.activation, c.widths.data(),
             weight_pointers.data(), bias_pointers.data()},
            c.stages.data(),
            static_cast<int64_t>(c.stages.size()),
            dt,
            c.steps,
            c.batch,
            c.condition ? condition.data() : nullptr,
            bfloat16};
  }
};

// H and dH/dz of one sample, in double.
template <class T>
double scalar_energy(const Problem<T>& p, const std::vector<double>& z, int64_t sample, std::vector<double>* gradient) {
  std::vector<std::vector<ScalarJet<double>>> jets;
  std::vector<double> input = z;
  for (int64_t i = 0; i < p.c.condition; ++i) input.push_back(p.condition[sample * p.c.condition + i]);
  for (size_t l = 0; l < p.c.widths.size(); ++l) {
    std::vector<ScalarJet<double>> layer;
    std::vector<double> next;
    for (int64_t o = 0; o < p.c.widths[l]; ++o) {
      double a = p.biases[l][o];
      for (size_t i = 0; i < input.size(); ++i) a += double(p.weights[l][o * input.size() + i]) * input[i];
      layer.push_back(scalar_activation(p.c.activation, a));
      next.push_back(layer.back().value);
    }
    jets.push_back(layer);
    input = next;
  }
  double h = p.biases.back()[0];
  std::vector<double> delta;
  for (size_t i = 0; i < input.size(); ++i) {
    h += double(p.weights.back()[i]) * input[i];
    delta.push_back(p.weights.back()[i]);
  }
  for (size_t l = p.c.widths.size(); l-- > 0;) {
    const size_t in = l ? p.c.widths[l - 1] : z.size() + p.c.condition;
    std::vector<double> below(in, 0.0);
    for (size_t o = 0; o < delta.size(); ++o)
      for (size_t i = 0; i < in; ++i) below[i] += delta[o] * jets[l][o].first * p.weights[l][o * in + i];
    delta = below;
  }
  delta.resize(z.size());
  *gradient = delta;
  return h;
}

template <class T>
void scalar_rollout(const Problem<T>& p, std::vector<double>* trajectory, std::vector<double>* energies) {
  const int64_t d = p.c.d;
  for (int64_t s = 0; s < p.c.batch; ++s) {
    std::vector<double> z(p.z0.begin() + s * 2 * d, p.z0.begin() + (s + 1) * 2 * d), g;
    for (int64_t n = 0;; ++n) {
      energies->push_back(scalar_energy(p, z, s, &g));
      trajectory->insert(trajectory->end(), z.begin(), z.end());
      if (n == p.c.steps) break;
      for (const Stage& stage : p.c.stages) {
        scalar_energy(p, z, s, &g);
        for (int64_t i = 0; i < d; ++i) {
          if (stage.moves & kMovesQ) z[i] += stage.coefficient * double(p.dt) * g[d + i];
          if (stage.moves & kMovesP) z[d + i] -= stage.coefficient * double(p.dt) * g[i];
        }
      }
    }
  }
}

template <class T>
double distance(const std::vector<T>& a, const std::vector<double>& b) {
  double difference = 0, norm = 1e-30;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

template <class T>
void run(const Case& c, int threads, unsigned seed) {
  Problem<T> p(c, seed);
  const std::string name = std::string(active_implementation().name) + (sizeof(T) == 4 ? " f32" : " f64") +
                           " d=" + std::to_string(c.d) + " batch=" + std::to_string(c.batch) +
                           " steps=" + std::to_string(c.steps) + " threads=" + std::to_string(threads) +
                           " activation=" + std::to_string(int(c.activation));
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const size_t states = static_cast<size_t>(c.batch * (c.steps + 1));
  std::vector<T> trajectory(states * 2 * c.d, nan), energies(states, nan);
  std::vector<T> tape(static_cast<size_t>(tape_size(p.rollout())), nan);
  // What is prepared lives as long as the network: its weights change under it in the differences below.
  std::unique_ptr<Buffer> prepared[2];
  const auto forward = [&](bool taped) {
    const Rollout<T> rollout = p.rollout();
    const Sizes sizes = forward_sizes(rollout, taped, threads);
    const bool filled = prepared[taped] != nullptr;
    if (!filled) prepared[taped] = std::make_unique<Buffer>(sizes.prepared);
    const Buffer workspace(sizes.workspace);
    const Status status = rollout_forward(
        rollout,
        {p.z0.data(), trajectory.data(), c.energies ? energies.data() : nullptr, taped ? tape.data() : nullptr},
        threads, {prepared[taped]->data, filled}, workspace.data, workspace.bytes);
    expect(status == Status::kOk, name + " status");
  };
  std::vector<double> expected, expected_energies;
  scalar_rollout(p, &expected, &expected_energies);
  const double bound = sizeof(T) == 4 ? 2e-5 : 1e-13;
  const auto check = [&](const std::string& what, double most) {
    expect(distance(trajectory, expected) < most, name + what + " trajectory");
    if (c.energies) expect(distance(energies, expected_energies) < most, name + what + " energies");
  };
  for (const bool taped : {false, true, false}) {
    std::fill(trajectory.begin(), trajectory.end(), nan);
    forward(taped);
    check(taped ? " taped" : "", bound);
  }
  if (c.batch == 0) return;

  std::mt19937 generator(seed + 1);
  std::normal_distribution<double> normal;
  std::vector<T> grad_trajectory(trajectory.size()), grad_energies(energies.size());
  for (T& x : grad_trajectory) x = static_cast<T>(normal(generator));
  for (T& x : grad_energies) x = static_cast<T>(normal(generator));
  std::vector<std::vector<T>> weights, biases;
  std::vector<T*> weight_pointers, bias_pointers;
  for (const auto& w : p.weights) weights.emplace_back(w.size(), nan);
  for (const auto& b : p.biases) biases.emplace_back(b.size(), nan);
  for (auto& w : weights) weight_pointers.push_back(w.data());
  for (auto& b : biases) bias_pointers.push_back(b.data());
  std::vector<T> grad_z0(p.z0.size(), nan), grad_condition(p.condition.size(), nan);
  T grad_dt = nan;
  const auto backward = [&](bool taped) {
    const Rollout<T> rollout = p.rollout();
    const Sizes sizes = backward_sizes(rollout, threads);
    const Buffer workspace(sizes.workspace), weights_prepared(sizes.prepared);
    const Prepared fresh = {weights_prepared.data, false};
    expect(
        rollout_backward(rollout,
                         {trajectory.data(), taped ? tape.data() : nullptr, grad_trajectory.data(),
                          c.energies ? grad_energies.data() : nullptr, grad_z0.data(), &grad_dt, weight_pointers.data(),
                          bias_pointers.data(), c.condition ? grad_condition.data() : nullptr},
                         threads, fresh, workspace.data, workspace.bytes) == Status::kOk,
        name + " backward status");
    expect(rollout_backward(rollout, {}, threads, fresh, workspace.data, 0) == Status::kWorkspaceTooSmall,
           name + " small workspace");
  };
  backward(false);
  const std::vector<double> replayed(grad_z0.begin(), grad_z0.end());
  const double replayed_dt = double(grad_dt);
  backward(true);
  expect(distance(grad_z0, replayed) < 50 * bound, name + " taped gradient of z0");
  expect(std::fabs(double(grad_dt) - replayed_dt) < 50 * bound * (1 + std::fabs(replayed_dt)),
         name + " taped gradient of dt");
  if (sizeof(T) == 4 && supports_bfloat16()) {
    p.bfloat16 = true;
    prepared[0] = nullptr;
    forward(false);
    check(" bfloat16", 0.05);
    backward(false);
    expect(distance(grad_z0, replayed) < 0.2, name + " bfloat16 gradient of z0");
  }
  if (sizeof(T) == 4) return;  // differences need double

  // Central differences along one random direction of everything at once.
  const auto loss = [&] {
    forward(false);
    double sum = 0;
    for (size_t i = 0; i < trajectory.size(); ++i) sum += double(trajectory[i]) * grad_trajectory[i];
    if (c.energies)
      for (size_t i = 0; i < energies.size(); ++i) sum += double(energies[i]) * grad_energies[i];
    return sum;
  };
  double slope = 0;
  std::vector<std::pair<T*, T>> moves;
  const auto along = [&](std::vector<T>& values, const std::vector<T>& grads) {
    for (size_t i = 0; i < values.size(); ++i) {
      const T direction = static_cast<T>(normal(generator));
      slope += double(direction) * grads[i];
      moves.emplace_back(&values[i], direction);
    }
  };
  for (size_t l = 0; l < p.weights.size(); ++l) {
    along(p.weights[l], weights[l]);
    along(p.biases[l], biases[l]);
  }
  along(p.z0, grad_z0);
  along(p.condition, grad_condition);
  slope += grad_dt;
  moves.emplace_back(&p.dt, 1);
  const double h = 1e-6;
  const auto shift = [&](double by) {
    for (auto& [value, direction] : moves) *value += static_cast<T>(by * direction);
  };
  shift(h);
  const double up = loss();
  shift(-2 * h);
  const double down = loss();
  const double measured = (up - down) / (2 * h);
  expect(std::fabs(measured - slope) < 1e-5 * (1 + std::fabs(slope) + std::fabs(up)),
         name + " gradient " + std::to_string(slope) + " against " + std::to_string(measured));
}

void threads_take_the_callers_mode() {
  const int before = std::fegetround();
  int modes[3] = {-1, -1, -1};
  std::fesetround(FE_UPWARD);
  parallel(3, [](void* found, int index) { static_cast<int*>(found)[index] = std::fegetround(); }, modes);
  std::fesetround(before);
  for (const int mode : modes) expect(mode == FE_UPWARD, "the caller's floating-point mode in every thread");
  parallel(3, [](void* found, int index) { static_cast<int*>(found)[index] = std::fegetround(); }, modes);
  for (const int mode : modes) expect(mode == before, "and their own after it");
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {1, 0, 1, 1, {1}, Activation::kSoftplus, kLeapfrog, true},
      {3, 2, 5, 3, {7}, Activation::kTanh, kLeapfrog, false},
      {17, 0, 33, 2, {33, 7}, Activation::kSilu, kEuler, true},
      {3, 1, 31, 4, {64, 33, 5}, Activation::kGelu, kLeapfrog, true},
      {4, 0, 100, 15, {16, 16}, Activation::kSin, kLeapfrog, true},
      {2, 3, 2, 0, {9, 4}, Activation::kSoftplus, kLeapfrog, true},
      {2, 0, 0, 3, {9}, Activation::kSoftplus, kEuler, true},
      {70, 2, 1, 2, {300, 260}, Activation::kSoftplus, kLeapfrog, true},
      {70, 2, 3, 2, {300, 260}, Activation::kTanh, kEuler, true},
      {70, 2, 40, 2, {300, 260}, Activation::kSilu, kLeapfrog, true},
      // Layer-1 space: width below 4/3 d.
      {70, 2, 40, 3, {66, 260}, Activation::kSoftplus, kLeapfrog, true},
      {301, 1, 2, 5, {270, 65}, Activation::kTanh, kLeapfrog, true},
      {301, 0, 5, 3, {270}, Activation::kGelu, kLeapfrog, false},
      {299, 0, 1, 9, {211, 130, 67}, Activation::kSilu, kEuler, true},
  };
  const Implementation* all[8];
  const int count = supported_implementations(all, 8);
  for (int i = 0; i < count; ++i) {
    expect(use_implementation(all[i]->name), "use_implementation");
    for (const int threads : {1, 2, 3})
      for (size_t k = 0; k < cases.size(); ++k) {
        run<float>(cases[k], threads, static_cast<unsigned>(k));
        run<double>(cases[k], threads, static_cast<unsigned>(k));
      }
  }
  expect(!use_implementation("none"), "unknown implementation");
  threads_take_the_callers_mode();
  const CudaReport report = cuda_report();
  expect(report.state == CudaState::kReady || report.message[0] != 0, "the CUDA report says why there is no device");
  std::printf(failures ? "%d failed\n" : "native tests passed on %d instruction sets\n", failures ? failures : count);
  return failures != 0;
}
