// Compiled with -mavx2 -mfma.
#define HAMILTORCH_VECTOR_BYTES 32
#include "kernels.h"

namespace hamiltorch {
const Implementation kAvx2 = implementation("avx2");
}
