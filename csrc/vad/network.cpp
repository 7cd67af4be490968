#include "vad/network.h"

#include <algorithm>
#include <cstring>

#include "kernels/half.h"
#include "kernels/pack.h"
#include "model/silero_file.h"

namespace whisperq::vad {
namespace {

using kernels::Format;
using kernels::kTileColumns;
using model::kSileroBins;
using model::kSileroChannels;
using model::kSileroFft;
using model::kSileroGates;
using model::kSileroHidden;
using model::kSileroTaps;

static_assert(Network::kWindowSamples == model::kSileroWindow);

std::vector<float> floats_of(const std::vector<uint16_t>& halves) {
    std::vector<float> values(halves.size());
    std::transform(halves.begin(), halves.end(), values.begin(), kernels::half_value);
    return values;
}

// [out][in][tap] -> [out][tap][in]: the frames that a convolution sees, side by side, are one row of its input.
std::vector<float> taps_first(const std::vector<float>& weight, int64_t n_in) {
    std::vector<float> rows(weight.size());
    const auto n_out = static_cast<int64_t>(weight.size()) / (n_in * kSileroTaps);
    for (int64_t o = 0; o < n_out; ++o) {
        for (int64_t i = 0; i < n_in; ++i) {
            for (int64_t tap = 0; tap < kSileroTaps; ++tap) {
                rows[static_cast<size_t>((o * kSileroTaps + tap) * n_in + i)] =
                    weight[static_cast<size_t>((o * n_in + i) * kSileroTaps + tap)];
            }
        }
    }
    return rows;
}

}  // namespace

Network::Network(const std::filesystem::path& path, const kernels::KernelTable& kernels) : kernels_(kernels) {
    const model::SileroFile file = model::read_silero_file(path);
    basis_ = pack(floats_of(file.basis), 2 * kSileroBins, kSileroFft, {});
    for (size_t i = 0; i < kConvolutions; ++i) {
        const int64_t n_in = kSileroChannels[i];
        encoder_[i] = pack(taps_first(floats_of(file.encoder[i].weight), n_in), kSileroChannels[i + 1],
                           kSileroTaps * n_in, file.encoder[i].bias);
    }
    std::vector<float> bias = file.input_bias;
    for (size_t i = 0; i < bias.size(); ++i) bias[i] += file.state_bias[i];
    input_ = pack(file.input_weight, kSileroGates, kSileroHidden, bias);
    state_ = pack(file.state_weight, kSileroGates, kSileroHidden, {});
    output_weight_ = floats_of(file.output_weight);
    output_bias_ = file.output_bias.front();
}

Network::Matrix Network::pack(const std::vector<float>& rows, int64_t n, int64_t k,
                              const std::vector<float>& bias) const {
    Matrix matrix;
    matrix.n = n;
    matrix.k = k;
    matrix.packed = AlignedBuffer(kernels::packed_bytes(Format::f32, n, k));
    for (int64_t i = 0; i < matrix.n_chunks(); ++i) {
        const int64_t first = i * kChunk, count = matrix.chunk_size(i);
        std::vector<float> columns(static_cast<size_t>(n * count));
        for (int64_t row = 0; row < n; ++row)
            std::copy_n(&rows[static_cast<size_t>(row * k + first)], count, &columns[static_cast<size_t>(row * count)]);
        auto* to = reinterpret_cast<uint8_t*>(matrix.packed.floats() + kernels::n_tiles(n) * kTileColumns * first);
        kernels::pack_rows(Format::f32, reinterpret_cast<const uint8_t*>(columns.data()), 0, n, count, to);
    }
    matrix.bias = AlignedBuffer(bias.size() * sizeof(float));
    if (!bias.empty()) std::memcpy(matrix.bias.data(), bias.data(), matrix.bias.size());
    return matrix;
}

}  // namespace whisperq::vad
