// Models whose matrices differ in type.
//
// whisper.cpp takes one type for all matrices, from the file's header. The layout of the file and its arithmetic know
// each tensor's own type, so all that is missing is to create the tensors with it. While a MatrixTypesScope lives,
// whisper.cpp's loader, which asks ggml for one matrix after the other, is given the type that the file has for it.
// Included by upstream.cpp right before whisper.cpp's source, whose two calls it takes the place of; an order other
// than the one written down in matrix_types.cpp is noticed by the engine, which compares every tensor afterwards.
#pragma once

#include <map>
#include <string>

#include "ggml.h"

namespace whisperq::ggml {

using MatrixTypes = std::map<std::string, std::string>;

class MatrixTypesScope {
  public:
    // No types: whisper.cpp does what it always does.
    explicit MatrixTypesScope(const MatrixTypes& types);
    ~MatrixTypesScope();
    MatrixTypesScope(const MatrixTypesScope&) = delete;
    MatrixTypesScope& operator=(const MatrixTypesScope&) = delete;
};

ggml_tensor* new_matrix(ggml_context* context, ggml_type type, int64_t n_columns, int64_t n_rows);
ggml_type file_type(ggml_ftype ftype);

}  // namespace whisperq::ggml

#ifdef WHISPERQ_REPLACE_MATRIX_CALLS
#define ggml_new_tensor_2d ::whisperq::ggml::new_matrix
#define ggml_ftype_to_ggml_type ::whisperq::ggml::file_type
#endif
