// Whether spectrograms are right on this very CPU; see kernels/self_test.h.
#pragma once

#include "audio/mel_frames.h"
#include "core/findings.h"

namespace whisperq::audio {

void self_test(const FrameKernel& kernel, Findings& findings);

}  // namespace whisperq::audio
