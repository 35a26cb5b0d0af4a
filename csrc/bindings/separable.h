// Rollouts of H = T(p) + V(q).
#pragma once
#include <pybind11/pybind11.h>

namespace hamiltorch {

void bind_separable(pybind11::module_& m);

}  // namespace hamiltorch
