// What the machine has. The runtime is linked statically and is only asked, so the module imports where there is no
// driver.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

#include "hamiltorch/cuda_rollout.h"
#include "hamiltorch/device.h"

namespace hamiltorch {
namespace {

void describe(CudaReport* report, CudaState state, const char* message) {
  report->state = state;
  std::snprintf(report->message, sizeof(report->message), "%s", message);
}

}  // namespace

CudaReport cuda_report() {
  CudaReport report{};
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    describe(&report, CudaState::kNoDriver, "no CUDA driver is installed");
    return report;
  }
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
    describe(&report, error == cudaErrorNoDevice || count == 0 ? CudaState::kNoDevice : CudaState::kError,
             error == cudaSuccess ? "the CUDA driver sees no device" : cudaGetErrorString(error));
    return report;
  }
  cudaDeviceProp properties{};
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, 0); error != cudaSuccess) {
    describe(&report, CudaState::kError, cudaGetErrorString(error));
    return report;
  }
  report.device_count = count;
  std::snprintf(report.name, sizeof(report.name), "%s", properties.name);
  report.capability = 10 * properties.major + properties.minor;
  report.multiprocessors = properties.multiProcessorCount;
  report.memory_bytes = properties.totalGlobalMem;
  return report;
}

GpuDescription gpu_description(int device) {
  const auto attribute = [device](cudaDeviceAttr which) {
    int value = 0;
    return cudaDeviceGetAttribute(&value, which, device) == cudaSuccess ? value : 0;
  };
  return {10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor),
          attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
}

const char* cuda_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

const char* cuda_architectures() { return HAMILTORCH_CUDA_ARCHITECTURES; }

}  // namespace hamiltorch
