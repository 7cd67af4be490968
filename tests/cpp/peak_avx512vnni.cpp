#if !defined(__AVX512F__) || !defined(__AVX512VNNI__)
#error "needs the flags of avx512vnni in cmake/Kernels.cmake"
#endif
#include "peak_avx512.h"

namespace check {

const Peak kPeakAvx512Vnni = {"avx512vnni", int8_products, float_products, nullptr};

}  // namespace check
