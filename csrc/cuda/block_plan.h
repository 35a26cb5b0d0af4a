// What a plan of a rollout of eight samples on a block means in memory: the layout that the kernels get, and where the
// workspace's parts are.
#pragma once
#include "hamiltorch/cuda_discrete.h"
#include "hamiltorch/cuda_extended.h"
#include "hamiltorch/cuda_implicit.h"
#include "hamiltorch/cuda_separable.h"
#include "hamiltorch/cuda_variational.h"
#include "layout.h"
#include "separable_layout.h"

namespace hamiltorch {

struct BlockSize {
  int64_t dim;                  // of a state
  std::vector<int64_t> widths;  // hidden layers
  int64_t batch;
  bool is_double;
  int first_layer_vectors;
  int64_t column_size;  // elements of a sample
};
BlockSize block_size(const CudaDelSize& size);
BlockSize block_size(const CudaImplicitSize& size);
BlockSize block_size(const CudaExtendedSize& size);
BlockSize block_size(const CudaDiscreteSize& size);

StateLayout block_layout(const CudaBlockPlan& plan, const BlockSize& size);

// A network's, in bytes from the workspace's beginning.
struct BlockWorkspaceParts {
  int64_t packed, vectors, end;
};
BlockWorkspaceParts block_workspace_parts(const CudaBlockPlan& plan, const BlockSize& size);

// The same of two networks.
struct SeparablePlaces {
  SeparableLayouts layouts;
  BlockWorkspaceParts parts[2];
};
SeparablePlaces separable_places(const CudaBlockPlan& plan, const CudaSeparableSize& size);

}  // namespace hamiltorch
