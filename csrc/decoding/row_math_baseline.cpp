// Row math for every CPU of a family: SSE2 on x86-64, NEON on ARMv8. It serves the ISA names scalar and neon*.
#define WHISPERQ_ROW_LANES 4
#define WHISPERQ_ROW_ISA "baseline"
#include "decoding/row_math_impl.h"

const whisperq::decoding::RowMath whisperq::decoding::kRowMathBaseline = kMath;
