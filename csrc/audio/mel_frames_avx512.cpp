#if !defined(__AVX512F__) || !defined(__AVX512VL__) || !defined(__AVX512DQ__) || !defined(__FMA__)
#error "compile this file with -mavx512f -mavx512vl -mavx512dq -mfma"
#endif
#define WHISPERQ_MEL_LANES 16
#define WHISPERQ_MEL_ISA "avx512"
#include "audio/mel_frames_impl.h"

const whisperq::audio::FrameKernel whisperq::audio::kFramesAvx512 = kKernel;
