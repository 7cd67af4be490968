#if !defined(__AVX512F__) || !defined(__AVX512VL__) || !defined(__AVX512DQ__) || !defined(__FMA__)
#error "compile this file with -mavx512f -mavx512vl -mavx512dq -mfma"
#endif
#define WHISPERQ_ROW_LANES 16
#define WHISPERQ_ROW_ISA "avx512"
#include "decoding/row_math_impl.h"

const whisperq::decoding::RowMath whisperq::decoding::kRowMathAvx512 = kMath;
