// The network of a call as Python holds it: an MLP of hamiltorch_ext/mlp.py, or a module whose layers make one. A small
// rollout waits for this, so modules are read here, in a fraction of the time that Python takes.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "tensors.h"

namespace hamiltorch {

struct PythonNetwork {
  std::vector<pybind11::object> weights, biases;
  int32_t activation;
  int64_t condition_dim;
};

class Networks {
 public:
  // `module` and `linear` are the types that can be read: a subclass of either may compute what it likes. `activations`
  // has the codes of the names.
  Networks(pybind11::object module, pybind11::object linear, pybind11::dict activations)
      : module_(std::move(module)), linear_(std::move(linear)), activations_(std::move(activations)) {}

  // Nothing where the module has hooks or parametrizations, or is no such module.
  std::optional<PythonNetwork> read(pybind11::handle network) const {
    PythonNetwork result{};
    if (PyTuple_Check(network.ptr()) && PyTuple_GET_SIZE(network.ptr()) == 4) {
      for (const pybind11::handle weight : item<pybind11::tuple>(network, 0)) result.weights.push_back(own(weight));
      for (const pybind11::handle bias : item<pybind11::tuple>(network, 1)) result.biases.push_back(own(bias));
      return named(result, PyTuple_GET_ITEM(network.ptr(), 2), PyTuple_GET_ITEM(network.ptr(), 3));
    }
    if (!is(network, module_)) return {};
    const pybind11::dict fields = fields_of(network);
    const pybind11::handle layers = find(find(fields, modules_), layers_);
    if (!layers || layers.is_none() || hooked(fields)) return {};
    const pybind11::dict of_layers = fields_of(layers);
    const pybind11::handle list = find(of_layers, modules_);
    if (!list || hooked(of_layers)) return {};
    PyObject *name, *layer;
    for (Py_ssize_t at = 0; PyDict_Next(list.ptr(), &at, &name, &layer);) {
      if (!is(layer, linear_)) return {};
      const pybind11::dict of_layer = fields_of(layer);
      const pybind11::handle parameters = find(of_layer, parameters_);
      const pybind11::handle weight = find(parameters, weight_), bias = find(parameters, bias_);
      if (!weight || !bias || hooked(of_layer)) return {};
      result.weights.push_back(own(weight));
      result.biases.push_back(own(bias));
    }
    return named(result, find(fields, activation_), find(fields, condition_dim_));
  }

 private:
  static bool is(pybind11::handle object, const pybind11::object& type) {
    return reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) == type.ptr();
  }
  static pybind11::object own(pybind11::handle object) {
    return pybind11::reinterpret_borrow<pybind11::object>(object);
  }
  template <class T>
  static T item(pybind11::handle tuple, Py_ssize_t index) {
    return pybind11::reinterpret_borrow<pybind11::object>(PyTuple_GET_ITEM(tuple.ptr(), index));
  }
  static pybind11::dict fields_of(pybind11::handle object) {
    PyObject* const fields = PyObject_GenericGetDict(object.ptr(), nullptr);
    if (!fields) throw pybind11::error_already_set();
    return pybind11::reinterpret_steal<pybind11::dict>(fields);
  }
  // Null where it is not there; `dict` may be null.
  static pybind11::handle find(pybind11::handle dict, const pybind11::object& name) {
    if (!dict || !PyDict_Check(dict.ptr())) return {};
    PyObject* const found = PyDict_GetItemWithError(dict.ptr(), name.ptr());
    if (!found && PyErr_Occurred()) throw pybind11::error_already_set();
    return found;
  }
  bool hooked(const pybind11::dict& fields) const {
    for (const pybind11::object* name : {&hooks_, &pre_hooks_}) {
      const pybind11::handle hooks = find(fields, *name);
      if (!hooks || !PyDict_Check(hooks.ptr()) || PyDict_Size(hooks.ptr()) != 0) return true;
    }
    return false;
  }
  std::optional<PythonNetwork> named(PythonNetwork& result, pybind11::handle activation,
                                     pybind11::handle condition_dim) const {
    if (!activation || !condition_dim || !PyUnicode_CheckExact(activation.ptr())) return {};
    const pybind11::handle code = find(activations_, own(activation));
    if (!code || !PyLong_CheckExact(condition_dim.ptr())) return {};
    int overflow;
    result.condition_dim = PyLong_AsLongLongAndOverflow(condition_dim.ptr(), &overflow);
    if (overflow || result.condition_dim < 0) return {};
    result.activation = code.cast<int32_t>();
    return std::move(result);
  }

  pybind11::object module_, linear_;
  pybind11::dict activations_;
  pybind11::object modules_ = interned("_modules"), layers_ = interned("layers"), parameters_ = interned("_parameters"),
                   weight_ = interned("weight"), bias_ = interned("bias"), hooks_ = interned("_forward_hooks"),
                   pre_hooks_ = interned("_forward_pre_hooks"), activation_ = interned("activation"),
                   condition_dim_ = interned("condition_dim");
};

}  // namespace hamiltorch
