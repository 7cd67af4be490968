// Silero's voice detector as whisper.cpp's converter writes it: numbers of one fixed network, and nothing else.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <vector>

namespace whisperq::model {

// Dimensions of the network for 16 kHz. Upstream's graph is made for these and no others, and so is ours.
inline constexpr int32_t kSileroWindow = 512;  // samples that get one probability
inline constexpr int32_t kSileroFft = 256;     // samples of a frame
inline constexpr int32_t kSileroBins = 129;    // frequencies of a frame
inline constexpr int32_t kSileroTaps = 3;      // frames that a convolution sees
inline constexpr int32_t kSileroHidden = 128;  // values of the LSTM's state
inline constexpr int32_t kSileroGates = 4 * kSileroHidden;
inline constexpr std::array<int32_t, 5> kSileroChannels = {kSileroBins, 128, 64, 64, kSileroHidden};
inline constexpr size_t kSileroConvolutions = kSileroChannels.size() - 1;

struct SileroConvolution {
    std::vector<uint16_t> weight;  // f16 [out][in][kSileroTaps]
    std::vector<float> bias;       // [out]
};

// Everything is finite. Matrices have their outputs in rows.
struct SileroFile {
    std::vector<uint16_t> basis;  // f16 [2 * kSileroBins][kSileroFft]: the real parts, then the imaginary parts
    std::array<SileroConvolution, kSileroConvolutions> encoder;
    // Gates in the order input, forget, cell, output.
    std::vector<float> input_weight, input_bias;  // [kSileroGates][kSileroHidden], [kSileroGates]
    std::vector<float> state_weight, state_bias;  // the same for the state
    std::vector<uint16_t> output_weight;          // f16 [kSileroHidden]
    std::vector<float> output_bias;               // [1]
};

// Reads the file to its end. Throws Error(Status::model_not_found) where there is none, and ModelFormatError for
// anything but this network with each tensor once, of its shape and type.
SileroFile read_silero_file(const std::filesystem::path& path);

}  // namespace whisperq::model
