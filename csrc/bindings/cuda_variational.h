// Bindings of hamiltorch/cuda_variational.h: for the module, and for the emulator that tests put in the GPU's place.
#pragma once
#include <pybind11/pybind11.h>

namespace hamiltorch {

void bind_cuda_variational(pybind11::module_& m);

}  // namespace hamiltorch
