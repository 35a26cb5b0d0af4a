#include "launch.h"

namespace hamiltorch {

template <>
cudaError_t launch<TeamKind::kGrid, Split>(const Job<float>& job, const ChainForward<float>& arrays) {
  return launch_team<GridTeam, TeamKind::kGrid, Split>(job, arrays);
}

template <>
cudaError_t launch<TeamKind::kGrid, Split>(const Job<float>& job, const ChainBackward<float>& arrays) {
  return launch_team<GridTeam, TeamKind::kGrid, Split>(job, arrays);
}

template <>
cudaError_t launch<TeamKind::kGrid, Float64>(const Job<double>& job, const ChainForward<double>& arrays) {
  return launch_team<GridTeam, TeamKind::kGrid, Float64>(job, arrays);
}

template <>
cudaError_t launch<TeamKind::kGrid, Float64>(const Job<double>& job, const ChainBackward<double>& arrays) {
  return launch_team<GridTeam, TeamKind::kGrid, Float64>(job, arrays);
}

}  // namespace hamiltorch
