// What is done with every logit of a row of the vocabulary. It is compiled once per ISA from one source
// (row_math_impl.h); dispatch/isas.h says which ISA has which. Constants and functions in here must not leave symbols
// in an object of one ISA that another could share.
#pragma once

#include <cstdint>

namespace whisperq::decoding {

struct RowMath {
    const char* isa;
    // The largest of n values; -inf of none, NaN where there is one.
    float (*max_of)(const float* x, int64_t n);
    // sum(exp((x - shift) * scale)), where shift is at least the largest x and scale is above 0. In float, of 256
    // values at a time, whose sums are added in double. What is below exp(-87) counts as 0, -inf among it.
    double (*sum_exp)(const float* x, int64_t n, float shift, float scale);
    // In place: exp(x - largest) over the sum of these.
    void (*softmax)(float* x, int64_t n);
};

extern const RowMath kRowMathBaseline;  // what every CPU of the family has: SSE2, NEON
extern const RowMath kRowMathAvx2;
extern const RowMath kRowMathAvx512;

// Throws Error(Status::inference): these logits are no finite numbers.
[[noreturn]] void refuse_logits();

}  // namespace whisperq::decoding
