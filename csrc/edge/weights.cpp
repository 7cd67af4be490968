#include "edge/weights.h"

#include <algorithm>
#include <cstring>

#include "core/status.h"
#include "kernels/pack.h"

namespace whisperq::edge {
namespace {

using kernels::Format;
using kernels::FormatInfo;

// Rows are read and packed this many bytes at a time: no copy of a whole matrix beside its packed form.
constexpr uint64_t kChunkBytes = 1 << 20;

const FormatInfo& format_of(const model::ModelFile& file, const model::TensorInfo& tensor) {
    for (const FormatInfo& format : kernels::kFormats) {
        if (tensor.type->name == format.name) return format;
    }
    throw Error(Status::unsupported_model,
                file.path.string() + ": " + tensor.name + " is of type " + std::string(tensor.type->name) +
                    ", which the edge engine has no kernels for (f32 f16 q8_0 q5_1 q5_0 q4_1 "
                    "q4_0); use engine='ggml' or convert the model");
}

int64_t rows_of(const model::TensorInfo& tensor) {
    int64_t rows = 1;
    for (size_t i = 1; i < tensor.dims.size(); ++i) rows *= tensor.dims[i];
    return rows;
}

// The three taps of an input channel lie together in the file; here the channels of a frame do, as in the input.
std::vector<float> taps_outermost(const std::vector<float>& values, int64_t n_in) {
    std::vector<float> ordered(values.size());
    const int64_t row_size = 3 * n_in;
    for (size_t row = 0; row < values.size(); row += static_cast<size_t>(row_size)) {
        for (int64_t i = 0; i < row_size; ++i) {
            const int64_t channel = i / 3, tap = i % 3;
            ordered[row + static_cast<size_t>(tap * n_in + channel)] = values[row + static_cast<size_t>(i)];
        }
    }
    return ordered;
}

float half_to_float(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    const uint32_t rest = half & 0x7fffu;
    float value;
    if (rest < 0x0400u) {  // zero or denormal: rest * 2^-24
        value = static_cast<float>(rest) * 5.9604644775390625e-8f;
    } else {
        const uint32_t bits = rest >= 0x7c00u ? 0x7f800000u | (rest & 0x03ffu) << 13 : (rest << 13) + 0x38000000u;
        std::memcpy(&value, &bits, sizeof value);
    }
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits |= sign;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

std::vector<float> as_floats(const std::vector<uint8_t>& bytes, const FormatInfo& format) {
    std::vector<float> values(bytes.size() / static_cast<size_t>(format.ggml_bytes));
    if (format.format == Format::f32) {
        std::memcpy(values.data(), bytes.data(), bytes.size());
        return values;
    }
    for (size_t i = 0; i < values.size(); ++i) {
        uint16_t half;
        std::memcpy(&half, bytes.data() + 2 * i, sizeof half);
        values[i] = half_to_float(half);
    }
    return values;
}

Linear empty_linear(Format format, int64_t n, int64_t k) {
    Linear linear;
    linear.format = format;
    linear.n = n;
    linear.k = k;
    linear.packed = AlignedBuffer(kernels::packed_bytes(format, n, k));
    return linear;
}

}  // namespace

WeightReader::WeightReader(const model::ModelFile& file) : file_(file), stream_(file.path, std::ios::binary) {
    if (!stream_) throw Error(Status::model_not_found, file.path.string() + " cannot be opened");
}

const model::TensorInfo& WeightReader::find(const std::string& name) const {
    const model::TensorInfo* tensor = file_.find_tensor(name);
    if (tensor == nullptr) throw Error(Status::internal, "no tensor " + name + " in a checked file");
    return *tensor;
}

void WeightReader::read(const model::TensorInfo& tensor, uint64_t offset, void* to, uint64_t n_bytes) {
    stream_.seekg(static_cast<std::streamoff>(tensor.offset + offset));
    stream_.read(static_cast<char*>(to), static_cast<std::streamsize>(n_bytes));
    if (static_cast<uint64_t>(stream_.gcount()) == n_bytes) return;
    throw ModelFormatError(file_.path.string(), tensor.offset + offset, tensor.name + " data", "cut short",
                           std::to_string(n_bytes) + " bytes: the file shrank while it was read");
}

std::vector<float> WeightReader::floats(const std::string& name) {
    const model::TensorInfo& tensor = find(name);
    std::vector<uint8_t> bytes(tensor.n_bytes);
    read(tensor, 0, bytes.data(), tensor.n_bytes);
    return as_floats(bytes, format_of(file_, tensor));
}

LayerNormWeights WeightReader::layer_norm(const std::string& name) {
    return {floats(name + ".weight"), floats(name + ".bias")};
}

Linear WeightReader::linear(const std::string& name, bool has_bias) {
    const model::TensorInfo& tensor = find(name + ".weight");
    Linear linear = empty_linear(format_of(file_, tensor).format, rows_of(tensor), tensor.dims[0]);
    const uint64_t row_bytes = tensor.n_bytes / static_cast<uint64_t>(linear.n);
    const int64_t tiles_at_once =
        std::max<int64_t>(1, static_cast<int64_t>(kChunkBytes / row_bytes) / kernels::kTileColumns);
    const int64_t rows_at_once = tiles_at_once * kernels::kTileColumns;
    std::vector<uint8_t> rows(static_cast<size_t>(rows_at_once) * row_bytes);
    for (int64_t first = 0; first < linear.n; first += rows_at_once) {
        const int64_t count = std::min(rows_at_once, linear.n - first);
        read(tensor, static_cast<uint64_t>(first) * row_bytes, rows.data(), static_cast<uint64_t>(count) * row_bytes);
        kernels::pack_rows(linear.format, rows.data(), first, count, linear.k, linear.packed.data());
    }
    if (has_bias) linear.bias = floats(name + ".bias");
    return linear;
}

Linear WeightReader::convolution(const std::string& name) {
    const model::TensorInfo& tensor = find(name + ".weight");
    const int64_t n_in = tensor.dims[1], n_out = tensor.dims[2];
    const std::vector<float> ordered = taps_outermost(floats(name + ".weight"), n_in);
    Linear linear = empty_linear(Format::f32, n_out, 3 * n_in);
    kernels::pack_rows(Format::f32, reinterpret_cast<const uint8_t*>(ordered.data()), 0, n_out, linear.k,
                       linear.packed.data());
    linear.bias = floats(name + ".bias");
    return linear;
}

EncoderWeights read_encoder(const model::ModelFile& file) {
    WeightReader reader(file);
    EncoderWeights weights;
    weights.conv1 = reader.convolution("encoder.conv1");
    weights.conv2 = reader.convolution("encoder.conv2");
    weights.positions = reader.floats("encoder.positional_embedding");
    for (int32_t i = 0; i < file.hparams.n_audio_layer; ++i) {
        const std::string block = "encoder.blocks." + std::to_string(i) + ".";
        EncoderLayer layer;
        layer.attention_norm = reader.layer_norm(block + "attn_ln");
        layer.query = reader.linear(block + "attn.query", true);
        layer.key = reader.linear(block + "attn.key", false);
        layer.value = reader.linear(block + "attn.value", true);
        layer.out = reader.linear(block + "attn.out", true);
        layer.mlp_norm = reader.layer_norm(block + "mlp_ln");
        layer.mlp_0 = reader.linear(block + "mlp.0", true);
        layer.mlp_2 = reader.linear(block + "mlp.2", true);
        weights.layers.push_back(std::move(layer));
    }
    weights.norm = reader.layer_norm("encoder.ln_post");
    return weights;
}

}  // namespace whisperq::edge
