// Starts a kernel of rollouts of eight samples on a block.
#pragma once
#include "block_task.h"
#include "pack_kernel.h"
#include "team.h"

namespace hamiltorch {
namespace {

template <template <class> class Walk, class T, class Task, class Arrays>
__global__ void __launch_bounds__(kThreads, 1)
    block_kernel(const __grid_constant__ Task task, const __grid_constant__ Arrays arrays,
                 const __grid_constant__ StateLayout layout) {
  SoloTeam team;
  using Walked = BlockEngine<SoloTeam, T>;
  Walked engine(team, task, layout);
  Walk<Walked>(engine, task, arrays).run();
}

template <class T, class Task, class Arrays>
cudaError_t launch_block(void (*kernel)(Task, Arrays, StateLayout), const CudaBlockPlan& plan,
                         const BlockCall<Task>& call, const Arrays& arrays, int device, void* stream) {
  if (const cudaError_t error = cudaSetDevice(device)) return error;
  cudaLaunchConfig_t config{};
  config.stream = static_cast<cudaStream_t>(stream);
  if (const cudaError_t error = launch_pack<typename BlockMath<T>::Type>(call.task, call.layout, config.stream))
    return error;
  int most_shared_bytes = 0;
  if (const cudaError_t error =
          cudaDeviceGetAttribute(&most_shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device))
    return error;
  // All that the device has, not what this plan needs: another thread may be about to launch a larger one.
  if (const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared_bytes))
    return error;
  config.gridDim = dim3(static_cast<unsigned>(plan.blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  return cudaLaunchKernelEx(&config, kernel, call.task, arrays, call.layout);
}

// Takes the call through Walk, as a call's result. The runtime keeps an error until it is asked; what is reported here
// must not fail the next call.
template <template <class> class Walk, class T, class Task, class Arrays>
int run_block(const CudaBlockPlan& plan, const BlockCall<Task>& call, const Arrays& arrays, int device, void* stream) {
  const cudaError_t error = launch_block<T>(block_kernel<Walk, T, Task, Arrays>, plan, call, arrays, device, stream);
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

}  // namespace
}  // namespace hamiltorch
