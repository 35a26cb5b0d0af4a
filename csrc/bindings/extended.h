// Rollouts in Tao's extended phase space.
#pragma once
#include <pybind11/pybind11.h>

namespace hamiltorch {

void bind_extended(pybind11::module_& m);

}  // namespace hamiltorch
