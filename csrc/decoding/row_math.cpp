#include "decoding/row_math.h"

namespace whisperq::decoding {

const RowMath& row_math_for([[maybe_unused]] const std::string& isa) {
#ifdef WHISPERQ_HAVE_AVX512VNNI
    if (isa == "avx512vnni" || isa == "avx512bf16") return kRowMathAvx512;
#endif
#ifdef WHISPERQ_HAVE_AVX2
    if (isa == "avx2") return kRowMathAvx2;
#endif
    return kRowMathBaseline;
}

}  // namespace whisperq::decoding
