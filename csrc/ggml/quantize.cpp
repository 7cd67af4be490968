#include "ggml/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/status.h"
#include "ggml-cpu.h"
#include "ggml.h"

namespace whisperq::ggml {
namespace {

// Values converted at a time: source, result and both as floats stay in a core's second-level cache.
constexpr int64_t kBatchValues = 16384;

[[noreturn]] void broken(const std::string& what) {
    throw Error(Status::internal, "quantize_rows: " + what);
}

const struct {
    const char* name;
    ggml_type type;
} kTypes[] = {
    {"f32", GGML_TYPE_F32},   {"f16", GGML_TYPE_F16},   {"bf16", GGML_TYPE_BF16}, {"f64", GGML_TYPE_F64},
    {"i8", GGML_TYPE_I8},     {"q8_0", GGML_TYPE_Q8_0}, {"q5_1", GGML_TYPE_Q5_1}, {"q5_0", GGML_TYPE_Q5_0},
    {"q4_1", GGML_TYPE_Q4_1}, {"q4_0", GGML_TYPE_Q4_0}, {"q6_k", GGML_TYPE_Q6_K}, {"q5_k", GGML_TYPE_Q5_K},
    {"q4_k", GGML_TYPE_Q4_K}, {"q3_k", GGML_TYPE_Q3_K}, {"q2_k", GGML_TYPE_Q2_K}, {"iq4_nl", GGML_TYPE_IQ4_NL},
};

// f16 conversions may use tables, which ggml fills when it is initialised.
void init_once() {
    static const bool done = [] {
        ggml_cpu_init();
        return true;
    }();
    (void)done;
}

bool can_be_result(ggml_type type) {
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || ggml_is_quantized(type);
}

int64_t row_bytes(ggml_type type, int64_t row_size) {
    if (row_size <= 0 || row_size % ggml_blck_size(type) != 0) {
        broken("rows of " + std::to_string(row_size) + " values are no whole blocks of " + ggml_type_name(type));
    }
    return static_cast<int64_t>(ggml_row_size(type, row_size));
}

// `from` may stand at any byte: it comes out of a file.
template <typename Value>
void to_floats_unaligned(const uint8_t* from, float* to, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        Value value;
        std::memcpy(&value, from + i * static_cast<int64_t>(sizeof(Value)), sizeof(Value));
        to[i] = static_cast<float>(value);
    }
}

class Reader {
  public:
    explicit Reader(const RowsToQuantize& rows)
        : rows_(rows), type_(type_named(rows.type)), row_bytes_(row_bytes(type_, rows.row_size)) {
        init_once();
        if (rows.n_bytes % static_cast<uint64_t>(row_bytes_) != 0) {
            broken(std::to_string(rows.n_bytes) + " bytes are no whole rows of " + std::to_string(row_bytes_));
        }
        n_rows_ = static_cast<int64_t>(rows.n_bytes) / row_bytes_;
        if (type_ == GGML_TYPE_I8 && rows.n_row_scales != n_rows_) {
            broken(std::to_string(rows.n_row_scales) + " scales for " + std::to_string(n_rows_) + " rows of i8");
        }
    }

    int64_t n_rows() const { return n_rows_; }

    void read(int64_t first_row, int64_t n_rows, float* to) {
        const uint8_t* from = rows_.bytes + first_row * row_bytes_;
        const int64_t n = n_rows * rows_.row_size;
        switch (type_) {
            case GGML_TYPE_F32:
                std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
                break;
            case GGML_TYPE_F64:
                to_floats_unaligned<double>(from, to, n);
                break;
            case GGML_TYPE_I8:
                to_floats_unaligned<int8_t>(from, to, n);
                for (int64_t i = 0; i < n; ++i) to[i] *= rows_.row_scales[first_row + i / rows_.row_size];
                break;
            case GGML_TYPE_F16:
                ggml_cpu_fp16_to_fp32(aligned<ggml_fp16_t>(from, n_rows), to, n);
                break;
            case GGML_TYPE_BF16:
                ggml_cpu_bf16_to_fp32(aligned<ggml_bf16_t>(from, n_rows), to, n);
                break;
            default:
                ggml_get_type_traits(type_)->to_float(aligned<uint16_t>(from, n_rows), to, n);
        }
    }

  private:
    // Block types hold 16-bit numbers, which a file's offset may put on an odd address.
    template <typename Value>
    const Value* aligned(const uint8_t* from, int64_t n_rows) {
        if (reinterpret_cast<uintptr_t>(from) % alignof(uint32_t) == 0) return reinterpret_cast<const Value*>(from);
        const auto n_bytes = static_cast<size_t>(n_rows * row_bytes_);
        copy_.resize((n_bytes + 3) / 4);
        std::memcpy(copy_.data(), from, n_bytes);
        return reinterpret_cast<const Value*>(copy_.data());
    }

    const RowsToQuantize& rows_;
    ggml_type type_;
    int64_t row_bytes_;
    int64_t n_rows_ = 0;
    std::vector<uint32_t> copy_;
};

bool all_finite(const float* values, int64_t n) {
    constexpr uint32_t exponent = 0x7f800000;  // all ones: infinity or NaN
    uint32_t found = 0;
    for (int64_t i = 0; i < n; ++i) {
        uint32_t bits;
        std::memcpy(&bits, values + i, sizeof bits);
        found |= (bits & exponent) == exponent;
    }
    return found == 0;
}

int64_t first_not_finite(const float* values, int64_t n) {
    if (all_finite(values, n)) return -1;
    return std::find_if(values, values + n, [](float x) { return !std::isfinite(x); }) - values;
}

// A block with one value that is too large loses all of its values: the largest is the one to name.
int64_t largest_of_block(const float* source, int64_t in_block, ggml_type type) {
    const int64_t first = in_block - in_block % ggml_blck_size(type);
    const auto smaller = [](float a, float b) { return std::fabs(a) < std::fabs(b); };
    return std::max_element(source + first, source + first + ggml_blck_size(type), smaller) - source;
}

void quantize(ggml_type type, const float* from, uint8_t* to, int64_t n_rows, int64_t row_size) {
    if (type == GGML_TYPE_F16) {
        ggml_cpu_fp32_to_fp16(from, reinterpret_cast<ggml_fp16_t*>(to), n_rows * row_size);
    } else {
        ggml_quantize_chunk(type, from, to, 0, n_rows, row_size, nullptr);
    }
}

void dequantize(ggml_type type, const uint8_t* from, float* to, int64_t n) {
    if (type == GGML_TYPE_F32) {
        std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
    } else if (type == GGML_TYPE_F16) {
        ggml_cpu_fp16_to_fp32(reinterpret_cast<const ggml_fp16_t*>(from), to, n);
    } else {
        ggml_get_type_traits(type)->to_float(from, to, n);
    }
}

// A row's sums in floats, eight at a time so that they vectorise; rows are short enough for float, tensors are not.
struct RowSums {
    float squares = 0, squared_error = 0, max_error = 0;
};

RowSums sum_row(const float* source, const float* result, int64_t n) {
    constexpr int64_t lanes = 16;
    float squares[lanes] = {}, errors[lanes] = {}, largest[lanes] = {};
    const auto add = [&](int64_t i, int64_t lane) {
        const float error = result[i] - source[i];
        squares[lane] += source[i] * source[i];
        errors[lane] += error * error;
        largest[lane] = std::max(largest[lane], std::fabs(error));
    };
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        for (int64_t lane = 0; lane < lanes; ++lane) add(i + lane, lane);
    }
    for (; i < n; ++i) add(i, 0);
    RowSums sums;
    for (int64_t lane = 0; lane < lanes; ++lane) {
        sums.squares += squares[lane];
        sums.squared_error += errors[lane];
        sums.max_error = std::max(sums.max_error, largest[lane]);
    }
    return sums;
}

void add_weighted(RowError& error, const float* source, const float* result, const float* weights, int64_t n) {
    double squares = 0, errors = 0;
    for (int64_t i = 0; i < n; ++i) {
        const double difference = static_cast<double>(result[i]) - source[i];
        squares += static_cast<double>(weights[i]) * source[i] * source[i];
        errors += weights[i] * difference * difference;
    }
    error.weighted_squares += squares;
    error.weighted_squared_error += errors;
}

void add_row(RowError& error, const float* source, const float* result, const float* weights, int64_t n) {
    const RowSums sums = sum_row(source, result, n);
    error.n_values += static_cast<uint64_t>(n);
    error.sum_squares += sums.squares;
    error.sum_squared_error += sums.squared_error;
    error.max_error = std::max(error.max_error, sums.max_error);
    if (weights) {
        add_weighted(error, source, result, weights, n);
    } else {
        error.weighted_squares += sums.squares;
        error.weighted_squared_error += sums.squared_error;
    }
}

}  // namespace

ggml_type type_named(const std::string& name) {
    for (const auto& row : kTypes) {
        if (name == row.name) return row.type;
    }
    broken("unknown type " + name);
}

QuantizedRows quantize_rows(const RowsToQuantize& rows, const std::string& type_name, const float* column_weights) {
    const ggml_type type = type_named(type_name);
    if (!can_be_result(type)) broken(type_name + " is not a type to store");
    const int64_t result_row_bytes = row_bytes(type, rows.row_size);
    Reader reader(rows);
    const int64_t batch_rows = std::max<int64_t>(1, kBatchValues / rows.row_size);
    std::vector<float> source(static_cast<size_t>(batch_rows * rows.row_size)), back(source.size());

    QuantizedRows out;
    out.bytes.resize(static_cast<size_t>(reader.n_rows() * result_row_bytes));
    for (int64_t row = 0; row < reader.n_rows(); row += batch_rows) {
        const int64_t n_rows = std::min(batch_rows, reader.n_rows() - row);
        const int64_t n = n_rows * rows.row_size;
        uint8_t* result = out.bytes.data() + row * result_row_bytes;
        reader.read(row, n_rows, source.data());
        const int64_t bad = first_not_finite(source.data(), n);
        if (bad >= 0) {  // no quantiser is made for it (some read out of bounds): the caller reports it
            out.error.first_not_finite = row * rows.row_size + bad;
            return out;
        }
        quantize(type, source.data(), result, n_rows, rows.row_size);
        dequantize(type, result, back.data(), n);
        const int64_t lost = first_not_finite(back.data(), n);
        if (lost >= 0) {
            const int64_t largest = largest_of_block(source.data(), lost, type);
            out.error.first_overflow = row * rows.row_size + largest;
            out.error.first_overflow_value = source[static_cast<size_t>(largest)];
            return out;
        }
        for (int64_t i = 0; i < n_rows; ++i) {
            const int64_t at = i * rows.row_size;
            add_row(out.error, source.data() + at, back.data() + at, column_weights, rows.row_size);
        }
    }
    return out;
}

std::vector<float> dequantize_rows(const RowsToQuantize& rows) {
    Reader reader(rows);
    std::vector<float> values(static_cast<size_t>(reader.n_rows() * rows.row_size));
    const int64_t batch_rows = std::max<int64_t>(1, kBatchValues / rows.row_size);
    for (int64_t row = 0; row < reader.n_rows(); row += batch_rows) {
        reader.read(row, std::min(batch_rows, reader.n_rows() - row), values.data() + row * rows.row_size);
    }
    return values;
}

std::string quantizer_version() {
    return std::string("ggml ") + ggml_version();
}

}  // namespace whisperq::ggml
