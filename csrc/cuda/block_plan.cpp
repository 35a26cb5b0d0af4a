#include "block_plan.h"

#include <algorithm>

#include "discrete_layout.h"
#include "extended_layout.h"
#include "implicit_layout.h"
#include "parameters.h"
#include "plan.h"
#include "variational_layout.h"

namespace hamiltorch {
namespace {

int64_t element_size(const BlockSize& size) { return size.is_double ? 8 : 4; }

int64_t unit_bytes(const BlockSize& size) {
  return unit_bytes(size.is_double ? Precision::kFloat64 : Precision::kFloat32);
}

bool find_plan(const BlockSize& size, const GpuDescription& gpu, CudaBlockPlan* plan, std::string* why) {
  if (size.widths.size() >= static_cast<size_t>(kMostHidden)) {
    *why = "the CUDA kernels take at most " + std::to_string(kMostHidden - 1) + " hidden layers, got " +
           std::to_string(size.widths.size());
    return false;
  }
  if (!check_device(gpu, why)) return false;
  int64_t least = -1;
  // Weights are read in every product, the vectors between products.
  for (const Weights weights : {Weights::kPackedShared, Weights::kPackedGlobal})
    for (const bool vectors_global : {false, true}) {
      const int64_t passes = (size.batch + 7) / 8;
      *plan = {static_cast<int>(weights), vectors_global,
               static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(passes, gpu.multiprocessors))), 0, 0};
      const StateLayout layout = block_layout(*plan, size);
      if (!layout.fits) continue;
      plan->shared_bytes = layout.shared_size * element_size(size);
      plan->workspace_bytes = block_workspace_parts(*plan, size).total;
      if (plan->shared_bytes <= gpu.shared_bytes) return true;
      if (least < 0 || plan->shared_bytes < least) least = plan->shared_bytes;
    }
  *why = missing_memory(least, gpu);
  return false;
}

}  // namespace

BlockSize block_size(const CudaDelSize& size) {
  return {size.dim, size.widths, size.batch, size.is_double, kDelFirstLayerVectors, del_column_size(size.dim)};
}

BlockSize block_size(const CudaImplicitSize& size) {
  return {size.dim,       size.widths, size.batch,
          size.is_double, kDelta + 1,  implicit_column_size(size.widths[0], size.dim, size.stages)};
}

BlockSize block_size(const CudaExtendedSize& size) {
  return {size.dim,       size.widths, size.batch,
          size.is_double, kDelta + 1,  extended_column_size(size.widths[0], size.dim)};
}

BlockSize block_size(const CudaDiscreteSize& size) {
  return {size.dim,       size.widths, size.batch,
          size.is_double, kDelta + 1,  discrete_column_size(size.widths[0], size.dim)};
}

StateLayout block_layout(const CudaBlockPlan& plan, const BlockSize& size) {
  LayoutRequest request{};
  request.hidden = static_cast<int>(size.widths.size());
  request.widths = size.widths.data();
  request.state_width = size.dim;
  request.members = 1;
  request.shape = {1, left_of(1)};
  request.weights = static_cast<Weights>(plan.weights);
  request.team = TeamKind::kSolo;
  request.vectors_global = plan.vectors_global;
  request.kept_count = kKeptVectors;
  request.state_count = size.first_layer_vectors;
  request.state_columns = request.shape.columns();
  request.more = request.shape.columns() * size.column_size;
  request.unit_size = 256;
  return make_layout<StateLayout>(request);
}

BlockWorkspaceParts block_workspace_parts(const CudaBlockPlan& plan, const BlockSize& size) {
  const StateLayout layout = block_layout(plan, size);
  BlockWorkspaceParts parts{};
  parts.vectors = packed_bytes(layout, unit_bytes(size));
  parts.total = parts.vectors + (plan.vectors_global ? plan.blocks * layout.vectors_size * element_size(size) : 0);
  return parts;
}

bool cuda_del_plan(const CudaDelSize& size, const GpuDescription& gpu, CudaBlockPlan* plan, std::string* why) {
  return find_plan(block_size(size), gpu, plan, why);
}

bool cuda_implicit_plan(const CudaImplicitSize& size, const GpuDescription& gpu, CudaBlockPlan* plan,
                        std::string* why) {
  return find_plan(block_size(size), gpu, plan, why);
}

bool cuda_extended_plan(const CudaExtendedSize& size, const GpuDescription& gpu, CudaBlockPlan* plan,
                        std::string* why) {
  return find_plan(block_size(size), gpu, plan, why);
}

bool cuda_discrete_plan(const CudaDiscreteSize& size, const GpuDescription& gpu, CudaBlockPlan* plan,
                        std::string* why) {
  return find_plan(block_size(size), gpu, plan, why);
}

}  // namespace hamiltorch
