// Starts a kernel of rollouts of eight samples on a block.
#pragma once
#include "block_task.h"
#include "pack_kernel.h"
#include "team.h"

namespace hamiltorch {
namespace {

// Engines is one engine, or those of several networks.
template <template <class> class Walk, class Engines, class Task, class Arrays, class Layout>
__global__ void __launch_bounds__(kThreads, 1)
    block_kernel(const __grid_constant__ Task task, const __grid_constant__ Arrays arrays,
                 const __grid_constant__ Layout layout) {
  static_assert(sizeof(Task) + sizeof(Arrays) + sizeof(Layout) <= 4096, "what a kernel of any toolkit takes");
  SoloTeam team;
  Engines engines(team, task, layout);
  Walk<Engines>(engines, task, arrays).run();
}

template <class T, class Task, class Arrays, class Layout, class Call>
cudaError_t launch_block(void (*kernel)(Task, Arrays, Layout), const CudaBlockPlan& plan, const Call& call,
                         const Arrays& arrays, int device, void* stream) {
  cudaError_t error = cudaSetDevice(device);
  cudaLaunchConfig_t config{};
  config.stream = static_cast<cudaStream_t>(stream);
  call.for_networks([&](const auto& parameters, const auto& network) {
    if (!error) error = launch_pack<typename BlockMath<T>::Type>(parameters, network, config.stream);
  });
  if (error) return error;
  int most_shared_bytes = 0;
  error = cudaDeviceGetAttribute(&most_shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error) return error;
  // All that the device has, not what this plan needs: another thread may be about to launch a larger one.
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared_bytes);
  if (error) return error;
  config.gridDim = dim3(static_cast<unsigned>(plan.blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  return cudaLaunchKernelEx(&config, kernel, call.task, arrays, call.layout);
}

// Takes the call through Walk, as a call's result. The runtime keeps an error until it is asked; what is reported here
// must not fail the next call.
template <template <class> class Walk, class T, template <class, class> class Engines = BlockEngine, class Call,
          class Arrays>
int run_block(const CudaBlockPlan& plan, const Call& call, const Arrays& arrays, int device, void* stream) {
  const auto kernel = block_kernel<Walk, Engines<SoloTeam, T>, decltype(call.task), Arrays, decltype(call.layout)>;
  const cudaError_t error = launch_block<T>(kernel, plan, call, arrays, device, stream);
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

}  // namespace
}  // namespace hamiltorch
