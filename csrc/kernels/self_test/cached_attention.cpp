#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/aligned.h"
#include "kernels/self_test/families.h"
#include "kernels/self_test/numbers.h"
#include "kernels/tolerances.h"

namespace whisperq::kernels::self_tests {
namespace {

void test_quantize_head(const KernelTable& table, Findings& findings) {
    for (int64_t seed = 81; seed < 84; ++seed) {
        const Quantised head{seed, kHeadSize};
        Floats values(kHeadSize, [&](int64_t i) { return seed == 83 ? 0.0f : head.value(i); });
        const auto test = [&](const char* what, int most, float want_scale, const auto& want_code) {
            AlignedBuffer codes(kHeadSize);
            float scale = NAN;
            table.quantize_head(values.data(), most, reinterpret_cast<int8_t*>(codes.data()), &scale);
            findings.at("quantize_head", what);
            findings.compare(exact(scale), exact(want_scale), 0.0, kHeadSize);
            for (int64_t i = 0; i < kHeadSize; ++i) {
                findings.compare(static_cast<int8_t>(codes.data()[i]), want_code(i), 0.0, i);
            }
        };
        if (seed == 83) {
            test("zeros", Quantised::kMost, 0.0f, [](int64_t) { return 0; });
        } else {
            test("known codes", Quantised::kMost, head.scale(0), [&](int64_t i) { return head.code(i); });
            // Values are sixteenths of a 127th of the greatest: none of them is within 1 / (16 * 127) of a tie.
            const float step = Quantised::kMost * head.scale(0) / 31;
            test("31 codes", 31, step,
                 [&](int64_t i) { return static_cast<int>(std::nearbyint(exact(values[i]) / exact(step))); });
        }
    }
}

const char* name_of(CacheType type) {
    constexpr const char* kNames[] = {"f32", "f16", "int8", "int6"};
    return kNames[static_cast<int>(type)];
}

// A cache: keys or values of a head in blocks, and the numbers that are in them.
class Cache {
  public:
    static constexpr int64_t kTokens = 35;
    static constexpr size_t kOffset = 128;

    Cache(CacheType type, bool has_keys) : type_(type), has_keys_(has_keys) {
        const size_t n_bytes = kOffset + key_block_bytes(type);
        for (int64_t b = 0; b < n_key_blocks(kTokens); ++b) {
            memory_.emplace_back(n_bytes);
            std::memset(memory_.back().data(), 0, n_bytes);
            fill(b, memory_.back().data() + kOffset);
        }
        for (const AlignedBuffer& block : memory_) blocks_.push_back(block.data());
    }

    CacheType type() const { return type_; }
    const uint8_t* const* blocks() const { return blocks_.data(); }
    double value(int64_t token, int64_t i) const {
        return has_codes(type_) ? exact(scale(token)) * code(token, i) : exact(number(91, token * kHeadSize + i));
    }

  private:
    int code(int64_t token, int64_t i) const {
        const int most = most_code(type_);
        return static_cast<int>(draw(92, token * kHeadSize + i, static_cast<uint32_t>(2 * most + 1))) - most;
    }
    // Return a scale. Scales of values are all the same, so that the codes of probabilities are known.
    float scale(int64_t token) const { return has_keys_ ? (1.0f + number(93, token) / 2) / 64 : 1.0f / 128; }

    void fill(int64_t b, uint8_t* block) const {
        for (int64_t j = 0; j < kKeyBlock; ++j) {
            const int64_t token = b * kKeyBlock + j;
            for (int64_t i = 0; i < kHeadSize; ++i) put(token, j, i, block);
            const float s = scale(token);
            if (has_codes(type_)) std::memcpy(block + code_bytes(type_) + j * 4, &s, sizeof s);
        }
    }
    void put(int64_t token, int64_t j, int64_t i, uint8_t* block) const {
        const int64_t place = has_keys_ ? i * kKeyBlock + j : j * kHeadSize + i;
        const float x = number(91, token * kHeadSize + i);
        const uint16_t half = half_of(x);
        if (type_ == CacheType::f32) std::memcpy(block + place * 4, &x, sizeof x);
        if (type_ == CacheType::f16) std::memcpy(block + place * 2, &half, sizeof half);
        if (!has_codes(type_)) return;
        const int64_t at =
            has_keys_ ? (i / 4 * kKeyBlock + j) * 4 + i % 4 : ((i / 16 * 4 + j / 4) * 16 + i % 16) * 4 + j % 4;
        if (type_ == CacheType::int8) {
            block[at] = static_cast<uint8_t>(code(token, i));
        } else {
            put_six_bits(static_cast<unsigned>(code(token, i) + 32), at, block);
        }
    }

    // Put a code into a block of zeros, without six_bits.h: four rows of 64 codes are in three of 64 bytes.
    static void put_six_bits(unsigned bits, int64_t at, uint8_t* block) {
        uint8_t* four_rows = block + at / 256 * 192 + at % 64;
        const auto row = static_cast<unsigned>(at / 64 % 4);
        four_rows[row / 2 * 64] |= static_cast<uint8_t>((bits & 15) << row % 2 * 4);
        four_rows[128] |= static_cast<uint8_t>((bits >> 4) << row * 2);
    }

    CacheType type_;
    bool has_keys_;
    std::vector<AlignedBuffer> memory_;
    std::vector<const uint8_t*> blocks_;
};

constexpr int64_t kQueries = 5, kPadded = 48;  // kTokens in whole blocks

void test_score_keys(const KernelTable& table, CacheType type, Findings& findings) {
    const Cache keys(type, true);
    const Quantised query{101, kHeadSize};
    constexpr int64_t kGap = 3, kQueryStride = kHeadSize + kGap, kScoreStride = kPadded + 16;
    Floats q(kQueries * kQueryStride, [&](int64_t i) {
        const int64_t at = i / kQueryStride * kHeadSize + i % kQueryStride;
        return i % kQueryStride < kHeadSize ? query.value(at) : NAN;
    });
    Floats scores(kQueries * kScoreStride, [](int64_t) { return 7.0f; });
    table.score_keys(q.data(), kQueryStride, kQueries, keys.blocks(), Cache::kOffset, type, Cache::kTokens,
                     scores.data(), kScoreStride);
    findings.at("score_keys", name_of(type));
    for (int64_t m = 0; m < kQueries; ++m) {
        for (int64_t j = 0; j < Cache::kTokens; ++j) {
            double want = 0.0, terms = 0.0;
            for (int64_t i = 0; i < kHeadSize; ++i) {
                const int64_t at = m * kHeadSize + i;
                const double x =
                    type == CacheType::int8 ? exact(query.scale(at)) * query.code(at) : exact(query.value(at));
                want += x * keys.value(j, i) / 8;
                terms += std::fabs(x * keys.value(j, i)) / 8;
            }
            findings.compare(exact(scores[m * kScoreStride + j]), want, product_tolerance(kHeadSize, terms),
                             m * kScoreStride + j);
        }
        for (int64_t j = kPadded; j < kScoreStride; ++j) {
            findings.compare(exact(scores[m * kScoreStride + j]), 7.0, 0.0, m * kScoreStride + j);
        }
    }
}

void test_mix_values(const KernelTable& table, CacheType type, Findings& findings) {
    const Cache values(type, false);
    const Quantised codes{111, kKeyBlock};
    constexpr int64_t kOutStride = kHeadSize + 16;
    const auto is_there = [](int64_t i) { return i % kPadded < Cache::kTokens; };
    const auto is_last = [](int64_t i) { return i % kPadded == Cache::kTokens - 1; };  // the greatest of its block
    const auto probability = [&](int64_t i) {
        const float codes_of = is_last(i) ? Quantised::kMost * codes.scale(i) : std::fabs(codes.value(i));
        return is_there(i) ? codes_of / 4096 : 0.0f;
    };
    const auto rounded = [&](int64_t i) {
        const int code = is_last(i) ? Quantised::kMost : std::abs(codes.code(i));
        return is_there(i) ? exact(codes.scale(i)) * code / 4096 : 0.0;
    };
    Floats p(kQueries * kPadded, probability);
    Floats out(kQueries * kOutStride, [](int64_t) { return 7.0f; });
    table.mix_values(p.data(), kPadded, kQueries, values.blocks(), Cache::kOffset, type, Cache::kTokens, out.data(),
                     kOutStride);
    findings.at("mix_values", name_of(type));
    for (int64_t m = 0; m < kQueries; ++m) {
        for (int64_t i = 0; i < kHeadSize; ++i) {
            double want = 0.0, terms = 0.0;
            for (int64_t j = 0; j < Cache::kTokens; ++j) {
                const int64_t at = m * kPadded + j;
                const double term = (has_codes(type) ? rounded(at) : exact(p[at])) * values.value(j, i);
                want += term;
                terms += std::fabs(term);
            }
            findings.compare(exact(out[m * kOutStride + i]), want, product_tolerance(Cache::kTokens, terms),
                             m * kOutStride + i);
        }
        for (int64_t i = kHeadSize; i < kOutStride; ++i) {
            findings.compare(exact(out[m * kOutStride + i]), 7.0, 0.0, m * kOutStride + i);
        }
    }
}

void test_softmax(const KernelTable& table, Findings& findings) {
    Floats two(kKeyBlock, [](int64_t i) { return i == 0 ? 0.0f : i == 1 ? 1.0986122887f : 7.0f; });  // ln 3
    table.softmax(two.data(), 2);
    findings.at("softmax", "0 and ln 3");
    for (int64_t i = 0; i < kKeyBlock; ++i)
        findings.compare(exact(two[i]), i == 0 ? 0.25 : i == 1 ? 0.75 : 0.0, 5e-7, i);

    constexpr int64_t n = Cache::kTokens;
    Floats x(n, [](int64_t i) { return 9.0f * number(121, i); });
    Floats scores(kPadded, [&](int64_t i) { return i < n ? x[i] : 7.0f; });
    table.softmax(scores.data(), n);
    double greatest = -HUGE_VAL, sum = 0.0;
    for (int64_t i = 0; i < n; ++i) greatest = std::max(greatest, exact(x[i]));
    for (int64_t i = 0; i < n; ++i) sum += std::exp(exact(x[i]) - greatest);
    findings.at("softmax", "35 scores");
    for (int64_t i = 0; i < n; ++i) {
        const double want = std::exp(exact(x[i]) - greatest) / sum;
        findings.compare(exact(scores[i]), want, softmax_tolerance(want, greatest - exact(x[i]), n), i);
    }
    for (int64_t i = n; i < kPadded; ++i) findings.compare(exact(scores[i]), 0.0, 0.0, i);
}

}  // namespace

void test_cached_attention(const KernelTable& table, Findings& findings) {
    test_quantize_head(table, findings);
    test_softmax(table, findings);
    for (const CacheType type : {CacheType::f32, CacheType::f16, CacheType::int8, CacheType::int6}) {
        if (type != CacheType::int6) test_score_keys(table, type, findings);
        test_mix_values(table, type, findings);
    }
}

}  // namespace whisperq::kernels::self_tests
