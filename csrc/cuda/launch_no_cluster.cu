// Stands in for the cluster kernels where no architecture that has clusters is compiled for. Plans for them are made
// only on devices that have clusters, where these architectures do not run.
#include "launch.h"

namespace hamiltorch {
template <>
cudaError_t launch<TeamKind::kCluster, Split>(const Job<float>&, const ChainForward<float>&) {
  return cudaErrorNoKernelImageForDevice;
}
template <>
cudaError_t launch<TeamKind::kCluster, Split>(const Job<float>&, const ChainBackward<float>&) {
  return cudaErrorNoKernelImageForDevice;
}
template <>
cudaError_t launch<TeamKind::kCluster, Tf32>(const Job<float>&, const ChainForward<float>&) {
  return cudaErrorNoKernelImageForDevice;
}
template <>
cudaError_t launch<TeamKind::kCluster, Tf32>(const Job<float>&, const ChainBackward<float>&) {
  return cudaErrorNoKernelImageForDevice;
}
template <>
cudaError_t launch<TeamKind::kCluster, Bfloat16>(const Job<float>&, const ChainForward<float>&) {
  return cudaErrorNoKernelImageForDevice;
}
template <>
cudaError_t launch<TeamKind::kCluster, Bfloat16>(const Job<float>&, const ChainBackward<float>&) {
  return cudaErrorNoKernelImageForDevice;
}

}  // namespace hamiltorch
