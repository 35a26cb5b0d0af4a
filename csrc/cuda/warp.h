// What a warp does together: matrix products of the tensor cores and exchanges between lanes. On the GPU one
// instruction each; on the CPU the emulator gathers the lanes and does the same arithmetic.
//
// Lane = 4 g + t, g in 0..7, t in 0..3. One product is C (16 x 8) += A (16 x K) B (K x 8), and a lane holds
//   C: c0, c1 = row g, columns 2t, 2t + 1; c2, c3 = row g + 8, the same columns
//   A: a0 = (g, t), a1 = (g + 8, t), a2 = (g, t + 4), a3 = (g + 8, t + 4)
//   B: b0 = (t, g), b1 = (t + 4, g)
// (PTX ISA, "Matrix Fragments for mma.m16n8k8"). m16n8k16 with bfloat16 pairs holds two values of k in each register.
#pragma once
#include "platform.h"

#if !defined(__CUDACC__)
#include "../emulator/warp_operations.h"
#else

namespace hamiltorch {

// Volatile: the compiler keeps their order. Left to itself it starts more sums than there are registers for.

// tf32 operands: the low 13 bits of each float are ignored.
__device__ __forceinline__ void warp_mma_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

__device__ __forceinline__ void warp_mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// C (8 x 8) += A (8 x 4) B (4 x 8): c0, c1 = (g, 2t), (g, 2t + 1); a = (g, t); b = (t, g).
__device__ __forceinline__ void warp_mma_f64(double& c0, double& c1, double a, double b) {
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
               : "+d"(c0), "+d"(c1)
               : "d"(a), "d"(b));
}

// The lane whose index differs in the bits of `mask`.
template <class T>
__device__ __forceinline__ T warp_shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// The first lane's.
template <class T>
__device__ __forceinline__ T warp_broadcast(T value) {
  return __shfl_sync(0xffffffffu, value, 0);
}

// To 10 bits of mantissa, to nearest, ties away from zero.
__device__ __forceinline__ float round_to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return __uint_as_float(bits);
}

// The same in two operations, without its special cases: what is not finite shows in value - upper_part(value).
__device__ __forceinline__ float upper_part(float value) {
  return __uint_as_float((__float_as_uint(value) + 0x1000u) & 0xffffe000u);
}

// {low, high} halves, each to nearest even.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

}  // namespace hamiltorch
#endif
