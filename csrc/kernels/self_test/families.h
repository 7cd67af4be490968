// The self-test by family of kernels.
#pragma once

#include "core/findings.h"
#include "kernels/kernels.h"

namespace whisperq::kernels::self_tests {

// The sources have some answers in digits, too. scripts/self_test_answers.py computes them.

// Test multiply_strip and multiply_packed of every format, with the results of quantize_strip and expand_tile, and
// multiply_float and multiply_half.
void test_products(const KernelTable& table, Findings& findings);
// Its parts: one block format, and the floats.
void test_block_products(const KernelTable& table, const FormatInfo& format, Findings& findings);
void test_float_products(const KernelTable& table, Findings& findings);

// Test half_to_float, float_to_half, layer_norm and gelu.
void test_values(const KernelTable& table, Findings& findings);

// Test attention, exact and as quantised models have it.
void test_attention(const KernelTable& table, Findings& findings);

// Test quantize_head, score_keys, softmax and mix_values, for every type of cache.
void test_cached_attention(const KernelTable& table, Findings& findings);

}  // namespace whisperq::kernels::self_tests
