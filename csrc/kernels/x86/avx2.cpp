// The kernels of CPUs with AVX2, FMA and F16C, but no dot product instruction: Intel since Haswell, AMD since Zen.
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__) || !defined(__BMI2__)
#error "compile with -mavx2 -mfma -mf16c -mbmi2 (cmake/Kernels.cmake)"
#endif

#include <immintrin.h>
#include <stdint.h>

#include "kernels/cached_attention.h"
#include "kernels/tables.h"
#include "kernels/x86/avx2_attention.h"
#include "kernels/x86/avx2_attention_int16.h"
#include "kernels/x86/avx2_float.h"
#include "kernels/x86/avx2_math.h"
#include "kernels/x86/avx2_packed.h"
#include "kernels/x86/avx2_quantised.h"

namespace whisperq::kernels {
namespace {

constexpr float kLayerNormEpsilon = 1e-5f;

void half_to_float(const uint16_t* half, int64_t n, float* out) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(half + i));
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(eight));
    }
    for (; i < n; ++i) out[i] = _cvtsh_ss(half[i]);
}

void float_to_half(const float* values, int64_t n, uint16_t* half) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(half + i), _mm256_cvtps_ph(_mm256_loadu_ps(values + i), kNearest));
    }
    for (; i < n; ++i) half[i] = _cvtss_sh(values[i], kNearest);
}

void gelu(float* values, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes) {
        if (n - i >= kLanes) {
            _mm256_storeu_ps(values + i, gelu_of(_mm256_loadu_ps(values + i)));
        } else {
            const __m256i exist = first_lanes(n - i);
            _mm256_maskstore_ps(values + i, exist, gelu_of(_mm256_maskload_ps(values + i, exist)));
        }
    }
}

// Return the sum by four partial sums, so that an addition need not wait for the one before it. Rows are a few hundred
// values long.
float sum_of(const float* x, int64_t n) {
    __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    int64_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
        for (int j = 0; j < 4; ++j) sum[j] = _mm256_add_ps(sum[j], _mm256_loadu_ps(x + i + j * kLanes));
    }
    for (; i < n; i += kLanes) sum[0] = _mm256_add_ps(sum[0], _mm256_maskload_ps(x + i, first_lanes(n - i)));
    return sum_of_lanes(_mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3])));
}

float sum_of_squares(const float* x, int64_t n, float mean) {
    const __m256 centre = _mm256_set1_ps(mean);
    __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    int64_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
        for (int j = 0; j < 4; ++j) {
            const __m256 d = _mm256_sub_ps(_mm256_loadu_ps(x + i + j * kLanes), centre);
            sum[j] = _mm256_fmadd_ps(d, d, sum[j]);
        }
    }
    for (; i < n; i += kLanes) {
        const __m256i exist = first_lanes(n - i);
        const __m256 d =
            _mm256_sub_ps(_mm256_maskload_ps(x + i, exist), _mm256_and_ps(centre, _mm256_castsi256_ps(exist)));
        sum[0] = _mm256_fmadd_ps(d, d, sum[0]);
    }
    return sum_of_lanes(_mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3])));
}

void layer_norm_row(const float* x, int64_t n, const float* weight, const float* bias, float* out) {
    const float mean = sum_of(x, n) / static_cast<float>(n);
    const float variance = sum_of_squares(x, n, mean) / static_cast<float>(n);
    const __m256 by = _mm256_div_ps(_mm256_set1_ps(1.0f), _mm256_sqrt_ps(_mm256_set1_ps(variance + kLayerNormEpsilon)));
    const __m256 centre = _mm256_set1_ps(mean);
    const float factor = _mm256_cvtss_f32(by);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const __m256 d = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i), centre), by);
        _mm256_storeu_ps(out + i, _mm256_fmadd_ps(d, _mm256_loadu_ps(weight + i), _mm256_loadu_ps(bias + i)));
    }
    for (; i < n; ++i) out[i] = (x[i] - mean) * factor * weight[i] + bias[i];
}

void layer_norm(const float* input, int64_t n_rows, int64_t n, const float* weight, const float* bias, float* out) {
    for (int64_t r = 0; r < n_rows; ++r) layer_norm_row(input + r * n, n, weight, bias, out + r * n);
}

void attention(const HeadRows& head, bool exact, float* out, int64_t out_stride, float* scratch) {
    (exact ? attention_float : attention_int16)(head, out, out_stride, scratch);
}

}  // namespace

const KernelTable kAvx2Table = {
    "avx2",         quantize_strip,       expand_tile,       multiply_strip, kPanelTiles,       multiply_packed,
    multiply_float, multiply_half,        half_to_float,     float_to_half,  layer_norm,        gelu,
    attention,      quantize_head<Lanes>, score_keys<Lanes>, softmax<Lanes>, mix_values<Lanes>,
};

}  // namespace whisperq::kernels
