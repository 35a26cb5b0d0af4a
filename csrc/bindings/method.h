// A method as Python describes it.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

#include "hamiltorch/rollout.h"

namespace hamiltorch {

struct Method {
  std::vector<Stage> stages;

  explicit Method(const std::vector<std::pair<int32_t, double>>& pairs) {
    for (const auto& [moves, coefficient] : pairs) stages.push_back({moves, coefficient});
  }
};

}  // namespace hamiltorch
