// Stands in for the CUDA part in tests: the interface of hamiltorch/cuda_rollout.h on host memory, the kernels' own
// text on the emulator. Its "stream" is the seed of the threads' order.
#include "../cuda/kernels.h"
#include "pack.h"
#include "team.h"

namespace hamiltorch {
namespace {

template <class Team, class Types, template <class> class Walk, class T, class Arrays>
void run_team(const CudaPlan& plan, const Chain<T>& chain, const Layout& layout, const Arrays& arrays, uint64_t seed) {
  const emulator::Launch launch = {plan.teams, plan.members, kThreads, static_cast<size_t>(plan.shared_bytes), seed};
  emulator::run(launch, [&](int index, int rank, int thread) {
    Team team(index, plan.teams, rank, thread);
    using Walked = Engine<Team, typename Types::Math, typename Types::Source, Types::kRight, Types::kLeft>;
    Walked engine(team, chain, layout);
    Walk<Walked>(engine, chain, arrays).run();
  });
}

template <TeamKind kTeam, class Team, class Math, template <class> class Walk, class T, class Arrays>
bool run_kernel(const CudaPlan& plan, const Chain<T>& chain, const Layout& layout, const Arrays& arrays,
                uint64_t seed) {
  return visit_kernel<kTeam, Math>(layout.weights, plan.right, [&](auto types) {
    if (layout.weights != Weights::kShared) pack<Math>(chain, layout);
    run_team<Team, decltype(types), Walk>(plan, chain, layout, arrays, seed);
  });
}

template <template <class> class Walk, class T, class Arrays>
int run_chain(const CudaPlan& plan, bool adjoint, const ChainNetwork<T>& network, const Arrays& arrays, void* workspace,
              void* stream) {
  const uint64_t seed = reinterpret_cast<uintptr_t>(stream);
  const ChainSize size = size_of(plan, network, adjoint);
  const Layout layout = layout_of(plan, size);
  const Chain<T> chain = make_chain(plan, size, network, workspace);
  const bool found = visit_precision<T>(plan.precision, [&](auto math) {
    using Math = decltype(math);
    switch (plan.team) {
      case TeamKind::kSolo:
        return run_kernel<TeamKind::kSolo, EmulatedTeam<true, false>, Math, Walk>(plan, chain, layout, arrays, seed);
      case TeamKind::kCluster:
        return run_kernel<TeamKind::kCluster, EmulatedTeam<false, false>, Math, Walk>(plan, chain, layout, arrays,
                                                                                      seed);
      case TeamKind::kGrid:
        return run_kernel<TeamKind::kGrid, EmulatedTeam<false, true>, Math, Walk>(plan, chain, layout, arrays, seed);
    }
    return false;
  });
  return found ? 0 : 1;
}

}  // namespace

template <class T>
int cuda_chain_forward(const CudaPlan& plan, const ChainNetwork<T>& network, const ChainForward<T>& arrays,
                       void* workspace, int, void* stream) {
  return run_chain<Forward>(plan, false, network, arrays, workspace, stream);
}

template <class T>
int cuda_chain_backward(const CudaPlan& plan, const ChainNetwork<T>& network, const ChainBackward<T>& arrays,
                        void* workspace, int, void* stream) {
  return run_chain<Backward>(plan, true, network, arrays, workspace, stream);
}

template int cuda_chain_forward(const CudaPlan&, const ChainNetwork<float>&, const ChainForward<float>&, void*, int,
                                void*);
template int cuda_chain_forward(const CudaPlan&, const ChainNetwork<double>&, const ChainForward<double>&, void*, int,
                                void*);
template int cuda_chain_backward(const CudaPlan&, const ChainNetwork<float>&, const ChainBackward<float>&, void*, int,
                                 void*);
template int cuda_chain_backward(const CudaPlan&, const ChainNetwork<double>&, const ChainBackward<double>&, void*, int,
                                 void*);

// A small machine, so that tests reach the ends of teams and of memory.
GpuDescription gpu_description(int) { return {90, 8, 232448, {4, 2, 1, 0}}; }

const char* cuda_error_text(int) { return "the emulator knows no such kernel"; }

}  // namespace hamiltorch
