/* The small operations of a decode step, fused and threaded: norm, gated activation, and rotary
 * embedding + cache write + paged decode attention.
 *
 * Built for the machine at hand (-march=native) at first use; see build.py. Each operation exists
 * once per element type: typed.h is included with T, LOAD and STORE defined. Arithmetic is float32
 * and rounds where the PyTorch reference rounds. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define INLINE static inline __attribute__((always_inline))
#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)
#define FN(name) PASTE(name, SUFFIX)

/* Keys whose scores are held at once. */
#define TILE 64

/* e^x to about one unit in the last place, in a form that compilers vectorise. Below the range of
 * float32 it gives (nearly) 0, also for -inf. */
INLINE float fast_exp(float x) {
    x = MIN(MAX(x, -87.3f), 88.7f);
    float n = rintf(x * 1.44269504f);
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union { int32_t i; float f; } scale = { ((int32_t)n + 127) << 23 };
    return p * scale.f;
}

/* Sixteen floats: one register with AVX-512, two or four elsewhere; the compiler splits them. */
typedef float v16 __attribute__((vector_size(64)));
typedef float v8 __attribute__((vector_size(32)));
typedef float v4 __attribute__((vector_size(16)));
typedef uint32_t u16x32 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

INLINE float sum_of(v16 x) {
    v8 a = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
           __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
    v4 b = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
    return (b[0] + b[2]) + (b[1] + b[3]);
}

INLINE v16 load16_float32(const float *x) {
    v16 out;
    memcpy(&out, x, sizeof out);
    return out;
}

INLINE v16 load16_bfloat16(const uint16_t *x) {
    u16x16 raw;
    memcpy(&raw, x, sizeof raw);
    return (v16)(__builtin_convertvector(raw, u16x32) << 16);
}

INLINE float load_bfloat16(uint16_t x) {
    union { uint32_t i; float f; } u = { (uint32_t)x << 16 };
    return u.f;
}

/* To nearest, ties to even. */
INLINE uint16_t store_bfloat16(float x) {
    union { float f; uint32_t i; } u = { x };
    uint32_t rounded = (u.i + 0x7fffu + ((u.i >> 16) & 1u)) >> 16;
    return (u.i & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : (uint16_t)rounded;
}

#define SUFFIX float32
#define T float
#define LOAD(x) (x)
#define LOAD16 load16_float32
#define STORE(x) (x)
#include "typed.h"
#undef SUFFIX
#undef T
#undef LOAD
#undef LOAD16
#undef STORE

#define SUFFIX bfloat16
#define T uint16_t
#define LOAD(x) load_bfloat16(x)
#define LOAD16 load16_bfloat16
#define STORE(x) store_bfloat16(x)
#include "typed.h"
#undef SUFFIX
#undef T
#undef LOAD
#undef LOAD16
#undef STORE

#ifdef __FLT16_MAX__
typedef _Float16 f16x16 __attribute__((vector_size(32)));

INLINE v16 load16_float16(const _Float16 *x) {
    f16x16 raw;
    memcpy(&raw, x, sizeof raw);
    return __builtin_convertvector(raw, v16);
}

#define SUFFIX float16
#define T _Float16
#define LOAD(x) ((float)(x))
#define LOAD16 load16_float16
#define STORE(x) ((_Float16)(x))
#include "typed.h"
#endif
