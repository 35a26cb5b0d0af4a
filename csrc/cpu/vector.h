// SIMD vectors by the compiler's vector extension, so that one source serves every instruction set.
//
// This header and the others it serves are compiled once per instruction set. All they define is in an unnamed
// namespace, and they call no inline function of the standard library: a copy compiled for AVX-512 must never be the
// one that the linker keeps for everybody.
#pragma once
#include <cstddef>
#include <cstdint>

#ifndef HAMILTORCH_VECTOR_BYTES
#error "define HAMILTORCH_VECTOR_BYTES (16, 32 or 64) before including the kernels"
#endif

#define HAMILTORCH_INLINE inline __attribute__((always_inline))

namespace hamiltorch {
namespace {

inline constexpr int kVectorBytes = HAMILTORCH_VECTOR_BYTES;

template <class T>
struct Simd;
template <>
struct Simd<float> {
  typedef float Vector __attribute__((vector_size(kVectorBytes)));
  typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));
};
template <>
struct Simd<double> {
  typedef double Vector __attribute__((vector_size(kVectorBytes)));
  typedef uint64_t Bits __attribute__((vector_size(kVectorBytes)));
};
template <>
struct Simd<uint32_t> {
  typedef uint32_t Vector __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename Simd<T>::Vector;
template <class T>
using Mask = decltype(Vec<T>{} < Vec<T>{});
template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
HAMILTORCH_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <class T>
HAMILTORCH_INLINE void store(T* p, const Vec<T>& v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

// s - 0 is s for every s, signed zeros included, so this folds to one broadcast.
template <class T>
HAMILTORCH_INLINE Vec<T> broadcast(T s) {
  return s - Vec<T>{};
}

// sum += a b; contracted to one instruction where there is one.
template <class V>
HAMILTORCH_INLINE void multiply_add(V& sum, const V& a, const V& b) {
  sum += a * b;
}

// By halves: lane i and lane i + width, the width halved each time.
template <class T, int bytes = kVectorBytes, class V>
HAMILTORCH_INLINE T horizontal_sum(const V& v) {
  if constexpr (bytes == 2 * sizeof(T)) {
    return v[0] + v[1];
  } else {
    typedef T Half __attribute__((vector_size(bytes / 2)));
    Half halves[2];
    __builtin_memcpy(halves, &v, sizeof(v));
    return horizontal_sum<T, bytes / 2>(halves[0] + halves[1]);
  }
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace
}  // namespace hamiltorch
