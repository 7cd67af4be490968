#if !defined(__AVX2__) || !defined(__FMA__)
#error "compile this file with -mavx2 -mfma"
#endif
#define WHISPERQ_ROW_LANES 8
#define WHISPERQ_ROW_ISA "avx2"
#include "decoding/row_math_impl.h"

const whisperq::decoding::RowMath whisperq::decoding::kRowMathAvx2 = kMath;
