// How fast one core is at the instructions that the kernels rely on: many independent chains of them and nothing else.
#pragma once

#include <cstdint>

namespace check {

// Each runs `rounds` rounds and returns the operations done, a multiplication and an addition being two.
using PeakProbe = int64_t (*)(int64_t rounds);

struct Peak {
    const char* isa;
    PeakProbe int8;  // exact products of bytes, summed in the cheapest way that some format allows
    PeakProbe f32;
    PeakProbe bf16;  // nullptr where there is no instruction for it
};

extern const Peak kPeakScalar;
#ifdef WHISPERQ_HAVE_AVX2
extern const Peak kPeakAvx2;
#endif
#ifdef WHISPERQ_HAVE_AVX512VNNI
extern const Peak kPeakAvx512Vnni;
#endif
#ifdef WHISPERQ_HAVE_AVX512BF16
extern const Peak kPeakAvx512Bf16;
#endif
#ifdef WHISPERQ_HAVE_NEON
extern const Peak kPeakNeon;
#endif
#ifdef WHISPERQ_HAVE_NEON_DOTPROD
extern const Peak kPeakNeonDotprod;
#endif
#ifdef WHISPERQ_HAVE_NEON_I8MM
extern const Peak kPeakNeonI8mm;
#endif

}  // namespace check
