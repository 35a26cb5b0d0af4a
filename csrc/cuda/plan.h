// What a plan means in memory: the layout that the kernel gets, and where the workspace's parts are.
#pragma once
#include "hamiltorch/cuda_rollout.h"
#include "layout.h"

namespace hamiltorch {

// Row tiles of a warp: wide kernels hold more, so that the activations they read serve more products.
inline constexpr int left_of(int right) { return right > 4 ? 4 : 2; }

Layout layout_of(const CudaPlan& plan, const ChainSize& size);

// Parts of the workspace, in bytes from its beginning.
struct WorkspaceParts {
  int64_t counters, exchange, vectors, packed, total;
};
WorkspaceParts workspace_parts(const CudaPlan& plan, const ChainSize& size);
// Whether there are kernels for the device at all; else `why`.
bool check_device(const GpuDescription& gpu, std::string* why);
// Why no plan fits, the smallest needing `least` bytes of a block's shared memory, or less than zero for no number.
std::string missing_memory(int64_t least, const GpuDescription& gpu);
int64_t unit_bytes(Precision precision);  // of a packed 16 x 16 unit

}  // namespace hamiltorch
