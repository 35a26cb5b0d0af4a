// A rollout as Python describes it.
#pragma once
#include <pybind11/pybind11.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "../cpu/implementation.h"
#include "addresses.h"
#include "method.h"

namespace hamiltorch {

// T is known only when it runs.
struct Description {
  bool is_double;
  int64_t dim, condition_dim;
  std::vector<int64_t> widths;
  int32_t activation;
  std::vector<Address> weights, biases;
  Method method;
  double dt;
  int64_t steps, batch;
  Address condition;
  bool bfloat16;
};

template <class T>
struct Native {
  std::vector<T*> weights, biases;
  Rollout<T> rollout;
  const Implementation& implementation = active_implementation();

  explicit Native(const Description& d) : weights(pointers<T>(d.weights)), biases(pointers<T>(d.biases)) {
    if (!std::isfinite(d.dt)) throw pybind11::value_error("dt must be finite, got " + std::to_string(d.dt));
    if (d.activation < 0 || d.activation >= kActivations)
      throw pybind11::value_error("activation must be a code below " + std::to_string(kActivations) + ", got " +
                                  std::to_string(d.activation));
    if (weights.size() != d.widths.size() + 1 || biases.size() != weights.size() || d.widths.empty() ||
        d.method.stages.empty())
      throw pybind11::value_error("weights and biases must be one more than hidden widths, and there must be a stage");
    rollout = {{d.dim, d.condition_dim, static_cast<int64_t>(d.widths.size()), static_cast<Activation>(d.activation),
                d.widths.data(), weights.data(), biases.data()},
               d.method.stages.data(),
               static_cast<int64_t>(d.method.stages.size()),
               static_cast<T>(d.dt),
               d.steps,
               d.batch,
               pointer<T>(d.condition),
               d.bfloat16};
    if (d.bfloat16 && (sizeof(T) != sizeof(float) || !implementation.multiply_add_bfloat16))
      throw pybind11::value_error("precision bfloat16 needs float32 arguments and a processor with AVX-512 BF16");
  }
};

}  // namespace hamiltorch
