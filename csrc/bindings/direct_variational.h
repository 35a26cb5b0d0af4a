// Adds DirectDel, discrete Euler-Lagrange rollouts of tensors past torch's dispatcher, to a module.
#pragma once
#include <pybind11/pybind11.h>

namespace hamiltorch {

void bind_direct_variational(pybind11::module_& m);

}  // namespace hamiltorch
