// Whole rollouts on a GPU, and the choice among the kernels that can run one. Raw device pointers, a workspace and a
// stream; nothing is allocated and nothing waits, so calls can be captured.
//
// They run in layer-1 space. With q and p only through s = W_1q q + (b_1 + W_1c c) and r = W_1p p, a kick with impulse
// x = c dt delta_1 is r -= G^T x and a drift is s += G x, G = W_1q W_1p^T; the states are q_n = q_0 + W_1p^T D_q and
// p_n = p_0 + W_1q^T D_p, where D_q sums the drifts' impulses and D_p minus the kicks'. What is left outside is a few
// large products, which the caller gives to its framework's library. Arrays are contiguous device memory, dt too, so
// that no call waits for the device.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "hamiltorch/rollout.h"

namespace hamiltorch {

inline constexpr int kMostHidden = 32;  // layers: a network's description travels in a kernel's parameters
inline constexpr int kMostStages = 8;

enum class Precision : int32_t { kFloat64 = 0, kFloat32, kTf32, kBfloat16 };
enum class TeamKind : int32_t { kSolo = 0, kCluster, kGrid };

struct GpuDescription {
  int capability;  // 90 for compute capability 9.0
  int multiprocessors;
  int shared_bytes;  // the most that one block can have
  int clusters[4];   // of 2, 4, 8 and 16 such blocks: how many the device holds at once
};

// The hidden layers of a rollout's network, as the kernels' choice depends on them.
struct ChainSize {
  std::vector<int64_t> widths;
  int64_t batch;
  std::vector<int32_t> moves;  // of each stage
  Precision precision;
  bool adjoint;
};

// One way to run it. Its memory follows from it (csrc/cuda/plan.h).
struct CudaPlan {
  TeamKind team;
  Precision precision;  // of the products: where a coarser one would not pay, a finer one than was asked for
  int members;          // blocks of a team
  int right;            // blocks of 8 columns a team holds at once; the adjoint needs two columns a sample
  int weights;          // hamiltorch::Weights
  bool in_place;
  bool vectors_global;
  int teams;
  int64_t shared_bytes;  // of a block
  int64_t workspace_bytes;
  double predicted_us;  // of one step, by the cost model: an estimate, for the choice only
};

// Every plan that runs on the device, the best by prediction first; empty, with `why` saying what is missing.
std::vector<CudaPlan> cuda_plans(const ChainSize& size, const GpuDescription& gpu, std::string* why);

template <class T>
struct ChainNetwork {
  std::vector<int64_t> widths;  // hidden layers
  Activation activation;
  std::vector<const T*> weights;  // matrix 0: W_1q W_1p^T [width_0][width_0]; then [width_l][width_(l - 1)]
  std::vector<const T*> biases;   // of layer l, [width_l]; the first is not read
  const T* head;                  // [width_last]
  std::vector<Stage> stages;
  const T* dt;
  int64_t steps, batch;
};

template <class T>
struct ChainForward {
  const T* s0;      // [batch][width_0]
  const T* r0;      // [batch][width_0]
  T* impulses;      // [2][batch][steps + 1][width_0]: D_q, D_p
  T* energy_parts;  // [members][batch][steps + 1]: H - b is the sum over members; null where not asked for
};

// The adjoint over `steps` steps, which may be a part of the rollout: s_bar and r_bar are read and replaced.
template <class T>
struct ChainBackward {
  const T* s;              // [batch][steps + 1][width_0], the states to start every step from
  const T* r;              // [batch][steps + 1][width_0]
  const T* u_q;            // [batch][steps][width_0], cotangent of what each step adds to D_q; null for zero
  const T* u_p;            // [batch][steps][width_0], the same of D_p
  const T* grad_energies;  // [batch][steps + 1] or null
  bool last_energy;        // whether the energy of the last state is part of this call
  T* s_bar;                // [batch][width_0]
  T* r_bar;                // [batch][width_0]
  T* impulses;             // [2][batch][steps][width_0]: what each step adds to D_q and D_p
  T* dt_parts;             // [teams * members]; their sum is dt's gradient
  // Parameter gradients are products of these, left^T right. Matrix 0 has one row per move and sample,
  // [steps][moves][batch]; the others two per evaluation, [steps * stages (+ 1)][2][batch], the second with the
  // tangent in the left factor, whose sum is the bias's gradient.
  T* left[kMostHidden];   // [rows][width of the matrix's rows]
  T* right[kMostHidden];  // [rows][width of its columns]
  T* head;                // [steps * stages (+ 1)][batch][width_last]: its sum is the head's gradient
};

// A CUDA error code, 0 for success.
template <class T>
int cuda_chain_forward(const CudaPlan& plan, const ChainNetwork<T>& network, const ChainForward<T>& arrays,
                       void* workspace, int device, void* stream);
template <class T>
int cuda_chain_backward(const CudaPlan& plan, const ChainNetwork<T>& network, const ChainBackward<T>& arrays,
                        void* workspace, int device, void* stream);

// The device's description; capability 0 where there is none.
GpuDescription gpu_description(int device);
const char* cuda_error_text(int error);

}  // namespace hamiltorch
