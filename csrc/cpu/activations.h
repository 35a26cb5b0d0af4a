// Activations on vectors: value, first and second derivative from one shared exponential (or sine and cosine).
//
// Errors against the exact functions stay below these, in units of the last place of the result (ulp), on every
// instruction set; csrc/tests/activation_test.cpp holds them to it.
//
//                value                  first derivative       second derivative
//     softplus   2 (float64: 2.25)      2                      3.75
//     tanh       1.5                    2.5                    3.75
//     silu       2.75                   4.5                    5.75
//     gelu       2 (float64: 2.25)      2 (float64: 2.25)      3.5
//     sin        2                      2                      2
//
// Between |a| = 1/4 and 4, where derivatives of silu and gelu change sign, the unit is at least the ulp of 1/4. gelu
// for a < -1/2, and its second derivative for |a| > 1/2, is off by 5 (float64: 6.5) + a^2 / 2: what rounding a^2 does
// to its exponential. Results below 2^-119 (float64: 2^-1012) may be flushed to zero. Softplus is torch's: the identity
// above 20, which in float32 makes no difference to value and first derivative, so that only float64 cuts.
#pragma once
#include "hamiltorch/mlp.h"
#include "vector.h"

namespace hamiltorch {
namespace {

// Per-precision constants. Of the polynomials, csrc/cpu/fit_activations.py says what they are and prints them.
template <class T>
struct Constants;
template <>
struct Constants<float> {
  static constexpr int kMantissaBits = 23;
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits; 127 more makes it a biased exponent there.
  static constexpr float kRound = 12582912.0f, kRoundBiased = 12583039.0f;
  static constexpr float kExpMin = -87.3f;  // the exponential is a normal number from here
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kExp[] = {0.166665341f, 0.0416672376f, 0.00836747570f, 0.00138637887f};
  static constexpr float kLog[] = {0.378139559f,   -0.179224886f, 0.0932318561f,   -0.0510890592f, 0.0289049993f,
                                   -0.0166569847f, 0.0101777043f, -0.00693069836f, 0.00331847730f};
  static constexpr float kTanh[] = {-0.333329466f, 0.133207251f, -0.0526718168f, 0.0164375872f};
  static constexpr float kSin[] = {-0.166666546f, 0.00833216076f, -0.000195152834f};
  static constexpr float kCos[] = {0.0416666457f, -0.00138873163f, 2.44331572e-05f};
  static constexpr float kNormal[] = {0.398942153f, -0.0664881962f, 0.00996239667f, -0.00116311496f, 9.15124263e-05f};
  static constexpr float kMills[] = {0.729083698f,   -0.509331913f,  0.230016749f,    -0.0472649832f,
                                     -0.0104442275f, 0.00698202966f, 0.000909007156f, -0.00101963117f};
  static constexpr float kMillsCentre = 3.0f;
  // pi/2 in three parts: the first two carry 16 bits at most, so that n times them is exact for |n| < 2^8.
  static constexpr float kHalfPi[] = {1.57080078125f, -4.454399459064007e-06f, -5.564431554416771e-11f};
  static constexpr float kMaxReduced = 400.0f;
};
template <>
struct Constants<double> {
  static constexpr int kMantissaBits = 52;
  static constexpr double kRound = 6755399441055744.0, kRoundBiased = 6755399441056767.0;  // 1.5 * 2^52, and 1023 more
  static constexpr double kExpMin = -708.3;
  static constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kExp[] = {0.16666666666666433,    0.041666666666603999,   0.0083333333334999257,
                                    0.0013888888926778112,  0.00019841269466404709, 2.4801508707478917e-05,
                                    2.7557640762962249e-06, 2.7625176146597155e-07, 2.4978390440803800e-08};
  static constexpr double kLog[] = {
      0.37813956756734246,    -0.17922493693603719,    0.093230366363669034,   -0.051083446105400221,
      0.028943183164417109,   -0.016788742491280411,   0.0099099007669719262,  -0.0059290115608373450,
      0.0035856647737160709,  -0.0021876475782593358,  0.0013445311756187868,  -0.00083134301882038537,
      0.00051653909391432802, -0.00032346595591859558, 0.00020487933178559283, -0.00012544915778810110,
      7.1087149025924039e-05, -5.2744949567690180e-05, 5.1126815217853121e-05, -2.5330063045476008e-05};
  static constexpr double kTanh[] = {-0.33333333333332316,   0.13333333333168701,    -0.053968253876077267,
                                     0.021869485974772351,   -0.0088631945038253872, 0.0035917196960004931,
                                     -0.0014532167510707200, 0.00057913700163988514, -0.00021030237842062670,
                                     5.1021464189498070e-05};
  static constexpr double kSin[] = {-0.16666666666666630,   0.0083333333333221182,   -0.00019841269829589514,
                                    2.7557313621378277e-06, -2.5050747761940476e-08, 1.5896230117917538e-10};
  static constexpr double kCos[] = {0.041666666666666595,    -0.0013888888888873056, 2.4801587288851700e-05,
                                    -2.7557314179297407e-07, 2.0875700842216908e-09, -1.1358536540291391e-11};
  static constexpr double kNormal[] = {0.39894228040143270,     -0.066490380066905316,   0.0099735570100328175,
                                       -0.0011873282154467209,  0.00011543468740262956,  -9.4446554256437069e-06,
                                       6.6596724313970022e-07,  -4.1223152350855519e-08, 2.2696616370864569e-09,
                                       -1.1031143268960276e-10, 4.0115170887537350e-12};
  static constexpr double kMills[] = {
      0.76919304975006297,     -0.66538250289005785,   0.49530561596998235,     -0.31353315667116227,
      0.16502036616996701,     -0.069118638711238300,  0.020795066810998318,    -0.0029933766932767349,
      -0.00079786954627587467, 0.00054489841157667957, -5.9374614414898968e-05, -4.9759576280081674e-05,
      1.6676173702334103e-05,  3.9711879180368432e-06, -2.7553491373429390e-06, -3.1910111016527068e-07,
      4.1028911259328073e-07,  2.4256192602133448e-08, -4.5542206403022900e-08};
  static constexpr double kMillsCentre = 5.0;
  // The first two parts carry 36 bits at most: exact for |n| < 2^17.
  static constexpr double kHalfPi[] = {1.5707963267923333, 2.5633441515839558e-12, 1.0562999066987428e-23};
  static constexpr double kMaxReduced = 1.0e5;
};

template <class T>
using Bits = typename Simd<T>::Bits;

template <class T>
HAMILTORCH_INLINE Bits<T> bits_of(const Vec<T>& a) {
  Bits<T> bits;
  __builtin_memcpy(&bits, &a, sizeof(bits));
  return bits;
}

template <class T>
HAMILTORCH_INLINE Vec<T> from_bits(const Bits<T>& bits) {
  Vec<T> a;
  __builtin_memcpy(&a, &bits, sizeof(a));
  return a;
}

template <class T>
HAMILTORCH_INLINE Bits<T> sign_of(const Bits<T>& bits) {
  return bits & (Bits<T>{} + 1) << (8 * sizeof(T) - 1);
}

// -|a|
template <class T>
HAMILTORCH_INLINE Vec<T> negative_magnitude(const Vec<T>& a) {
  return from_bits<T>(bits_of<T>(a) | sign_of<T>(~Bits<T>{}));
}

// With comparisons the right way round, what is not a number stays so through every function below.
template <class T>
HAMILTORCH_INLINE Vec<T> zero_where(const Mask<T>& mask, const Vec<T>& a) {
  return mask ? Vec<T>{} : a;
}

template <class T>
HAMILTORCH_INLINE bool any(const Mask<T>& mask) {
#if defined(__AVX512DQ__)
  typedef int Words __attribute__((vector_size(kVectorBytes)));
  Words words;
  __builtin_memcpy(&words, &mask, sizeof(words));
  return __builtin_ia32_cvtd2mask512(words) != 0;
#else
  int64_t words[kVectorBytes / sizeof(int64_t)], all = 0;
  __builtin_memcpy(words, &mask, sizeof(words));
  for (const int64_t word : words) all |= word;
  return all != 0;
#endif
}

// Estrin's scheme: neighbours are joined in pairs until one is left, x squared each time. A small layer has too few
// vectors to hide the latency of Horner's. Of an odd number the lowest joins last, which rounds least.
template <class T, int count>
HAMILTORCH_INLINE Vec<T> join_pairs(const Vec<T>& x, Vec<T>* terms) {
  if constexpr (count == 1) {
    return terms[0];
  } else if constexpr (count % 2 == 1) {
    return terms[0] + x * join_pairs<T, count - 1>(x, terms + 1);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < count / 2; ++i) terms[i] = terms[2 * i] + x * terms[2 * i + 1];
    return join_pairs<T, count / 2>(x * x, terms);
  }
}

template <class T, int count>
HAMILTORCH_INLINE Vec<T> polynomial(const Vec<T>& x, const T (&coefficients)[count]) {
  Vec<T> terms[count];
#pragma GCC unroll 32
  for (int k = 0; k < count; ++k) terms[k] = broadcast(coefficients[k]);
  return join_pairs<T, count>(x, terms);
}

// exp(x) for x <= 0, and zero where `vanished`, which must hold below kExpMin.
template <class T>
HAMILTORCH_INLINE Vec<T> exponential(const Vec<T>& x, const Mask<T>& vanished) {
  using C = Constants<T>;
  const Vec<T> shifted = x * static_cast<T>(1.4426950408889634) + C::kRoundBiased;
  const Vec<T> n = shifted - C::kRoundBiased;
  const Vec<T> power = from_bits<T>(bits_of<T>(shifted) << C::kMantissaBits);
  // x = n ln(2) + r with r = high - low. What that difference rounds off matters in the leading term only.
  const Vec<T> high = x - n * C::kLn2High, low = n * C::kLn2Low, r = high - low, square = r * r;
  const Vec<T> fraction = high + ((static_cast<T>(0.5) * square - low) + (square * r) * polynomial<T>(r, C::kExp));
  return zero_where<T>(vanished, power + power * fraction);
}

template <class T>
struct SinCos {
  Vec<T> sin, cos;
};

// Far arguments need more bits of pi than three parts hold; they are rare enough for the scalar library.
template <class T>
__attribute__((noinline, cold)) void far_sin_cos(const T* a, T* sin, T* cos) {
  for (int i = 0; i < kLanes<T>; ++i) {
    if constexpr (sizeof(T) == sizeof(float)) {
      sin[i] = __builtin_sinf(a[i]);
      cos[i] = __builtin_cosf(a[i]);
    } else {
      sin[i] = __builtin_sin(a[i]);
      cos[i] = __builtin_cos(a[i]);
    }
  }
}

template <class T>
HAMILTORCH_INLINE SinCos<T> sin_cos(const Vec<T>& a) {
  using C = Constants<T>;
  if (__builtin_expect(any<T>(negative_magnitude<T>(a) < -C::kMaxReduced), false)) {
    T in[kLanes<T>], sin[kLanes<T>], cos[kLanes<T>];
    store(in, a);
    far_sin_cos(in, sin, cos);
    return {load(sin), load(cos)};
  }
  const Vec<T> shifted = a * static_cast<T>(0.63661977236758134308) + C::kRound;
  const Vec<T> n = shifted - C::kRound;
  // The argument's remainder is r + low. What low adds to the cosine is not worth its time.
  const Vec<T> rest = a - n * C::kHalfPi[0], r = rest - n * C::kHalfPi[1];
  const Vec<T> low = ((rest - r) - n * C::kHalfPi[1]) - n * C::kHalfPi[2];
  const Vec<T> square = r * r;
  const Vec<T> sine = r + (low + r * (square * polynomial<T>(square, C::kSin)));
  const Vec<T> cosine = (1 - static_cast<T>(0.5) * square) + (square * square) * polynomial<T>(square, C::kCos);
  // Of the quadrant, bit 0 swaps the two, bit 1 is the sine's sign and the sum of both the cosine's.
  const Bits<T> quadrant = bits_of<T>(shifted);
  const Bits<T> bit0 = quadrant << (8 * sizeof(T) - 1), bit1 = quadrant << (8 * sizeof(T) - 2);
  const Vec<T> s = bit0 != 0 ? cosine : sine, c = bit0 != 0 ? sine : cosine;
  return {from_bits<T>(bits_of<T>(s) ^ sign_of<T>(bit1)), from_bits<T>(bits_of<T>(c) ^ sign_of<T>(bit1 ^ bit0))};
}

// s(a), s'(a), s''(a).
template <class T>
struct Jet {
  Vec<T> value, first, second;
};

template <class T, Activation activation>
HAMILTORCH_INLINE Jet<T> activate(const Vec<T>& a) {
  using C = Constants<T>;
  const Vec<T> x = negative_magnitude<T>(a), one = broadcast(static_cast<T>(1));
  if constexpr (activation == Activation::kSoftplus) {
    auto vanished = x < C::kExpMin;
    if constexpr (sizeof(T) == sizeof(double)) vanished |= a > 20;
    const Vec<T> e = exponential<T>(x, vanished);
    const Vec<T> value = e + (zero_where<T>(a < 0, a) - (e * e) * polynomial<T>(e - static_cast<T>(0.5), C::kLog));
    // The quotient, and one step of long division more: that takes back most of what 1 + e was rounded by.
    const Vec<T> numerator = a < 0 ? e : one, quotient = numerator / (1 + e);
    const Vec<T> first = numerator - e * quotient;
    const Vec<T> lesser = a < 0 ? first : e * quotient;  // of the first derivative and one minus it
    return {value, first, lesser - lesser * lesser};
  } else if constexpr (activation == Activation::kTanh) {
    const Vec<T> e = exponential<T>(x + x, x < C::kExpMin / 2);
    const Vec<T> lesser = e - e * (e / (1 + e)), square = a * a;
    const Vec<T> near = a + (a * square) * polynomial<T>(square, C::kTanh);
    const Vec<T> far = from_bits<T>(bits_of<T>(1 - 2 * lesser) | sign_of<T>(bits_of<T>(a)));
    const Vec<T> value = x > static_cast<T>(-0.55) ? near : far;
    const Vec<T> first = 4 * (lesser - lesser * lesser);
    return {value, first, -2 * value * first};
  } else if constexpr (activation == Activation::kSilu) {
    // Where e has vanished, a finite factor keeps zero times infinity away.
    const auto vanished = x < C::kExpMin;
    const Vec<T> e = exponential<T>(x, vanished), finite = zero_where<T>(vanished, a);
    const Vec<T> quotient = (a < 0 ? e : one) / (1 + e);
    const Vec<T> rising = a < 0 ? e - e * quotient : quotient, lesser = a < 0 ? rising : e * quotient;
    const Vec<T> slope = lesser - lesser * lesser;
    return {(a < 0 ? finite : a) * rising, rising + finite * slope,
            slope * (2 + negative_magnitude<T>(finite) * (1 - 2 * lesser))};
  } else if constexpr (activation == Activation::kGelu) {
    const Vec<T> square = a * a, exponent = static_cast<T>(-0.5) * square;
    const auto vanished = exponent < C::kExpMin;
    const Vec<T> finite = zero_where<T>(vanished, a), magnitude = -negative_magnitude<T>(finite);
    const Vec<T> gauss = exponential<T>(exponent, vanished), density = gauss * static_cast<T>(0.39894228040143267794);
    const Vec<T> inverse = 1 / (magnitude + C::kMillsCentre);
    const Vec<T> tail = gauss * (inverse * polynomial<T>((magnitude - C::kMillsCentre) * inverse, C::kMills));
    const Vec<T> centre = static_cast<T>(0.5) + a * polynomial<T>(square, C::kNormal);
    const Vec<T> cumulative = square < 1 ? centre : (a < 0 ? tail : 1 - tail);
    return {(a < 0 ? finite : a) * cumulative, cumulative + finite * density, density * (2 - finite * finite)};
  } else {
    static_assert(activation == Activation::kSin);
    const SinCos<T> s = sin_cos<T>(a);
    return {s.sin, s.cos, -s.sin};
  }
}

}  // namespace
}  // namespace hamiltorch
