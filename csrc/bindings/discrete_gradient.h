// Rollouts by the discrete gradient.
#pragma once
#include <pybind11/pybind11.h>

namespace hamiltorch {

void bind_discrete_gradient(pybind11::module_& m);

}  // namespace hamiltorch
