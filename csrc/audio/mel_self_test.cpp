#include "audio/mel_self_test.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "audio/mel.h"
#include "core/thread_pool.h"

namespace whisperq::audio {
namespace {

constexpr int kMels = 6;
constexpr int64_t kFrames = 21;  // a group of lanes, and what is left of one
constexpr int64_t kSamples = kFrames * kHopSamples + 7;
constexpr int64_t kChecked[] = {0, 1, 9, 16, 20};
constexpr double kTolerance = 1e-5;
constexpr double kPi = 3.14159265358979323846;

// Triangles that overlap and together cover all bins.
std::vector<float> filters() {
    std::vector<float> bank(kMels * kBins);
    for (int64_t m = 0; m < kMels; ++m) {
        for (int64_t bin = 0; bin < kBins; ++bin) {
            const auto distance = static_cast<float>(std::llabs(bin - (20 + 32 * m)));
            bank[static_cast<size_t>(m * kBins + bin)] = std::max(0.0f, 1.0f - distance / 40.0f) / 40.0f;
        }
    }
    return bank;
}

// A tone in noise: nothing is 8 powers of ten below the largest, where values are clamped.
std::vector<float> audio() {
    std::vector<float> pcm(static_cast<size_t>(kSamples));
    for (int64_t i = 0; i < kSamples; ++i) {
        const auto noise = static_cast<double>((i * 7919 + i * i % 1009 * 31) % 2047 - 1023) / 4096;
        pcm[static_cast<size_t>(i)] = static_cast<float>(0.5 * std::sin(0.3 * static_cast<double>(i)) + noise);
    }
    return pcm;
}

// By the definition of the transform, in double precision.
std::vector<double> power_of_frame(const std::vector<float>& pcm, int64_t frame) {
    std::vector<double> cosine(kFrameSamples), windowed(kFrameSamples), power(kBins);
    for (int64_t i = 0; i < kFrameSamples; ++i) {
        cosine[static_cast<size_t>(i)] = std::cos(2 * kPi * static_cast<double>(i) / double{kFrameSamples});
    }
    for (int64_t i = 0; i < kFrameSamples; ++i) {
        int64_t at = std::llabs(frame * kHopSamples - kFrameSamples / 2 + i);
        if (at >= kSamples) at = 2 * (kSamples - 1) - at;
        windowed[static_cast<size_t>(i)] =
            static_cast<double>(pcm[static_cast<size_t>(at)]) * (0.5 - 0.5 * cosine[static_cast<size_t>(i)]);
    }
    for (int64_t bin = 0; bin < kBins; ++bin) {
        double re = 0.0, im = 0.0;
        for (int64_t i = 0; i < kFrameSamples; ++i) {
            re += windowed[static_cast<size_t>(i)] * cosine[static_cast<size_t>(bin * i % kFrameSamples)];
            im += windowed[static_cast<size_t>(i)] *
                  cosine[static_cast<size_t>((bin * i + kFrameSamples / 4) % kFrameSamples)];  // -sin
        }
        power[static_cast<size_t>(bin)] = re * re + im * im;
    }
    return power;
}

}  // namespace

void self_test(const FrameKernel& kernel, Findings& findings) {
    const std::vector<float> bank = filters(), pcm = audio();
    const Mel mel(bank.data(), kMels, kernel);
    ThreadPool pool(1);
    std::vector<float> out(kMels * kFrames);
    mel.compute(pcm.data(), kSamples, 0, Layout::mels_first, pool, out.data());
    findings.at("mel", mel.isa());
    for (const int64_t frame : kChecked) {
        const std::vector<double> power = power_of_frame(pcm, frame);
        for (int64_t m = 0; m < kMels; ++m) {
            double energy = 0.0;
            for (int64_t bin = 0; bin < kBins; ++bin) {
                energy +=
                    power[static_cast<size_t>(bin)] * static_cast<double>(bank[static_cast<size_t>(m * kBins + bin)]);
            }
            const int64_t at = m * kFrames + frame;
            findings.compare(static_cast<double>(out[static_cast<size_t>(at)]), (std::log10(energy) + 4) / 4,
                             kTolerance, at);
        }
    }
}

}  // namespace whisperq::audio
