#include "launch.h"

namespace hamiltorch {

template <>
cudaError_t launch<TeamKind::kCluster, Split>(const Job<float>& job, const ChainForward<float>& arrays) {
  return launch_team<ClusterTeam, TeamKind::kCluster, Split>(job, arrays);
}

template <>
cudaError_t launch<TeamKind::kCluster, Split>(const Job<float>& job, const ChainBackward<float>& arrays) {
  return launch_team<ClusterTeam, TeamKind::kCluster, Split>(job, arrays);
}

}  // namespace hamiltorch
