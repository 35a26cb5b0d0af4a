// Bindings of hamiltorch/cuda_rollout.h: for the module, and for the emulator that tests put in the GPU's place.
#pragma once
#include <pybind11/pybind11.h>

namespace hamiltorch {

void bind_chain(pybind11::module_& m);

}  // namespace hamiltorch
