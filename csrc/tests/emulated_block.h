// What the emulated tests of eight samples on a block share.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "expect.h"
#include "hamiltorch/cuda_block.h"

namespace hamiltorch {

inline size_t count(int64_t n) { return static_cast<size_t>(n); }

// Inputs of a problem, which lie where they are for as long as it does.
template <class T>
class Inputs {
 public:
  const T* keep(std::vector<T> values) {
    memory_.push_back(std::move(values));
    return memory_.back().data();
  }
  const T* all(int64_t n, T value) { return keep(std::vector<T>(count(n), value)); }
  const T* normal(int64_t n, double scale) {
    std::normal_distribution<double> distribution;
    std::vector<T> values(count(n));
    for (T& value : values) value = static_cast<T>(scale * distribution(generator_));
    return keep(std::move(values));
  }

 protected:
  static constexpr T kNan = std::numeric_limits<T>::quiet_NaN();

 private:
  std::mt19937 generator_{1};
  std::vector<std::vector<T>> memory_;
};

// By plan_of(size, gpu, &plan, &why), on devices with less and less shared memory, until none is left on which it runs.
template <class Problem, class PlanOf>
void every_place(const Problem& problem, PlanOf plan_of) {
  GpuDescription gpu = {90, 2, 232448, {}};
  CudaBlockPlan plan{};
  std::string why;
  decltype(problem.run(plan, 1)) first;
  while (plan_of(problem.size(), gpu, &plan, &why)) {
    const std::string name =
        "weights " + std::to_string(plan.weights) + (plan.vectors_global ? ", vectors global" : "");
    for (const uint64_t seed : {1, 2}) {
      const auto got = problem.run(plan, seed);
      if (first.empty()) first = got;
      expect(std::memcmp(got.data(), first.data(), got.size() * sizeof(got[0])) == 0,
             name + " under seed " + std::to_string(seed) + " differs from the first");
    }
    gpu.shared_bytes = static_cast<int>(plan.shared_bytes) - 1;
  }
  expect(!first.empty(), "there is a place");
}

// The exit status.
inline int report(const char* tested) {
  if (failures) {
    std::printf("%d failed\n", failures);
  } else {
    std::printf("emulated tests of %s passed\n", tested);
  }
  return failures != 0;
}

}  // namespace hamiltorch
