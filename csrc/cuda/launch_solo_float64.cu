#include "launch_kernel.h"

namespace hamiltorch {

template cudaError_t launch<TeamKind::kSolo, Float64>(const Job<double>&, const ChainForward<double>&);
template cudaError_t launch<TeamKind::kSolo, Float64>(const Job<double>&, const ChainBackward<double>&);

}  // namespace hamiltorch
