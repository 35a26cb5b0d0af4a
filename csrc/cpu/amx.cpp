// Compiled with AVX-512 F, DQ, BW, VL and BF16, and AMX.
#define HAMILTORCH_VECTOR_BYTES 64
#include "kernels.h"

namespace hamiltorch {
const Implementation kAmx = implementation("amx", &kAvx512Double);
}
