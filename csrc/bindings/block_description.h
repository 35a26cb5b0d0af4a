// A GPU rollout of eight samples on a block (hamiltorch/cuda_block.h) as Python describes it.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "addresses.h"
#include "hamiltorch/cuda_block.h"

namespace hamiltorch {

// T is known only when it runs.
struct BlockDescription {
  bool is_double;
  int64_t dim;
  std::vector<int64_t> widths;
  int32_t activation;
  std::vector<Address> weights, biases;
  Address head, base;
  int64_t base_stride;
  Address dt;
  int64_t steps, batch;
  double tolerance;
  int64_t max_iterations;

  // Of a network of one state or two.
  void check(int states) const {
    if (activation < 0 || activation >= kActivations)
      throw pybind11::value_error("activation must be a code below " + std::to_string(kActivations) + ", got " +
                                  std::to_string(activation));
    if (widths.empty() || widths.size() >= static_cast<size_t>(kMostHidden) ||
        weights.size() != widths.size() + (states == 2) || biases.size() != widths.size())
      throw pybind11::value_error("biases must be as many as hidden widths, 1 to " + std::to_string(kMostHidden - 1) +
                                  ", and weights " + (states == 2 ? "one more" : "as many"));
  }

  template <class T>
  void fill(CudaBlockRollout<T>* rollout) const {
    rollout->dim = dim;
    rollout->widths = widths;
    rollout->activation = static_cast<Activation>(activation);
    for (const Address weight : weights) rollout->weights.push_back(pointer<T>(weight));
    for (const Address bias : biases) rollout->biases.push_back(pointer<T>(bias));
    rollout->head = pointer<T>(head);
    rollout->base = pointer<T>(base);
    rollout->base_stride = base_stride;
    rollout->dt = pointer<T>(dt);
    rollout->steps = steps;
    rollout->batch = batch;
    rollout->tolerance = static_cast<T>(tolerance);
    rollout->max_iterations = max_iterations;
  }
};

// Where a call runs.
struct Place {
  Address workspace;
  int device;
  Address stream;
};

inline void check_call(int error) {
  if (error) throw std::runtime_error(std::string("the CUDA rollout failed: ") + cuda_error_text(error));
}

inline GpuDescription described_gpu(const std::vector<int>& gpu) {
  if (gpu.size() != 7) throw pybind11::value_error("gpu must be what gpu_description returns: 7 numbers");
  return {gpu[0], gpu[1], gpu[2], {gpu[3], gpu[4], gpu[5], gpu[6]}};
}

}  // namespace hamiltorch
