#if !defined(__AVX2__) || !defined(__FMA__)
#error "compile this file with -mavx2 -mfma"
#endif
#define WHISPERQ_MEL_LANES 8
#define WHISPERQ_MEL_ISA "avx2"
#include "audio/mel_frames_impl.h"

const whisperq::audio::FrameKernel whisperq::audio::kFramesAvx2 = kKernel;
