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

int64_t element_size(bool is_double) { return is_double ? 8 : 4; }

template <class Layout>
Layout network_layout(const CudaBlockPlan& plan, const BlockSize& size, int64_t kept_from) {
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
  request.kept_from = kept_from;
  request.unit_size = 256;
  return make_layout<Layout>(request);
}

template <class Layout>
BlockWorkspaceParts workspace_from(int64_t begin, const CudaBlockPlan& plan, const Layout& layout, bool is_double) {
  BlockWorkspaceParts parts{};
  parts.packed = begin;
  parts.vectors = begin + packed_bytes(layout, unit_bytes(is_double ? Precision::kFloat64 : Precision::kFloat32));
  parts.end = parts.vectors;
  if (plan.vectors_global) parts.end += plan.blocks * layout.vectors_size * element_size(is_double);
  return parts;
}

bool check_hidden(const std::vector<int64_t>& widths, std::string* why) {
  if (widths.size() < static_cast<size_t>(kMostHidden)) return true;
  *why = "the CUDA kernels take at most " + std::to_string(kMostHidden - 1) + " hidden layers, got " +
         std::to_string(widths.size());
  return false;
}

// What a plan asks of a device: elements of a block's shared memory, and bytes of the workspace. Not `fits`: more than
// 32 bits count.
struct Need {
  bool fits;
  int64_t shared_size, workspace_bytes;
};

template <class FindNeed>
bool find_plan(int64_t batch, bool is_double, const GpuDescription& gpu, CudaBlockPlan* plan, std::string* why,
               FindNeed find_need) {
  if (!check_device(gpu, why)) return false;
  int64_t least = -1;
  // Weights are read in every product, the vectors between products.
  for (const Weights weights : {Weights::kPackedShared, Weights::kPackedGlobal})
    for (const bool vectors_global : {false, true}) {
      const int64_t passes = (batch + 7) / 8;
      *plan = {static_cast<int>(weights), vectors_global,
               static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(passes, gpu.multiprocessors))), 0, 0};
      const Need need = find_need(*plan);
      if (!need.fits) continue;
      plan->shared_bytes = need.shared_size * element_size(is_double);
      plan->workspace_bytes = need.workspace_bytes;
      if (plan->shared_bytes <= gpu.shared_bytes) return true;
      if (least < 0 || plan->shared_bytes < least) least = plan->shared_bytes;
    }
  *why = missing_memory(least, gpu);
  return false;
}

bool find_plan(const BlockSize& size, const GpuDescription& gpu, CudaBlockPlan* plan, std::string* why) {
  if (!check_hidden(size.widths, why)) return false;
  return find_plan(size.batch, size.is_double, gpu, plan, why, [&](const CudaBlockPlan& tried) {
    const StateLayout layout = block_layout(tried, size);
    return Need{layout.fits, layout.shared_size, block_workspace_parts(tried, size).end};
  });
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
  return network_layout<StateLayout>(plan, size, 0);
}

BlockWorkspaceParts block_workspace_parts(const CudaBlockPlan& plan, const BlockSize& size) {
  return workspace_from(0, plan, block_layout(plan, size), size.is_double);
}

// The networks take turns, gradient by gradient (SeparableBlock): their scratch is one, the larger's.
SeparablePlaces separable_places(const CudaBlockPlan& plan, const CudaSeparableSize& size) {
  SeparablePlaces places{};
  const auto place = [&](Half half, int64_t kept_from, int64_t begin) {
    const bool first = half == kPotential;  // which has the samples' vectors
    const BlockSize network = {size.dim,       size.widths[half], size.batch,
                               size.is_double, kDelta + 1,        first ? separable_column_size(size.dim) : 0};
    if (network.widths.empty()) return;
    places.layouts.of[half] = network_layout<OneStateLayout>(plan, network, kept_from);
    places.parts[half] = workspace_from(begin, plan, places.layouts.of[half], size.is_double);
  };
  place(kKinetic, 0, 0);  // for the size of its scratch
  place(kPotential, places.layouts.of[kKinetic].scratch_size, 0);
  place(kKinetic, places.layouts.of[kPotential].shared_size, places.parts[kPotential].end);
  return places;
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

bool cuda_separable_plan(const CudaSeparableSize& size, const GpuDescription& gpu, CudaBlockPlan* plan,
                         std::string* why) {
  if (!check_hidden(size.widths[kPotential], why) || !check_hidden(size.widths[kKinetic], why)) return false;
  return find_plan(size.batch, size.is_double, gpu, plan, why, [&](const CudaBlockPlan& tried) {
    const SeparablePlaces places = separable_places(tried, size);
    const bool both = !size.widths[kKinetic].empty();
    const OneStateLayout &v = places.layouts.of[kPotential], &t = places.layouts.of[kKinetic];
    return Need{v.fits && (!both || t.fits), (both ? t : v).shared_size, places.parts[both].end};
  });
}

}  // namespace hamiltorch
