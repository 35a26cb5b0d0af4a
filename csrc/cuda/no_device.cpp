// Stands in for the CUDA part where no CUDA compiler was found.
#include <cstring>

#include "hamiltorch/device.h"

namespace hamiltorch {

CudaReport cuda_report() {
  CudaReport report{};
  report.state = CudaState::kNotBuilt;
  std::strncpy(report.message, "built without CUDA (no CUDA compiler was found, or HAMILTORCH_CUDA=OFF)",
               sizeof(report.message) - 1);
  return report;
}

const char* cuda_architectures() { return ""; }

int cuda_activation(int32_t, const float*, float*, int64_t, void*) { return -1; }

}  // namespace hamiltorch
