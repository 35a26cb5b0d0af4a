// The module's rollouts by implicit stages.
#pragma once
#include <pybind11/pybind11.h>

namespace hamiltorch {

void bind_implicit(pybind11::module_& m);

}  // namespace hamiltorch
