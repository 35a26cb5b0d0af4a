// Stands in for csrc/cuda/block_launch.h: the kernels' own text on the emulator. A call's "stream" is the seed of the
// threads' order.
#pragma once
#include "../cuda/block_task.h"
#include "pack.h"
#include "team.h"

namespace hamiltorch {

template <template <class> class Walk, class T, class Task, class Arrays>
int run_block(const CudaBlockPlan& plan, const BlockCall<Task>& call, const Arrays& arrays, void* stream) {
  using Team = EmulatedTeam<true, false>;
  using Walked = BlockEngine<Team, T>;
  pack<typename BlockMath<T>::Type>(call.task, call.layout);
  const emulator::Launch launch = {plan.blocks, 1, kThreads, static_cast<size_t>(plan.shared_bytes),
                                   reinterpret_cast<uintptr_t>(stream)};
  emulator::run(launch, [&](int index, int rank, int thread) {
    Team team(index, plan.blocks, rank, thread);
    Walked engine(team, call.task, call.layout);
    Walk<Walked>(engine, call.task, arrays).run();
  });
  return 0;
}

}  // namespace hamiltorch
