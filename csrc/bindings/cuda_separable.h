// Bindings of hamiltorch/cuda_separable.h: for the module, and for the emulator that tests put in the GPU's place.
// Plans are bound with hamiltorch/cuda_variational.h.
#pragma once
#include <pybind11/pybind11.h>

namespace hamiltorch {

void bind_cuda_separable(pybind11::module_& m);

}  // namespace hamiltorch
