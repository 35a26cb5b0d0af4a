// Discrete Euler-Lagrange rollouts on a stream: their kernels, and the entry points.
#include "pack_kernel.h"
#include "team.h"
#include "variational_adjoint.h"
#include "variational_forward.h"
#include "variational_task.h"

namespace hamiltorch {
namespace {

template <class Engine, class T>
__device__ __forceinline__ void walk(Engine& engine, const DelTask<T>& task, const DelArrays<T>& arrays) {
  DelForward<Engine>(engine, task, arrays).run();
}
template <class Engine, class T>
__device__ __forceinline__ void walk(Engine& engine, const DelTask<T>& task, const DelAdjointArrays<T>& arrays) {
  DelAdjoint<Engine>(engine, task, arrays).run();
}

template <class T, class Arrays>
__global__ void __launch_bounds__(kThreads, 1)
    del_kernel(const __grid_constant__ DelTask<T> task, const __grid_constant__ Arrays arrays,
               const __grid_constant__ StateLayout layout) {
  SoloTeam team;
  DelEngine<SoloTeam, T> engine(team, task, layout);
  walk(engine, task, arrays);
}

template <class T, class Arrays>
cudaError_t launch(const CudaDelPlan& plan, const CudaDelRollout<T>& rollout, const Arrays& arrays, void* workspace,
                   int device, cudaStream_t stream) {
  if (const cudaError_t error = cudaSetDevice(device)) return error;
  const StateLayout layout = del_layout(plan, del_size(rollout));
  const DelTask<T> task = make_del_task(plan, rollout, layout, workspace);
  if (const cudaError_t error = launch_pack<typename DelMath<T>::Type>(task, layout, stream)) return error;
  int most_shared_bytes = 0;
  if (const cudaError_t error =
          cudaDeviceGetAttribute(&most_shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device))
    return error;
  const auto kernel = del_kernel<T, Arrays>;
  // All that the device has, not what this plan needs: another thread may be about to launch a larger one.
  if (const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most_shared_bytes))
    return error;
  cudaLaunchConfig_t config{};
  config.stream = stream;
  config.gridDim = dim3(static_cast<unsigned>(plan.blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  return cudaLaunchKernelEx(&config, kernel, task, arrays, layout);
}

// The runtime keeps an error until it is asked; what is reported here must not fail the next call.
int reported(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

}  // namespace

template <class T>
int cuda_del_forward(const CudaDelPlan& plan, const CudaDelRollout<T>& rollout, const DelArrays<T>& arrays,
                     void* workspace, int device, void* stream) {
  return reported(launch(plan, rollout, arrays, workspace, device, static_cast<cudaStream_t>(stream)));
}

template <class T>
int cuda_del_adjoint(const CudaDelPlan& plan, const CudaDelRollout<T>& rollout, const DelAdjointArrays<T>& arrays,
                     void* workspace, int device, void* stream) {
  return reported(launch(plan, rollout, arrays, workspace, device, static_cast<cudaStream_t>(stream)));
}

template int cuda_del_forward(const CudaDelPlan&, const CudaDelRollout<float>&, const DelArrays<float>&, void*, int,
                              void*);
template int cuda_del_forward(const CudaDelPlan&, const CudaDelRollout<double>&, const DelArrays<double>&, void*, int,
                              void*);
template int cuda_del_adjoint(const CudaDelPlan&, const CudaDelRollout<float>&, const DelAdjointArrays<float>&, void*,
                              int, void*);
template int cuda_del_adjoint(const CudaDelPlan&, const CudaDelRollout<double>&, const DelAdjointArrays<double>&, void*,
                              int, void*);

}  // namespace hamiltorch
