// The CUDA kernels' bindings over the emulator: a module for tests only, never installed.
#include "chain.h"
#include "cuda_discrete.h"
#include "cuda_extended.h"
#include "cuda_implicit.h"
#include "cuda_separable.h"
#include "cuda_variational.h"

PYBIND11_MODULE(hamiltorch_emulator, m) {
  m.doc() = "The CUDA kernels of hamiltorch_ext on the CPU, one fiber for each GPU thread. For tests.";
  hamiltorch::bind_chain(m);
  hamiltorch::bind_cuda_variational(m);
  hamiltorch::bind_cuda_implicit(m);
  hamiltorch::bind_cuda_extended(m);
  hamiltorch::bind_cuda_discrete(m);
  hamiltorch::bind_cuda_separable(m);
}
