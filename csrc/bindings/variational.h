#pragma once
#include <pybind11/pybind11.h>

namespace hamiltorch {

// Adds the discrete Euler-Lagrange rollouts to the module.
void bind_variational(pybind11::module_& m);

}  // namespace hamiltorch
