// The kernels there are: a team, an arithmetic, where the weights come from, and how many blocks of 8 columns.
// `visit_kernel` finds the types for a plan; the launchers and the emulator share it, so neither can know fewer.
#pragma once
#include <type_traits>

#include "chain_backward.h"
#include "plan.h"

namespace hamiltorch {

template <class MathType, class SourceType, int kRightBlocks>
struct KernelTypes {
  using Math = MathType;
  using Source = SourceType;
  static constexpr int kRight = kRightBlocks, kLeft = left_of(kRightBlocks);
};

// The most blocks of 8 columns whose sums stay in registers beside the operands; split operands need twice the room.
template <class Math>
constexpr int widest() {
  return std::is_same_v<Math, Split> ? 5 : 8;
}

// Calls visitor(KernelTypes<...>{}) and returns true, or returns false where there is no such kernel. Team and
// arithmetic are fixed where it is compiled, so that a translation unit holds the kernels of one of each.
template <TeamKind kTeam, class Math, class Visitor>
bool visit_kernel(Weights weights, int right, Visitor&& visitor) {
  constexpr bool kSingle = std::is_same_v<Math, Split>, kDouble = std::is_same_v<Math, Float64>;
  const bool packed = weights != Weights::kShared;
  if constexpr ((kSingle || kDouble) && kTeam != TeamKind::kCluster)
    if (packed && right == 1) {
      visitor(KernelTypes<Math, PackedSource, 1>{});
      return true;
    }
  if constexpr (kSingle && kTeam != TeamKind::kSolo)
    if (!packed && right == 1) {
      visitor(KernelTypes<Math, RowMajorSource, 1>{});
      return true;
    }
  if constexpr (!kDouble && kTeam != TeamKind::kGrid)
    if (packed && right == 4) {
      visitor(KernelTypes<Math, PackedSource, 4>{});
      return true;
    }
  if constexpr (!kDouble && kTeam == TeamKind::kSolo)
    if (packed && right == widest<Math>()) {
      visitor(KernelTypes<Math, PackedSource, widest<Math>()>{});
      return true;
    }
  return false;
}

// Calls visitor(arithmetic) for a precision of the state's type T, and returns what it returns.
template <class T, class Visitor>
auto visit_precision(Precision precision, Visitor&& visitor) {
  if constexpr (std::is_same_v<T, double>) {
    return visitor(Float64{});
  } else {
    switch (precision) {
      case Precision::kTf32:
        return visitor(Tf32{});
      case Precision::kBfloat16:
        return visitor(Bfloat16{});
      default:
        return visitor(Split{});
    }
  }
}

// The parameters of a plan's kernel: pointers into the workspace, and the layout.
template <class T>
Chain<T> make_chain(const CudaPlan& plan, const ChainSize& size, const ChainNetwork<T>& network, void* workspace) {
  const WorkspaceParts parts = workspace_parts(plan, size);
  const Layout layout = layout_of(plan, size);
  char* const base = static_cast<char*>(workspace);
  Chain<T> chain{};
  chain.activation = network.activation;
  for (int l = 0; l < layout.hidden; ++l) {
    chain.weights[l] = network.weights[static_cast<size_t>(l)];
    chain.biases[l] = network.biases[static_cast<size_t>(l)];
  }
  if (layout.weights != Weights::kShared)
    place_packed<T>(layout, unit_bytes(plan.precision), base + parts.packed, &chain);
  chain.head = network.head;
  chain.stage_count = static_cast<int>(network.stages.size());
  for (int k = 0; k < chain.stage_count; ++k) chain.stages[k] = network.stages[static_cast<size_t>(k)];
  chain.dt = network.dt;
  chain.steps = network.steps;
  chain.batch = network.batch;
  chain.exchange = reinterpret_cast<T*>(base + parts.exchange);
  chain.vectors = reinterpret_cast<T*>(base + parts.vectors);
  return chain;
}

template <class T>
ChainSize size_of(const CudaPlan& plan, const ChainNetwork<T>& network, bool adjoint) {
  ChainSize size{network.widths, network.batch, {}, plan.precision, adjoint};
  for (const Stage& stage : network.stages) size.moves.push_back(stage.moves);
  return size;
}

}  // namespace hamiltorch
