// What a rollout of T(p) + V(q) and its adjoint have in common: csrc/cpu/separable.h for eight samples. Each network
// has an engine of its own on the block, and they take turns.
#pragma once
#include "block_task.h"
#include "curvature.h"
#include "hamiltorch/cuda_separable.h"
#include "separable_layout.h"

namespace hamiltorch {

// Arrays as in CudaSeparableRollout.
template <class T>
struct SeparableTask {
  struct Stage {
    T factor;   // what the half that moves gains of dt times the gradient
    int reads;  // the Half whose gradient it is
  };
  BlockTask<T> networks[2];
  const T* inverse_mass;
  Stage stages[kMostStages];
  int stage_count;
  int64_t evaluations[2];  // points of each Half along a sample's rollout
};

template <class Team, class T>
struct SeparableEngines {
  using Network = Engine<Team, typename BlockMath<T>::Type, PackedSource, 1, 2, OneStateLayout>;
  using Real = T;

  HAMILTORCH_DEVICE SeparableEngines(Team& team, const SeparableTask<T>& task, const SeparableLayouts& layouts)
      : of{{team, task.networks[kPotential], layouts.of[kPotential]},
           {team, task.networks[kKinetic], layouts.of[kKinetic]}} {}

  Network of[2];
};

// The networks share scratch: a turn is `evaluate`, perhaps `multiply`, and `gather`, all of one half, which ends with
// the block's barrier.
template <class Engines>
class SeparableBlock {
 public:
  using Real = typename Engines::Real;
  using Network = typename Engines::Network;
  using Two = typename Network::Two;
  using Team = std::remove_reference_t<decltype(Network::team)>;

  HAMILTORCH_DEVICE SeparableBlock(Engines& engines, const SeparableTask<Real>& task)
      : team(engines.of[kPotential].team),
        task(task),
        first(task.networks[kPotential]),
        dim(engines.of[kPotential].layout.widths[engines.of[kPotential].layout.hidden]),
        dt(*first.dt),
        engines_(engines),
        vectors_(engines.of[kPotential].more()),
        size_(static_cast<int>(separable_column_size(dim))),
        column_(vectors_ + team.warp() * size_, dim, team.lane()) {}

  HAMILTORCH_DEVICE Real* part(int which, int half) const { return column_.vector(which + half); }
  HAMILTORCH_DEVICE bool has_network(int half) const { return half == kPotential || !task.inverse_mass; }

  // Body(row) of one half; body(row, half) of all of z, q first.
  template <class Body>
  HAMILTORCH_DEVICE void for_rows(Body body) const {
    column_.for_rows(body);
  }
  template <class Body>
  HAMILTORCH_DEVICE void for_state(Body body) const {
    HAMILTORCH_NO_UNROLL
    for (int half = 0; half < 2; ++half) column_.for_rows([&](int row) { body(row, half); });
  }

  // A half's network where every warp says, a_1's gradient being settled, and what products with its Hessian need.
  template <class Value>
  HAMILTORCH_DEVICE void evaluate(int half, int64_t sample, Value value) const {
    Network& network = engines_.of[half];
    const int64_t of_block = sample - team.warp();
    settle_columns(network, network.layout.hidden, value);
    evaluate_curvature(network, [&](auto sink) {
      network.dense(0, [&](int row, int pair, Two a) {
        add_two(a, base_of_two(task.networks[half], of_block + 2 * pair, row, network.layout.widths[0]));
        sink(row, pair, a);
      });
    });
  }
  // Its Hessian's product with what every warp gives, on the side of a_1, is settled.
  template <class Value>
  HAMILTORCH_DEVICE void multiply(int half, Value value) const {
    Network& network = engines_.of[half];
    settle_columns(network, network.layout.hidden, value);
    multiply_hessian(network, by_matrix(network, 0));
  }
  // kSeparableSlope = W_1^T y of the settled y.
  HAMILTORCH_DEVICE void gather(int half) const {
    Network& network = engines_.of[half];
    network.transposed(0, network.own_rows(), into_columns(vectors_ + (kSeparableSlope + half) * dim, dim, size_));
    team.sync_block();
  }

  const Team& team;
  const SeparableTask<Real>& task;
  const BlockTask<Real>& first;  // what is said of the rollout is said here
  const int dim;
  const Real dt;

 private:
  Engines& engines_;
  Real* const vectors_;
  const int size_;
  const Column<Real> column_;
};

}  // namespace hamiltorch
