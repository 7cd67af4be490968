#include "audio/mel.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "core/status.h"

namespace whisperq::audio {
namespace {

constexpr int64_t kReflected = kFrameSamples / 2;  // samples before the first and behind the last one
constexpr int64_t kMostLanes = 16;
constexpr int64_t kMostGroupSamples = (kMostLanes + kMoreHops) * kHopSamples;
constexpr float kRange = 8.0f;  // powers of ten that are kept below the largest
constexpr double kPi = 3.14159265358979323846;

FrameTables make_tables() {
    FrameTables tables;
    for (int64_t j = 0; j < kFrameSamples; ++j) {
        tables.window[j] = 0.25 * (1.0 - std::cos(2.0 * kPi * double(j) / double(kFrameSamples)));
    }
    for (int n2 = 0; n2 < kPoints25; ++n2) {
        for (int n1 = 0; n1 < kPoints8; ++n1) {
            tables.source[n2][n1] = static_cast<uint16_t>((kPoints25 * n1 + kPoints8 * n2) % kPoints);
        }
    }
    for (int k = 0; k < kPoints; ++k) {  // the Chinese remainders of k say which transforms it comes from
        const int k1 = k % kPoints8, k2 = k % kPoints25;
        tables.place[k] = static_cast<uint16_t>(k1 * kPoints25 + 5 * (k2 % 5) + k2 / 5);
    }
    for (int a = 0; a < 5; ++a) {
        for (int c = 0; c < 5; ++c) {
            tables.cos25[a][c] = std::cos(2.0 * kPi * a * c / kPoints25);
            tables.sin25[a][c] = std::sin(2.0 * kPi * a * c / kPoints25);
        }
    }
    for (int k = 0; k <= kPoints / 2; ++k) {
        tables.cos400[k] = std::cos(2.0 * kPi * k / double(kFrameSamples));
        tables.sin400[k] = std::sin(2.0 * kPi * k / double(kFrameSamples));
    }
    return tables;
}

const FrameTables& tables() {
    static const FrameTables made = make_tables();
    return made;
}

constexpr size_t round_up(size_t n_bytes) {
    return (n_bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
}

bool is_finite(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return (bits & 0x7f800000) != 0x7f800000;
}

// Without a branch a sample, so that the compiler makes vectors of it; where the wrong one is, is asked later.
bool all_finite(const float* values, int64_t n) {
    bool finite = true;
    for (int64_t i = 0; i < n; ++i) finite &= is_finite(values[i]);
    return finite;
}

void check_finite(const float* pcm, int64_t n_samples, int64_t first_sample, ThreadPool& pool) {
    constexpr int64_t kPiece = 1 << 16;
    std::atomic<bool> finite{true};
    pool.run((n_samples + kPiece - 1) / kPiece, [&](int64_t i, int) {
        const int64_t begin = i * kPiece;
        if (!all_finite(pcm + begin, std::min(kPiece, n_samples - begin))) finite = false;
    });
    if (finite) return;
    const int64_t i = std::find_if_not(pcm, pcm + n_samples, &is_finite) - pcm;
    if (i == n_samples) return;  // another thread wrote to the samples meanwhile
    throw Error(Status::audio, "sample " + std::to_string(first_sample + i) + " of the audio is " +
                                   std::to_string(pcm[i]) + "; every sample has to be a finite number");
}

}  // namespace

// ---- What the frames are made of, and where they go ----------------------------------------------------------------

struct Mel::Audio {
    const float* samples;  // [first, end)
    int64_t first, end;
    int64_t length;  // with the zeros behind `end`, where it is reflected; the largest int64_t while it is not known

    float at(int64_t i) const noexcept {
        if (i < 0) i = -i;
        if (i >= length) i = 2 * (length - 1) - i;
        return i >= first && i < end ? samples[i - first] : 0.0f;
    }

    // Samples [begin, begin + n) from memory as it is, or else copied to `copy`.
    const float* range(int64_t begin, int64_t n, float* copy) const noexcept {
        if (begin >= first && begin + n <= end) return samples + (begin - first);
        for (int64_t i = 0; i < n; ++i) copy[i] = at(begin + i);
        return copy;
    }
};

struct Mel::Target {
    float* out;  // the value of mel m in frame t goes to out[m * mel_stride + (t - first_frame) * frame_stride]
    int64_t mel_stride, frame_stride, first_frame;
};

// ---- Mel -----------------------------------------------------------------------------------------------------------

Mel::Mel(const float* filters, int n_mels, const FrameKernel& kernel) : kernel_(kernel), n_mels_(n_mels) {
    if (n_mels < 1) throw Error(Status::internal, "a mel filterbank of " + std::to_string(n_mels) + " rows");
    begin_.push_back(0);
    for (int m = 0; m < n_mels; ++m) {
        const float* row = filters + m * kBins;
        const auto is_set = [](float weight) { return weight != 0.0f; };
        const float* first = std::find_if(row, row + kBins, is_set);
        const float* last = row + kBins;
        while (last > first && !is_set(last[-1])) --last;
        first_.push_back(first == last ? 0 : static_cast<int>(first - row));
        weights_.insert(weights_.end(), first, last);
        begin_.push_back(static_cast<int>(weights_.size()));
    }
}

void Mel::compute(const float* pcm, int64_t n_samples, int64_t padding, Layout layout, ThreadPool& pool,
                  float* out) const {
    const int64_t n_frames = count_frames(n_samples + padding);
    const Audio audio{pcm, 0, n_samples, std::max(n_samples + padding, kReflected + 1)};
    const Target target = layout == Layout::mels_first ? Target{out, n_frames, 1, 0} : Target{out, 1, n_mels_, 0};
    check_finite(pcm, n_samples, 0, pool);
    const float largest = compute_log10(audio, 0, n_frames, pool, target);
    normalise(out, n_mels_ * n_frames, largest, pool);
}

// Of one worker: the kernel's own, a group of frames that cannot go to its place directly, and samples that are not in
// memory as the kernel wants them.
struct Mel::Scratch {
    uint8_t* kernel;
    float* block;    // [n_mels][lanes]
    float* samples;  // [kMostGroupSamples]
};

size_t Mel::scratch_bytes() const noexcept {
    return round_up(kernel_.scratch_bytes) + round_up(block_floats() * sizeof(float)) +
           kMostGroupSamples * sizeof(float);
}

Mel::Scratch Mel::divide(AlignedBuffer& buffer) const noexcept {
    float* const block = buffer.floats() + round_up(kernel_.scratch_bytes) / sizeof(float);
    return {buffer.data(), block, block + round_up(block_floats() * sizeof(float)) / sizeof(float)};
}

float Mel::compute_log10(const Audio& audio, int64_t begin, int64_t end, ThreadPool& pool, const Target& target) const {
    constexpr int64_t kMostFrames = 256, kTasksPerWorker = 4;
    const int64_t wanted = (end - begin) / (kTasksPerWorker * pool.size());
    const int64_t frames_per_task = std::clamp(wanted / kMostLanes, int64_t{1}, kMostFrames / kMostLanes) * kMostLanes;

    std::vector<AlignedBuffer> scratch(static_cast<size_t>(pool.size()));
    std::vector<float> largest(scratch.size(), kLeastLog);
    pool.run((end - begin + frames_per_task - 1) / frames_per_task, [&](int64_t task, int worker) {
        const auto w = static_cast<size_t>(worker);
        if (scratch[w].size() == 0) scratch[w] = AlignedBuffer(scratch_bytes());
        const int64_t task_begin = begin + task * frames_per_task;
        const int64_t task_end = std::min(end, task_begin + frames_per_task);
        for (int64_t t = task_begin; t < task_end; t += kernel_.lanes) {
            const int64_t n = std::min<int64_t>(kernel_.lanes, task_end - t);
            largest[w] = std::max(largest[w], compute_group(audio, t, n, divide(scratch[w]), target));
        }
    });
    return *std::max_element(largest.begin(), largest.end());
}

// Frames [frame, frame + n), n being at most the kernel's lanes; gives the largest value.
float Mel::compute_group(const Audio& audio, int64_t frame, int64_t n, const Scratch& scratch,
                         const Target& target) const {
    const int lanes = kernel_.lanes;
    const int64_t first_sample = frame * kHopSamples - kReflected;
    float* out = target.out + (frame - target.first_frame) * target.frame_stride;
    const SparseFilters filters{n_mels_, first_.data(), begin_.data(), weights_.data()};

    float largest = kLeastLog;
    if (first_sample >= audio.end) {  // padding: what the kernel would make of zeros
        std::fill_n(scratch.block, n_mels_ * lanes, kLeastLog);
    } else {
        const float* samples = audio.range(first_sample, (lanes + kMoreHops) * kHopSamples, scratch.samples);
        if (n == lanes && target.frame_stride == 1) {
            return kernel_.compute(samples, tables(), filters, scratch.kernel, out, target.mel_stride);
        }
        kernel_.compute(samples, tables(), filters, scratch.kernel, scratch.block, lanes);
    }
    for (int64_t m = 0; m < n_mels_; ++m) {
        for (int64_t t = 0; t < n; ++t) {
            const float value = scratch.block[m * lanes + t];
            out[m * target.mel_stride + t * target.frame_stride] = value;
            largest = std::max(largest, value);
        }
    }
    return largest;
}

// ---- MelStream -----------------------------------------------------------------------------------------------------

void MelStream::push(const float* pcm, int64_t n_samples, std::vector<float>& frames) {
    check_finite(pcm, n_samples, n_samples_, pool_);
    samples_.insert(samples_.end(), pcm, pcm + n_samples);
    n_samples_ += n_samples;
    // The first frame needs the sample that is reflected, one more than it reaches.
    const bool has_first = n_samples_ > kReflected;
    take(has_first ? (n_samples_ - kReflected) / kHopSamples + 1 : 0, -1, frames);
}

void MelStream::finish(int64_t padding, std::vector<float>& frames) {
    take(count_frames(n_samples_ + padding), padding, frames);
    samples_.clear();
    first_sample_ = n_samples_ = n_frames_ = 0;
}

// All frames before `n_frames` that were not yielded yet. `padding` is below 0 while the audio has not ended.
void MelStream::take(int64_t n_frames, int64_t padding, std::vector<float>& frames) {
    if (n_frames <= n_frames_) return;
    const int64_t length =
        padding < 0 ? std::numeric_limits<int64_t>::max() / 4 : std::max(n_samples_ + padding, kReflected + 1);
    const Mel::Audio audio{samples_.data(), first_sample_, n_samples_, length};
    const size_t n_values = frames.size();
    frames.resize(n_values + static_cast<size_t>((n_frames - n_frames_) * mel_.n_mels()));
    mel_.compute_log10(audio, n_frames_, n_frames, pool_, {frames.data() + n_values, 1, mel_.n_mels(), n_frames_});
    n_frames_ = n_frames;
    const int64_t needed = std::max<int64_t>(0, n_frames * kHopSamples - kReflected);
    const int64_t n_passed = std::min(needed, n_samples_) - first_sample_;
    samples_.erase(samples_.begin(), samples_.begin() + n_passed);
    first_sample_ += n_passed;
}

void normalise(float* log10_mel, int64_t n_values, float largest, ThreadPool& pool) {
    constexpr int64_t kPiece = 1 << 16;
    const float least = largest - kRange;
    pool.run((n_values + kPiece - 1) / kPiece, [&](int64_t i, int) {
        float* const end = log10_mel + std::min(n_values, (i + 1) * kPiece);
        for (float* value = log10_mel + i * kPiece; value != end; ++value) {
            *value = (std::max(*value, least) + 4.0f) * 0.25f;
        }
    });
}

}  // namespace whisperq::audio
