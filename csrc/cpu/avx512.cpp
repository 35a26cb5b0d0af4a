// Compiled with AVX-512 F, DQ, BW and VL.
#define HAMILTORCH_VECTOR_BYTES 64
#include "kernels.h"

namespace hamiltorch {
const Kernels<double> kAvx512Double = kernels<double>();
const Implementation kAvx512 = implementation("avx512", &kAvx512Double);
}  // namespace hamiltorch
