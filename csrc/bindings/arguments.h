// Arguments of a call as Python hands them over, read as one type of numbers. Whatever is out of the ordinary is
// declined and not judged: that is for the checks in Python.
#pragma once
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <new>
#include <optional>
#include <vector>

#include "hamiltorch/mlp.h"
#include "networks.h"
#include "tensors.h"

namespace hamiltorch {

// The memory of a network's layers, valid while the tensors are alive and their shapes are left alone.
template <class T>
struct Layers {
  std::vector<const T*> weights, biases;
  std::vector<int64_t> widths;  // outputs of every layer, 1 of the last
  std::vector<T> zeros;         // biases that are None
};

template <class T>
Mlp<T> network_of(const PythonNetwork& network, int64_t dim, const Layers<T>& layers) {
  return {dim,
          network.condition_dim,
          static_cast<int64_t>(layers.weights.size()) - 1,
          static_cast<Activation>(network.activation),
          layers.widths.data(),
          layers.weights.data(),
          layers.biases.data()};
}

template <class T>
class Arguments {
 public:
  // With `recording` a tensor that requires a gradient is declined as well.
  Arguments(const Tensors& tensors, bool recording) : tensors_(tensors), recording_(recording) {}

  std::optional<View<T>> view(pybind11::handle tensor) const {
    auto result = tensors_.view<T>(tensor);
    if (result && recording_ && tensors_.requires_grad(tensor)) return {};
    return result;
  }

  // These return false where they decline.

  template <class Shape = std::initializer_list<int64_t>>
  bool take(pybind11::handle tensor, const Shape& shape, T*& memory) const {
    const auto found = view(tensor);
    if (!found || !found->has_shape(shape)) return false;
    memory = found->data;
    return true;
  }

  // None leaves `memory` null.
  template <class Shape = std::initializer_list<int64_t>>
  bool take_optional(pybind11::handle tensor, const Shape& shape, T*& memory) const {
    return tensor.is_none() || take(tensor, shape, memory);
  }

  // None where there are no columns.
  template <class Shape>
  bool take_condition(pybind11::handle tensor, const Shape& shape, const T*& memory) const {
    T* found = nullptr;
    if (tensor.is_none() != (shape.end()[-1] == 0) || !take_optional(tensor, shape, found)) return false;
    memory = found;
    return true;
  }

  // A float, or a tensor without dimensions.
  bool take_number(pybind11::handle given, T& number) const {
    if (PyFloat_Check(given.ptr())) {
      const double value = PyFloat_AS_DOUBLE(given.ptr());
      number = static_cast<T>(value);
      return std::abs(value) <= std::numeric_limits<T>::max();
    }
    const auto found = view(given);
    if (!found || found->ndim != 0) return false;
    number = *found->data;
    return std::isfinite(number);
  }

  bool take_layers(const PythonNetwork& network, int64_t inputs, Layers<T>& layers) const {
    const size_t count = network.weights.size();
    if (count < 2 || network.biases.size() != count) return false;
    layers.weights.reserve(count), layers.biases.reserve(count), layers.widths.reserve(count);
    for (size_t l = 0; l < count; ++l) {
      const auto weight = view(network.weights[l]);
      if (!weight || weight->ndim != 2) return false;
      const int64_t outputs = l + 1 < count ? weight->shape[0] : 1;
      T* bias = nullptr;
      if (outputs == 0 || !weight->has_shape({outputs, inputs}) || !take_optional(network.biases[l], {outputs}, bias))
        return false;
      layers.weights.push_back(weight->data);
      layers.biases.push_back(bias);
      layers.widths.push_back(outputs);
      inputs = outputs;
    }
    for (size_t l = 0; l < count; ++l) {
      if (layers.biases[l]) continue;
      if (layers.zeros.empty()) layers.zeros.resize(*std::max_element(layers.widths.begin(), layers.widths.end()));
      layers.biases[l] = layers.zeros.data();
    }
    return true;
  }

 private:
  const Tensors& tensors_;
  bool recording_;
};

// An int of no less than `least`, no bool, and so small that a few more are no overflow.
inline bool take_count(pybind11::handle given, int64_t least, int64_t& count) {
  if (!PyLong_CheckExact(given.ptr())) return false;
  int overflow;
  count = PyLong_AsLongLongAndOverflow(given.ptr(), &overflow);
  return !overflow && count >= least && count < std::numeric_limits<int64_t>::max() / 2;
}

// What one of the two types makes of a call, if it takes it. Results that memory does not hold are declined as well.
template <class Run>
pybind11::object of_either_type(const Run& run) {
  try {
    pybind11::object result = run(float{});
    return result.is_none() ? run(double{}) : result;
  } catch (const std::bad_alloc&) {
    return pybind11::none();
  }
}

}  // namespace hamiltorch
