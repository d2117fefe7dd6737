// Sixteen floats at a time, in the compiler's own vector types: any processor runs this, wide ones fast.
// Every reduction has a fixed order, so that a row's result never depends on the rows beside it.
#pragma once
#include <cstdint>
#include <cstring>

typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2), may_alias));
typedef int8_t Bytes __attribute__((vector_size(16), aligned(1), may_alias));

constexpr int kLanes = 16;

inline Floats load(const float* from) { return *reinterpret_cast<const Floats*>(from); }
inline void store(float* to, Floats value) { *reinterpret_cast<Floats*>(to) = value; }
inline Floats spread(float value) { return Floats{} + value; }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

template <class To, class From>
inline To reinterpret(From value) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}

inline Words load_words(const uint32_t* from) { return *reinterpret_cast<const Words*>(from); }
inline void store_words(uint32_t* to, Words value) { *reinterpret_cast<Words*>(to) = value; }

// bfloat16 is the upper half of a float.
inline Floats load_bfloat16(const uint16_t* from) {
  const Words wide = __builtin_convertvector(*reinterpret_cast<const Halves*>(from), Words);
  return reinterpret<Floats>(wide << 16);
}

// The float of a bfloat16 that is nearest, ties to even.
inline Words round_to_bfloat16(Floats value) {
  const Words bits = reinterpret<Words>(value);
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
}

inline void store_bfloat16(uint16_t* to, Floats value) {
  *reinterpret_cast<Halves*>(to) = __builtin_convertvector(round_to_bfloat16(value) >> 16, Halves);
}

inline float sum(Floats value) {
  float lanes[kLanes];
  store(lanes, value);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int at = 0; at < half; ++at) lanes[at] += lanes[at + half];
  return lanes[0];
}

inline bool is_any(Ints truth) {
  int any = 0;
  for (int at = 0; at < kLanes; ++at) any |= truth[at];
  return any != 0;
}

inline float largest(Floats value) {
  float lanes[kLanes];
  store(lanes, value);
  float most = lanes[0];
  for (int at = 1; at < kLanes; ++at) most = lanes[at] > most ? lanes[at] : most;
  return most;
}

inline Floats absolute(Floats value) { return reinterpret<Floats>(reinterpret<Words>(value) & 0x7fffffffu); }

// To the nearest whole number, for |value| < 2^22: adding 1.5 * 2^23 leaves no room for a fraction.
inline Floats nearest(Floats value) { return (value + 12582912.0f) - 12582912.0f; }

// 2^x for x <= 0, to about 4e-5 relative, and exactly 1 for 0.
inline Floats power_of_two(Floats x) {
  constexpr float kShift = 12582912.0f;  // leaves the whole part of what is added in the lowest bits
  x = larger(x, spread(-126.0f));
  const Floats shifted = x + kShift;
  x = x - (shifted - kShift);
  Floats y = spread(9.6181291e-3f);
  y = y * x + 5.5504109e-2f;
  y = y * x + 2.4022651e-1f;
  y = y * x + 6.9314718e-1f;
  y = y * x + 1.0f;
  return reinterpret<Floats>(reinterpret<Words>(y) + (reinterpret<Words>(shifted) << 23));
}

// 2^x, x <= 0, as a weight of attention: the float of a bfloat16, nothing below 2^-40.
inline Words weigh(Floats x) {
  const Words rounded = (reinterpret<Words>(power_of_two(x)) + 0x8000u) & 0xffff0000u;
  return x < -40.0f ? Words{} : rounded;
}

// Rows become columns.
inline void transpose(Floats* rows) {
  constexpr Ints kFirst{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
  constexpr Ints kSecond{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  for (int turn = 0; turn < 4; ++turn) {  // each moves one bit of the row's number into the column's
    Floats turned[kLanes];
    for (int at = 0; at < kLanes / 2; ++at) {
      turned[2 * at] = __builtin_shuffle(rows[at], rows[at + 8], kFirst);
      turned[2 * at + 1] = __builtin_shuffle(rows[at], rows[at + 8], kSecond);
    }
    for (int at = 0; at < kLanes; ++at) rows[at] = turned[at];
  }
}

// e^x to about 2e-7 relative (Cephes' polynomial after splitting off the power of two).
inline Floats exponential(Floats x) {
  x = x < -87.0f ? spread(-87.0f) : x;
  x = x > 88.0f ? spread(88.0f) : x;
  const Floats power = nearest(x * 1.44269504088896341f);
  x = x - power * 0.693359375f;
  x = x - power * -2.12194440e-4f;
  Floats y = spread(1.9875691500e-4f);
  y = y * x + 1.3981999507e-3f;
  y = y * x + 8.3334519073e-3f;
  y = y * x + 4.1665795894e-2f;
  y = y * x + 1.6666665459e-1f;
  y = y * x + 5.0000001201e-1f;
  y = y * x * x + x + 1.0f;
  const Ints exponent = (__builtin_convertvector(power, Ints) + 127) << 23;
  return y * reinterpret<Floats>(exponent);
}
