// Whether the arithmetic on rows of logits is right on this very CPU; see kernels/self_test.h.
#pragma once

#include "core/findings.h"
#include "decoding/row_math.h"

namespace whisperq::decoding {

void self_test(const RowMath& math, Findings& findings);

}  // namespace whisperq::decoding
