// A method as Python describes it.
#pragma once
#include <cstdint>
#include <tuple>
#include <vector>

#include "hamiltorch/rollout.h"

namespace hamiltorch {

struct Method {
  std::vector<Stage> stages;

  explicit Method(const std::vector<std::tuple<int32_t, double, double, double>>& given) {
    for (const auto& [moves, coefficient, at_q, at_p] : given) stages.push_back({moves, coefficient, at_q, at_p});
  }
};

}  // namespace hamiltorch
