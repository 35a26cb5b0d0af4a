#include "variational_plan.h"

#include <algorithm>

#include "parameters.h"
#include "plan.h"
#include "variational_layout.h"

namespace hamiltorch {
namespace {

int64_t element_size(const CudaDelSize& size) { return size.is_double ? 8 : 4; }

int64_t unit_bytes(const CudaDelSize& size) {
  return unit_bytes(size.is_double ? Precision::kFloat64 : Precision::kFloat32);
}

}  // namespace

StateLayout del_layout(const CudaDelPlan& plan, const CudaDelSize& size) {
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
  request.state_count = kFirstLayerVectors;
  request.state_columns = request.shape.columns();
  request.more = request.shape.columns() * del_column_size(size.dim);
  request.unit_size = 256;
  return make_layout<StateLayout>(request);
}

DelWorkspaceParts del_workspace_parts(const CudaDelPlan& plan, const CudaDelSize& size) {
  const StateLayout layout = del_layout(plan, size);
  DelWorkspaceParts parts{};
  parts.vectors = packed_bytes(layout, unit_bytes(size));
  parts.total = parts.vectors + (plan.vectors_global ? plan.blocks * layout.vectors_size * element_size(size) : 0);
  return parts;
}

bool cuda_del_plan(const CudaDelSize& size, const GpuDescription& gpu, CudaDelPlan* plan, std::string* why) {
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
      const StateLayout layout = del_layout(*plan, size);
      if (!layout.fits) continue;
      plan->shared_bytes = layout.shared_size * element_size(size);
      plan->workspace_bytes = del_workspace_parts(*plan, size).total;
      if (plan->shared_bytes <= gpu.shared_bytes) return true;
      if (least < 0 || plan->shared_bytes < least) least = plan->shared_bytes;
    }
  *why = missing_memory(least, gpu);
  return false;
}

}  // namespace hamiltorch
