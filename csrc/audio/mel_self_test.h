// Whether spectrograms are right on this very CPU; see kernels/self_test.h.
#pragma once

#include <string>

#include "core/findings.h"

namespace whisperq::audio {

// `isa`: as Mel takes it.
void self_test(const std::string& isa, Findings& findings);

}  // namespace whisperq::audio
