// Where the kernels' text is compiled: by nvcc for the GPU, or by a C++ compiler for the emulator that the tests run it
// on (csrc/emulator). Nothing else in a kernel knows the difference.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define HAMILTORCH_DEVICE __device__ __forceinline__
#define HAMILTORCH_HOST_DEVICE __host__ __device__
#define HAMILTORCH_UNROLL _Pragma("unroll")
#define HAMILTORCH_NO_UNROLL _Pragma("unroll 1")
#define HAMILTORCH_PRAGMA(text) _Pragma(#text)
#define HAMILTORCH_UNROLL_BY(count) HAMILTORCH_PRAGMA(unroll count)
#else
#define HAMILTORCH_DEVICE inline
#define HAMILTORCH_HOST_DEVICE
#define HAMILTORCH_UNROLL
#define HAMILTORCH_NO_UNROLL
#define HAMILTORCH_UNROLL_BY(count)
#endif
