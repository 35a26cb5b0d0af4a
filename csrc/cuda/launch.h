// From a plan to a kernel on a stream. The kernels of one kind of team and one arithmetic are a translation unit each
// (launch_*.cu, from launch_kernel.h), so that they compile side by side; rollout.cu chooses among them.
#pragma once
#include <cuda_runtime.h>

#include "kernels.h"

namespace hamiltorch {

template <class T>
struct Job {
  const CudaPlan& plan;
  const Layout& layout;
  const Chain<T>& chain;
  uint32_t* counters;  // of a grid team's barriers
  cudaStream_t stream;
  int most_shared_bytes;  // of a block on this device
};

template <TeamKind kTeam, class Math, class Arrays>
cudaError_t launch(const Job<typename Math::Real>& job, const Arrays& arrays);

}  // namespace hamiltorch
