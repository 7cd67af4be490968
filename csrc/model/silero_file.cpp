#include "model/silero_file.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>

#include "model/bounded_reader.h"

namespace whisperq::model {

namespace {

// ---- The header ---------------------------------------------------------------------------------------------------

constexpr std::string_view kMagic = "lmgg";
constexpr std::string_view kType = "silero-16k";
constexpr int32_t kContext = 64;

void expect_bytes(BoundedReader& in, const std::string& field, std::string_view allowed) {
    const uint64_t offset = in.offset();
    const std::string bytes = in.read_string(std::min<uint64_t>(in.remaining(), allowed.size()), field);
    if (bytes != allowed) in.fail(offset, field, quoted(bytes), quoted(std::string(allowed)));
}

void expect_i32(BoundedReader& in, const std::string& field, int32_t allowed) {
    const uint64_t offset = in.offset();
    const int32_t value = in.read_i32(field);
    if (value != allowed) in.fail(offset, field, std::to_string(value), std::to_string(allowed));
}

int32_t read_in_range(BoundedReader& in, const std::string& field, int32_t least, int32_t most) {
    const uint64_t offset = in.offset();
    const int32_t value = in.read_i32(field);
    if (value < least || value > most) {
        in.fail(offset, field, std::to_string(value), std::to_string(least) + " to " + std::to_string(most));
    }
    return value;
}

void check_header(BoundedReader& in) {
    expect_bytes(in, "magic", kMagic);
    expect_i32(in, "length of the type", static_cast<int32_t>(kType.size()));
    expect_bytes(in, "type", kType);
    read_in_range(in, "major version", 5, 6);  // the generations of silero that are this network
    read_in_range(in, "minor version", 0, 99);
    read_in_range(in, "patch version", 0, 99);
    expect_i32(in, "window", kSileroWindow);
    expect_i32(in, "context", kContext);
    expect_i32(in, "number of convolutions", static_cast<int32_t>(kSileroConvolutions));
    for (size_t i = 0; i < kSileroConvolutions; ++i) {
        const std::string convolution = "convolution " + std::to_string(i);
        expect_i32(in, convolution + " inputs", kSileroChannels[i]);
        expect_i32(in, convolution + " outputs", kSileroChannels[i + 1]);
        expect_i32(in, convolution + " taps", kSileroTaps);
    }
    expect_i32(in, "LSTM inputs", kSileroHidden);
    expect_i32(in, "LSTM states", kSileroHidden);
    expect_i32(in, "output layer inputs", kSileroHidden);
    expect_i32(in, "output layer outputs", 1);
}

// ---- Tensors ------------------------------------------------------------------------------------------------------

constexpr int32_t kF32 = 0, kF16 = 1;  // ggml's numbers for them
constexpr size_t kMostDims = 4;
constexpr int32_t kLongestName = 128;

using Dims = std::array<int32_t, kMostDims>;  // ggml's order, the row length first; padded with ones

// A tensor that has to be there, and where its values go: one of the two.
struct Place {
    std::string name;
    Dims dims;
    std::vector<uint16_t>* halves;
    std::vector<float>* floats;
    bool found = false;

    int32_t type() const { return halves ? kF16 : kF32; }
    uint64_t n_values() const {
        uint64_t product = 1;
        for (const int32_t dim : dims) product *= static_cast<uint64_t>(dim);
        return product;
    }
};

std::vector<Place> places_in(SileroFile& file) {
    std::vector<Place> places;
    const auto halves = [&](std::string name, Dims dims, std::vector<uint16_t>& to) {
        places.push_back({std::move(name), dims, &to, nullptr});
    };
    const auto floats = [&](std::string name, Dims dims, std::vector<float>& to) {
        places.push_back({std::move(name), dims, nullptr, &to});
    };
    halves("_model.stft.forward_basis_buffer", {kSileroFft, 1, 2 * kSileroBins, 1}, file.basis);
    for (size_t i = 0; i < kSileroConvolutions; ++i) {
        const std::string name = "_model.encoder." + std::to_string(i) + ".reparam_conv.";
        const int32_t n_out = kSileroChannels[i + 1];
        halves(name + "weight", {kSileroTaps, kSileroChannels[i], n_out, 1}, file.encoder[i].weight);
        floats(name + "bias", {n_out, 1, 1, 1}, file.encoder[i].bias);
    }
    floats("_model.decoder.rnn.weight_ih", {kSileroHidden, kSileroGates, 1, 1}, file.input_weight);
    floats("_model.decoder.rnn.weight_hh", {kSileroHidden, kSileroGates, 1, 1}, file.state_weight);
    floats("_model.decoder.rnn.bias_ih", {kSileroGates, 1, 1, 1}, file.input_bias);
    floats("_model.decoder.rnn.bias_hh", {kSileroGates, 1, 1, 1}, file.state_bias);
    halves("_model.decoder.decoder.2.weight", {kSileroHidden, 1, 1, 1}, file.output_weight);
    floats("_model.decoder.decoder.2.bias", {1, 1, 1, 1}, file.output_bias);
    return places;
}

std::string text(const Dims& dims) {
    std::string list;
    for (const int32_t dim : dims) list += (list.empty() ? "[" : ", ") + std::to_string(dim);
    return list + "]";
}

Place& find(BoundedReader& in, std::vector<Place>& places, const std::string& field, int32_t n_bytes) {
    const uint64_t offset = in.offset();
    const std::string name = in.read_string(static_cast<uint64_t>(n_bytes), field);
    const auto place = std::find_if(places.begin(), places.end(), [&](const Place& p) { return p.name == name; });
    if (place == places.end()) in.fail(offset, field, quoted(name), "the name of a tensor of this network");
    if (place->found) in.fail(offset, field, quoted(name) + " for the second time", "each tensor once");
    place->found = true;
    return *place;
}

void read_halves(BoundedReader& in, const Place& place) {
    const uint64_t offset = in.offset();
    const std::string bytes = in.read_string(2 * place.n_values(), place.name);
    place.halves->resize(static_cast<size_t>(place.n_values()));
    for (size_t i = 0; i < place.halves->size(); ++i) {
        const auto low = static_cast<unsigned char>(bytes[2 * i]), high = static_cast<unsigned char>(bytes[2 * i + 1]);
        const auto half = static_cast<uint16_t>(low | high << 8);
        if ((half & 0x7c00u) == 0x7c00u) {
            in.fail(offset + 2 * i, place.name + " value " + std::to_string(i), "infinite or no number",
                    "a finite number");
        }
        (*place.halves)[i] = half;
    }
}

void read_floats(BoundedReader& in, const Place& place) {
    const uint64_t offset = in.offset();
    *place.floats = in.read_f32(place.n_values(), place.name);
    for (size_t i = 0; i < place.floats->size(); ++i) {
        const float value = (*place.floats)[i];
        if (!std::isfinite(value)) {
            in.fail(offset + 4 * i, place.name + " value " + std::to_string(i), std::to_string(value),
                    "a finite number");
        }
    }
}

void read_tensor(BoundedReader& in, std::vector<Place>& places, size_t index) {
    const std::string tensor = "tensor " + std::to_string(index);
    const int32_t n_dims = read_in_range(in, tensor + " number of dimensions", 0, static_cast<int32_t>(kMostDims));
    const int32_t name_bytes = read_in_range(in, tensor + " name length", 1, kLongestName);
    const uint64_t type_at = in.offset();
    const int32_t type = in.read_i32(tensor + " type");
    const uint64_t dims_at = in.offset();
    Dims dims = {1, 1, 1, 1};
    for (int32_t i = 0; i < n_dims; ++i) dims[static_cast<size_t>(i)] = in.read_i32(tensor + " dimensions");
    const Place& place = find(in, places, tensor + " name", name_bytes);
    if (type != place.type()) {
        in.fail(type_at, place.name + " type", std::to_string(type), place.halves ? "1 (f16)" : "0 (f32)");
    }
    if (dims != place.dims) in.fail(dims_at, place.name + " dimensions", text(dims), text(place.dims));
    if (place.halves) {
        read_halves(in, place);
    } else {
        read_floats(in, place);
    }
}

}  // namespace

SileroFile read_silero_file(const std::filesystem::path& path) {
    BoundedReader in(path);
    SileroFile file;
    check_header(in);
    std::vector<Place> places = places_in(file);
    for (size_t i = 0; i < places.size() && in.remaining() > 0; ++i) read_tensor(in, places, i);
    for (const Place& place : places) {
        if (!place.found)
            in.fail(in.size(), place.name, "missing", "all " + std::to_string(places.size()) + " tensors");
    }
    if (in.remaining() > 0) {
        in.fail(in.offset(), "the end of the file", std::to_string(in.remaining()) + " bytes further on",
                "nothing behind the last tensor");
    }
    return file;
}

}  // namespace whisperq::model
