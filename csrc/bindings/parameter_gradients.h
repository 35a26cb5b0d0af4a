// Where the gradients by a network's parameters go.
#pragma once
#include <pybind11/pybind11.h>

#include <vector>

#include "addresses.h"

namespace hamiltorch {

struct ParameterGradients {
  std::vector<Address> weights, biases;  // of hidden layers, the biases
  Address dt, condition;
};

template <class T>
struct NativeGradients {
  std::vector<T*> weights, biases;

  // `network`: what Python describes.
  template <class Described>
  NativeGradients(const Described& network, const std::vector<Address>& to_weights,
                  const std::vector<Address>& to_biases)
      : weights(pointers<T>(to_weights)), biases(pointers<T>(to_biases)) {
    if (weights.size() != network.weights.size() || biases.size() != network.widths.size())
      throw pybind11::value_error("there must be a gradient for every weight, and for the biases of hidden layers");
  }
};

}  // namespace hamiltorch
