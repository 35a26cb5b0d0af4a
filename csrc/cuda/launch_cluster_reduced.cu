#include "launch.h"

namespace hamiltorch {

template <>
cudaError_t launch<TeamKind::kCluster, Tf32>(const Job<float>& job, const ChainForward<float>& arrays) {
  return launch_team<ClusterTeam, TeamKind::kCluster, Tf32>(job, arrays);
}

template <>
cudaError_t launch<TeamKind::kCluster, Tf32>(const Job<float>& job, const ChainBackward<float>& arrays) {
  return launch_team<ClusterTeam, TeamKind::kCluster, Tf32>(job, arrays);
}

template <>
cudaError_t launch<TeamKind::kCluster, Bfloat16>(const Job<float>& job, const ChainForward<float>& arrays) {
  return launch_team<ClusterTeam, TeamKind::kCluster, Bfloat16>(job, arrays);
}

template <>
cudaError_t launch<TeamKind::kCluster, Bfloat16>(const Job<float>& job, const ChainBackward<float>& arrays) {
  return launch_team<ClusterTeam, TeamKind::kCluster, Bfloat16>(job, arrays);
}

}  // namespace hamiltorch
