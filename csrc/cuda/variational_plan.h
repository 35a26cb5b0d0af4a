// What a plan of a discrete Euler-Lagrange rollout means in memory: the layout that the kernels get, and where the
// workspace's parts are.
#pragma once
#include "hamiltorch/cuda_variational.h"
#include "layout.h"

namespace hamiltorch {

StateLayout del_layout(const CudaDelPlan& plan, const CudaDelSize& size);

// In bytes from the workspace's beginning.
struct DelWorkspaceParts {
  int64_t packed, vectors, total;
};
DelWorkspaceParts del_workspace_parts(const CudaDelPlan& plan, const CudaDelSize& size);

}  // namespace hamiltorch
