// What every CPU of a family has: SSE2 on x86-64, NEON on ARMv8. It serves the ISA names scalar and neon*.
#define WHISPERQ_MEL_LANES 4
#define WHISPERQ_MEL_ISA "baseline"
#include "audio/mel_frames_impl.h"

const whisperq::audio::FrameKernel whisperq::audio::kFramesBaseline = kKernel;
