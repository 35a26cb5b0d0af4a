// Compiled with -mavx2 -mfma.
#define HAMILTORCH_VECTOR_BYTES 32
#include "kernels.h"

namespace hamiltorch {
namespace {
constexpr Kernels<double> kDouble = kernels<double>();
}

const Implementation kAvx2 = implementation("avx2", &kDouble);
}  // namespace hamiltorch
