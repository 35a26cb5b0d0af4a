// What the machine has. The runtime is linked statically and is only asked, so the module imports where there is no
// driver.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

#include "hamiltorch/cuda_rollout.h"
#include "hamiltorch/device.h"
#include "layout.h"

namespace hamiltorch {
namespace {

void describe(CudaReport* report, CudaState state, const char* message) {
  report->state = state;
  std::snprintf(report->message, sizeof(report->message), "%s", message);
}

__global__ void __launch_bounds__(kThreads, 1) occupying_kernel() {}

// How many clusters of `members` blocks with all the shared memory there is; 0 where there can be none.
int clusters_at_once(int device, int members, int shared_bytes) {
  int before = 0, count = 0;
  if (cudaGetDevice(&before) != cudaSuccess || cudaSetDevice(device) != cudaSuccess) return 0;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(members);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(members));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.attrs = &attribute;
  config.numAttrs = 1;
  const bool known =
      cudaFuncSetAttribute(occupying_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes) ==
          cudaSuccess &&
      cudaFuncSetAttribute(occupying_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) == cudaSuccess &&
      cudaOccupancyMaxActiveClusters(&count, occupying_kernel, &config) == cudaSuccess;
  cudaSetDevice(before);
  return known ? count : 0;
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
  GpuDescription gpu{};
  gpu.capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
  gpu.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
  gpu.shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (HAMILTORCH_CLUSTERS && gpu.capability >= 90)
    for (int i = 0; i < 4; ++i) gpu.clusters[i] = clusters_at_once(device, 2 << i, gpu.shared_bytes);
  cudaGetLastError();  // what failed here is told by zeros, and must not fail the next launch
  return gpu;
}

const char* cuda_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

const char* cuda_architectures() { return HAMILTORCH_CUDA_ARCHITECTURES; }

}  // namespace hamiltorch
