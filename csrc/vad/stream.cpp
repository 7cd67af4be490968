#include "vad/stream.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "core/status.h"
#include "kernels/pack.h"
#include "model/silero_file.h"

namespace whisperq::vad {
namespace {

using kernels::Epilogue;
using kernels::kStripRows;
using kernels::kTileColumns;
using model::kSileroBins;
using model::kSileroChannels;
using model::kSileroFft;
using model::kSileroGates;
using model::kSileroHidden;
using model::kSileroTaps;

constexpr int64_t kMirrored = 64;  // samples before and after a window
constexpr int64_t kPaddedSamples = Network::kWindowSamples + 2 * kMirrored;
constexpr int64_t kHop = 128;
constexpr int64_t kFrames = (kPaddedSamples - kSileroFft) / kHop + 1;
constexpr int64_t kConvolutionStrides[] = {1, 2, 2, 1};  // 4 frames, 4, 2, 1, 1
constexpr float kLargestHalf = 65504.0f;

// Rows begin on a cache line.
constexpr int64_t padded(int64_t n) {
    return (n + 15) / 16 * 16;
}

constexpr int64_t kWidestInput = padded(kSileroTaps * kSileroBins);
constexpr int64_t kWidestOutput = padded(2 * kSileroBins);
static_assert(kFrames * kWidestOutput >= padded(kPaddedSamples));

AlignedBuffer float_buffer(int64_t n) {
    AlignedBuffer buffer(static_cast<size_t>(n) * sizeof(float));
    std::memset(buffer.data(), 0, buffer.size());
    return buffer;
}

// Return e^x to a few units in the last place. x is clamped to [-87, 87]. x = n ln 2 + f with |f| <= ln 2 / 2, and e^f
// comes by its Taylor series. There is no branch and no call, so that the compiler vectorises it.
inline float exponential(float x) {
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: what is added to it loses its fraction
    constexpr float kLn2High = 0.693145751953125f, kLn2Low = 1.42860677e-6f;
    x = x > 87.0f ? 87.0f : x;
    x = x < -87.0f ? -87.0f : x;
    const float n = (x * 1.44269504f + kRound) - kRound;
    const float f = (x - n * kLn2High) - n * kLn2Low;
    float series = 1.0f / 5040;
    series = series * f + 1.0f / 720;
    series = series * f + 1.0f / 120;
    series = series * f + 1.0f / 24;
    series = series * f + 1.0f / 6;
    series = series * f + 0.5f;
    series = series * f + 1.0f;
    series = series * f + 1.0f;
    const float whole = n == n ? n : 0.0f;  // no integer is NaN, which `series` keeps
    const int32_t bits = (static_cast<int32_t>(whole) + 127) * (1 << 23);
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return series * power;
}

inline float sigmoid(float x) {
    return 1.0f / (1.0f + exponential(-x));
}

// To 1e-7 in absolute terms, which is all that matters to what it is multiplied with.
inline float tangent(float x) {
    return 1.0f - 2.0f / (1.0f + exponential(2.0f * x));
}

void require_finite(const float* samples, int64_t n) {
    bool finite = true;
    for (int64_t i = 0; i < n; ++i) finite &= std::fabs(samples[i]) <= 3.4028234e38f;  // false for NaN
    if (finite) return;
    const float* first = std::find_if_not(samples, samples + n, [](float sample) { return std::isfinite(sample); });
    throw Error(Status::audio, "sample " + std::to_string(first - samples) + " is " + std::to_string(*first) +
                                   "; samples have to be finite numbers, in [-1, 1]");
}

}  // namespace

Stream::Stream(std::shared_ptr<const Network> network)
    : network_(std::move(network)),
      inputs_(float_buffer(kBatch * kFrames * kWidestInput)),
      outputs_(float_buffer(kBatch * kFrames * kWidestOutput)),
      halves_(static_cast<size_t>(kPaddedSamples) * sizeof(uint16_t)),
      gates_(float_buffer(kSileroGates)),
      hidden_(float_buffer(kSileroHidden)),
      cell_(float_buffer(kSileroHidden)),
      pending_(float_buffer(Network::kWindowSamples)) {}

void Stream::feed(const float* samples, int64_t n_samples, std::vector<float>& probabilities) {
    constexpr int64_t window = Network::kWindowSamples;
    require_finite(samples, n_samples);
    if (n_pending_ > 0) {
        const int64_t n = std::min(n_samples, window - n_pending_);
        std::copy_n(samples, n, pending_.floats() + n_pending_);
        n_pending_ += n;
        samples += n;
        n_samples -= n;
        if (n_pending_ < window) return;
        compute(pending_.floats(), 1, probabilities);
        n_pending_ = 0;
    }
    while (n_samples >= window) {
        const int64_t n_windows = std::min(kBatch, n_samples / window);
        compute(samples, n_windows, probabilities);
        samples += n_windows * window;
        n_samples -= n_windows * window;
    }
    std::copy_n(samples, n_samples, pending_.floats());
    n_pending_ = n_samples;
}

void Stream::finish(std::vector<float>& probabilities) {
    if (n_pending_ > 0) {
        std::fill(pending_.floats() + n_pending_, pending_.floats() + Network::kWindowSamples, 0.0f);
        compute(pending_.floats(), 1, probabilities);
    }
    reset();
}

void Stream::reset() noexcept {
    n_pending_ = 0;
    std::fill_n(hidden_.floats(), kSileroHidden, 0.0f);
    std::fill_n(cell_.floats(), kSileroHidden, 0.0f);
}

// ---- The network --------------------------------------------------------------------------------------------------

void Stream::compute(const float* samples, int64_t n_windows, std::vector<float>& probabilities) {
    Rows rows = magnitudes(frames(samples, n_windows));
    for (size_t layer = 0; layer < Network::kConvolutions; ++layer) rows = convolve(layer, rows, n_windows);
    // One frame a window is left. The input's share of the gates needs no state: it is one product.
    std::copy_n(rows.data, n_windows * rows.stride, inputs_.floats());
    const Rows gates{outputs_.floats(), n_windows, kSileroGates};
    multiply(network_->input_, {inputs_.floats(), n_windows, rows.stride}, nullptr, gates);
    for (int64_t i = 0; i < n_windows; ++i) probabilities.push_back(step(gates[i]));
}

// Frames of the windows, each window mirrored at its ends (without repeating its first and last sample).
Stream::Rows Stream::frames(const float* samples, int64_t n_windows) {
    constexpr int64_t window = Network::kWindowSamples;
    const Rows rows{inputs_.floats(), n_windows * kFrames, kSileroFft};
    float* audio = outputs_.floats();
    for (int64_t w = 0; w < n_windows; ++w, samples += window) {
        for (int64_t i = 0; i < kMirrored; ++i) {
            audio[i] = samples[kMirrored - i];
            audio[kMirrored + window + i] = samples[window - 2 - i];
        }
        std::copy_n(samples, window, audio + kMirrored);
        round(audio, kPaddedSamples);
        for (int64_t f = 0; f < kFrames; ++f) std::copy_n(audio + f * kHop, kSileroFft, rows[w * kFrames + f]);
    }
    return rows;
}

Stream::Rows Stream::magnitudes(const Rows& frames) {
    const Rows spectrum{outputs_.floats(), frames.n, padded(2 * kSileroBins)};
    multiply(network_->basis_, frames, nullptr, spectrum);
    for (int64_t r = 0; r < spectrum.n; ++r) {
        float* real = spectrum[r];
        const float* imaginary = real + kSileroBins;
        for (int64_t i = 0; i < kSileroBins; ++i) {
            real[i] = std::sqrt(real[i] * real[i] + imaginary[i] * imaginary[i]);
        }
    }
    return spectrum;
}

// A convolution over three frames of a window, with a frame of zeros before its first and behind its last, and ReLU.
Stream::Rows Stream::convolve(size_t layer, const Rows& input, int64_t n_windows) {
    const int64_t n_in = kSileroChannels[layer], n_out = kSileroChannels[layer + 1];
    const int64_t n_frames = input.n / n_windows, hop = kConvolutionStrides[layer];
    const int64_t n_out_frames = (n_frames - 1) / hop + 1;
    for (int64_t r = 0; r < input.n; ++r) round(input[r], n_in);
    const Rows rows{inputs_.floats(), n_windows * n_out_frames, padded(kSileroTaps * n_in)};
    for (int64_t r = 0; r < rows.n; ++r) {
        const int64_t window = r / n_out_frames, first = r % n_out_frames * hop - 1;
        for (int64_t tap = 0; tap < kSileroTaps; ++tap) {
            const int64_t frame = first + tap;
            float* to = rows[r] + tap * n_in;
            if (frame < 0 || frame >= n_frames) {
                std::fill_n(to, n_in, 0.0f);
            } else {
                std::copy_n(input[window * n_frames + frame], n_in, to);
            }
        }
    }
    const Rows out{outputs_.floats(), rows.n, n_out};
    multiply(network_->encoder_[layer], rows, nullptr, out);
    for (int64_t i = 0; i < out.n * n_out; ++i) out.data[i] = out.data[i] > 0.0f ? out.data[i] : 0.0f;
    return out;
}

// One window: the LSTM's next state, and what the output layer makes of it.
float Stream::step(const float* from_input) {
    float *gates = gates_.floats(), *hidden = hidden_.floats(), *cell = cell_.floats();
    multiply(network_->state_, {hidden, 1, kSileroHidden}, from_input, {gates, 1, kSileroGates});
    for (int64_t i = 0; i < kSileroHidden; ++i) {
        const float kept = sigmoid(gates[kSileroHidden + i]) * cell[i];
        cell[i] = kept + sigmoid(gates[i]) * tangent(gates[2 * kSileroHidden + i]);
        hidden[i] = sigmoid(gates[3 * kSileroHidden + i]) * tangent(cell[i]);
    }
    for (int64_t i = 0; i < kSileroHidden; ++i) gates[i] = hidden[i] > 0.0f ? hidden[i] : 0.0f;
    round(gates, kSileroHidden);
    float sum = network_->output_bias_;
    for (int64_t i = 0; i < kSileroHidden; ++i) sum += gates[i] * network_->output_weight_[static_cast<size_t>(i)];
    return sigmoid(sum);
}

// Round to the nearest f16. Values beyond the largest f16, from audio far beyond [-1, 1], become the largest, because
// infinity times 0 would stay in the LSTM's state for ever.
void Stream::round(float* values, int64_t n) noexcept {
    auto* halves = reinterpret_cast<uint16_t*>(halves_.data());
    for (int64_t i = 0; i < n; ++i) {
        const float value = values[i] < kLargestHalf ? values[i] : kLargestHalf;
        values[i] = value > -kLargestHalf ? value : -kLargestHalf;
    }
    network_->kernels().float_to_half(values, n, halves);
    network_->kernels().half_to_float(halves, n, values);
}

// A group of tiles of one chunk at a time, which stays in the cache while every strip is multiplied with it.
void Stream::multiply(const Network::Matrix& matrix, const Rows& input, const float* residual, const Rows& out) const {
    const kernels::KernelTable& kernels = network_->kernels();
    const int64_t n_tiles = kernels::n_tiles(matrix.n);
    for (int64_t tile = 0; tile < n_tiles; tile += kernels.tiles_per_call) {
        const int64_t tiles = std::min(kernels.tiles_per_call, n_tiles - tile), column = tile * kTileColumns;
        const int64_t n_columns = std::min(tiles * kTileColumns, matrix.n - column);
        for (int64_t chunk = 0; chunk < matrix.n_chunks(); ++chunk) {
            const int64_t first = chunk * Network::kChunk, k = matrix.chunk_size(chunk);
            const float* panel = matrix.packed.floats() + n_tiles * kTileColumns * first + column * k;
            const float* added = chunk == 0 ? residual : out.data;
            Epilogue epilogue;
            if (chunk == 0 && matrix.bias.size() > 0) epilogue.bias = matrix.bias.floats() + column;
            for (int64_t row = 0; row < input.n; row += kStripRows) {
                if (added) epilogue.residual = added + row * out.stride + column;
                kernels.multiply_float(input[row] + first, input.stride, panel, tiles, k,
                                       std::min(kStripRows, input.n - row), n_columns, out[row] + column, out.stride,
                                       epilogue);
            }
        }
    }
}

}  // namespace whisperq::vad
