// The decoder's attention over a cache: its blocks, scores, softmax and values.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <vector>

#include "check_kernels.h"
#include "checker.h"
#include "kernels/tables.h"
#include "kernels/tolerances.h"

namespace check {
namespace {

// Keys or values in blocks that lie anywhere, as a cache has them, and the numbers that are in them.
class CacheBlocks {
  public:
    CacheBlocks(k::CacheType type, bool keys, int64_t n_keys, Random& random)
        : type_(type), numbers_(static_cast<size_t>(n_keys * k::kHeadSize)) {
        for (int64_t b = 0; b < k::n_key_blocks(n_keys); ++b) {
            const auto bytes = static_cast<int64_t>(k::key_block_bytes(type));
            memory_.push_back(std::make_unique<Guarded<uint8_t>>(kOffset + bytes));
            std::memset(memory_.back()->data(), 0, static_cast<size_t>(kOffset + bytes));
            blocks_.push_back(memory_.back()->data());
        }
        for (int64_t j = 0; j < n_keys; ++j) {
            uint8_t* block = memory_[static_cast<size_t>(j / k::kKeyBlock)]->data() + kOffset;
            const int64_t in_block = j % k::kKeyBlock;
            const float scale = 0.01f + 0.01f * static_cast<float>(random.uniform());
            if (k::has_codes(type)) {
                std::memcpy(block + k::code_bytes(type) + in_block * 4, &scale, sizeof scale);
            }
            for (int64_t i = 0; i < k::kHeadSize; ++i) {
                numbers_[static_cast<size_t>(j * k::kHeadSize + i)] =
                    put(block, place(keys, in_block, i), scale, random);
            }
        }
    }

    const uint8_t* const* blocks() const { return blocks_.data(); }
    static constexpr size_t offset() { return kOffset; }
    double number(int64_t j, int64_t i) const { return numbers_[static_cast<size_t>(j * k::kHeadSize + i)]; }

    // How far rounded probabilities may move value i of a mix: half a step a token, times its code, at most. A block's
    // step is the greatest of its probabilities times scales, by 127.
    double rounding(const float* probabilities, int64_t i) const {
        double moved = 0.0;
        for (size_t b = 0; b < blocks_.size(); ++b) {
            double greatest = 0.0, codes = 0.0;
            for (int64_t j = 0; j < k::kKeyBlock; ++j) {
                float scale;
                const uint8_t* block = blocks_[b] + kOffset;
                std::memcpy(&scale, block + k::code_bytes(type_) + j * 4, sizeof scale);
                const float probability = probabilities[static_cast<int64_t>(b) * k::kKeyBlock + j];
                greatest = std::max(greatest, static_cast<double>(scale) * static_cast<double>(probability));
                const int64_t token = static_cast<int64_t>(b) * k::kKeyBlock + j;
                if (token * k::kHeadSize < static_cast<int64_t>(numbers_.size())) {
                    codes += std::fabs(number(token, i)) / static_cast<double>(scale);
                }
            }
            moved += 1.01 * 0.5 * greatest / 127 * codes;
        }
        return moved;
    }

  private:
    static constexpr int64_t kOffset = 128;

    // Of value i of key (or value) j in a block.
    int64_t place(bool keys, int64_t j, int64_t i) const {
        if (k::has_codes(type_)) {
            return keys ? (i / 4 * k::kKeyBlock + j) * 4 + i % 4 : i / 16 * 256 + j / 4 * 64 + i % 16 * 4 + j % 4;
        }
        return keys ? i * k::kKeyBlock + j : j * k::kHeadSize + i;
    }

    double put(uint8_t* block, int64_t at, float scale, Random& random) const {
        const float value = random.normal();
        if (k::has_codes(type_)) {
            const int most = k::most_code(type_);
            const int code = random.below(2 * most + 1) - most;
            if (type_ == k::CacheType::int8) {
                block[at] = static_cast<uint8_t>(code);
            } else {
                put_six_bits(block, at, static_cast<unsigned>(code + 32));
            }
            return static_cast<double>(scale) * code;
        }
        if (type_ == k::CacheType::f16) {
            uint16_t bits;
            k::kScalarTable.float_to_half(&value, 1, &bits);
            std::memcpy(block + at * 2, &bits, sizeof bits);
            return half_value(bits);
        }
        std::memcpy(block + at * 4, &value, sizeof value);
        return static_cast<double>(value);
    }

    // As the contract draws it (six_bits.h), into a block of zeros.
    static void put_six_bits(uint8_t* block, int64_t at, unsigned bits) {
        uint8_t* four_rows = block + at / 256 * 192 + at % 64;
        const auto row = static_cast<unsigned>(at / 64 % 4);
        four_rows[row / 2 * 64] |= static_cast<uint8_t>((bits & 15) << row % 2 * 4);
        four_rows[128] |= static_cast<uint8_t>((bits >> 4) << row * 2);
    }

    k::CacheType type_;
    std::vector<std::unique_ptr<Guarded<uint8_t>>> memory_;
    std::vector<const uint8_t*> blocks_;
    std::vector<double> numbers_;
};

void check_quantize_head_case(Checker& checker, Pattern pattern, int most, Report& report) {
    report.at("%s, codes to %d", name_of(pattern), most);
    Random random(7);
    Guarded<float> values(k::kHeadSize);
    fill(pattern, values.data(), values.size(), random);
    Guarded<int8_t> codes(k::kHeadSize);
    float scale = -1.0f;
    checker.table.quantize_head(values.data(), most, codes.data(), &scale);
    report.require(codes.intact(), "wrote outside");
    const double exact = greatest_of(values.data(), k::kHeadSize) / most;
    if (exact < kLeastScale) {
        report.compare(static_cast<double>(scale), exact, kLeastScale, "scale", 0, 0);
    } else {
        report.compare(static_cast<double>(scale), exact, 2 * kEps * exact, "scale", 0, 0);
    }
    for (int64_t i = 0; i < k::kHeadSize; ++i) {
        report.require(std::abs(codes[i]) <= most, "code beyond the greatest");
        const double tolerance = exact < kLeastScale ? (most + 1) * kLeastScale : exact * (0.5 + 4 * most * kEps);
        report.compare(static_cast<double>(scale) * codes[i], static_cast<double>(values[i]), tolerance, "value", 0, i);
    }
}

void check_score_keys_case(Checker& checker, k::CacheType type, int64_t n_queries, int64_t n_keys, Report& report) {
    Random random(static_cast<uint64_t>(n_keys * 100 + n_queries));
    const CacheBlocks keys(type, true, n_keys, random);
    const int64_t q_stride = k::kHeadSize + 5, padded = k::n_key_blocks(n_keys) * k::kKeyBlock, stride = padded + 16;
    Guarded<float> q((n_queries - 1) * q_stride + k::kHeadSize), scores((n_queries - 1) * stride + padded);
    fill(Pattern::normal, q.data(), q.size(), random);
    checker.table.score_keys(q.data(), q_stride, n_queries, keys.blocks(), keys.offset(), type, n_keys, scores.data(),
                             stride);
    report.require(scores.intact(), "wrote outside");
    for (int64_t m = 0; m < n_queries; ++m) {
        Guarded<float> alone(padded);  // a query's scores do not depend on the others
        checker.table.score_keys(q.data() + m * q_stride, q_stride, 1, keys.blocks(), keys.offset(), type, n_keys,
                                 alone.data(), padded);
        // Half of the step that a query is rounded to moves a score by that much times its key, at most.
        const double step = type == k::CacheType::int8 ? greatest_of(q.data() + m * q_stride, k::kHeadSize) / 127 : 0.0;
        for (int64_t j = 0; j < n_keys; ++j) {
            double want = 0.0, terms = 0.0, moved = 0.0;
            for (int64_t i = 0; i < k::kHeadSize; ++i) {
                const double term = static_cast<double>(q[m * q_stride + i]) * keys.number(j, i) / 8;
                want += term;
                terms += std::fabs(term);
                moved += 0.5 * step * std::fabs(keys.number(j, i)) / 8;
            }
            report.compare(static_cast<double>(scores[m * stride + j]), want,
                           1.01 * moved + k::product_tolerance(k::kHeadSize, terms), "score", m, j);
            report.require(scores[m * stride + j] == alone[j], "depends on the other queries");
        }
    }
}

void check_mix_values_case(Checker& checker, k::CacheType type, int64_t n_queries, int64_t n_keys, Report& report) {
    Random random(static_cast<uint64_t>(n_keys * 100 + n_queries));
    const CacheBlocks values(type, false, n_keys, random);
    const int64_t padded = k::n_key_blocks(n_keys) * k::kKeyBlock, out_stride = k::kHeadSize + 16;
    Guarded<float> p((n_queries - 1) * padded + padded), out((n_queries - 1) * out_stride + k::kHeadSize);
    for (int64_t i = 0; i < p.size(); ++i) {
        p[i] = i % padded < n_keys ? static_cast<float>(random.uniform()) / static_cast<float>(n_keys) : 0.0f;
    }
    checker.table.mix_values(p.data(), padded, n_queries, values.blocks(), values.offset(), type, n_keys, out.data(),
                             out_stride);
    report.require(out.intact(), "wrote outside");
    for (int64_t m = 0; m < n_queries; ++m) {
        Guarded<float> alone(k::kHeadSize);
        checker.table.mix_values(p.data() + m * padded, padded, 1, values.blocks(), values.offset(), type, n_keys,
                                 alone.data(), out_stride);
        for (int64_t i = 0; i < k::kHeadSize; ++i) {
            double want = 0.0, terms = 0.0;
            for (int64_t j = 0; j < n_keys; ++j) {
                const double term = static_cast<double>(p[m * padded + j]) * values.number(j, i);
                want += term;
                terms += std::fabs(term);
            }
            double tolerance = k::product_tolerance(n_keys, terms);
            if (k::has_codes(type)) tolerance += values.rounding(p.data() + m * padded, i);
            report.compare(static_cast<double>(out[m * out_stride + i]), want, tolerance, "value", m, i);
            report.require(out[m * out_stride + i] == alone[i], "depends on the other queries");
        }
    }
}

template <class Case>
void check_cached(Checker& checker, const char* kernel, std::initializer_list<k::CacheType> types,
                  const Case& check_case) {
    Report report(checker.table.isa, kernel);
    for (const k::CacheType type : types) {
        for (const int64_t n_keys : {1, 15, 16, 17, 63, 64, 100, 448, 1500}) {
            if (checker.quick && n_keys > 100) continue;
            for (const int64_t n_queries : {1, 2, 3, 4, 5, 8}) {
                report.at("type %d, %d queries, %d keys", static_cast<int>(type), static_cast<int>(n_queries),
                          static_cast<int>(n_keys));
                check_case(checker, type, n_queries, n_keys, report);
            }
        }
    }
    checker.close(report);
}

}  // namespace

void check_quantize_head(Checker& checker) {
    Report report(checker.table.isa, "quantize_head");
    for (const k::CacheType type : {k::CacheType::int8, k::CacheType::int6}) {
        for (const Pattern pattern : kPatterns) check_quantize_head_case(checker, pattern, k::most_code(type), report);
    }
    checker.close(report);
}

void check_softmax(Checker& checker) {
    Report report(checker.table.isa, "softmax");
    for (const int64_t n : {1, 2, 15, 16, 17, 100, 448, 1500}) {
        for (const float spread : {0.0f, 1.0f, 20.0f}) {
            report.at("%d scores, +-%g", static_cast<int>(n), static_cast<double>(spread));
            Random random(static_cast<uint64_t>(n));
            const int64_t padded = k::n_key_blocks(n) * k::kKeyBlock;
            Guarded<float> scores(padded);
            std::vector<double> exact(static_cast<size_t>(n));
            double greatest = -HUGE_VAL, sum = 0.0;
            for (int64_t i = 0; i < n; ++i) {
                scores[i] = spread * random.normal();
                exact[static_cast<size_t>(i)] = static_cast<double>(scores[i]);
                greatest = std::max(greatest, exact[static_cast<size_t>(i)]);
            }
            for (const double score : exact) sum += std::exp(score - greatest);
            checker.table.softmax(scores.data(), n);
            report.require(scores.intact(), "wrote outside");
            for (int64_t i = 0; i < n; ++i) {
                const double distance = greatest - exact[static_cast<size_t>(i)], want = std::exp(-distance) / sum;
                report.compare(static_cast<double>(scores[i]), want, k::softmax_tolerance(want, distance, n),
                               "probability", 0, i);
            }
            for (int64_t i = n; i < padded; ++i) report.require(scores[i] == 0.0f, "not 0 behind the scores");
        }
    }
    checker.close(report);
}

void check_score_keys(Checker& checker) {
    using Type = k::CacheType;
    check_cached(checker, "score_keys", {Type::f32, Type::f16, Type::int8}, check_score_keys_case);
}

void check_mix_values(Checker& checker) {
    using Type = k::CacheType;
    check_cached(checker, "mix_values", {Type::f32, Type::f16, Type::int8, Type::int6}, check_mix_values_case);
}

}  // namespace check
