#include "launch.h"

namespace hamiltorch {

template <>
cudaError_t launch<TeamKind::kSolo, Float64>(const Job<double>& job, const ChainForward<double>& arrays) {
  return launch_team<SoloTeam, TeamKind::kSolo, Float64>(job, arrays);
}

template <>
cudaError_t launch<TeamKind::kSolo, Float64>(const Job<double>& job, const ChainBackward<double>& arrays) {
  return launch_team<SoloTeam, TeamKind::kSolo, Float64>(job, arrays);
}

}  // namespace hamiltorch
