// The blocks that work on the same samples, and how they meet. One interface for the three kinds, and the emulator's
// (csrc/emulator/team.h) is a fourth:
//   rank() of this block in its team, index() of the team among count() teams; sync_block(), sync_team();
//   any(value), a block's barrier that tells whether some thread's value is true; peer(p, m),
//   what p points at in member m's shared memory; shared<T>(), this block's own.
#pragma once
#include <cstdint>

#include "layout.h"

namespace hamiltorch {

class Block {
 public:
  __device__ __forceinline__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ int warp() const { return static_cast<int>(threadIdx.x) >> 5; }
  __device__ __forceinline__ int lane() const { return static_cast<int>(threadIdx.x) & 31; }
  __device__ __forceinline__ void sync_block() const { __syncthreads(); }
  __device__ __forceinline__ bool any(bool value) const { return __syncthreads_or(value) != 0; }
  template <class T>
  __device__ __forceinline__ T* shared() const {
    extern __shared__ __align__(128) unsigned char memory[];
    return reinterpret_cast<T*>(memory);
  }
};

// A block on its own.
class SoloTeam : public Block {
 public:
  static constexpr bool kAlone = true, kGlobalExchange = false;
  __device__ __forceinline__ int rank() const { return 0; }
  __device__ __forceinline__ int index() const { return static_cast<int>(blockIdx.x); }
  __device__ __forceinline__ int count() const { return static_cast<int>(gridDim.x); }
  __device__ __forceinline__ void sync_team() const { __syncthreads(); }
};

// Blocks of a cooperative launch that exchange through global memory: what there is before compute capability 9.0.
class GridTeam : public Block {
 public:
  static constexpr bool kAlone = false, kGlobalExchange = true;
  // counters: [teams][kCounterStride], zero at the launch.
  __device__ __forceinline__ GridTeam(uint32_t* counters, int members)
      : members_(members),
        rank_(static_cast<int>(blockIdx.x) % members),
        index_(static_cast<int>(blockIdx.x) / members),
        counter_(counters + index_ * kCounterStride) {}
  __device__ __forceinline__ int rank() const { return rank_; }
  __device__ __forceinline__ int index() const { return index_; }
  __device__ __forceinline__ int count() const { return static_cast<int>(gridDim.x) / members_; }

  // Each arrival adds one; the barrier opens when all members' have. One thread arrives for its block: the block's
  // barrier before it and its release order what all threads wrote. Compared by difference, so that it may wrap.
  __device__ __forceinline__ void sync_team() {
    __syncthreads();
    if (threadIdx.x == 0) {
      target_ += static_cast<uint32_t>(members_);
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter_) : "memory");
      uint32_t seen;
      do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter_) : "memory");
      } while (static_cast<int32_t>(seen - target_) < 0);
    }
    __syncthreads();
  }

 private:
  int members_, rank_, index_;
  uint32_t* counter_;
  uint32_t target_ = 0;
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
// A thread-block cluster: the blocks see each other's shared memory and have a barrier in hardware.
class ClusterTeam : public Block {
 public:
  static constexpr bool kAlone = false, kGlobalExchange = false;
  __device__ __forceinline__ ClusterTeam() : rank_(read_rank()) {}
  __device__ __forceinline__ int rank() const { return rank_; }
  __device__ __forceinline__ int index() const {
    uint32_t value;
    asm("mov.u32 %0, %%clusterid.x;" : "=r"(value));
    return static_cast<int>(value);
  }
  __device__ __forceinline__ int count() const {
    uint32_t value;
    asm("mov.u32 %0, %%nclusterid.x;" : "=r"(value));
    return static_cast<int>(value);
  }
  __device__ __forceinline__ void sync_team() const {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
  }
  template <class T>
  __device__ __forceinline__ T* peer(T* own, int member) const {
    uint64_t address;
    asm("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(own), "r"(member));
    return reinterpret_cast<T*>(address);
  }

 private:
  __device__ __forceinline__ static int read_rank() {
    uint32_t value;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(value));
    return static_cast<int>(value);
  }
  int rank_;
};
#endif

}  // namespace hamiltorch
