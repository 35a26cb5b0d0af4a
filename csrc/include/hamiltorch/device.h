// What the CUDA part of this build can say of the machine. Present in every build; `kNotBuilt` where there is no CUDA.
#pragma once
#include <cstddef>
#include <cstdint>

namespace hamiltorch {

enum class CudaState : int32_t { kReady = 0, kNotBuilt, kNoDriver, kNoDevice, kError };

struct CudaReport {
  CudaState state;
  char message[256];  // one line: why there is no device, or empty
  int device_count;
  char name[256];  // of device 0
  int capability;  // of device 0: 90 for compute capability 9.0
  int multiprocessors;
  size_t memory_bytes;
};

CudaReport cuda_report();

// Comma-separated architectures that the CUDA part was compiled for; empty where it was not built.
const char* cuda_architectures();

// out[i] = activation(a[i]) on the current device, by the element-wise math the CPU kernels are tested against. Device
// pointers and a cudaStream_t; returns a cudaError_t (0 is success). It proves compiler, launch and stream; the rollout
// kernels stand on the same path.
int cuda_activation(int32_t activation, const float* a, float* out, int64_t count, void* stream);

}  // namespace hamiltorch
