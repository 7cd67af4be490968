// How ggml stores the values of a tensor: one table row per type.
//
// A row of a tensor is cut into blocks of `block_size` values, each stored in `block_bytes` bytes. A model file names
// its types by number, twice: every tensor carries a `ggml_id`, and the header carries the `ftype` of the file, which
// says what type the matrices have. The two numberings differ.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace whisperq::model {

struct TensorType {
    std::string_view name;
    int32_t ggml_id;
    int32_t ftype;
    uint32_t block_size;
    uint32_t block_bytes;

    constexpr bool is_quantized() const noexcept { return block_size > 1; }
};

inline constexpr std::array<TensorType, 13> kTensorTypes{{
    // name   ggml_id ftype block_size block_bytes
    {"f32", 0, 0, 1, 4},
    {"f16", 1, 1, 1, 2},
    {"q4_0", 2, 2, 32, 18},
    {"q4_1", 3, 3, 32, 20},
    {"q5_0", 6, 8, 32, 22},
    {"q5_1", 7, 9, 32, 24},
    {"q8_0", 8, 7, 32, 34},
    {"q2_k", 10, 10, 256, 84},
    {"q3_k", 11, 11, 256, 110},
    {"q4_k", 12, 12, 256, 144},
    {"q5_k", 13, 13, 256, 176},
    {"q6_k", 14, 14, 256, 210},
    {"iq4_nl", 20, 19, 32, 18},
}};

// The rows found by one of their keys; nullptr when there is none.
const TensorType* find_tensor_type(std::string_view name) noexcept;
const TensorType* find_tensor_type_by_ggml_id(int32_t ggml_id) noexcept;
const TensorType* find_tensor_type_by_ftype(int32_t ftype) noexcept;

// Bytes of `n_rows` rows of `row_size` values; none when a row is no whole number of blocks or the result needs 65
// bits.
std::optional<uint64_t> tensor_bytes(const TensorType& type, uint64_t row_size, uint64_t n_rows) noexcept;

// The header's number is `version * 1000 + ftype`. Version 2 is the only layout of the block formats that the numbers
// above describe; files with plain floats carry version 0.
inline constexpr int32_t kQuantizationVersionFactor = 1000;
inline constexpr int32_t kQuantizationVersion = 2;

// The header's number of a file whose matrices differ in type. whisper.cpp takes one type for all, and types of equal
// size would pass its checks as garbage; this number (GGML_FTYPE_MOSTLY_Q4_1_SOME_F16) is one that it has no type for.
inline constexpr int32_t kMixedFtype = 4;

// "f32 (0), f16 (1), q4_0 (2), ..." by the given key, for error messages.
std::string list_tensor_types(int32_t TensorType::*key);

}  // namespace whisperq::model
