// Compiled with AVX-512 F, DQ, BW, VL and BF16.
#define HAMILTORCH_VECTOR_BYTES 64
#include "kernels.h"

namespace hamiltorch {
const Implementation kAvx512Bf16 = implementation("avx512_bf16", &kAvx512Double);
}
