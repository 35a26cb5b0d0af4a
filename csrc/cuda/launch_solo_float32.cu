#include "launch.h"

namespace hamiltorch {

template <>
cudaError_t launch<TeamKind::kSolo, Split>(const Job<float>& job, const ChainForward<float>& arrays) {
  return launch_team<SoloTeam, TeamKind::kSolo, Split>(job, arrays);
}

template <>
cudaError_t launch<TeamKind::kSolo, Split>(const Job<float>& job, const ChainBackward<float>& arrays) {
  return launch_team<SoloTeam, TeamKind::kSolo, Split>(job, arrays);
}

}  // namespace hamiltorch
