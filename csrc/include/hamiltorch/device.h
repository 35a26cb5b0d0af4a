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

}  // namespace hamiltorch
