// The operations of csrc/cuda/warp.h on emulated warps: the same fragments, and the tensor cores' arithmetic as far as
// it is known. Products are exact; the sum of one operation with its accumulator is exact here and then truncated to
// float, where the GPU truncates a little earlier.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "emulator.h"

namespace hamiltorch {
namespace emulator {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float truncated(double value) {
  const float nearest = static_cast<float>(value);
  if (std::isfinite(nearest) && std::fabs(static_cast<double>(nearest)) > std::fabs(value))
    return std::nextafterf(nearest, 0.0f);
  return nearest;
}

// tf32 registers: the tensor cores ignore the low 13 bits.
inline double tf32(float value) { return static_cast<double>(from_bits(bits_of(value) & 0xffffe000u)); }
inline double bf16(uint32_t pair, int which) {
  return static_cast<double>(from_bits(which ? pair & 0xffff0000u : pair << 16));
}

template <class C, class A, class B>
struct Operands {
  C* c;
  const A* a;
  const B* b;
};

}  // namespace emulator

inline void warp_mma_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
  using Mine = emulator::Operands<float, float, float>;
  Mine mine = {c, a, b};
  emulator::warp_collective(&mine, [](void** lanes) {
    const auto at = [&](int lane) { return *static_cast<const Mine*>(lanes[lane]); };
    for (int row = 0; row < 16; ++row)
      for (int column = 0; column < 8; ++column) {
        float& c = at(4 * (row % 8) + column / 2).c[2 * (row / 8) + column % 2];
        double sum = c;
        for (int k = 0; k < 8; ++k)
          sum += emulator::tf32(at(4 * (row % 8) + k % 4).a[2 * (k / 4) + row / 8]) *
                 emulator::tf32(at(4 * column + k % 4).b[k / 4]);
        c = emulator::truncated(sum);
      }
  });
}

inline void warp_mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  using Mine = emulator::Operands<float, uint32_t, uint32_t>;
  Mine mine = {c, a, b};
  emulator::warp_collective(&mine, [](void** lanes) {
    const auto at = [&](int lane) { return *static_cast<const Mine*>(lanes[lane]); };
    for (int row = 0; row < 16; ++row)
      for (int column = 0; column < 8; ++column) {
        float& c = at(4 * (row % 8) + column / 2).c[2 * (row / 8) + column % 2];
        double sum = c;
        for (int k = 0; k < 16; ++k) {  // k = 8 half + 2 t + which
          const int half = k / 8, t = k % 8 / 2, which = k % 2;
          sum += emulator::bf16(at(4 * (row % 8) + t).a[2 * half + row / 8], which) *
                 emulator::bf16(at(4 * column + t).b[half], which);
        }
        c = emulator::truncated(sum);
      }
  });
}

inline void warp_mma_f64(double& c0, double& c1, double a, double b) {
  struct Mine {
    double *c0, *c1, a, b;
  } mine = {&c0, &c1, a, b};
  emulator::warp_collective(&mine, [](void** lanes) {
    const auto at = [&](int lane) { return *static_cast<const Mine*>(lanes[lane]); };
    for (int row = 0; row < 8; ++row)
      for (int column = 0; column < 8; ++column) {
        double& c = *(column % 2 ? at(4 * row + column / 2).c1 : at(4 * row + column / 2).c0);
        for (int k = 0; k < 4; ++k) c = std::fma(at(4 * row + k).a, at(4 * column + k).b, c);
      }
  });
}

template <class T>
T warp_shuffle_xor(T value, int mask) {
  struct Mine {
    T given, got;
    int mask;
  } mine = {value, value, mask};
  emulator::warp_collective(&mine, [](void** lanes) {
    for (int lane = 0; lane < 32; ++lane) {
      Mine& to = *static_cast<Mine*>(lanes[lane]);
      to.got = static_cast<const Mine*>(lanes[lane ^ to.mask])->given;
    }
  });
  return mine.got;
}

template <class T>
T warp_broadcast(T value) {
  struct Mine {
    T given, got;
  } mine = {value, value};
  emulator::warp_collective(&mine, [](void** lanes) {
    for (int lane = 0; lane < 32; ++lane)
      static_cast<Mine*>(lanes[lane])->got = static_cast<const Mine*>(lanes[0])->given;
  });
  return mine.got;
}

inline float upper_part(float value) { return emulator::from_bits((emulator::bits_of(value) + 0x1000u) & 0xffffe000u); }

inline float round_to_tf32(float value) { return std::isfinite(value) ? upper_part(value) : value; }

inline uint32_t pack_bf16(float low, float high) {
  const auto rounded = [](float value) -> uint32_t {
    const uint32_t bits = emulator::bits_of(value);
    if (std::isnan(value)) return 0x7fff;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  };
  return rounded(low) | rounded(high) << 16;
}

}  // namespace hamiltorch
