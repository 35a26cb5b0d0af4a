// The device query and one small kernel: the CUDA path from compiler to launch, on which the rollout kernels will
// stand. The runtime is linked statically and is only ever asked, so the module imports where there is no driver.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

#include "hamiltorch/device.h"
#include "scalar_math.h"

namespace hamiltorch {
namespace {

void describe(CudaReport* report, CudaState state, const char* message) {
  report->state = state;
  std::snprintf(report->message, sizeof(report->message), "%s", message);
}

__global__ void activation_kernel(Activation activation, const float* a,  // [count]
                                  float* out,                             // [count]
                                  int64_t count) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride)
    out[i] = scalar_activation(activation, a[i]).value;
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

const char* cuda_architectures() { return HAMILTORCH_CUDA_ARCHITECTURES; }

int cuda_activation(int32_t activation, const float* a, float* out, int64_t count, void* stream) {
  if (count == 0) return cudaSuccess;
  const int threads = 256;
  const int64_t blocks = (count + threads - 1) / threads;
  activation_kernel<<<static_cast<unsigned>(blocks < 65536 ? blocks : 65536), threads, 0,
                      static_cast<cudaStream_t>(stream)>>>(static_cast<Activation>(activation), a, out, count);
  return cudaGetLastError();
}

}  // namespace hamiltorch
