// Gathers the kernels compiled with the including file's flags into one Implementation.
#pragma once
#include "backward.h"
#include "forward.h"
#include "implementation.h"

namespace hamiltorch {
namespace {

double multiply_add(int64_t iterations) {
  constexpr int kSums = kVectorBytes == 64 ? 24 : 12;
  Vec<float> sums[kSums];
  const Vec<float> x = broadcast(0.999f), y = broadcast(0.001f);
  for (int i = 0; i < kSums; ++i) sums[i] = broadcast(static_cast<float>(i));
  for (int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 24
    for (int i = 0; i < kSums; ++i) sums[i] = sums[i] * x + y;
  }
  volatile float sink = 0;
  for (int i = 0; i < kSums; ++i) sink = sink + sums[i][0];
  return 2.0 * kSums * kLanes<float> * static_cast<double>(iterations);
}

template <class T>
constexpr Kernels<T> kernels() {
  return {forward_size<T>, backward_size<T>, forward_run<T>, backward_run<T>};
}

constexpr Implementation implementation(const char* name) {
  return {name, kernels<float>(), kernels<double>(), multiply_add};
}

}  // namespace
}  // namespace hamiltorch
