// The kernels themselves, and how each is launched. Included by launch_*.cu alone, each of which instantiates `launch`
// for one kind of team and one arithmetic.
#pragma once
#include "launch.h"
#include "pack_kernel.h"
#include "team.h"

namespace hamiltorch {
namespace {

template <class Team>
__device__ __forceinline__ Team make_team(uint32_t* counters, int members) {
  if constexpr (Team::kGlobalExchange) {
    return Team(counters, members);
  } else {
    return Team();
  }
}

template <class Engine, class T>
__device__ __forceinline__ void walk(Engine& engine, const Chain<T>& chain, const ChainForward<T>& arrays) {
  Forward<Engine>(engine, chain, arrays).run();
}
template <class Engine, class T>
__device__ __forceinline__ void walk(Engine& engine, const Chain<T>& chain, const ChainBackward<T>& arrays) {
  Backward<Engine>(engine, chain, arrays).run();
}

// One block a multiprocessor: a thread may use all the registers that 256 threads leave it.
template <class Team, class Types, class Arrays, class T = typename Types::Math::Real>
__global__ void __launch_bounds__(kThreads, 1)
    rollout_kernel(const __grid_constant__ Chain<T> chain, const __grid_constant__ Arrays arrays,
                   const __grid_constant__ Layout layout, uint32_t* counters) {
  Team team = make_team<Team>(counters, layout.members);
  Engine<Team, typename Types::Math, typename Types::Source, Types::kRight, Types::kLeft> engine(team, chain, layout);
  walk(engine, chain, arrays);
}

template <class Team, class Types, class Arrays, class T>
cudaError_t launch_kernel(const Job<T>& job, const Arrays& arrays) {
  const CudaPlan& plan = job.plan;
  cudaLaunchConfig_t config{};
  config.stream = job.stream;
  if (job.layout.weights != Weights::kShared)
    if (const cudaError_t error = launch_pack<typename Types::Math>(job.chain, job.layout, job.stream)) return error;
  const auto kernel = rollout_kernel<Team, Types, Arrays>;
  // All that the device has, not what this plan needs: another thread may be about to launch a larger one.
  if (const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, job.most_shared_bytes))
    return error;
  cudaLaunchAttribute attribute{};
  config.gridDim = dim3(static_cast<unsigned>(plan.teams * plan.members));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  config.attrs = &attribute;
  if (plan.team == TeamKind::kCluster) {
    if (const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1))
      return error;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(plan.members);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    config.numAttrs = 1;
  }
  if (plan.team == TeamKind::kGrid) {  // its blocks wait for each other, so all must be there at once
    const size_t bytes = static_cast<size_t>(plan.teams) * kCounterStride * sizeof(uint32_t);
    if (const cudaError_t error = cudaMemsetAsync(job.counters, 0, bytes, job.stream)) return error;
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    config.numAttrs = 1;
  }
  return cudaLaunchKernelEx(&config, kernel, job.chain, arrays, job.layout, job.counters);
}

template <TeamKind kTeam>
struct TeamOf;
template <>
struct TeamOf<TeamKind::kSolo> {
  using Type = SoloTeam;
};
template <>
struct TeamOf<TeamKind::kGrid> {
  using Type = GridTeam;
};
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
template <>
struct TeamOf<TeamKind::kCluster> {
  using Type = ClusterTeam;
};
#endif

}  // namespace

template <TeamKind kTeam, class Math, class Arrays>
cudaError_t launch(const Job<typename Math::Real>& job, const Arrays& arrays) {
  cudaError_t error = cudaErrorInvalidDeviceFunction;
  visit_kernel<kTeam, Math>(job.layout.weights, job.plan.right, [&](auto types) {
    error = launch_kernel<typename TeamOf<kTeam>::Type, decltype(types)>(job, arrays);
  });
  return error;
}

}  // namespace hamiltorch
