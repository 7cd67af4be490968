// The checks of check_kernels, by family of kernels. Each adds what it found to the checker.
#pragma once

#include "checker.h"

namespace check {

// check_packing.cpp, of scalar only
void check_pack(Checker& checker);

// check_quantised_inputs.cpp, the second of scalar only
void check_quantize(Checker& checker);
void check_scalar_strip(Checker& checker);

// check_products.cpp
void check_multiply_strip(Checker& checker);
void check_multiply_float(Checker& checker);

// check_packed_products.cpp
void check_multiply_packed(Checker& checker);
void check_multiply_half(Checker& checker);

// check_values.cpp
void check_half_to_float(Checker& checker);
void check_float_to_half(Checker& checker);
void check_layer_norm(Checker& checker);
void check_gelu(Checker& checker);

// check_attention.cpp
void check_attention(Checker& checker);

// check_cached_attention.cpp
void check_quantize_head(Checker& checker);
void check_score_keys(Checker& checker);
void check_softmax(Checker& checker);
void check_mix_values(Checker& checker);

}  // namespace check
