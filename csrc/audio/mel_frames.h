// The inner part of the log-mel spectrogram: a few frames side by side, one in each lane of the vectors. It is compiled
// once per ISA from one source (mel_frames_impl.h); mel.cpp does all else. dispatch/isas.h says which ISA has which.
#pragma once

#include <cstddef>
#include <cstdint>

namespace whisperq::audio {

// Constants are not `inline`: an object of one ISA must not share symbols with another.
constexpr int64_t kSampleRate = 16000;
constexpr int64_t kFrameSamples = 400;  // a frame is 25 ms, windowed
constexpr int64_t kHopSamples = 160;    // and begins 10 ms after the one before
constexpr int64_t kBins = kFrameSamples / 2 + 1;
constexpr float kLeastPower = 1e-10f;
constexpr float kLeastLog = -10.0f;  // log10 of that: the value of silence

// A kernel reads its frames in whole hops, and some hops more than the last frame covers.
constexpr int64_t kMoreHops = 4;

// A real transform of 400 samples is a complex one of 200 (even samples + i * odd samples) and a step that takes the
// two halves apart. 200 = 8 * 25 with no common factor: in the right order (Good and Thomas') it is 25 transforms of 8
// and then 8 of 25 = 5 * 5, with nothing to multiply in between.
constexpr int kPoints = 200;
constexpr int kPoints8 = 8;
constexpr int kPoints25 = 25;

struct FrameTables {
    double window[kFrameSamples];          // Hann's, periodic, halved: taking the halves apart doubles
    uint16_t source[kPoints25][kPoints8];  // which point the transforms of 8 take: [n2][n1]
    uint16_t place[kPoints];               // where the transforms of 25 leave frequency k
    double cos25[5][5], sin25[5][5];       // exp(-2 pi i a c / 25) = cos25[a][c] - i * sin25[a][c]
    double cos400[kPoints / 2 + 1], sin400[kPoints / 2 + 1];  // exp(-2 pi i k / 400), likewise
};

// The rows of a mel filterbank without the zeros before the first and after the last value of each.
struct SparseFilters {
    int n_mels;
    const int* first;      // [n_mels], a bin
    const int* begin;      // [n_mels + 1], indices into `weights`
    const float* weights;  // of all rows, one after the other
};

// Frame `l` of `lanes` begins at samples[kHopSamples * l]; (lanes + kMoreHops) * kHopSamples finite samples are read.
// Writes log10(max(mel power, kLeastPower)) of it to out[m * out_stride + l] and returns the largest value written.
// `scratch` is aligned to kCacheLine (core/aligned.h). What a lane gives does not depend on the others.
using ComputeFrames = float (*)(const float* samples, const FrameTables& tables, const SparseFilters& filters,
                                uint8_t* scratch, float* out, int64_t out_stride);

struct FrameKernel {
    const char* isa;
    int lanes;
    size_t scratch_bytes;
    ComputeFrames compute;
};

extern const FrameKernel kFramesBaseline;  // what every CPU of the family has: SSE2, NEON
extern const FrameKernel kFramesAvx2;
extern const FrameKernel kFramesAvx512;

}  // namespace whisperq::audio
