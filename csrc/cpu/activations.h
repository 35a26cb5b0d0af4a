// Activations on vectors: value, first and second derivative from one shared exponential (or sine and cosine).
#pragma once
#include "hamiltorch/mlp.h"
#include "vector.h"

namespace hamiltorch {
namespace {

// Per-precision constants. Series are Taylor's, cut where the next term is below half an ulp on the reduced range; the
// scaled complementary error function is interpolated at Chebyshev nodes (csrc/cpu/fit_erfc.py prints the numbers).
template <class T>
struct Constants;
template <>
struct Constants<float> {
  static constexpr int kMantissaBits = 23, kExponentBias = 127;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  static constexpr float kExpMin = -87.0f, kExpMax = 88.0f;
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr int kExpTerms = 8, kLogTerms = 8, kSinTerms = 5;
  static constexpr float kHalfPi[3] = {1.5703125f, 4.837512969970703125e-4f, 7.54978995489188216e-8f};
  static constexpr float kMaxReduced = 8192.0f;
  static constexpr float kErfcScale = 2.0f;
  static constexpr float kErfc[] = {1.2769783907971164f,     -0.0927639180787554f,   -0.1660312703474525f,
                                    0.16405369934148734f,    -0.054206034000196586f, -0.008048552250709405f,
                                    0.008640511788759917f,   0.00128473429232426f,   -0.0012518441649415361f,
                                    -0.0003758978723736679f, 2.0319588536538246e-05f};
};
template <>
struct Constants<double> {
  static constexpr int kMantissaBits = 52, kExponentBias = 1023;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kExpMin = -708.0, kExpMax = 709.0;
  static constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  static constexpr int kExpTerms = 14, kLogTerms = 17, kSinTerms = 9;
  // pi/2 in three parts: the first two carry 33 bits each, so that n times them is exact for |n| < 2^20.
  static constexpr double kHalfPi[3] = {1.57079632673412561417e+00, 6.07710050630396597660e-11,
                                        2.02226624879595063154e-21};
  static constexpr double kMaxReduced = 1.0e6;
  static constexpr double kErfcScale = 3.75;
  static constexpr double kErfc[] = {
      1.2375126308378275,     -0.1402405985855467,    0.003585415485463297,    0.08227673849011403,
      -0.10880393014168528,   0.0923043211614774,     -0.058693398590904264,   0.02836227740102912,
      -0.009746579546764526,  0.001755626014932829,   0.00029371362337406084,  -0.00029015496980854525,
      5.164908072285061e-05,  2.2387333351774618e-05, -1.1443386715647735e-05, -9.804551146365724e-07,
      1.7486585524429924e-06, -4.760016599968858e-08, -2.529623443943851e-07,  1.5447520210241472e-08,
      3.285862244913645e-08,  -6.593472109737e-10,    -2.337706312522679e-09};
};

template <class T>
HAMILTORCH_INLINE Vec<T> absolute(const Vec<T>& a) {
  return a < 0 ? -a : a;
}

// Where a number is not one, it stays so through every function below: comparisons are arranged to pass NaN on.
template <class T>
HAMILTORCH_INLINE Vec<T> clamp(const Vec<T>& a, T low, T high) {
  const Vec<T> above = a < low ? broadcast(low) : a;
  return above > high ? broadcast(high) : above;
}

template <class T, int count>
struct InverseFactorials {
  T values[count + 1];
  constexpr InverseFactorials() : values() {
    double factor = 1;
    for (int k = 0; k <= count; factor /= ++k) values[k] = static_cast<T>(factor);
  }
};

// exp(r) - 1 on the reduced range, and the power of two that goes with it.
template <class T>
struct Exponential {
  Vec<T> fraction;  // exp(r) - 1, |r| <= ln(2) / 2
  Vec<T> power;     // 2^n
};

template <class T>
HAMILTORCH_INLINE Exponential<T> reduce_exponential(const Vec<T>& x) {
  using C = Constants<T>;
  const Vec<T> a = clamp<T>(x, C::kExpMin, C::kExpMax);
  const Vec<T> shifted = a * static_cast<T>(1.4426950408889634) + C::kRound;
  const Vec<T> n = shifted - C::kRound;
  const Vec<T> r = (a - n * C::kLn2High) - n * C::kLn2Low;
  // Horner on 1/k!, highest first; the leading r stays outside to keep the relative error of exp(r) - 1 small.
  constexpr InverseFactorials<T, C::kExpTerms> table;
  Vec<T> sum = broadcast(table.values[C::kExpTerms]);
#pragma GCC unroll 16
  for (int k = C::kExpTerms - 1; k >= 2; --k) sum = sum * r + table.values[k];
  typename Simd<T>::Bits bits;
  __builtin_memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + C::kExponentBias) << C::kMantissaBits;
  Vec<T> power;
  __builtin_memcpy(&power, &bits, sizeof(power));
  // Below the range the result is zero, not the smallest number: a factor that grows must not bring it back.
  return {r + (r * r) * sum, x < C::kExpMin ? Vec<T>{} : power};
}

template <class T>
HAMILTORCH_INLINE Vec<T> exponential(const Vec<T>& x) {
  const Exponential<T> e = reduce_exponential<T>(x);
  return e.power + e.power * e.fraction;
}

template <class T>
HAMILTORCH_INLINE bool any(const Mask<T>& mask) {
  int64_t words[kVectorBytes / sizeof(int64_t)], all = 0;
  __builtin_memcpy(words, &mask, sizeof(words));
  for (const int64_t word : words) all |= word;
  return all != 0;
}

// exp(x) - 1 with small relative error near zero.
template <class T>
HAMILTORCH_INLINE Vec<T> exponential_minus_one(const Vec<T>& x) {
  const Exponential<T> e = reduce_exponential<T>(x);
  return (e.power - 1) + e.power * e.fraction;
}

// log(1 + e) for 0 <= e <= 1 as 2 artanh(e / (2 + e)): the argument is at most 1/3.
template <class T>
HAMILTORCH_INLINE Vec<T> log_one_plus(const Vec<T>& e) {
  using C = Constants<T>;
  const Vec<T> s = e / (e + 2), square = s * s;
  Vec<T> sum = broadcast(static_cast<T>(1) / static_cast<T>(2 * C::kLogTerms - 1));
#pragma GCC unroll 20
  for (int k = C::kLogTerms - 2; k >= 1; --k) sum = sum * square + static_cast<T>(1) / static_cast<T>(2 * k + 1);
  const Vec<T> twice = s + s;
  return twice + twice * (square * sum);
}

template <class T>
struct SinCos {
  Vec<T> sin, cos;
};

template <class T>
HAMILTORCH_INLINE SinCos<T> sin_cos(const Vec<T>& a) {
  using C = Constants<T>;
  const Vec<T> bounded = clamp<T>(a, -C::kMaxReduced, C::kMaxReduced);
  const Vec<T> shifted = bounded * static_cast<T>(0.63661977236758134308) + C::kRound;
  const Vec<T> n = shifted - C::kRound;
  const Vec<T> r = ((bounded - n * C::kHalfPi[0]) - n * C::kHalfPi[1]) - n * C::kHalfPi[2];
  const Vec<T> square = r * r;
  // Horner on the alternating series; sin(r) = r + r odd, cos(r) = 1 - r^2 / 2 + r^4 even.
  constexpr InverseFactorials<T, 2 * C::kSinTerms> table;
  Vec<T> odd{}, even{};
#pragma GCC unroll 16
  for (int k = C::kSinTerms; k >= 2; --k) {
    odd = odd * square + (k % 2 ? table.values[2 * k - 1] : -table.values[2 * k - 1]);
    even = even * square + (k % 2 ? -table.values[2 * k] : table.values[2 * k]);
  }
  const Vec<T> sine = r + r * (square * odd);
  const Vec<T> cosine = (1 - static_cast<T>(0.5) * square) + square * (square * even);
  typename Simd<T>::Bits quadrant;
  __builtin_memcpy(&quadrant, &shifted, sizeof(quadrant));
  const Vec<T> s = (quadrant & 1) != 0 ? cosine : sine;
  const Vec<T> c = (quadrant & 1) != 0 ? sine : cosine;
  SinCos<T> result = {(quadrant & 2) != 0 ? -s : s, ((quadrant + 1) & 2) != 0 ? -c : c};
  // Far arguments need more bits of pi than three parts hold; they are rare enough for the scalar library.
  if (any<T>(absolute<T>(a) > C::kMaxReduced)) {
    for (int i = 0; i < kLanes<T>; ++i) {
      if constexpr (sizeof(T) == sizeof(float)) {
        result.sin[i] = __builtin_sinf(a[i]);
        result.cos[i] = __builtin_cosf(a[i]);
      } else {
        result.sin[i] = __builtin_sin(a[i]);
        result.cos[i] = __builtin_cos(a[i]);
      }
    }
  }
  return result;
}

// s(a), s'(a), s''(a).
template <class T>
struct Jet {
  Vec<T> value, first, second;
};

template <class T>
struct Logistic {
  Vec<T> exponential;  // exp(-|a|)
  Vec<T> rising;       // 1 / (1 + exp(-a))
  Vec<T> falling;      // 1 - rising, without cancellation
};

template <class T>
HAMILTORCH_INLINE Logistic<T> logistic(const Vec<T>& a) {
  const Vec<T> e = exponential<T>(-absolute<T>(a));
  const Vec<T> inverse = 1 / (1 + e), rest = e * inverse;
  return {e, a < 0 ? rest : inverse, a < 0 ? inverse : rest};
}

template <class T, Activation activation>
HAMILTORCH_INLINE Jet<T> activate(const Vec<T>& a) {
  using C = Constants<T>;
  if constexpr (activation == Activation::kSoftplus) {
    // torch's softplus is the identity above 20; so is this one.
    const Logistic<T> s = logistic<T>(a);
    const Vec<T> value = (a < 0 ? Vec<T>{} : a) + log_one_plus<T>(s.exponential);
    return {a > 20 ? a : value, a > 20 ? broadcast(static_cast<T>(1)) : s.rising,
            a > 20 ? broadcast(static_cast<T>(0)) : s.rising * s.falling};
  } else if constexpr (activation == Activation::kTanh) {
    const Vec<T> m = exponential_minus_one<T>(2 * clamp<T>(absolute<T>(a), 0, 40));
    const Vec<T> inverse = 1 / (m + 2), magnitude = m * inverse;
    const Vec<T> value = a < 0 ? -magnitude : magnitude;
    const Vec<T> first = absolute<T>(a) > 40 ? Vec<T>{} : 4 * (m + 1) * inverse * inverse;
    return {value, first, -2 * value * first};
  } else if constexpr (activation == Activation::kSilu) {
    const Logistic<T> s = logistic<T>(a);
    const Vec<T> slope = s.rising * s.falling;
    return {a * s.rising, s.rising + a * slope, slope * (2 + a * (s.falling - s.rising))};
  } else if constexpr (activation == Activation::kGelu) {
    const Vec<T> x = absolute<T>(a) * static_cast<T>(0.70710678118654752440);
    const Vec<T> bounded = clamp<T>(x, 0, sizeof(T) == 4 ? 10 : 27);
    const Vec<T> t = (bounded - C::kErfcScale) / (bounded + C::kErfcScale);
    constexpr int kTerms = sizeof(C::kErfc) / sizeof(T);
    Vec<T> scaled = broadcast(C::kErfc[kTerms - 1]);
#pragma GCC unroll 24
    for (int k = kTerms - 2; k >= 0; --k) scaled = scaled * t + C::kErfc[k];
    const Vec<T> gauss = exponential<T>(-x * x);
    const Vec<T> tail = static_cast<T>(0.5) * gauss * scaled / (1 + 2 * bounded);
    const Vec<T> cumulative = a < 0 ? tail : 1 - tail;
    const Vec<T> density = gauss * static_cast<T>(0.39894228040143267794);
    return {a * cumulative, cumulative + a * density, density * (2 - a * a)};
  } else {
    static_assert(activation == Activation::kSin);
    const SinCos<T> s = sin_cos<T>(a);
    return {s.sin, s.cos, -s.sin};
  }
}

}  // namespace
}  // namespace hamiltorch
