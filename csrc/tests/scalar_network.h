// A network with random weights, and its gradient in scalar code: what the native tests check the kernels against.
#pragma once
#include <cmath>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "../cuda/scalar_math.h"
#include "hamiltorch/mlp.h"

namespace hamiltorch {

// Normally distributed numbers, always the same.
class Normals {
 public:
  explicit Normals(unsigned seed) : generator_(seed) {}

  double next() { return normal_(generator_); }

  template <class T>
  std::vector<T> fill(int64_t count, double scale, double centre = 0) {
    std::vector<T> values(static_cast<size_t>(count));
    for (T& x : values) x = static_cast<T>(centre + scale * next());
    return values;
  }

 private:
  std::mt19937 generator_;
  std::normal_distribution<double> normal_;
};

template <class T>
struct ScalarNetwork {
  int64_t dim, condition_dim;
  std::vector<int64_t> widths;
  Activation activation;
  std::vector<std::vector<T>> weights, biases;
  mutable std::vector<const T*> weight_pointers, bias_pointers;

  ScalarNetwork(int64_t dim, int64_t condition_dim, std::vector<int64_t> hidden, Activation activation,
                Normals& normals)
      : dim(dim), condition_dim(condition_dim), widths(std::move(hidden)), activation(activation) {
    int64_t in = dim + condition_dim;
    for (const int64_t width : widths) {
      weights.push_back(normals.fill<T>(width * in, 1.5 / std::sqrt(static_cast<double>(in))));
      biases.push_back(normals.fill<T>(width, 0.3));
      in = width;
    }
    weights.push_back(normals.fill<T>(in, 1 / std::sqrt(static_cast<double>(in))));
    biases.push_back(normals.fill<T>(1, 1));
  }

  // As the kernels read it, until it is asked for again.
  Mlp<T> mlp() const {
    weight_pointers.clear();
    bias_pointers.clear();
    for (const auto& w : weights) weight_pointers.push_back(w.data());
    for (const auto& b : biases) bias_pointers.push_back(b.data());
    return {dim,
            condition_dim,
            static_cast<int64_t>(widths.size()),
            activation,
            widths.data(),
            weight_pointers.data(),
            bias_pointers.data()};
  }

  // At z, with the condition (condition_dim), in double.
  double energy(const std::vector<double>& z, const T* condition) const {
    std::vector<std::vector<double>> rates;
    const std::vector<double> last = hidden_values(z, condition, rates);
    double sum = biases.back()[0];
    for (size_t i = 0; i < last.size(); ++i) sum += weights.back()[i] * last[i];
    return sum;
  }

  // The gradient likewise, by z and the condition.
  std::vector<double> slope(const std::vector<double>& z, const T* condition) const {
    std::vector<std::vector<double>> rates;
    hidden_values(z, condition, rates);
    std::vector<double> delta(weights.back().begin(), weights.back().end());
    for (size_t l = widths.size(); l-- > 0;) {
      const size_t in = weights[l].size() / delta.size();
      std::vector<double> below(in, 0.0);
      for (size_t o = 0; o < delta.size(); ++o)
        for (size_t i = 0; i < in; ++i) below[i] += delta[o] * rates[l][o] * weights[l][o * in + i];
      delta = below;
    }
    return delta;
  }

 private:
  // The last hidden layer's values, and by layer the activation's derivatives.
  std::vector<double> hidden_values(const std::vector<double>& z, const T* condition,
                                    std::vector<std::vector<double>>& rates) const {
    std::vector<double> input = z;
    input.insert(input.end(), condition, condition + condition_dim);
    for (size_t l = 0; l < widths.size(); ++l) {
      std::vector<double> value, rate;
      for (int64_t o = 0; o < widths[l]; ++o) {
        double a = biases[l][o];
        for (size_t i = 0; i < input.size(); ++i) a += double(weights[l][o * input.size() + i]) * input[i];
        const ScalarJet<double> jet = scalar_activation(activation, a);
        value.push_back(jet.value);
        rate.push_back(jet.first);
      }
      rates.push_back(rate);
      input = value;
    }
    return input;
  }
};

// Where a network's gradients go: not a number until they are written, but for the last bias, which has none.
template <class T>
struct NetworkGradients {
  std::vector<std::vector<T>> weights, biases;
  std::vector<T*> weight_pointers, bias_pointers;

  explicit NetworkGradients(const ScalarNetwork<T>& network) {
    const T nan = static_cast<T>(std::nan(""));
    for (const auto& w : network.weights) weights.emplace_back(w.size(), nan);
    for (size_t l = 0; l < network.widths.size(); ++l) biases.emplace_back(network.biases[l].size(), nan);
    for (auto& w : weights) weight_pointers.push_back(w.data());
    for (auto& b : biases) bias_pointers.push_back(b.data());
  }

  // move(number, its derivative) for all of the network's.
  template <class Move>
  void for_each(ScalarNetwork<T>& network, Move& move) const {
    for (size_t l = 0; l < weights.size(); ++l)
      for (size_t i = 0; i < weights[l].size(); ++i) move(network.weights[l][i], weights[l][i]);
    for (size_t l = 0; l < biases.size(); ++l)
      for (size_t i = 0; i < biases[l].size(); ++i) move(network.biases[l][i], biases[l][i]);
  }
};

}  // namespace hamiltorch
