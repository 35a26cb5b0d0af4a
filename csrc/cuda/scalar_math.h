// Element-wise math for one number, host and device from one text, so that the CPU tests vouch for what the GPU runs.
#pragma once
#include <math.h>

#include "hamiltorch/mlp.h"
#include "platform.h"

namespace hamiltorch {

template <class T>
struct ScalarJet {
  T value, first, second;
};

// s(a), s'(a), s''(a); the same definitions as csrc/cpu/activations.h has for vectors.
template <class T>
HAMILTORCH_HOST_DEVICE inline ScalarJet<T> scalar_activation(Activation activation, T a) {
  const T one = 1;
  const T e = exp(-fabs(a));
  const T larger = one / (one + e), smaller = e * larger;  // of s(a) and s(-a), s the logistic function
  const T rising = a < 0 ? smaller : larger, falling = a < 0 ? larger : smaller;
  switch (activation) {
    case Activation::kSoftplus:
      if (a > 20) return {a, one, 0};
      return {(a < 0 ? 0 : a) + log1p(e), rising, rising * falling};
    case Activation::kTanh: {
      const T value = tanh(a), first = one - value * value;
      return {value, first, -2 * value * first};
    }
    case Activation::kSilu: {
      const T slope = rising * falling;
      return {a * rising, rising + a * slope, slope * (2 + a * (falling - rising))};
    }
    case Activation::kGelu: {
      const T cumulative = static_cast<T>(0.5) * erfc(-a * static_cast<T>(0.70710678118654752440));
      const T density = exp(static_cast<T>(-0.5) * a * a) * static_cast<T>(0.39894228040143267794);
      return {a * cumulative, cumulative + a * density, density * (2 - a * a)};
    }
    case Activation::kSin:
      return {sin(a), cos(a), -sin(a)};
  }
  return {};
}

}  // namespace hamiltorch
