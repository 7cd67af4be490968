#include "model/architecture.h"

#include <utility>

namespace whisperq::model {

namespace {

class SpecList {
  public:
    explicit SpecList(const TensorType* matrix_type)
        : matrix_type_(matrix_type),
          f32_(find_tensor_type("f32")),
          conv_type_(matrix_type == f32_ ? f32_ : find_tensor_type("f16")) {}

    void add_f32(const std::string& name, std::vector<int32_t> dims) { add(name, std::move(dims), f32_); }

    void add_matrix(const std::string& name, int32_t n_in, int32_t n_out) { add(name, {n_in, n_out}, matrix_type_); }

    // A kernel of three frames. The bias is stored as a column so that it broadcasts over frames.
    void add_conv(const std::string& name, int32_t n_in, int32_t n_out) {
        add(name + ".weight", {3, n_in, n_out}, conv_type_);
        add_f32(name + ".bias", {1, n_out});
    }

    void add_layer_norm(const std::string& name, int32_t n_state) {
        add_f32(name + ".weight", {n_state});
        add_f32(name + ".bias", {n_state});
    }

    void add_linear(const std::string& name, int32_t n_in, int32_t n_out) {
        add_matrix(name + ".weight", n_in, n_out);
        add_f32(name + ".bias", {n_out});
    }

    // The key projection has no bias: it would add the same amount to every score of a query, which softmax ignores.
    void add_attention(const std::string& name, int32_t n_state) {
        add_layer_norm(name + "_ln", n_state);
        add_linear(name + ".query", n_state, n_state);
        add_matrix(name + ".key.weight", n_state, n_state);
        add_linear(name + ".value", n_state, n_state);
        add_linear(name + ".out", n_state, n_state);
    }

    void add_mlp(const std::string& block, int32_t n_state) {
        add_layer_norm(block + "mlp_ln", n_state);
        add_linear(block + "mlp.0", n_state, 4 * n_state);
        add_linear(block + "mlp.2", 4 * n_state, n_state);
    }

    std::vector<TensorSpec> take() { return std::move(specs_); }

  private:
    void add(const std::string& name, std::vector<int32_t> dims, const TensorType* type) {
        specs_.push_back({name, std::move(dims), type});
    }

    const TensorType* matrix_type_;
    const TensorType* f32_;
    const TensorType* conv_type_;
    std::vector<TensorSpec> specs_;
};

void add_encoder(SpecList& list, const Hparams& hparams) {
    const int32_t n_state = hparams.n_audio_state;
    list.add_conv("encoder.conv1", hparams.n_mels, n_state);
    list.add_conv("encoder.conv2", n_state, n_state);
    list.add_f32("encoder.positional_embedding", {n_state, hparams.n_audio_ctx});
    for (int32_t layer = 0; layer < hparams.n_audio_layer; ++layer) {
        const std::string block = "encoder.blocks." + std::to_string(layer) + ".";
        list.add_attention(block + "attn", n_state);
        list.add_mlp(block, n_state);
    }
    list.add_layer_norm("encoder.ln_post", n_state);
}

void add_decoder(SpecList& list, const Hparams& hparams) {
    const int32_t n_state = hparams.n_text_state;
    list.add_matrix("decoder.token_embedding.weight", n_state, hparams.n_vocab);
    list.add_f32("decoder.positional_embedding", {n_state, hparams.n_text_ctx});
    for (int32_t layer = 0; layer < hparams.n_text_layer; ++layer) {
        const std::string block = "decoder.blocks." + std::to_string(layer) + ".";
        list.add_attention(block + "attn", n_state);
        list.add_attention(block + "cross_attn", n_state);
        list.add_mlp(block, n_state);
    }
    list.add_layer_norm("decoder.ln", n_state);
}

}  // namespace

std::vector<TensorSpec> whisper_tensors(const Hparams& hparams, const TensorType* matrix_type) {
    SpecList list(matrix_type);
    add_encoder(list, hparams);
    add_decoder(list, hparams);
    return list.take();
}

}  // namespace whisperq::model
