#include "plan.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "parameters.h"

namespace hamiltorch {
namespace {

// What things cost, for the choice among plans. Estimates from data sheets and published measurements, not readings of
// our own (docs/cuda.md); benchmarks/probe and benchmarks/tune.py measure them.
constexpr double kClock = 1.7e3;        // cycles in a microsecond
constexpr double kBlockBarrier = 0.03;  // microseconds
constexpr double kClusterBarrier = 0.35;
constexpr double kGridBarrier = 1.3;
constexpr double kProductLatency = 0.3;  // of the first operands and the last sums of a product
constexpr double kSharedBytes = 128;     // read in a cycle by a multiprocessor
constexpr double kGlobalBytes = 24;      // the same from the second-level cache, all multiprocessors reading

// Multiply-adds in a cycle and multiprocessor.
double rate(Precision precision) {
  switch (precision) {
    case Precision::kFloat64:
      return 60;
    case Precision::kFloat32:
      return 180;
    case Precision::kTf32:
      return 550;
    case Precision::kBfloat16:
      return 1100;
  }
  return 1;
}

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

int element_size(const CudaPlan& plan) { return plan.precision == Precision::kFloat64 ? 8 : 4; }

// Elements of one packed 16 x 16 unit, counted in the state's type.
int unit_size(const CudaPlan& plan) { return static_cast<int>(unit_bytes(plan.precision)) / element_size(plan); }

int samples_of(const CudaPlan& plan, const ChainSize& size) { return 8 * plan.right / (size.adjoint ? 2 : 1); }

// Clusters that the device holds at once; more would wait for these to end.
int clusters(const GpuDescription& gpu, int members) {
  int size = 0;
  while (2 << size < members) ++size;
  return gpu.clusters[size];
}

// Microseconds of one step.
double predict(const CudaPlan& plan, const ChainSize& size) {
  const Layout layout = layout_of(plan, size);
  const double columns = 8.0 * plan.right;
  const double barrier = plan.team == TeamKind::kSolo      ? kBlockBarrier
                         : plan.team == TeamKind::kCluster ? kClusterBarrier
                                                           : kGridBarrier;
  const bool from_shared = plan.weights != static_cast<int>(Weights::kPackedGlobal);
  double product_time[kMostHidden];
  for (int matrix = 0; matrix < layout.hidden; ++matrix) {
    const double elements = 256.0 * layout.each[layout.rows_layer(matrix)] * layout.tiles[layout.columns_layer(matrix)];
    const double bytes = elements * static_cast<double>(unit_bytes(plan.precision)) / 256;
    const double load = bytes / (from_shared ? kSharedBytes : kGlobalBytes);
    const double right = elements * columns * element_size(plan) / (16.0 * left_of(plan.right)) / kSharedBytes;
    const double multiply = elements * columns / rate(plan.precision);
    product_time[matrix] =
        std::max({load + (from_shared ? right : 0), right, multiply}) / kClock + kProductLatency + barrier;
  }
  double evaluation = barrier, inner = 0;
  for (int matrix = 1; matrix < layout.hidden; ++matrix) inner += 2 * product_time[matrix];
  evaluation += inner;
  double step = 0;
  for (size_t k = 0; k < size.moves.size(); ++k) {
    const double moved = (size.moves[k] & kMovesP ? 1 : 0) + (size.moves[k] & kMovesQ ? 1 : 0);
    step += evaluation + moved * product_time[0];
    if (size.adjoint && k + 2 < size.moves.size()) step += evaluation + moved * product_time[0];  // the replay
  }
  const double passes = std::ceil(static_cast<double>(size.batch) / samples_of(plan, size));
  return step * std::ceil(std::max(passes, 1.0) / plan.teams);
}

}  // namespace

int64_t unit_bytes(Precision precision) {
  return 256 * (precision == Precision::kBfloat16 ? 2 : precision == Precision::kFloat64 ? 8 : 4);
}

bool check_device(const GpuDescription& gpu, std::string* why) {
  if (gpu.capability >= 80) return true;
  *why = gpu.capability == 0 ? "there is no CUDA device"
                             : "the CUDA kernels need compute capability 8.0 or newer, the device has " +
                                   std::to_string(gpu.capability / 10) + "." + std::to_string(gpu.capability % 10);
  return false;
}

std::string missing_memory(int64_t least, const GpuDescription& gpu) {
  if (least < 0) return "the network is too large to be counted in 32 bits";
  return "the network needs at least " + std::to_string(least) + " bytes of shared memory in a block, the device has " +
         std::to_string(gpu.shared_bytes);
}

Layout layout_of(const CudaPlan& plan, const ChainSize& size) {
  LayoutRequest request{};
  request.hidden = static_cast<int>(size.widths.size());
  request.widths = size.widths.data();
  request.members = plan.members;
  request.shape = {plan.right, left_of(plan.right)};
  request.weights = static_cast<Weights>(plan.weights);
  request.team = plan.team;
  request.in_place = plan.in_place;
  request.vectors_global = plan.vectors_global;
  request.kept_count = request.terms_count = 1;
  request.state_count = size.adjoint ? kBackwardStates + static_cast<int>(size.moves.size()) : kForwardStates;
  request.state_columns = samples_of(plan, size);
  request.unit_size = unit_size(plan);
  return make_layout<Layout>(request);
}

WorkspaceParts workspace_parts(const CudaPlan& plan, const ChainSize& size) {
  const Layout layout = layout_of(plan, size);
  WorkspaceParts parts{};
  int64_t used = 0;
  const auto take = [&used](int64_t bytes) {
    const int64_t offset = used;
    used += round_up(bytes, 256);
    return offset;
  };
  const int64_t blocks = static_cast<int64_t>(plan.teams) * plan.members;
  parts.counters =
      take(plan.team == TeamKind::kGrid ? plan.teams * kCounterStride * static_cast<int64_t>(sizeof(uint32_t)) : 0);
  parts.exchange = take(layout.exchange_global ? blocks * layout.halves * layout.half_size * element_size(plan) : 0);
  parts.vectors = take(plan.vectors_global ? blocks * layout.vectors_size * element_size(plan) : 0);
  parts.packed = take(layout.weights == Weights::kShared ? 0 : packed_bytes(layout, unit_bytes(plan.precision)));
  parts.total = used;
  return parts;
}

std::vector<CudaPlan> cuda_plans(const ChainSize& size, const GpuDescription& gpu, std::string* why) {
  std::vector<CudaPlan> plans;
  if (size.widths.size() > static_cast<size_t>(kMostHidden) || size.moves.size() > static_cast<size_t>(kMostStages)) {
    *why = "the CUDA kernels take at most " + std::to_string(kMostHidden) + " hidden layers and " +
           std::to_string(kMostStages) + " stages, got " + std::to_string(size.widths.size()) + " and " +
           std::to_string(size.moves.size());
    return plans;
  }
  if (!check_device(gpu, why)) return plans;
  int64_t least = -1;
  const auto consider = [&](TeamKind team, Precision precision, int members, int right, Weights weights) {
    // Prefer everything in shared memory, then give up what costs least.
    for (const bool vectors_global : {false, true})
      for (const bool in_place : {false, true}) {
        if (in_place && team != TeamKind::kSolo) continue;
        CudaPlan plan{team, precision, members, right, static_cast<int>(weights), in_place, vectors_global, 1, 0, 0, 0};
        const Layout layout = layout_of(plan, size);
        if (!layout.fits) continue;
        if (in_place) {
          bool fits = true;
          for (int l = 0; l < layout.hidden; ++l) fits = fits && layout.tiles[l] <= kWarps * left_of(right);
          if (!fits) continue;
        }
        plan.shared_bytes = static_cast<int64_t>(layout.shared_size) * element_size(plan);
        if (least < 0 || plan.shared_bytes < least) least = plan.shared_bytes;
        if (plan.shared_bytes > gpu.shared_bytes) continue;
        const int64_t passes = (size.batch + samples_of(plan, size) - 1) / samples_of(plan, size);
        const int64_t most = team == TeamKind::kCluster ? clusters(gpu, members) : gpu.multiprocessors / members;
        plan.teams = static_cast<int>(std::max<int64_t>(1, std::min(passes, most)));
        plan.workspace_bytes = workspace_parts(plan, size).total;
        plan.predicted_us = predict(plan, size);
        plans.push_back(plan);
        return;
      }
  };
  // The kernels there are (csrc/cuda/kernels.h). Narrow ones wait more than they multiply: they come in full precision.
  const Precision asked = size.precision, full = asked == Precision::kFloat64 ? asked : Precision::kFloat32;
  const bool is_double = asked == Precision::kFloat64;
  std::vector<std::pair<Precision, int>> solo = {{full, 1}};
  if (!is_double) solo.insert(solo.end(), {{asked, 4}, {asked, asked == full ? 5 : 8}});
  for (const auto& [precision, right] : solo)
    for (const Weights weights : {Weights::kPackedShared, Weights::kPackedGlobal})
      consider(TeamKind::kSolo, precision, 1, right, weights);
  if (!is_double) {
    for (int members = 2; members <= 16; members *= 2) {
      if (clusters(gpu, members) == 0) continue;
      consider(TeamKind::kCluster, full, members, 1, Weights::kShared);
      consider(TeamKind::kCluster, asked, members, 4, Weights::kPackedGlobal);
    }
  }
  for (int members = 4; members <= 64 && members <= gpu.multiprocessors; members *= 2) {
    if (!is_double) consider(TeamKind::kGrid, full, members, 1, Weights::kShared);
    consider(TeamKind::kGrid, full, members, 1, Weights::kPackedGlobal);
  }
  std::stable_sort(plans.begin(), plans.end(),
                   [](const CudaPlan& a, const CudaPlan& b) { return a.predicted_us < b.predicted_us; });
  if (plans.empty()) *why = missing_memory(least, gpu);
  return plans;
}

}  // namespace hamiltorch
