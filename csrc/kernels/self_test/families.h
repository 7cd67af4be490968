// The self-test by family of kernels.
#pragma once

#include "core/findings.h"
#include "kernels/kernels.h"

namespace whisperq::kernels::self_tests {

// Answers in digits are in these sources, too: scripts/self_test_answers.py computes them.

// Of every format: multiply_strip and multiply_packed, which read what quantize_strip and expand_tile wrote; and
// multiply_float and multiply_half.
void test_products(const KernelTable& table, Findings& findings);

// half_to_float, float_to_half, layer_norm and gelu.
void test_values(const KernelTable& table, Findings& findings);

// attention, exact and as quantised models have it.
void test_attention(const KernelTable& table, Findings& findings);

// quantize_head, score_keys, softmax and mix_values, for every type of cache.
void test_cached_attention(const KernelTable& table, Findings& findings);

}  // namespace whisperq::kernels::self_tests
