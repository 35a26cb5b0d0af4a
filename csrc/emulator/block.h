// Stands in for csrc/cuda/block_launch.h: the kernels' own text on the emulator. A call's "stream" is the seed of the
// threads' order.
#pragma once
#include "../cuda/block_task.h"
#include "pack.h"
#include "team.h"

namespace hamiltorch {

template <template <class> class Walk, class T, template <class, class> class Engines = BlockEngine, class Call,
          class Arrays>
int run_block(const CudaBlockPlan& plan, const Call& call, const Arrays& arrays, void* stream) {
  using Team = EmulatedTeam<true, false>;
  using Walked = Engines<Team, T>;
  call.for_networks(
      [](const auto& parameters, const auto& network) { pack<typename BlockMath<T>::Type>(parameters, network); });
  const emulator::Launch launch = {plan.blocks, 1, kThreads, static_cast<size_t>(plan.shared_bytes),
                                   reinterpret_cast<uintptr_t>(stream)};
  emulator::run(launch, [&](int index, int rank, int thread) {
    Team team(index, plan.blocks, rank, thread);
    Walked engines(team, call.task, call.layout);
    Walk<Walked>(engines, call.task, arrays).run();
  });
  return 0;
}

}  // namespace hamiltorch
