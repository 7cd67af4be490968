// Log-mel spectrograms as openai/whisper defines them (whisper/audio.py), from 16 kHz float PCM.
//
// Frame t is 400 samples around sample 160 t under a Hann window; there is one for each whole 160 samples. Its power
// spectrum goes through the mel filterbank, and what is kept of the energy e of a mel is
//
//     (max(log10(max(e, 1e-10)), largest of all - 8) + 4) / 4
//
// Around its two ends the audio is reflected. That takes 201 samples; shorter audio is taken as if silence followed up
// to there (torch.stft, which openai/whisper uses, refuses it), and makes as many frames as its own length: one from
// 160 samples on, none before.
#pragma once

#include <cstdint>
#include <vector>

#include "audio/mel_frames.h"
#include "core/aligned.h"
#include "core/thread_pool.h"

namespace whisperq::audio {

enum class Layout {
    mels_first,    // [n_mels][n_frames], openai/whisper's and the encoder's
    frames_first,  // [n_frames][n_mels]: frames can be appended
};

constexpr int64_t count_frames(int64_t n_samples) {
    return n_samples / kHopSamples;
}

// A filterbank, ready for use on this CPU. Any number of threads may use it at the same time.
class Mel {
  public:
    // `filters` is [n_mels][kBins] and finite. `kernel` is one that this CPU supports (dispatch/isas.h).
    //
    // Throws Error(Status::internal) for sizes that no model has (n_mels below 1).
    Mel(const float* filters, int n_mels, const FrameKernel& kernel);

    int n_mels() const noexcept { return n_mels_; }
    // Of the frame kernel: "baseline", "avx2" or "avx512".
    const char* isa() const noexcept { return kernel_.isa; }

    // The spectrogram of `n_samples` samples and `padding` zeros behind them, to
    // out[n_mels * count_frames(n_samples + padding)]. The result has the same bits for any number of threads.
    //
    // Throws Error(Status::audio) for a sample that is not finite.
    void compute(const float* pcm, int64_t n_samples, int64_t padding, Layout layout, ThreadPool& pool,
                 float* out) const;

  private:
    friend class MelStream;
    struct Audio;
    struct Target;
    struct Scratch;

    float compute_log10(const Audio& audio, int64_t begin, int64_t end, ThreadPool& pool, const Target& target) const;
    float compute_group(const Audio& audio, int64_t frame, int64_t n, const Scratch& scratch,
                        const Target& target) const;
    size_t block_floats() const noexcept { return static_cast<size_t>(n_mels_) * static_cast<size_t>(kernel_.lanes); }
    size_t scratch_bytes() const noexcept;
    Scratch divide(AlignedBuffer& buffer) const noexcept;

    const FrameKernel& kernel_;
    int n_mels_;
    std::vector<int> first_, begin_;
    std::vector<float> weights_;
};

// A spectrogram of audio that comes in pieces. It yields log10(max(e, 1e-10)), [n][n_mels], which the clamp at the
// largest value - 8 has still to be applied to, of all audio or of a window as the caller likes: see normalise(). The
// values have the bits that Mel::compute() gets for all of the audio at once.
class MelStream {
  public:
    // Both must outlive the stream.
    MelStream(const Mel& mel, ThreadPool& pool) : mel_(mel), pool_(pool) {}

    // Appends to `frames` those that all samples have come for.
    //
    // Throws Error(Status::audio) for a sample that is not finite; the stream is then as it was before.
    void push(const float* pcm, int64_t n_samples, std::vector<float>& frames);
    // Appends the frames that are left when the audio ends here, with `padding` zeros behind it. The next push() begins
    // another audio.
    void finish(int64_t padding, std::vector<float>& frames);

    int64_t n_samples() const noexcept { return n_samples_; }  // so far
    int64_t n_frames() const noexcept { return n_frames_; }    // yielded so far

  private:
    void take(int64_t n_frames, int64_t padding, std::vector<float>& frames);

    const Mel& mel_;
    ThreadPool& pool_;
    std::vector<float> samples_;  // from first_sample_ on: what the frames to come are made of
    int64_t first_sample_ = 0, n_samples_ = 0, n_frames_ = 0;
};

// The last step, in place, on values whose largest is `largest`: (max(x, largest - 8) + 4) / 4.
void normalise(float* log10_mel, int64_t n_values, float largest, ThreadPool& pool);

}  // namespace whisperq::audio
