// Packs all matrices of a network on the device, before a kernel that reads them so.
#pragma once
#include <cuda_runtime.h>

#include "pack.h"
#include "parameters.h"

namespace hamiltorch {
namespace {

template <class Math, class Layout>
__global__ void pack_kernel(const __grid_constant__ Parameters<typename Math::Real> parameters,
                            const __grid_constant__ Layout layout) {
  using Packed = typename Math::Packed;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int matrix = 0; matrix < layout.matrices(); ++matrix) {
    const int rows = layout.widths[layout.rows_layer(matrix)], columns = layout.widths[layout.columns_layer(matrix)];
    const int64_t count = packed_count<Math>(rows, columns);
    Packed* const forward = static_cast<Packed*>(const_cast<void*>(parameters.packed[matrix]));
    Packed* const transposed = static_cast<Packed*>(const_cast<void*>(parameters.packed_transposed[matrix]));
    for (int64_t i = start; i < 2 * count; i += stride) {
      const bool back = i >= count;
      (back ? transposed : forward)[back ? i - count : i] =
          pack_fragment<Math>(parameters.weights[matrix], rows, columns, back, back ? i - count : i);
    }
  }
}

template <class Math, class Layout>
cudaError_t launch_pack(const Parameters<typename Math::Real>& parameters, const Layout& layout, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.stream = stream;
  config.gridDim = dim3(128);
  config.blockDim = dim3(256);
  return cudaLaunchKernelEx(&config, pack_kernel<Math, Layout>, parameters, layout);
}

}  // namespace
}  // namespace hamiltorch
