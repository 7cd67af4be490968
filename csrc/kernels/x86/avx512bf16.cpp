// Kernels for CPUs with AVX-512, its byte dot products and bf16 (Intel from Cooper Lake on, AMD from Zen 4 on). They
// are those of avx512vnni, with attention in bf16.
#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__) || \
    !defined(__AVX512VNNI__) || !defined(__AVX512BF16__) || !defined(__FMA__) || !defined(__F16C__)
#error "compile this file with the flags that cmake/Kernels.cmake gives it"
#endif

// GCC 12 takes the deliberately undefined registers of its own intrinsics for a mistake.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include "kernels/cached_attention.h"
#include "kernels/tables.h"
#include "kernels/x86/avx512_attention.h"
#include "kernels/x86/avx512_bf16.h"
#include "kernels/x86/avx512_packed.h"
#include "kernels/x86/avx512_product.h"
#include "kernels/x86/avx512_quantize.h"
#include "kernels/x86/avx512_rows.h"

namespace whisperq::kernels {
namespace {

void attention(const HeadRows& head, bool exact, float* out, int64_t out_stride, float* scratch) {
    (exact ? attend<F32Keys, F32Values> : attend<Int8Keys, Bf16Values>)(head, out, out_stride, scratch);
}

}  // namespace

const KernelTable kAvx512Bf16Table = {
    "avx512bf16",   quantize_strip,       expand_tile,       multiply_strip, kTilesPerCall,     multiply_packed,
    multiply_float, multiply_half,        half_to_float,     float_to_half,  layer_norm,        gelu_values,
    attention,      quantize_head<Lanes>, score_keys<Lanes>, softmax<Lanes>, mix_values<Lanes>,
};

}  // namespace whisperq::kernels
