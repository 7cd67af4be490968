// Arithmetic on every logit of a row of the vocabulary. It is compiled once per ISA from one source (row_math_impl.h),
// and dispatch/isas.h says which ISA has which. Constants and functions in here must not leave symbols in an object of
// one ISA that another could share.
#pragma once

#include <cstdint>

namespace whisperq::decoding {

struct RowMath {
    const char* isa;
    // Return the largest of n values: -inf of none, NaN where there is one.
    float (*max_of)(const float* x, int64_t n);
    // Return sum(exp((x - shift) * scale)), where shift is at least the largest x and scale is above 0. Sums of 256
    // values are float, and are added in double. Terms below exp(-87), such as that of -inf, count as 0.
    double (*sum_exp)(const float* x, int64_t n, float shift, float scale);
    // Compute softmax in place: exp(x - largest) over the sum of these.
    void (*softmax)(float* x, int64_t n);
};

extern const RowMath kRowMathBaseline;  // for every CPU of the family: SSE2, NEON
extern const RowMath kRowMathAvx2;
extern const RowMath kRowMathAvx512;

// Throw Error(Status::inference), because logits are no finite numbers.
[[noreturn]] void refuse_logits();

}  // namespace whisperq::decoding
