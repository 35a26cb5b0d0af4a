#include "launch_kernel.h"

namespace hamiltorch {

template cudaError_t launch<TeamKind::kGrid, Split>(const Job<float>&, const ChainForward<float>&);
template cudaError_t launch<TeamKind::kGrid, Split>(const Job<float>&, const ChainBackward<float>&);
template cudaError_t launch<TeamKind::kGrid, Float64>(const Job<double>&, const ChainForward<double>&);
template cudaError_t launch<TeamKind::kGrid, Float64>(const Job<double>&, const ChainBackward<double>&);

}  // namespace hamiltorch
