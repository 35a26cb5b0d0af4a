// The arithmetic of a product, one type each. All share one fragment layout (warp.h), so the rest of a kernel does not
// depend on it. `Left` is a fragment of the weights (16 x kDepth), `Right` one of the activations (kDepth x 8).
// Sums over k are in the accumulator's type; `Packed` is a Left as pack.h stores it, one 16- or 32-byte load a lane.
#pragma once
#include "warp.h"

namespace hamiltorch {

template <class T>
struct alignas(4 * sizeof(T)) Four {
  T v[4];
};

// float32 accuracy on the tensor cores: each operand is split in two tf32 parts, and the three larger products are
// summed (Ootomo and Yokota, arXiv 2203.03341). The tensor cores' own sum truncates, so it runs over one fragment only.
struct Split {
  using Real = float;
  using Packed = Four<float>;
  static constexpr int kDepth = 8;
  struct Left {
    float high[4], low[4];
  };
  struct Right {
    float high[2], low[2];
  };

  HAMILTORCH_DEVICE static Packed pack(const float (&a)[2][4]) { return {{a[0][0], a[0][1], a[0][2], a[0][3]}}; }
  HAMILTORCH_DEVICE static Left left(const Packed& packed) {
    Left result;
    HAMILTORCH_UNROLL
    for (int i = 0; i < 4; ++i) {
      result.high[i] = upper_part(packed.v[i]);
      result.low[i] = packed.v[i] - result.high[i];
    }
    return result;
  }
  HAMILTORCH_DEVICE static Right right(const float (&b)[2][2]) {
    Right result;
    HAMILTORCH_UNROLL
    for (int i = 0; i < 2; ++i) {
      result.high[i] = upper_part(b[0][i]);
      result.low[i] = b[0][i] - result.high[i];
    }
    return result;
  }
  // The three products of a sum depend on each other, so those of several sums take turns.
  template <int kLeft, int kRight>
  HAMILTORCH_DEVICE static void multiply(float (&sum)[kLeft][kRight][4], int n, const Left (&a)[kLeft],
                                         const Right& b) {
    float c[kLeft][4] = {};
    HAMILTORCH_UNROLL
    for (int i = 0; i < kLeft; ++i) warp_mma_tf32(c[i], a[i].low, b.high);
    HAMILTORCH_UNROLL
    for (int i = 0; i < kLeft; ++i) warp_mma_tf32(c[i], a[i].high, b.low);
    HAMILTORCH_UNROLL
    for (int i = 0; i < kLeft; ++i) warp_mma_tf32(c[i], a[i].high, b.high);
    HAMILTORCH_UNROLL
    for (int i = 0; i < kLeft; ++i) {
      HAMILTORCH_UNROLL
      for (int j = 0; j < 4; ++j) sum[i][n][j] += c[i][j];
    }
  }
};

struct Tf32 {
  using Real = float;
  using Packed = Four<float>;
  static constexpr int kDepth = 8;
  struct Left {
    float a[4];
  };
  struct Right {
    float b[2];
  };

  HAMILTORCH_DEVICE static Packed pack(const float (&a)[2][4]) {
    return {{round_to_tf32(a[0][0]), round_to_tf32(a[0][1]), round_to_tf32(a[0][2]), round_to_tf32(a[0][3])}};
  }
  HAMILTORCH_DEVICE static Left left(const Packed& packed) {
    return {{packed.v[0], packed.v[1], packed.v[2], packed.v[3]}};
  }
  HAMILTORCH_DEVICE static Right right(const float (&b)[2][2]) {
    return {{round_to_tf32(b[0][0]), round_to_tf32(b[0][1])}};
  }
  template <int kLeft, int kRight>
  HAMILTORCH_DEVICE static void multiply(float (&sum)[kLeft][kRight][4], int n, const Left (&a)[kLeft],
                                         const Right& b) {
    HAMILTORCH_UNROLL
    for (int i = 0; i < kLeft; ++i) warp_mma_tf32(sum[i][n], a[i].a, b.b);
  }
};

// Sixteen values of k at once. Which of them share a register does not matter to a sum, as long as both operands agree:
// here t and t + 4 of each half, so that two tf32 fragments make one of these.
struct Bfloat16 {
  using Real = float;
  using Packed = Four<uint32_t>;
  static constexpr int kDepth = 16;
  struct Left {
    uint32_t a[4];
  };
  struct Right {
    uint32_t b[2];
  };

  HAMILTORCH_DEVICE static Packed pack(const float (&a)[2][4]) {
    return {{pack_bf16(a[0][0], a[0][2]), pack_bf16(a[0][1], a[0][3]), pack_bf16(a[1][0], a[1][2]),
             pack_bf16(a[1][1], a[1][3])}};
  }
  HAMILTORCH_DEVICE static Left left(const Packed& packed) {
    return {{packed.v[0], packed.v[1], packed.v[2], packed.v[3]}};
  }
  HAMILTORCH_DEVICE static Right right(const float (&b)[2][2]) {
    return {{pack_bf16(b[0][0], b[0][1]), pack_bf16(b[1][0], b[1][1])}};
  }
  template <int kLeft, int kRight>
  HAMILTORCH_DEVICE static void multiply(float (&sum)[kLeft][kRight][4], int n, const Left (&a)[kLeft],
                                         const Right& b) {
    HAMILTORCH_UNROLL
    for (int i = 0; i < kLeft; ++i) warp_mma_bf16(sum[i][n], a[i].a, b.b);
  }
};

struct Float64 {
  using Real = double;
  using Packed = Four<double>;
  static constexpr int kDepth = 8;
  struct Left {
    double a[4];
  };
  struct Right {
    double b[2];
  };

  HAMILTORCH_DEVICE static Packed pack(const double (&a)[2][4]) { return {{a[0][0], a[0][1], a[0][2], a[0][3]}}; }
  HAMILTORCH_DEVICE static Left left(const Packed& packed) {
    return {{packed.v[0], packed.v[1], packed.v[2], packed.v[3]}};
  }
  HAMILTORCH_DEVICE static Right right(const double (&b)[2][2]) { return {{b[0][0], b[0][1]}}; }
  template <int kLeft, int kRight>
  HAMILTORCH_DEVICE static void multiply(double (&sum)[kLeft][kRight][4], int n, const Left (&a)[kLeft],
                                         const Right& b) {
    HAMILTORCH_UNROLL
    for (int half = 0; half < 2; ++half) {  // of the fragment's 8 values of k
      HAMILTORCH_UNROLL
      for (int i = 0; i < kLeft; ++i) {
        warp_mma_f64(sum[i][n][0], sum[i][n][1], a[i].a[2 * half], b.b[half]);
        warp_mma_f64(sum[i][n][2], sum[i][n][3], a[i].a[2 * half + 1], b.b[half]);
      }
    }
  }
};

}  // namespace hamiltorch
