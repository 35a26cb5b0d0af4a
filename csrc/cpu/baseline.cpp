// Vectors of 16 bytes: SSE2 on any x86-64, NEON on aarch64, and whatever the compiler makes of them elsewhere.
#define HAMILTORCH_VECTOR_BYTES 16
#include "kernels.h"

namespace hamiltorch {
namespace {
constexpr Kernels<double> kDouble = kernels<double>();
}

const Implementation kBaseline = implementation("baseline", &kDouble);
}  // namespace hamiltorch
