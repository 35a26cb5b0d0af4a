// The entry points: a plan's memory, and the translation unit that has its kernel.
#include "launch.h"

// HAMILTORCH_CLUSTERS: whether an architecture that has clusters is compiled for. Plans for clusters are made only on
// devices that have them.

namespace hamiltorch {
namespace {

template <class T, class Arrays>
cudaError_t run(const CudaPlan& plan, bool adjoint, const ChainNetwork<T>& network, const Arrays& arrays,
                void* workspace, int device, void* stream) {
  if (const cudaError_t error = cudaSetDevice(device)) return error;
  const ChainSize size = size_of(plan, network, adjoint);
  const Layout layout = layout_of(plan, size);
  const Chain<T> chain = make_chain(plan, size, network, workspace);
  auto* const counters =
      reinterpret_cast<uint32_t*>(static_cast<char*>(workspace) + workspace_parts(plan, size).counters);
  int most_shared_bytes = 0;
  if (const cudaError_t error =
          cudaDeviceGetAttribute(&most_shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device))
    return error;
  const Job<T> job = {plan, layout, chain, counters, static_cast<cudaStream_t>(stream), most_shared_bytes};
  return visit_precision<T>(plan.precision, [&](auto math) -> cudaError_t {
    using Math = decltype(math);
    switch (plan.team) {
      case TeamKind::kSolo:
        return launch<TeamKind::kSolo, Math>(job, arrays);
      case TeamKind::kGrid:
        if constexpr (std::is_same_v<Math, Split> || std::is_same_v<Math, Float64>)
          return launch<TeamKind::kGrid, Math>(job, arrays);
        break;
      case TeamKind::kCluster:
        if constexpr (HAMILTORCH_CLUSTERS && !std::is_same_v<Math, Float64>)
          return launch<TeamKind::kCluster, Math>(job, arrays);
        break;
    }
    return cudaErrorInvalidDeviceFunction;
  });
}

// The runtime keeps an error until it is asked; what is reported here must not fail the next call.
int reported(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

}  // namespace

template <class T>
int cuda_chain_forward(const CudaPlan& plan, const ChainNetwork<T>& network, const ChainForward<T>& arrays,
                       void* workspace, int device, void* stream) {
  return reported(run(plan, false, network, arrays, workspace, device, stream));
}

template <class T>
int cuda_chain_backward(const CudaPlan& plan, const ChainNetwork<T>& network, const ChainBackward<T>& arrays,
                        void* workspace, int device, void* stream) {
  return reported(run(plan, true, network, arrays, workspace, device, stream));
}

template int cuda_chain_forward(const CudaPlan&, const ChainNetwork<float>&, const ChainForward<float>&, void*, int,
                                void*);
template int cuda_chain_forward(const CudaPlan&, const ChainNetwork<double>&, const ChainForward<double>&, void*, int,
                                void*);
template int cuda_chain_backward(const CudaPlan&, const ChainNetwork<float>&, const ChainBackward<float>&, void*, int,
                                 void*);
template int cuda_chain_backward(const CudaPlan&, const ChainNetwork<double>&, const ChainBackward<double>&, void*, int,
                                 void*);

}  // namespace hamiltorch
