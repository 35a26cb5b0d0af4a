#include "launch_kernel.h"

namespace hamiltorch {

template cudaError_t launch<TeamKind::kCluster, Tf32>(const Job<float>&, const ChainForward<float>&);
template cudaError_t launch<TeamKind::kCluster, Tf32>(const Job<float>&, const ChainBackward<float>&);
template cudaError_t launch<TeamKind::kCluster, Bfloat16>(const Job<float>&, const ChainForward<float>&);
template cudaError_t launch<TeamKind::kCluster, Bfloat16>(const Job<float>&, const ChainBackward<float>&);

}  // namespace hamiltorch
