// What tests of the CPU's kernels share that check gradients on scalar problems.
#pragma once
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "../cpu/implementation.h"
#include "expect.h"
#include "scalar_network.h"

namespace hamiltorch {

// One random direction of everything that a loss depends on at once.
template <class T>
class Direction {
 public:
  explicit Direction(Normals& normals) : normals_(normals) {}

  // A number, and the derivative by it that is to be checked.
  void operator()(T& value, double gradient) { along(value, gradient, static_cast<T>(normals_.next())); }
  void along(T& value, double gradient, T direction) {
    slope_ += double(direction) * gradient;
    moves_.emplace_back(&value, direction);
  }

  // Against central differences of loss(), which runs on the numbers as they have become.
  template <class Loss>
  void check(const std::string& name, const Loss& loss) const {
    expect(std::isfinite(slope_), name + " gradients are written");
    if (sizeof(T) == 4) return;  // differences need double
    const auto moved = [&](double by) {
      for (const auto& [value, direction] : moves_) *value += static_cast<T>(by * direction);
      return loss();
    };
    const double h = 1e-6, up = moved(h), down = moved(-2 * h), measured = (up - down) / (2 * h);
    expect(std::fabs(measured - slope_) < 1e-5 * (1 + std::fabs(slope_) + std::fabs(up)),
           name + " gradient " + std::to_string(slope_) + " against " + std::to_string(measured));
  }

 private:
  Normals& normals_;
  double slope_ = 0;
  std::vector<std::pair<T*, T>> moves_;
};

template <class T>
double dot(const std::vector<T>& x, const std::vector<T>& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += double(x[i]) * y[i];
  return sum;
}

// run(T{}, case, threads, seed) for every case on every instruction set, in both types. Returns main's.
template <class Case, class Run>
int run_everywhere(const char* name, const std::vector<Case>& cases, const Run& run) {
  const Implementation* all[8];
  const int count = supported_implementations(all, 8);
  for (int i = 0; i < count; ++i) {
    use_implementation(all[i]->name);
    for (const int threads : {1, 2, 3})
      for (size_t k = 0; k < cases.size(); ++k) {
        run(float{}, cases[k], threads, static_cast<unsigned>(k));
        run(double{}, cases[k], threads, static_cast<unsigned>(k));
      }
  }
  if (failures)
    std::printf("%d failed\n", failures);
  else
    std::printf("%s tests passed on %d instruction sets\n", name, count);
  return failures != 0;
}

}  // namespace hamiltorch
