// A model's weights, read from a checked file and packed once for the kernels.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "core/aligned.h"
#include "core/thread_pool.h"
#include "kernels/formats.h"
#include "kernels/kernels.h"
#include "model/file_format.h"

namespace whisperq::edge {

constexpr int64_t ceil_divide(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// An arena of all packed weights: few large pieces, in the order in which they are used.
class Arena {
  public:
    struct Piece {
        uint8_t* data = nullptr;
        size_t n_bytes = 0;
    };
    // Return n_bytes, aligned and not initialised, which live as long as the arena. Throws std::bad_alloc.
    Piece take(size_t n_bytes);

  private:
    std::vector<AlignedBuffer> chunks_;
    size_t left_ = 0;  // of the last chunk
};

// A packed matrix of n output columns and k values each (kernels/pack.h), and the bias, if it has one.
struct Linear {
    std::string name;  // of the tensor
    kernels::Format format = kernels::Format::f32;
    int64_t n = 0;
    int64_t k = 0;
    Arena::Piece packed;
    std::vector<float> bias;  // n values, or none

    const float* bias_or_null() const noexcept { return bias.empty() ? nullptr : bias.data(); }
};

struct LayerNormWeights {
    std::vector<float> weight, bias;
};

struct AttentionWeights {
    LayerNormWeights norm;
    Linear query, key, value, out;
};

struct MlpWeights {
    LayerNormWeights norm;
    Linear up, down;  // "mlp.0" and "mlp.2"
};

struct EncoderLayer {
    AttentionWeights attention;
    MlpWeights mlp;
};

struct EncoderWeights {
    // Three frames of the input side by side are one row: k = 3 * n_mels and 3 * n_audio_state.
    Linear conv1, conv2;
    std::vector<float> positions;  // [n_audio_ctx][n_audio_state]
    std::vector<EncoderLayer> layers;
    LayerNormWeights norm;
};

struct DecoderLayer {
    AttentionWeights attention, cross_attention;
    MlpWeights mlp;
};

struct DecoderWeights {
    Linear token_embedding;        // n = n_vocab, k = n_text_state: tokens into rows, and rows into logits
    std::vector<float> positions;  // [n_text_ctx][n_text_state]
    std::vector<DecoderLayer> layers;
    LayerNormWeights norm;
};

// A source of a model's weights, tensor by tensor: read from its file, or only counted.
//
// Throws Error(Status::unsupported_model) for a type that this engine has no kernels for.
class WeightSource {
  public:
    // `file` must live longer.
    explicit WeightSource(const model::ModelFile& file) : file_(file) {}
    virtual ~WeightSource() = default;

    Linear linear(const std::string& name, bool has_bias);
    Linear matrix(const std::string& name);
    // Return a kernel of three frames over n_in channels as a matrix of rows [3][n_in].
    Linear convolution(const std::string& name);
    LayerNormWeights layer_norm(const std::string& name);
    AttentionWeights attention(const std::string& name);
    MlpWeights mlp(const std::string& block);
    std::vector<float> floats(const std::string& name);

    // Return the size of all that was taken so far, which the weights hold for as long as the model lives.
    size_t n_bytes() const noexcept { return n_bytes_; }

  protected:
    const model::ModelFile& file() const noexcept { return file_; }

  private:
    Linear empty_linear(const std::string& name, kernels::Format format, int64_t n, int64_t k);
    const model::TensorInfo& find(const std::string& name) const;

    virtual Arena::Piece take(size_t n_bytes) = 0;
    virtual void fill_matrix(const model::TensorInfo& tensor, const Linear& linear) = 0;
    virtual void fill_convolution(const model::TensorInfo& tensor, const Linear& linear) = 0;
    virtual std::vector<float> read_floats(const model::TensorInfo& tensor) = 0;

    const model::ModelFile& file_;
    size_t n_bytes_ = 0;
};

// A reader of one file, which must be the one that `file` describes (model::read_model_file).
//
// Throws ModelFormatError when the file has become shorter since it was checked, and std::bad_alloc.
class WeightReader final : public WeightSource {
  public:
    WeightReader(const model::ModelFile& file, const kernels::KernelTable& kernels, ThreadPool& pool, Arena& arena);

  private:
    // A view of the file for each worker, so that all of them read at once.
    struct Source {
        std::ifstream stream;
        std::vector<uint8_t> rows;  // of a matrix, before they are packed
    };

    Arena::Piece take(size_t n_bytes) override { return arena_.take(n_bytes); }
    void fill_matrix(const model::TensorInfo& tensor, const Linear& linear) override;
    void fill_convolution(const model::TensorInfo& tensor, const Linear& linear) override;
    std::vector<float> read_floats(const model::TensorInfo& tensor) override;
    Source& source_of(int worker);
    void read(const model::TensorInfo& tensor, uint64_t offset, void* to, uint64_t n_bytes, int worker = 0);

    const kernels::KernelTable& kernels_;
    ThreadPool& pool_;
    Arena& arena_;
    std::vector<Source> sources_;
};

// A plan of weights that have formats and sizes but no values, to compute a model's memory. The file need not exist.
class WeightPlan final : public WeightSource {
  public:
    using WeightSource::WeightSource;

  private:
    Arena::Piece take(size_t n_bytes) override { return {nullptr, n_bytes}; }
    void fill_matrix(const model::TensorInfo&, const Linear&) override {}
    void fill_convolution(const model::TensorInfo&, const Linear&) override {}
    std::vector<float> read_floats(const model::TensorInfo&) override { return {}; }
};

EncoderWeights read_encoder(WeightSource& source, const model::Hparams& hparams);
DecoderWeights read_decoder(WeightSource& source, const model::Hparams& hparams);

// Return every matrix that inputs are multiplied with, encoder first.
std::vector<const Linear*> linears_of(const EncoderWeights& encoder, const DecoderWeights& decoder);

}  // namespace whisperq::edge
