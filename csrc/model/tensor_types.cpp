#include "model/tensor_types.h"

#include "core/checked_math.h"

namespace whisperq::model {

namespace {

template <typename Key>
const TensorType* find_by(Key TensorType::*key, Key value) noexcept {
    for (const TensorType& type : kTensorTypes) {
        if (type.*key == value) return &type;
    }
    return nullptr;
}

}  // namespace

const TensorType* find_tensor_type(std::string_view name) noexcept {
    return find_by(&TensorType::name, name);
}

const TensorType* find_tensor_type_by_ggml_id(int32_t ggml_id) noexcept {
    return find_by(&TensorType::ggml_id, ggml_id);
}

const TensorType* find_tensor_type_by_ftype(int32_t ftype) noexcept {
    return find_by(&TensorType::ftype, ftype);
}

std::optional<uint64_t> tensor_bytes(const TensorType& type, uint64_t row_size, uint64_t n_rows) noexcept {
    if (row_size % type.block_size != 0) return std::nullopt;
    const std::optional<uint64_t> n_blocks = checked_multiply(row_size / type.block_size, n_rows);
    if (!n_blocks) return std::nullopt;
    return checked_multiply(*n_blocks, type.block_bytes);
}

std::string list_tensor_types(int32_t TensorType::*key) {
    std::string list;
    for (const TensorType& type : kTensorTypes) {
        if (!list.empty()) list += ", ";
        list += std::string(type.name) + " (" + std::to_string(type.*key) + ")";
    }
    return list;
}

}  // namespace whisperq::model
