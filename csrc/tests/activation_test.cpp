// The activations of every instruction set against the C library in more precision: a sweep over all finite float32
// numbers and a sample of float64 ones must stay within the bounds that csrc/cpu/activations.h states.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../cpu/implementation.h"
#include "expect.h"

using namespace hamiltorch;

namespace {

const char* const kNames[kActivations] = {"softplus", "tanh", "silu", "gelu", "sin"};

// What float32 is checked in, and float64.
template <class T>
struct Wider;
template <>
struct Wider<float> {
  using Type = double;
};
template <>
struct Wider<double> {
  using Type = long double;
};
template <class T>
using Wide = typename Wider<T>::Type;

template <class T>
constexpr bool kSingle = sizeof(T) == sizeof(float);

// The table in activations.h.
template <class T>
struct Bounds {
  static constexpr double kGelu = kSingle<T> ? 2 : 2.25;
  static constexpr double kUlps[kActivations][3] = {
      {kSingle<T> ? 2 : 2.25, 2, 3.75}, {1.5, 2.5, 3.75}, {2.75, 4.5, 5.75}, {kGelu, kGelu, 3.5}, {2, 2, 2}};
  static constexpr double kGeluTail = kSingle<T> ? 5 : 6.5;
  static constexpr T kFlushed = static_cast<T>(kSingle<T> ? 0x1p-119 : 0x1p-1012);
};

// The bound in ulps on output k (0: value, 1: first, 2: second derivative), and the least number whose ulp it counts.
template <class T>
double bound(Activation activation, T a, int k) {
  if (activation == Activation::kGelu && (a < T(-0.5) || (k == 2 && a > T(0.5))))
    return Bounds<T>::kGeluTail + 0.5 * double(a) * double(a);
  return Bounds<T>::kUlps[static_cast<int>(activation)][k];
}

template <class T>
double least_unit(Activation activation, T a, int k) {
  const bool changes_sign = (activation == Activation::kSilu || activation == Activation::kGelu) && k > 0;
  return changes_sign && std::fabs(a) > T(0.25) && std::fabs(a) < T(4) ? 0.25 : 0;
}

template <class T>
void reference(Activation activation, T a, Wide<T>* jet) {
  using W = Wide<T>;
  const W x = a, one = 1;
  // exp(-|a|) keeps both halves of the logistic function exact.
  const W e = std::exp(-std::fabs(x)), larger = one / (one + e), smaller = e / (one + e);
  const W rising = x < 0 ? smaller : larger, falling = x < 0 ? larger : smaller, slope = rising * falling;
  switch (activation) {
    case Activation::kSoftplus:
      jet[0] = (x < 0 ? 0 : x) + std::log1p(e);
      jet[1] = rising;
      jet[2] = slope;
      if (!kSingle<T> && x > 20) jet[0] = x, jet[1] = 1, jet[2] = 0;  // torch's definition
      return;
    case Activation::kTanh: {
      const W square = e * e;
      jet[0] = std::tanh(x);
      jet[1] = 4 * square / ((one + square) * (one + square));
      jet[2] = -2 * jet[0] * jet[1];
      return;
    }
    case Activation::kSilu:
      jet[0] = x * rising;
      jet[1] = rising + x * slope;
      jet[2] = slope * (2 + x * (falling - rising));
      return;
    case Activation::kGelu: {
      const W cumulative = std::erfc(-x * W(0.707106781186547524400844362104849039L)) / 2;
      const W density = std::exp(-x * x / 2) * W(0.398942280401432677939946059934381868L);
      const W second = density == 0 ? 0 : density * (2 - x * x);
      jet[0] = x * cumulative;
      jet[1] = cumulative + x * density;
      jet[2] = second;
      return;
    }
    case Activation::kSin:
      jet[0] = std::sin(x);
      jet[1] = std::cos(x);
      jet[2] = -jet[0];
      return;
  }
}

template <class T>
std::string description(Activation activation, const Implementation& implementation) {
  return std::string(implementation.name) + (kSingle<T> ? " float32 " : " float64 ") +
         kNames[static_cast<int>(activation)];
}

template <class T>
double ulps(T got, Wide<T> exact, double least) {
  const int exponent = std::ilogb(std::max<Wide<T>>(std::fabs(exact), least));
  return static_cast<double>(std::fabs(got - exact) /
                             std::ldexp(Wide<T>(1), exponent + 1 - std::numeric_limits<T>::digits));
}

struct Worst {
  double ulps[3] = {}, share[3] = {}, at[3] = {};  // by largest share of the bound
};

template <class T>
void compare(Activation activation, const std::vector<T>& points, const std::vector<const Implementation*>& all,
             std::vector<Worst>* worst) {
  const size_t count = points.size();
  std::vector<Wide<T>> exact(3 * count);
  for (size_t i = 0; i < count; ++i) reference(activation, points[i], &exact[3 * i]);
  std::vector<T> outputs[3] = {std::vector<T>(count), std::vector<T>(count), std::vector<T>(count)};
  for (size_t n = 0; n < all.size(); ++n) {
    kernels_of<T>(*all[n]).activate(activation, points.data(), static_cast<int64_t>(count), outputs[0].data(),
                                    outputs[1].data(), outputs[2].data());
    Worst& w = (*worst)[n];
    for (int k = 0; k < 3; ++k)
      for (size_t i = 0; i < count; ++i) {
        const T a = points[i], got = outputs[k][i];
        const Wide<T> want = exact[3 * i + k];
        double error;
        if (std::fabs(want) < Bounds<T>::kFlushed)
          error = std::fabs(got) <= 2 * Bounds<T>::kFlushed ? 0 : HUGE_VAL;
        else
          error = ulps<T>(got, want, least_unit(activation, a, k));
        const double share = error / bound(activation, a, k);
        if (share <= w.share[k]) continue;
        w.share[k] = std::isnan(share) ? HUGE_VAL : share;
        w.ulps[k] = error;
        w.at[k] = a;
      }
  }
}

// Numbers next to zero and to where the kernels go from one formula to another.
template <class T>
void append_special(std::vector<T>* points) {
  for (const double cut :
       {0.0, 0.5, 0.55, 1.0, 4.0, 13.2, 20.0, 37.6, 43.65, 87.3, 400.0, 354.15, 708.3, 1.0e5, 1e30}) {
    T up = static_cast<T>(cut), down = up;
    for (int i = 0; i < 2000; ++i) {
      for (const T a : {up, down, -up, -down}) points->push_back(a);
      up = std::nextafter(up, std::numeric_limits<T>::infinity());
      down = std::nextafter(down, -std::numeric_limits<T>::infinity());
    }
  }
  const T largest = std::numeric_limits<T>::max();
  for (const T a : {largest, -largest, largest / 2, -largest / 2}) points->push_back(a);
}

// Collects points and hands them on, some at a time.
template <class T, class F>
struct Chunks {
  static constexpr size_t kSize = 1 << 16;
  const F& use;
  std::vector<T> points;

  void add(T a) {
    points.push_back(a);
    if (points.size() >= kSize) flush();
  }
  void flush() {
    use(points);
    points.clear();
  }
};

// Every stride-th finite float.
template <class F>
void sweep(uint64_t stride, Chunks<float, F>* chunks) {
  for (uint64_t pattern = 0; pattern <= UINT32_MAX; pattern += stride) {
    const uint32_t bits = static_cast<uint32_t>(pattern);
    float a;
    std::memcpy(&a, &bits, sizeof(a));
    if (std::isfinite(a)) chunks->add(a);
  }
}

// Doubles at random, 2^29 / stride of them: uniform on the scales of the functions, and over the exponents.
template <class F>
void sweep(uint64_t stride, Chunks<double, F>* chunks) {
  std::mt19937_64 generator(1);
  std::uniform_real_distribution<double> uniform(-1, 1);
  for (uint64_t i = 0; i < (uint64_t{1} << 27) / stride; ++i) {
    for (const double scale : {2.0, 25.0, 750.0}) chunks->add(scale * uniform(generator));
    chunks->add(std::ldexp(uniform(generator), static_cast<int>(60 * uniform(generator))));
  }
}

template <class T>
void check_errors(Activation activation, uint64_t stride, const std::vector<const Implementation*>& all) {
  std::vector<Worst> worst(all.size());
  const auto use = [&](const std::vector<T>& points) { compare(activation, points, all, &worst); };
  Chunks<T, decltype(use)> chunks{use, {}};
  append_special(&chunks.points);
  sweep(stride, &chunks);
  chunks.flush();
  for (size_t n = 0; n < all.size(); ++n) {
    const std::string what = description<T>(activation, *all[n]);
    std::printf("%-25s", what.c_str());
    for (int k = 0; k < 3; ++k)
      std::printf("  %6.2f of %6.2f ulp at %-12.6g", worst[n].ulps[k],
                  bound(activation, static_cast<T>(worst[n].at[k]), k), worst[n].at[k]);
    std::printf("\n");
    for (int k = 0; k < 3; ++k) expect(worst[n].share[k] <= 1, what + " error of output " + std::to_string(k));
  }
}

template <class T>
void check_limits(Activation activation, const Implementation& implementation) {
  const std::string what = description<T>(activation, implementation);
  const T infinity = std::numeric_limits<T>::infinity(), nan = std::numeric_limits<T>::quiet_NaN();
  T all_ones;
  std::memset(&all_ones, 0xff, sizeof(all_ones));
  const T a[5] = {infinity, -infinity, nan, -nan, all_ones};
  T jet[3][5];
  kernels_of<T>(implementation).activate(activation, a, 5, jet[0], jet[1], jet[2]);
  for (int k = 0; k < 3; ++k) {
    for (int i = 2; i < 5; ++i) expect(std::isnan(jet[k][i]), what + " of what is not a number");
    if (activation == Activation::kSin) {
      expect(std::isnan(jet[k][0]) && std::isnan(jet[k][1]), what + " of infinity");
    } else {
      const T above = activation == Activation::kTanh ? T(k == 0) : k == 0 ? infinity : T(k == 1);
      const T below = activation == Activation::kTanh && k == 0 ? T(-1) : T(0);
      expect(jet[k][0] == above, what + " of infinity");
      expect(jet[k][1] == below, what + " of minus infinity");
    }
  }
}

template <class T>
void check(uint64_t stride, const std::vector<const Implementation*>& all) {
  for (int32_t i = 0; i < kActivations; ++i) {
    const Activation activation = static_cast<Activation>(i);
    check_errors<T>(activation, stride, all);
    for (const Implementation* implementation : all) check_limits<T>(activation, *implementation);
  }
}

}  // namespace

// The argument is the stride of the sweep: a larger one takes less time.
int main(int argc, char** argv) {
  const uint64_t stride = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 509;
  std::vector<const Implementation*> all(8);
  all.resize(static_cast<size_t>(supported_implementations(all.data(), 8)));
  check<float>(stride, all);
  check<double>(stride, all);
  std::printf(failures ? "%d failed\n" : "activations passed on %d instruction sets\n",
              failures ? failures : static_cast<int>(all.size()));
  return failures != 0;
}
