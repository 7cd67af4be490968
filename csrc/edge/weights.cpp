#include "edge/weights.h"

#include <algorithm>

#include "core/large_pages.h"
#include "core/status.h"
#include "kernels/pack.h"

namespace whisperq::edge {
namespace {

using kernels::Format;
using kernels::FormatInfo;

// Rows are read and packed this many bytes at a time: no copy of a whole matrix beside its packed form.
constexpr uint64_t kChunkBytes = 1 << 18;

// The unused rest of the last piece is never touched, and so takes no memory.
constexpr size_t kArenaChunkBytes = 64 << 20;

const FormatInfo& format_of(const model::ModelFile& file, const model::TensorInfo& tensor) {
    for (const FormatInfo& format : kernels::kFormats) {
        if (tensor.type->name == format.name) return format;
    }
    throw Error(Status::unsupported_model,
                file.path.u8string() + ": " + tensor.name + " is of type " + std::string(tensor.type->name) +
                    ", which the edge engine has no kernels for (f32 f16 q8_0 q5_1 q5_0 q4_1 "
                    "q4_0); use engine='ggml' or convert the model");
}

int64_t rows_of(const model::TensorInfo& tensor) {
    int64_t rows = 1;
    for (size_t i = 1; i < tensor.dims.size(); ++i) rows *= tensor.dims[i];
    return rows;
}

// Reorder a kernel: the three taps of an input channel lie together in the file. Here the channels of a frame do, as in
// the input.
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

}  // namespace

Arena::Piece Arena::take(size_t n_bytes) {
    const size_t whole = (n_bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
    if (whole > left_) {
        left_ = std::max(whole, kArenaChunkBytes);
        chunks_.push_back(buffer_on_large_pages(left_));
    }
    const AlignedBuffer& chunk = chunks_.back();
    const Piece piece{chunks_.back().data() + (chunk.size() - left_), n_bytes};
    left_ -= whole;
    return piece;
}

// ---- WeightSource

Linear WeightSource::empty_linear(const std::string& name, Format format, int64_t n, int64_t k) {
    Linear linear;
    linear.name = name;
    linear.format = format;
    linear.n = n;
    linear.k = k;
    linear.packed = take(kernels::packed_bytes(format, n, k));
    n_bytes_ += linear.packed.n_bytes;
    return linear;
}

const model::TensorInfo& WeightSource::find(const std::string& name) const {
    const model::TensorInfo* tensor = file_.find_tensor(name);
    if (tensor == nullptr) throw Error(Status::internal, "no tensor " + name + " in a checked file");
    return *tensor;
}

std::vector<float> WeightSource::floats(const std::string& name) {
    const model::TensorInfo& tensor = find(name);
    n_bytes_ += tensor.n_values() * sizeof(float);
    return read_floats(tensor);
}

LayerNormWeights WeightSource::layer_norm(const std::string& name) {
    return {floats(name + ".weight"), floats(name + ".bias")};
}

Linear WeightSource::matrix(const std::string& name) {
    const model::TensorInfo& tensor = find(name);
    Linear linear = empty_linear(name, format_of(file_, tensor).format, rows_of(tensor), tensor.dims[0]);
    fill_matrix(tensor, linear);
    return linear;
}

Linear WeightSource::linear(const std::string& name, bool has_bias) {
    Linear linear = matrix(name + ".weight");
    if (has_bias) linear.bias = floats(name + ".bias");
    return linear;
}

Linear WeightSource::convolution(const std::string& name) {
    const model::TensorInfo& tensor = find(name + ".weight");
    Linear linear = empty_linear(tensor.name, Format::f32, tensor.dims[2], 3 * int64_t{tensor.dims[1]});
    fill_convolution(tensor, linear);
    linear.bias = floats(name + ".bias");
    return linear;
}

// Keys have no bias: it would add the same amount to every score of a query, which softmax ignores.
AttentionWeights WeightSource::attention(const std::string& name) {
    return {layer_norm(name + "_ln"), linear(name + ".query", true), linear(name + ".key", false),
            linear(name + ".value", true), linear(name + ".out", true)};
}

MlpWeights WeightSource::mlp(const std::string& block) {
    return {layer_norm(block + "mlp_ln"), linear(block + "mlp.0", true), linear(block + "mlp.2", true)};
}

// ---- WeightReader

WeightReader::WeightReader(const model::ModelFile& file, const kernels::KernelTable& kernels, ThreadPool& pool,
                           Arena& arena)
    : WeightSource(file), kernels_(kernels), pool_(pool), arena_(arena), sources_(static_cast<size_t>(pool.size())) {}

WeightReader::Source& WeightReader::source_of(int worker) {
    Source& source = sources_[static_cast<size_t>(worker)];
    if (!source.stream.is_open()) source.stream.open(file().path, std::ios::binary);
    if (!source.stream) throw Error(Status::model_not_found, file().path.u8string() + " cannot be opened");
    return source;
}

void WeightReader::read(const model::TensorInfo& tensor, uint64_t offset, void* to, uint64_t n_bytes, int worker) {
    std::ifstream& stream = source_of(worker).stream;
    stream.seekg(static_cast<std::streamoff>(tensor.offset + offset));
    stream.read(static_cast<char*>(to), static_cast<std::streamsize>(n_bytes));
    if (static_cast<uint64_t>(stream.gcount()) == n_bytes) return;
    throw ModelFormatError(file().path.u8string(), tensor.offset + offset, tensor.name + " data", "cut short",
                           std::to_string(n_bytes) + " bytes: the file shrank while it was read");
}

std::vector<float> WeightReader::read_floats(const model::TensorInfo& tensor) {
    std::vector<float> values(tensor.n_values());
    if (format_of(file(), tensor).format == Format::f32) {
        read(tensor, 0, values.data(), tensor.n_bytes);
        return values;
    }
    std::vector<uint16_t> halves(values.size());
    read(tensor, 0, halves.data(), tensor.n_bytes);
    kernels_.half_to_float(halves.data(), static_cast<int64_t>(halves.size()), values.data());
    return values;
}

// Read and pack a matrix: every thread takes a few tiles of rows at a time.
void WeightReader::fill_matrix(const model::TensorInfo& tensor, const Linear& linear) {
    const uint64_t row_bytes = tensor.n_bytes / static_cast<uint64_t>(linear.n);
    const int64_t tiles_at_once =
        std::max<int64_t>(1, static_cast<int64_t>(kChunkBytes / row_bytes) / kernels::kTileColumns);
    const int64_t rows_at_once = tiles_at_once * kernels::kTileColumns;
    pool_.run(ceil_divide(linear.n, rows_at_once), [&](int64_t i, int worker) {
        const int64_t first = i * rows_at_once, count = std::min(rows_at_once, linear.n - first);
        const uint64_t n_bytes = static_cast<uint64_t>(count) * row_bytes;
        std::vector<uint8_t>& rows = source_of(worker).rows;
        rows.resize(std::max(rows.size(), static_cast<size_t>(n_bytes)));
        read(tensor, static_cast<uint64_t>(first) * row_bytes, rows.data(), n_bytes, worker);
        kernels::pack_rows(linear.format, rows.data(), first, count, linear.k, linear.packed.data);
    });
}

void WeightReader::fill_convolution(const model::TensorInfo& tensor, const Linear& linear) {
    const std::vector<float> ordered = taps_outermost(read_floats(tensor), linear.k / 3);
    kernels::pack_rows(Format::f32, reinterpret_cast<const uint8_t*>(ordered.data()), 0, linear.n, linear.k,
                       linear.packed.data);
}

// ---- The model

EncoderWeights read_encoder(WeightSource& source, const model::Hparams& hparams) {
    EncoderWeights weights;
    weights.conv1 = source.convolution("encoder.conv1");
    weights.conv2 = source.convolution("encoder.conv2");
    weights.positions = source.floats("encoder.positional_embedding");
    for (int32_t i = 0; i < hparams.n_audio_layer; ++i) {
        const std::string block = "encoder.blocks." + std::to_string(i) + ".";
        weights.layers.push_back({source.attention(block + "attn"), source.mlp(block)});
    }
    weights.norm = source.layer_norm("encoder.ln_post");
    return weights;
}

DecoderWeights read_decoder(WeightSource& source, const model::Hparams& hparams) {
    DecoderWeights weights;
    weights.token_embedding = source.matrix("decoder.token_embedding.weight");
    weights.positions = source.floats("decoder.positional_embedding");
    for (int32_t i = 0; i < hparams.n_text_layer; ++i) {
        const std::string block = "decoder.blocks." + std::to_string(i) + ".";
        weights.layers.push_back(
            {source.attention(block + "attn"), source.attention(block + "cross_attn"), source.mlp(block)});
    }
    weights.norm = source.layer_norm("decoder.ln");
    return weights;
}

std::vector<const Linear*> linears_of(const EncoderWeights& encoder, const DecoderWeights& decoder) {
    std::vector<const Linear*> linears = {&encoder.conv1, &encoder.conv2};
    const auto add_attention = [&](const AttentionWeights& weights) {
        linears.insert(linears.end(), {&weights.query, &weights.key, &weights.value, &weights.out});
    };
    const auto add_mlp = [&](const MlpWeights& weights) {
        linears.insert(linears.end(), {&weights.up, &weights.down});
    };
    for (const EncoderLayer& layer : encoder.layers) {
        add_attention(layer.attention);
        add_mlp(layer.mlp);
    }
    for (const DecoderLayer& layer : decoder.layers) {
        add_attention(layer.attention);
        add_attention(layer.cross_attention);
        add_mlp(layer.mlp);
    }
    linears.push_back(&decoder.token_embedding);
    return linears;
}

}  // namespace whisperq::edge
