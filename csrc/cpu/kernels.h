// Gathers the kernels compiled with the including file's flags into one Implementation.
#pragma once
#include "backward.h"
#include "discrete_adjoint.h"
#include "extended.h"
#include "forward.h"
#include "implementation.h"
#include "implicit_adjoint.h"
#include "separable.h"
#include "variational_adjoint.h"
#include "variational_gradient.h"

namespace hamiltorch {
namespace {

// Enough independent sums to fill the multiply-add units; `step` advances one of them.
template <class Step>
double run_sums(int64_t iterations, const Step& step) {
  constexpr int kSums = kVectorBytes == 64 ? 24 : 12;
  Vec<float> sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = broadcast(static_cast<float>(i));
  for (int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 24
    for (int i = 0; i < kSums; ++i) step(sums[i]);
  }
  volatile float sink = 0;
  for (int i = 0; i < kSums; ++i) sink = sink + sums[i][0];
  return 2.0 * kSums * kLanes<float> * static_cast<double>(iterations);
}

double multiply_adds(int64_t iterations) {
  const Vec<float> x = broadcast(0.999f), y = broadcast(0.001f);
  return run_sums(iterations, [&](Vec<float>& sum) { sum = sum * x + y; });
}

#if defined(__AMX_BF16__)
double multiply_adds_bfloat16(int64_t iterations) {
  _tile_loadconfig(&kTiles);
  _tile_zero(4);
  _tile_zero(6);
  for (int64_t n = 0; n < iterations; ++n) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 6);
    _tile_dpbf16ps(2, 4, 6);
    _tile_dpbf16ps(3, 4, 6);
  }
  _tile_release();
  return 2.0 * 4 * 16 * 16 * kTileDepth * static_cast<double>(iterations);
}
#elif defined(__AVX512BF16__)
double multiply_adds_bfloat16(int64_t iterations) {
  const Vec<Bfloat16Pair> one = broadcast(Bfloat16Pair{0x3f803f80});
  return 2 * run_sums(iterations, [&](Vec<float>& sum) { multiply_add(sum, one, one); });
}
#else
constexpr double (*multiply_adds_bfloat16)(int64_t) = nullptr;
#endif

float read(const float* values, int64_t count, int64_t times) {
  constexpr int kLoads = kReadUnit / kLanes<float>, kSums = 8;  // as many additions as are under way at once
  Vec<float> sums[kSums] = {};
  for (int64_t turn = 0; turn < 2 * times; ++turn) {
    for (int64_t n = 0; n < count; n += kReadUnit) {
      const float* unit = values + (turn % 2 ? count - kReadUnit - n : n);
#pragma GCC unroll 32
      for (int i = 0; i < kLoads; ++i) sums[i % kSums] += load(unit + i * kLanes<float>);
    }
  }
  for (int i = 1; i < kSums; ++i) sums[0] += sums[i];
  return horizontal_sum<float>(sums[0]);
}

template <class T>
void activate_array(Activation activation, const T* a, int64_t count, T* value, T* first, T* second) {
  with_activation(activation, [&](auto tag) {
    for (int64_t begin = 0; begin < count; begin += kLanes<T>) {
      const int64_t lanes = count - begin < kLanes<T> ? count - begin : kLanes<T>;
      Vec<T> in{};
      for (int64_t i = 0; i < lanes; ++i) in[i] = a[begin + i];
      const Jet<T> jet = activate<T, decltype(tag)::kind>(in);
      for (int64_t i = 0; i < lanes; ++i) {
        value[begin + i] = jet.value[i];
        first[begin + i] = jet.first[i];
        second[begin + i] = jet.second[i];
      }
    }
  });
}

template <class T>
constexpr Kernels<T> kernels() {
  return {tape_count<T>,
          forward_measure<T>,
          backward_measure<T>,
          forward_run<T>,
          backward_run<T>,
          del_measure<T>,
          del_forward_run<T>,
          del_adjoint_run<T>,
          interval_measure<T>,
          interval_run<T>,
          implicit_measure<T>,
          implicit_forward_run<T>,
          implicit_adjoint_run<T>,
          implicit_gradient_measure<T>,
          implicit_gradient_run<T>,
          separable_measure<T>,
          separable_forward_run<T>,
          separable_adjoint_run<T>,
          separable_gradient_measure<T>,
          separable_gradient_run<T>,
          extended_measure<T>,
          extended_forward_run<T>,
          extended_adjoint_run<T>,
          discrete_measure<T>,
          discrete_forward_run<T>,
          discrete_adjoint_run<T>,
          activate_array<T>};
}

constexpr Kernels<float> kSingle = kernels<float>();

constexpr Implementation implementation(const char* name, const Kernels<double>* f64) {
  return {name, &kSingle, f64, multiply_adds, multiply_adds_bfloat16, read};
}

}  // namespace
}  // namespace hamiltorch
