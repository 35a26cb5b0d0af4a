#include "launch.h"

namespace hamiltorch {

template <>
cudaError_t launch<TeamKind::kSolo, Tf32>(const Job<float>& job, const ChainForward<float>& arrays) {
  return launch_team<SoloTeam, TeamKind::kSolo, Tf32>(job, arrays);
}

template <>
cudaError_t launch<TeamKind::kSolo, Tf32>(const Job<float>& job, const ChainBackward<float>& arrays) {
  return launch_team<SoloTeam, TeamKind::kSolo, Tf32>(job, arrays);
}

}  // namespace hamiltorch
