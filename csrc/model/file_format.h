// The model file of whisper.cpp ("ggml", usually ggml-<name>.bin), read from front to back without trusting a byte of
// it:
//
//   int32   magic 0x67676d6c
//   int32   n_vocab n_audio_ctx n_audio_state n_audio_head n_audio_layer
//           n_text_ctx n_text_state n_text_head n_text_layer n_mels
//   int32   version * 1000 + ftype
//   int32   n_mel, n_fft, then n_mel * n_fft float32 mel filters
//   int32   number of tokens, then for each: int32 length, bytes
//   tensors until the end of the file, each: int32 n_dims, name length, ggml type; int32 dims[n_dims]; name; data
//
// All numbers are little-endian. A file that passes holds exactly the tensors of Whisper's architecture, each of the
// type and shape that whisper.cpp expects and with all of its bytes inside the file. The data of the tensors is not
// looked at.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "model/architecture.h"
#include "model/tensor_types.h"

namespace whisperq::model {

struct TensorInfo {
    std::string name;
    const TensorType* type;     // a row of kTensorTypes
    std::vector<int32_t> dims;  // ggml's order: the row length first
    uint64_t offset;            // of the data in the file
    uint64_t n_bytes;           // of the data

    uint64_t n_values() const noexcept;
};

struct ModelFile {
    std::filesystem::path path;
    uint64_t file_bytes = 0;

    Hparams hparams;
    const TensorType* matrix_type = nullptr;  // what the file's ftype says its matrices are; nullptr: mixed
    int32_t quantization_version = 0;

    int32_t n_mel = 0;  // rows of the mel filterbank
    int32_t n_fft = 0;  // columns: frequency bins
    uint64_t mel_filters_offset = 0;
    std::vector<float> mel_filters;  // row by row, finite, in [0, 1]

    uint64_t vocabulary_offset = 0;  // of the number of tokens
    std::vector<std::string>
        vocabulary;  // bytes of each token; the special tokens at the end of n_vocab have none here

    std::vector<TensorInfo> tensors;  // in the order of the file

    std::string_view ftype_name() const noexcept;  // "mixed" when the matrices differ in type
    bool is_multilingual() const noexcept;
    // Language tokens in the vocabulary. An English-only model has them too, unused.
    int32_t n_languages() const noexcept;
    const TensorInfo* find_tensor(std::string_view name) const noexcept;
};

// Throws ModelFormatError for a file that is no whole and sound Whisper model, and Error(Status::model_not_found) when
// there is none to open.
ModelFile read_model_file(const std::filesystem::path& path);

}  // namespace whisperq::model
