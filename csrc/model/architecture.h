// Whisper's architecture as data: its dimensions, and the tensors that a model of these dimensions consists of.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/tensor_types.h"

namespace whisperq::model {

struct Hparams {
    int32_t n_mels = 0;
    int32_t n_audio_ctx = 0;
    int32_t n_audio_state = 0;
    int32_t n_audio_head = 0;
    int32_t n_audio_layer = 0;
    int32_t n_text_ctx = 0;
    int32_t n_text_state = 0;
    int32_t n_text_head = 0;
    int32_t n_text_layer = 0;
    int32_t n_vocab = 0;
};

// A tensor that must be there. `dims` has ggml's order: the row length first.
struct TensorSpec {
    std::string name;
    std::vector<int32_t> dims;
    const TensorType* type;  // nullptr: any whose blocks fit the row
};

// Every tensor of a model whose matrices have the type `matrix_type` (nullptr: each its own), in the order of the
// forward pass. Vectors and positional embeddings are always f32; convolution kernels are f32 in an f32 model and f16
// in every other.
std::vector<TensorSpec> whisper_tensors(const Hparams& hparams, const TensorType* matrix_type);

}  // namespace whisperq::model
