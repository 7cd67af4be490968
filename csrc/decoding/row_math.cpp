#include "decoding/row_math.h"

#include <cstring>

#include "core/status.h"

namespace whisperq::decoding {

const RowMath& row_math_for([[maybe_unused]] const char* isa) {
#ifdef WHISPERQ_HAVE_AVX512VNNI
    if (std::strcmp(isa, "avx512vnni") == 0 || std::strcmp(isa, "avx512bf16") == 0) return kRowMathAvx512;
#endif
#ifdef WHISPERQ_HAVE_AVX2
    if (std::strcmp(isa, "avx2") == 0) return kRowMathAvx2;
#endif
    return kRowMathBaseline;
}

void refuse_logits() {
    throw Error(Status::inference,
                "the decoder computed logits that are not finite numbers; the model's weights are damaged or out of "
                "range: convert it again, or use a type of more bits");
}

}  // namespace whisperq::decoding
