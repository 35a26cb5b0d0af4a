// Rollouts by the discrete Euler-Lagrange equations (hamiltorch/variational.h) on a GPU, and the multipliers of their
// adjoint. Raw device pointers, a workspace and a stream; nothing is allocated and nothing waits, so calls can be
// captured. What depends on dt, the masses and the condition alone comes as arrays from the caller.
//
// A block takes eight samples through all steps. What else the gradient needs is a few large products, which the caller
// gives to its framework's library.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "hamiltorch/cuda_rollout.h"
#include "hamiltorch/variational.h"

namespace hamiltorch {

struct CudaDelSize {
  int64_t dim;                  // d
  std::vector<int64_t> widths;  // hidden layers, fewer than kMostHidden
  int64_t batch;
  bool is_double;
};

// Where a block finds things. One plan serves the rollout and its adjoint.
struct CudaDelPlan {
  int weights;          // hamiltorch::Weights, packed
  bool vectors_global;  // the samples' vectors
  int blocks;
  int64_t shared_bytes;  // of a block
  int64_t workspace_bytes;
};

// The plan for a device so described; false, with `why` saying what is missing, where there is none.
bool cuda_del_plan(const CudaDelSize& size, const GpuDescription& gpu, CudaDelPlan* plan, std::string* why);

template <class T>
struct CudaDelRollout {
  int64_t dim;
  std::vector<int64_t> widths;
  Activation activation;
  // Matrix 0: W_1y [width_0][dim], the columns of W_1 that multiply y; then [width_l][width_(l - 1)]; the last one is
  // W_1x [width_0][dim].
  std::vector<const T*> weights;  // [hidden + 1]
  std::vector<const T*> biases;   // of layer l, [width_l]; the first is not read
  const T* head;                  // [width_last]
  const T* base;                  // b_1 + W_1c c: [batch][width_0], or with stride 0 [width_0]
  int64_t base_stride;
  const T* kinetic;   // m / dt, [dim]
  const T* friction;  // f / 2, [dim]
  const T* diagonal;  // -(m / dt + f / 2), [dim]
  const T* inverse;   // 1 / diagonal, [dim]
  const T* dt;        // [1]
  int64_t steps, batch;
  T tolerance;
  int64_t max_iterations;
};

// A CUDA error code, 0 for success.
template <class T>
int cuda_del_forward(const CudaDelPlan& plan, const CudaDelRollout<T>& rollout, const DelArrays<T>& arrays,
                     void* workspace, int device, void* stream);
template <class T>
int cuda_del_adjoint(const CudaDelPlan& plan, const CudaDelRollout<T>& rollout, const DelAdjointArrays<T>& arrays,
                     void* workspace, int device, void* stream);

}  // namespace hamiltorch
