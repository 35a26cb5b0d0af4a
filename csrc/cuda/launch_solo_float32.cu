#include "launch_kernel.h"

namespace hamiltorch {

template cudaError_t launch<TeamKind::kSolo, Split>(const Job<float>&, const ChainForward<float>&);
template cudaError_t launch<TeamKind::kSolo, Split>(const Job<float>&, const ChainBackward<float>&);

}  // namespace hamiltorch
