// ggml's own quantisers behind one function: rows of any stored type in, rows of any stored type out, and what that
// cost.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ggml.h"

namespace whisperq::ggml {

// ggml's number of one of our type names. Throws Error(Status::internal) for a name that is none.
ggml_type type_named(const std::string& name);

// How far the result is from the source, summed over all values of the rows. Sums are doubles: a tensor has up to 2^28
// values.
struct RowError {
    uint64_t n_values = 0;
    double sum_squares = 0;        // of the source
    double sum_squared_error = 0;  // of result - source
    // The same with every column's square weighted by `column_weights` (equal to the above without them).
    double weighted_squares = 0;
    double weighted_squared_error = 0;
    float max_error = 0;
    int64_t first_not_finite = -1;   // index of the first NaN or infinity in the source; -1: none
    int64_t first_overflow = -1;     // index of the first finite value that the result cannot hold; -1: none
    float first_overflow_value = 0;  // that value
};

struct QuantizedRows {
    std::vector<uint8_t> bytes;
    RowError error;
};

struct RowsToQuantize {
    const uint8_t* bytes = nullptr;
    uint64_t n_bytes = 0;
    std::string type;  // f32 f16 bf16 f64 i8 or a block type
    int64_t row_size = 0;
    // value = code * row_scales[row], for i8 only; n_rows of them.
    const float* row_scales = nullptr;
    int64_t n_row_scales = 0;
};

// Converts whole rows to `type`, the same bytes as ggml_quantize_chunk. Holds a few rows at a time beside the result,
// knows no state and may run on any number of threads. `column_weights` (row_size of them, may be null) weigh the error
// only, not the quantiser.
//
// Throws Error(Status::internal) for types it does not know, rows that are no whole number of blocks, and a number of
// bytes that is no whole number of rows: callers have checked their files before.
QuantizedRows quantize_rows(const RowsToQuantize& rows, const std::string& type, const float* column_weights);

// The rows as float32.
std::vector<float> dequantize_rows(const RowsToQuantize& rows);

// Changes whenever the bytes that quantize_rows() gives for the same rows may have changed.
std::string quantizer_version();

}  // namespace whisperq::ggml
