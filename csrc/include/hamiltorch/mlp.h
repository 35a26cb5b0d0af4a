// The network H(z) = w . s(W_L ... s(W_1 (z, c) + b_1) ...) + b, as every kernel reads it. Plain data, no framework.
#pragma once
#include <cstdint>

namespace hamiltorch {

// Codes shared with hamiltorch_ext/activations.py.
enum class Activation : int32_t { kSoftplus = 0, kTanh = 1, kSilu = 2, kGelu = 3, kSin = 4 };
inline constexpr int32_t kActivations = 5;

template <class T>
struct Mlp {
  int64_t dim;            // size of z = (q, p), that is 2d
  int64_t condition_dim;  // further input columns, constant along a trajectory; 0 for none
  int64_t hidden;         // number of hidden layers, 1 or more
  Activation activation;
  const int64_t* widths;    // [hidden]
  const T* const* weights;  // [hidden + 1] -> [width_l][width_{l-1}], row-major; first: [width_1][dim + condition_dim]
  const T* const* biases;   // [hidden + 1] -> [width_l]
};

}  // namespace hamiltorch
