// The encoder's attention.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check_kernels.h"
#include "checker.h"
#include "kernels/tables.h"

namespace check {
namespace {

struct AttentionCase {
    int64_t n_queries, n_keys;
    double spread;  // of the scores: their standard deviation; 0: all values the same
    double common;  // what is added to one dimension of all keys
    bool exact;
    double bias = 0.0;  // the greatest of the biases of the last third of the keys
};

constexpr int64_t kWide = 3 * k::kHeadSize + 7;  // floats between rows: other heads lie beside this one

struct AttentionInput {
    Guarded<float> q, key, value, bias;
    std::vector<double> mean_key = std::vector<double>(k::kHeadSize);

    explicit AttentionInput(const AttentionCase& shape)
        : q(rows_floats(shape.n_queries)),
          key(rows_floats(shape.n_keys)),
          value(rows_floats(shape.n_keys)),
          bias(shape.n_keys) {
        Random random(static_cast<uint64_t>(shape.n_queries * 10000 + shape.n_keys));
        fill_rows(q, shape.n_queries, shape.spread, random);
        fill_rows(key, shape.n_keys, 1.0, random);
        fill_rows(value, shape.n_keys, 1.0, random);
        for (int64_t r = 0; r < shape.n_keys; ++r) key[r * kWide + 5] += static_cast<float>(shape.common);
        for (int64_t r = 0; r < shape.n_keys; ++r) {
            const bool has_bias = r >= shape.n_keys - (shape.n_keys + 2) / 3;
            bias[r] = has_bias ? static_cast<float>(shape.bias / static_cast<double>(1 + r % 3)) : 0.0f;
        }
        if (shape.spread == 0.0) {
            for (auto* all : {&q, &key, &value}) {
                for (int64_t i = 0; i < all->size(); ++i) (*all)[i] = 1.25f;
            }
        }
        for (int64_t i = 0; i < k::kHeadSize; ++i) {
            for (int64_t r = 0; r < shape.n_keys; ++r) {
                mean_key[static_cast<size_t>(i)] +=
                    static_cast<double>(key[r * kWide + i]) / static_cast<double>(shape.n_keys);
            }
        }
    }

    // The last row ends where the buffer does.
    static int64_t rows_floats(int64_t n) { return (n - 1) * kWide + k::kHeadSize; }

  private:
    // A sum of 64 products of variance 1, divided by 8, has variance 1.
    static void fill_rows(Guarded<float>& rows, int64_t n, double spread, Random& random) {
        for (int64_t r = 0; r < n; ++r) {
            for (int64_t i = 0; i < k::kHeadSize; ++i) {
                rows[r * kWide + i] = static_cast<float>(spread) * random.normal();
            }
        }
    }
};

// One query in double precision, with what rounding may do to it.
//
// In float a score is off by sqrt(64) roundings of its terms, which (with exp's own error) scales the key's probability
// by as much: out moves by p |v - out| times that, and by sqrt(n_keys) roundings of the sum.
//
// Rounding to int8 moves each value of a query and of a key, less the mean of the keys, by an even distribution over
// one step, of which 127 are the row's greatest; rounding to bf16 moves each probability and each value by 2^-8 at
// most. In random directions: variances add up. Eight standard deviations, since millions are compared.
struct AttentionTruth {
    std::vector<double> out, tolerance;

    AttentionTruth(const AttentionCase& shape, const AttentionInput& input, int64_t query)
        : out(k::kHeadSize), tolerance(k::kHeadSize) {
        const auto n = static_cast<size_t>(shape.n_keys);
        // How far rounding moves the probability of each key, as a share of it.
        std::vector<double> p(n), float_share(n), code_share(n);
        double greatest = -HUGE_VAL, sum = 0.0;
        for (size_t j = 0; j < n; ++j) {
            double terms = 0.0;
            Row q, key;
            for (int64_t i = 0; i < k::kHeadSize; ++i) {
                const auto a = static_cast<double>(input.q[query * kWide + i]);
                const auto b = static_cast<double>(input.key[static_cast<int64_t>(j) * kWide + i]);
                p[j] += a * b / 8;
                terms += std::fabs(a * b / 8);
                q.add(a);
                key.add(b - input.mean_key[static_cast<size_t>(i)]);
            }
            const auto bias = static_cast<double>(input.bias[static_cast<int64_t>(j)]);
            p[j] += bias;
            float_share[j] = std::expm1(kEps * 8 * (terms + std::fabs(bias) + 1));
            const double code_error = std::sqrt(q.step_variance() * key.squares + key.step_variance() * q.squares) / 8;
            code_share[j] = std::expm1(kDeviations * code_error);
            greatest = std::max(greatest, p[j]);
        }
        for (double& score : p) {
            score = std::exp(score - greatest);
            sum += score;
        }
        for (double& score : p) score /= sum;
        for (int64_t i = 0; i < k::kHeadSize; ++i) add_column(shape, input, p, float_share, code_share, i);
    }

  private:
    static constexpr double kHalfEps = 0x1p-8;  // half an eps of bf16
    static constexpr double kDeviations = 8;

    // What a row of values is known by.
    struct Row {
        double squares = 0.0, greatest = 0.0;

        void add(double value) {
            squares += value * value;
            greatest = std::max(greatest, std::fabs(value));
        }
        double step_variance() const { return greatest * greatest / (127.0 * 127.0) / 12; }
    };

    void add_column(const AttentionCase& shape, const AttentionInput& input, const std::vector<double>& p,
                    const std::vector<double>& float_share, const std::vector<double>& code_share, int64_t i) {
        const auto column = static_cast<size_t>(i);
        double magnitude = 0.0, moved = 0.0, variance = 0.0;
        for (size_t j = 0; j < p.size(); ++j) {
            out[column] += p[j] * static_cast<double>(input.value[static_cast<int64_t>(j) * kWide + i]);
        }
        for (size_t j = 0; j < p.size(); ++j) {
            const auto v = static_cast<double>(input.value[static_cast<int64_t>(j) * kWide + i]);
            const double distance = std::fabs(v) + std::fabs(out[column]);
            magnitude += p[j] * std::fabs(v);
            moved += p[j] * distance * float_share[j];
            const double score = code_share[j] * distance;
            const double rounding = kDeviations * kHalfEps * (distance + std::fabs(v));
            variance += p[j] * p[j] * (score * score + rounding * rounding);
        }
        tolerance[column] = moved + 2 * kEps * std::sqrt(static_cast<double>(shape.n_keys + 4)) * magnitude;
        if (!shape.exact) tolerance[column] += std::sqrt(variance);
    }
};

void check_attention_case(Checker& checker, const AttentionCase& shape, Report& report) {
    report.at("%d queries, %d keys, scores +-%g, all keys +%g, bias %g%s", static_cast<int>(shape.n_queries),
              static_cast<int>(shape.n_keys), 3 * shape.spread, shape.common, shape.bias, shape.exact ? ", exact" : "");
    const AttentionInput input(shape);
    const int64_t stride = k::kHeadSize + kGap;
    Guarded<float> out((shape.n_queries - 1) * stride + k::kHeadSize), scalar(out.size());
    Guarded<float> scratch(static_cast<int64_t>(k::attention_scratch_floats(shape.n_keys)));
    const auto run = [&](const k::KernelTable& table, Guarded<float>& to) {
        scratch.forget();
        k::HeadRows head = {input.q.data(),     kWide, input.key.data(), kWide,
                            input.value.data(), kWide, shape.n_queries,  shape.n_keys};
        if (shape.bias != 0.0) head.bias = input.bias.data();
        table.attention(head, shape.exact, to.data(), stride, scratch.data());
    };
    run(k::kScalarTable, scalar);
    run(checker.table, out);
    report.require(scratch.intact(), "wrote outside its scratch");
    report.require(out.intact(), "wrote outside");
    for (int64_t m = 0; m < shape.n_queries; ++m) {
        const AttentionTruth truth(shape, input, m);
        for (int64_t i = 0; i < k::kHeadSize; ++i) {
            const auto column = static_cast<size_t>(i);
            const auto got = static_cast<double>(out[m * stride + i]);
            report.compare(got, truth.out[column], truth.tolerance[column], "value", m, i);
            report.compare(got, static_cast<double>(scalar[m * stride + i]), 2 * truth.tolerance[column],
                           "against scalar", m, i);
        }
        if (m + 1 < shape.n_queries) {
            report.require(out.untouched(m * stride + k::kHeadSize, (m + 1) * stride), "wrote behind its columns");
        }
    }
}

}  // namespace

void check_attention(Checker& checker) {
    for (const bool exact : {true, false}) {
        Report report(checker.table.isa, exact ? "attention exact" : "attention");
        for (const int64_t n_keys : {1, 2, 31, 63, 64, 65, 200, 1500}) {
            for (const int64_t n_queries : {1, 5, 15, 16, 17, 33}) {
                const bool large = n_keys > 200;
                if (large && n_queries != 1 && n_queries != 17 && n_queries != 33) continue;
                if (checker.quick && n_queries != 1 && n_queries != 17) continue;
                for (const double spread : {0.0, 1.0, 20.0}) {
                    if (checker.quick && large && (n_queries == 1 || spread == 0.0)) continue;
                    check_attention_case(checker, {n_queries, n_keys, spread, 0.0, exact}, report);
                }
                if (n_keys == 200) check_attention_case(checker, {n_queries, n_keys, 1.0, 50.0, exact}, report);
                if (large && checker.quick) continue;
                check_attention_case(checker, {n_queries, n_keys, 1.0, 0.0, exact, 3.5}, report);
                check_attention_case(checker, {n_queries, n_keys, 1.0, 0.0, exact, -20.0}, report);
            }
        }
        checker.close(report);
    }
}

}  // namespace check
