// The self-test of the arithmetic on rows of logits, on this very CPU; see kernels/self_test.h.
#pragma once

#include "core/findings.h"
#include "decoding/row_math.h"

namespace whisperq::decoding {

void self_test(const RowMath& math, Findings& findings);

}  // namespace whisperq::decoding
