// check_self_test [--quick] [ISA]
//
// Proves that the self-test (csrc/kernels/self_test) sees what it is for. For every ISA that is built and supported
// here, or for the one that is named: a table that is right passes; and one with a single wrong number in a single
// kernel, in one format, cache type, ending, row or column at a time, fails, and with the name of that kernel or of the
// one that reads its results. One line an ISA: comparisons, faults that were found, and ms. --quick makes no faults,
// for emulators. Exit code 0: all found; 1: a fault was missed; 2: an ISA that cannot be had here.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>

#include "core/findings.h"
#include "core/status.h"
#include "decoding/row_math.h"
#include "decoding/row_math_self_test.h"
#include "dispatch/isas.h"
#include "kernels/self_test.h"
#include "kernels/self_test/families.h"

namespace k = whisperq::kernels;
namespace d = whisperq::decoding;
namespace families = whisperq::kernels::self_tests;
using whisperq::Findings;

namespace {

// The table whose results a fault spoils, and where: kernels are plain functions.
const k::KernelTable* real = nullptr;
const d::RowMath* real_math = nullptr;
enum class Place { first, last } place;
using Family = std::function<void(const k::KernelTable&, Findings&)>;
k::Format format;
k::CacheType cache_type;
int most_wanted;
int64_t n_rows_wanted;
bool exact_wanted;

void spoil(float& value) {
    value += 0.25f * (1.0f + std::fabs(value));
}

void spoil_row(float* out, int64_t stride, int64_t n_rows, int64_t n_columns) {
    spoil(place == Place::first ? out[0] : out[(n_rows - 1) * stride + n_columns - 1]);
}

// ---- One wrong number each ------------------------------------------------------------------------------------------

void quantize_strip(const float* input, int64_t row_stride, int64_t n_rows, int64_t n_values, uint8_t* strip) {
    real->quantize_strip(input, row_stride, n_rows, n_values, strip);
    strip[place == Place::first ? 0 : (n_values / k::kBlock - 1) * k::kStripBlockBytes] ^= 4;
}

void expand_tile(k::Format given, const uint8_t* tile, int64_t n_values, uint8_t* expanded) {
    real->expand_tile(given, tile, n_values, expanded);
    if (given != format) return;
    expanded[place == Place::first ? 0 : (n_values / k::kBlock - 1) * k::kExpandedBlockBytes + 100] ^= 4;
}

void multiply_strip(const uint8_t* strip, const uint8_t* expanded, int64_t n_tiles, int64_t n_values, bool has_minimum,
                    int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride, const k::Epilogue& epilogue) {
    real->multiply_strip(strip, expanded, n_tiles, n_values, has_minimum, n_rows, n_columns, out, out_stride, epilogue);
    if (n_rows == n_rows_wanted) spoil_row(out, out_stride, n_rows, n_columns);
}

void multiply_packed(k::Format given, const uint8_t* strips, const uint8_t* tiles, int64_t n_tiles, int64_t n_values,
                     int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride, const k::Epilogue& epilogue) {
    real->multiply_packed(given, strips, tiles, n_tiles, n_values, n_rows, n_columns, out, out_stride, epilogue);
    if (given == format && n_rows == n_rows_wanted) spoil_row(out, out_stride, n_rows, n_columns);
}

void multiply_float(const float* input, int64_t input_stride, const float* panel, int64_t n_tiles, int64_t n_values,
                    int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride, const k::Epilogue& epilogue) {
    real->multiply_float(input, input_stride, panel, n_tiles, n_values, n_rows, n_columns, out, out_stride, epilogue);
    if (n_rows == n_rows_wanted) spoil_row(out, out_stride, n_rows, n_columns);
}

void multiply_half(const float* input, int64_t input_stride, const uint16_t* tiles, int64_t n_tiles, int64_t n_values,
                   int64_t n_rows, int64_t n_columns, float* out, int64_t out_stride, const k::Epilogue& epilogue) {
    real->multiply_half(input, input_stride, tiles, n_tiles, n_values, n_rows, n_columns, out, out_stride, epilogue);
    if (n_rows == n_rows_wanted) spoil_row(out, out_stride, n_rows, n_columns);
}

void half_to_float(const uint16_t* half, int64_t n, float* out) {
    real->half_to_float(half, n, out);
    spoil_row(out, n, 1, n);
}

void float_to_half(const float* values, int64_t n, uint16_t* half) {
    real->float_to_half(values, n, half);
    half[place == Place::first ? 0 : n - 1] ^= 1;
}

void layer_norm(const float* input, int64_t n_rows, int64_t n, const float* weight, const float* bias, float* out) {
    real->layer_norm(input, n_rows, n, weight, bias, out);
    spoil_row(out, n, n_rows, n);
}

void gelu(float* values, int64_t n) {
    real->gelu(values, n);
    spoil_row(values, n, 1, n);
}

void attention(const k::HeadRows& head, bool exact, float* out, int64_t out_stride, float* scratch) {
    real->attention(head, exact, out, out_stride, scratch);
    if (exact == exact_wanted) spoil_row(out, out_stride, head.n_queries, k::kHeadSize);
}

void quantize_head(const float* values, int most, int8_t* codes, float* scale) {
    real->quantize_head(values, most, codes, scale);
    if (most != most_wanted) return;
    int8_t& code = codes[place == Place::first ? 0 : k::kHeadSize - 1];
    code = static_cast<int8_t>(code ^ 1);
}

void score_keys(const float* q, int64_t q_stride, int64_t n_queries, const uint8_t* const* blocks, size_t offset,
                k::CacheType type, int64_t n_keys, float* scores, int64_t scores_stride) {
    real->score_keys(q, q_stride, n_queries, blocks, offset, type, n_keys, scores, scores_stride);
    if (type == cache_type) spoil_row(scores, scores_stride, n_queries, n_keys);
}

void softmax(float* scores, int64_t n) {
    real->softmax(scores, n);
    spoil_row(scores, n, 1, n);
}

void mix_values(const float* probabilities, int64_t stride, int64_t n_queries, const uint8_t* const* blocks,
                size_t offset, k::CacheType type, int64_t n_keys, float* out, int64_t out_stride) {
    real->mix_values(probabilities, stride, n_queries, blocks, offset, type, n_keys, out, out_stride);
    if (type == cache_type) spoil_row(out, out_stride, n_queries, k::kHeadSize);
}

float max_of(const float* x, int64_t n) {
    return 1.0f + real_math->max_of(x, n);
}
double sum_exp(const float* x, int64_t n, float shift, float scale) {
    return 1.001 * real_math->sum_exp(x, n, shift, scale);
}
void softmax_of_row(float* x, int64_t n) {
    real_math->softmax(x, n);
    spoil_row(x, n, 1, n);
}

// ---- The program ----------------------------------------------------------------------------------------------------

int n_missed = 0, n_found = 0;

// `names`: any of the kernels that the finding may name.
void expect(const Findings& findings, const std::string& names, const std::string& what) {
    const bool is_found = findings.first() && names.find(findings.first()->kernel) != std::string::npos;
    ++(is_found ? n_found : n_missed);
    if (is_found) return;
    std::fprintf(stderr, "FAIL %s %s: %s\n", real->isa, what.c_str(),
                 findings.first() ? ("it names " + findings.first()->kernel).c_str() : "not noticed");
}

// Spoil one kernel and run the part of the self-test that reads it. A whole self-test for each fault would take minutes
// under an emulator.
void check_fault(const Family& test_family, const char* names, const std::string& what,
                 const std::function<void(k::KernelTable&)>& break_it) {
    for (const Place each : {Place::first, Place::last}) {
        place = each;
        k::KernelTable broken = *real;
        break_it(broken);
        Findings findings;
        test_family(broken, findings);
        expect(findings, names, what + (each == Place::first ? ", first value" : ", last value"));
    }
}

Family blocks_of(const k::FormatInfo& each) {
    return [&each](const k::KernelTable& table, Findings& findings) {
        families::test_block_products(table, each, findings);
    };
}

void check_faults() {
    Family blocks;  // of the format that the self-test reads last
    for (const k::FormatInfo& each : k::kFormats) {
        if (each.bits == 0) continue;
        format = each.format;
        blocks = blocks_of(each);
        check_fault(blocks, "multiply_strip", std::string("expand_tile ") + each.name,
                    [](k::KernelTable& table) { table.expand_tile = expand_tile; });
        for (n_rows_wanted = 1; n_rows_wanted <= k::kPackedRows; ++n_rows_wanted) {
            check_fault(blocks, "multiply_packed", std::string("multiply_packed ") + each.name,
                        [](k::KernelTable& table) { table.multiply_packed = multiply_packed; });
        }
    }
    for (n_rows_wanted = 1; n_rows_wanted <= k::kStripRows; ++n_rows_wanted) {
        check_fault(blocks, "multiply_strip", "multiply_strip",
                    [](k::KernelTable& table) { table.multiply_strip = multiply_strip; });
        check_fault(families::test_float_products, "multiply_float", "multiply_float",
                    [](k::KernelTable& table) { table.multiply_float = multiply_float; });
        check_fault(families::test_float_products, "multiply_half", "multiply_half",
                    [](k::KernelTable& table) { table.multiply_half = multiply_half; });
    }
    check_fault(blocks, "multiply_strip", "quantize_strip",
                [](k::KernelTable& table) { table.quantize_strip = quantize_strip; });
    check_fault(families::test_values, "half_to_float", "half_to_float",
                [](k::KernelTable& table) { table.half_to_float = half_to_float; });
    check_fault(families::test_values, "float_to_half", "float_to_half",
                [](k::KernelTable& table) { table.float_to_half = float_to_half; });
    check_fault(families::test_values, "layer_norm", "layer_norm",
                [](k::KernelTable& table) { table.layer_norm = layer_norm; });
    check_fault(families::test_values, "gelu", "gelu", [](k::KernelTable& table) { table.gelu = gelu; });
    for (const bool exact : {false, true}) {
        exact_wanted = exact;
        check_fault(families::test_attention, "attention", exact ? "attention exact" : "attention",
                    [](k::KernelTable& table) { table.attention = attention; });
    }
    for (const k::CacheType type : {k::CacheType::int8, k::CacheType::int6}) {
        most_wanted = k::most_code(type);
        check_fault(families::test_cached_attention, "quantize_head", "quantize_head",
                    [](k::KernelTable& table) { table.quantize_head = quantize_head; });
    }
    check_fault(families::test_cached_attention, "softmax", "softmax",
                [](k::KernelTable& table) { table.softmax = softmax; });
    for (const k::CacheType type : {k::CacheType::f32, k::CacheType::f16, k::CacheType::int8, k::CacheType::int6}) {
        cache_type = type;
        if (type != k::CacheType::int6) {
            check_fault(families::test_cached_attention, "score_keys", "score_keys",
                        [](k::KernelTable& table) { table.score_keys = score_keys; });
        }
        check_fault(families::test_cached_attention, "mix_values", "mix_values",
                    [](k::KernelTable& table) { table.mix_values = mix_values; });
    }
}

void check_math() {
    Findings right;
    d::self_test(*real_math, right);
    if (right.first()) {
        ++n_missed;
        std::fprintf(stderr, "FAIL %s %s: wrong\n", real->isa, right.first()->kernel.c_str());
    }
    const auto check = [](const char* name, d::RowMath broken) {
        Findings findings;
        d::self_test(broken, findings);
        expect(findings, name, name);
    };
    d::RowMath broken = *real_math;
    broken.max_of = max_of;
    check("max_of", broken);
    broken = *real_math;
    broken.sum_exp = sum_exp;
    check("sum_exp", broken);
    broken = *real_math;
    broken.softmax = softmax_of_row;
    check("softmax of a row", broken);
}

void check_isa(const whisperq::dispatch::Isa& isa, bool quick) {
    const k::KernelTable& table = isa.kernels;
    real = &table;
    real_math = &isa.row_math;
    const auto began = std::chrono::steady_clock::now();
    Findings findings;
    k::self_test(table, findings);
    const std::chrono::duration<double, std::milli> ms = std::chrono::steady_clock::now() - began;
    if (findings.first()) {
        ++n_missed;
        std::fprintf(stderr, "FAIL %s %s, %s [%lld]: %.9g, want %.9g +- %.3g\n", table.isa,
                     findings.first()->kernel.c_str(), findings.first()->where.c_str(),
                     static_cast<long long>(findings.first()->index), findings.first()->got, findings.first()->expected,
                     findings.first()->tolerance);
    }
    const int before = n_found;
    if (!quick) check_faults();
    check_math();
    std::printf("%-12s %lld comparisons, %d faults found, %.2f ms\n", table.isa,
                static_cast<long long>(findings.count()), n_found - before, ms.count());
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const bool quick = argc > 1 && std::strcmp(argv[1], "--quick") == 0;
        const int first = quick ? 2 : 1;
        const whisperq::dispatch::Isa* only = argc > first ? &whisperq::dispatch::isa_named(argv[first]) : nullptr;
        for (const whisperq::dispatch::IsaInfo& each : whisperq::dispatch::isas()) {
            const bool is_wanted = only == nullptr || each.isa == only;
            if (each.is_usable() && is_wanted) check_isa(*each.isa, quick);
        }
    } catch (const whisperq::Error& e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 2;
    }
    return n_missed == 0 ? 0 : 1;
}
